"""Cards of queries: what is drawn is where it happened, and every query has an address."""

import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.events import Event
from groundnlq.data.records import Record
from groundnlq.view.gallery import LEFT, WIDTH, cards, chosen_failures
from groundnlq.view.report import write_report
from tests.test_film import folder as films  # noqa: F401 -- a fixture

EVENTS = [
    Event(2, 4, "put", "cup"), Event(10, 12, "put", "pan"), Event(20, 22, "wash", "cup"),
    Event(30, 32, "put", "cup", "sink"), Event(40, 42, "wash", "pan"),
]  # fmt: skip


@pytest.fixture(scope="module")
def diagnosis():
    records = [
        Record(f"a_{i}", clip, "Where did I put the cup?", 48.0, ((2.0, 4.0),), verb_x="put", slot_x="cup")
        for i, clip in enumerate(["clip", "broken", "other", "clip"])
    ]
    wrong, right = [(9.5, 12.0, 0.9), (60.0, 70.0, 0.8), (2.0, 3.9, 0.5)], [(2.0, 4.0, 0.7)]
    ours = dict(zip((r.query_id for r in records), map(np.array, (wrong, wrong[:1], right, right)), strict=True))
    theirs = ours | {"a_0": np.array(right), "a_2": np.array(wrong)}
    theirs.pop("a_3")
    runs = FixedPredictions(records, ours), FixedPredictions(records, theirs)
    return Diagnosis("ours", runs[0], {"theirs": runs[1]}, events={"clip": EVENTS, "broken": EVENTS})


def drawn(diagnosis, query_id, **options):
    (card,) = cards(diagnosis, [query_id], **options)
    return card | {"rows": dict(card["rows"])}


def seconds(box):
    return pytest.approx(((box[0] - LEFT) / WIDTH * 48, (box[0] + box[1] - LEFT) / WIDTH * 48), abs=0.01)


def test_moments_answers_and_events_are_drawn_where_they_are_in_time(diagnosis):
    rows = drawn(diagnosis, "a_0")["rows"]
    assert list(rows) == ["true moment", "ours", "theirs", "events"]
    assert [seconds(box) for box in rows["true moment"]] == [(2.0, 4.0)] * 2
    *later, first = rows["ours"]
    assert seconds(first) == (9.5, 12.0)
    assert [first[2], *(box[2] for box in later), rows["theirs"][-1][2]] == ["answer", "later", "later", "hit"]
    assert max(x + width for boxes in rows.values() for x, width, *_ in boxes) <= LEFT + WIDTH + 1.5  # of 60 to 70 s
    assert "60.0 – 70.0 s" in next(box[3] for box in later if box[0] > 900)
    for box, event in zip(rows["events"], EVENTS, strict=True):
        assert seconds(box) == (event.start_sec, event.end_sec)
    # the right event, the verb alone, the object alone, another time, neither
    assert [box[2] for box in rows["events"]] == ["event1", "event3", "event4", "event2", "event5"]


def test_a_card_says_what_happens_at_both_moments_and_how_far_they_are_apart(diagnosis):
    card = drawn(diagnosis, "a_0")
    assert card["texts"][1] == "true moment: put cup; first answer: put pan"
    assert card["texts"][0].startswith(
        "ranking within k · shows: right verb, other object · score 0.90, tIoU 0.00 · 7.8 s late"
    )
    assert "no event" not in str(drawn(diagnosis, "a_2"))  # nothing is known about this clip
    assert "events" not in drawn(diagnosis, "a_0", is_short=True)["rows"]


def test_a_query_without_an_answer_has_a_card_too(diagnosis):
    alone = Diagnosis("none", FixedPredictions(diagnosis.run.records, {}), events=diagnosis.events)
    card = drawn(alone, "a_0")
    assert card["texts"] == ["missed · clip clip", "true moment: put cup"]
    assert card["rows"]["none"] == []


def test_frames_stand_where_there_is_a_video_and_a_damaged_one_costs_no_card(diagnosis, films):  # noqa: F811
    titles = [title for title, _ in drawn(diagnosis, "a_0", films=films)["strips"]]
    assert titles == ["true moment: 2.0 – 4.0 s", "answer 1: 9.5 – 12.0 s, tIoU 0.00"]
    damaged = drawn(diagnosis, "a_1", films=films)
    assert damaged["strips"] == []
    assert "no frames: " in damaged["texts"][-1]
    assert "broken.mp4" in damaged["texts"][-1]
    assert drawn(diagnosis, "a_2", films=films)["strips"] == []  # there is none


def test_failures_are_spread_over_the_outcomes_and_the_surest_come_first():
    random, names = np.random.default_rng(0), ["hit", "missed", "localisation", "suppressed"]
    outcomes = random.choice(names, 200, p=[0.5, 0.4, 0.09, 0.01])
    table = pd.DataFrame({"query_id": [f"q{i}" for i in range(200)], "score": random.random(200)})
    table["outcome"] = pd.Categorical(outcomes, names, ordered=True)
    table = table.set_index("query_id", drop=False)
    chosen = chosen_failures(table, 12)
    counts, there = Counter(table.loc[chosen, "outcome"]), Counter(outcomes)
    assert len(set(chosen)) == 12
    assert counts["hit"] == 0
    assert counts["suppressed"] == min(4, there["suppressed"])
    assert abs(counts["missed"] - counts["localisation"]) <= 1
    for name in ("missed", "localisation"):
        best = table[table["outcome"] == name].nlargest(counts[name], "score")["query_id"]
        assert [q for q in chosen if table.loc[q, "outcome"] == name] == best.tolist()
    assert len(chosen_failures(table, 500)) == 200 - there["hit"]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name == "href"]


def test_every_query_has_an_address_and_lists_of_won_and_lost_lead_there(diagnosis, tmp_path):
    report, *files = write_report(diagnosis, tmp_path)
    text = report.read_text(encoding="utf-8")
    every = Page(next(path for path in files if path.name == "queries.html").read_text(encoding="utf-8"))
    assert [name for name in every.ids if name.startswith("a_")] == ["a_0", "a_1", "a_2", "a_3"]
    assert "report.html" in every.links
    targets = {link.removeprefix("queries.html#") for link in Page(text).links if "#" in link}
    assert targets <= set(every.ids)
    assert Page(text).ids == ["a_0", "a_1"]  # the wrong ones
    lists = dict(re.findall(r"<summary>(.*?): \d+</summary>(.*?)</details>", text, re.DOTALL))
    found = {name: re.findall(r"#(a_\d)", part) for name, part in lists.items()}
    assert found == {"won against theirs": ["a_2", "a_3"], "lost against theirs": ["a_0"], "found by no run": ["a_1"]}
