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
EVERY = np.ones(len(RECORDS), bool)


@pytest.fixture
def queries():
    return QueryList(RECORDS)


def test_filters_are_met_all_at_once(queries):
    assert queries.narrow("thing 1", "Where", "c1", EVERY)
    fitting = [RECORDS[place] for place in queries.fitting]
    assert {(r.template, r.clip_uid) for r in fitting} == {("Where", "c1")}
    assert all("Thing 1" in r.query for r in fitting)
    assert queries.narrow("", NONE, ALL, EVERY)
    assert (queries.fitting % 2 == 0).all()
    assert queries.narrow("", ALL, ALL, np.arange(len(RECORDS)) == 5)
    assert (queries.fitting.tolist(), queries.chosen) == ([5], 5)


def test_the_chosen_one_stays_if_it_fits_and_all_stays_if_nothing_does(queries):
    queries.choose("q_8")
    assert queries.narrow("", NONE, ALL, EVERY)
    assert queries.record.query_id == "q_8"
    assert not queries.narrow("no such words", ALL, ALL, EVERY)
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
    queries.narrow("", NONE, ALL, EVERY)
    with pytest.raises(DataError, match="is not among those that fit the filters -- clear them"):
        queries.choose(query_id)
    assert queries.chosen == 0


def test_clips_have_their_records_in_order():
    assert [r.query_id for r in by_clip(RECORDS[:7])["c1"]] == ["q_1", "q_4"]
    assert list(by_clip(RECORDS)) == ["c0", "c1", "c2"]
