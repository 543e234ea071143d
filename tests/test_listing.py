"""The list of queries keeps what fits, never nothing, and always has the chosen one on its page."""

import numpy as np
import pytest

from groundnlq.data.records import Record
from groundnlq.errors import DataError
from groundnlq.view.controls import ALL, NONE
from groundnlq.view.listing import PAGE, QueryList, by_clip

RECORDS = [
    Record(f"q_{i}", f"c{i % 3}", f"Where is Thing {i}?", 9.0, template="Where" if i % 2 else "")
    for i in range(2 * PAGE + 7)
]
EVERY, AS_GIVEN = np.ones(len(RECORDS), bool), np.arange(len(RECORDS))


@pytest.fixture
def queries():
    return QueryList(RECORDS)


def test_filters_are_met_all_at_once(queries):
    assert queries.narrow("12", "Where", "c1", EVERY, AS_GIVEN)
    fitting = [RECORDS[place] for place in queries.fitting]
    assert {(r.template, r.clip_uid) for r in fitting} == {("Where", "c1")}
    assert all("12" in r.query for r in fitting)
    assert queries.narrow("", NONE, ALL, EVERY, AS_GIVEN)
    assert (queries.fitting % 2 == 0).all()
    assert queries.narrow("", ALL, ALL, AS_GIVEN == 5, AS_GIVEN)
    assert (queries.fitting.tolist(), queries.chosen) == ([5], 5)


def test_words_are_found_in_any_order_and_the_lowest_is_listed_first(queries):
    assert queries.narrow("12 WHERE thing", ALL, ALL, EVERY, -AS_GIVEN)
    assert queries.fitting.tolist() == [i for i in AS_GIVEN[::-1] if "12" in f"{i} q_{i} c{i % 3}"]


def test_the_chosen_one_stays_if_it_fits_and_all_stays_if_nothing_does(queries):
    queries.choose("q_8")
    assert queries.narrow("", NONE, ALL, EVERY, AS_GIVEN)
    assert queries.record.query_id == "q_8"
    assert not queries.narrow("no such words", ALL, ALL, EVERY, AS_GIVEN)
    assert queries.record.query_id == "q_8"
    assert len(queries.fitting) == len(RECORDS[::2])


def test_the_pages_together_are_all_that_fit_and_steps_lead_around_the_ends(queries):
    seen = []
    for _ in range(3):
        assert queries.chosen in queries.page
        assert len(queries.page) <= PAGE
        seen += queries.page
        queries.step(PAGE)
    assert sorted(set(seen)) == list(range(len(RECORDS)))
    queries.choose("q_0")
    queries.step(-1)
    assert queries.record is RECORDS[-1]


@pytest.mark.parametrize("query_id", ["q_1", "q_9999", ""])
def test_what_does_not_fit_cannot_be_chosen(queries, query_id):
    queries.narrow("", NONE, ALL, EVERY, AS_GIVEN)
    with pytest.raises(DataError, match="is not among those that fit the filters -- clear them"):
        queries.choose(query_id)
    assert queries.chosen == 0


def test_clips_have_their_records_in_order():
    assert [r.query_id for r in by_clip(RECORDS[:7])["c1"]] == ["q_1", "q_4"]
    assert list(by_clip(RECORDS)) == ["c0", "c1", "c2"]
