"""The explorer, driven as a person would: a turn of a widget changes the picture, once, and the numbers."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from groundnlq.analysis import explorer as module
from groundnlq.analysis.diagnosis import OUTCOMES
from groundnlq.analysis.explorer import ALL, GROUND_TRUTH, WHOLE_CLIP, Explorer
from groundnlq.data.annotations import Record
from groundnlq.errors import DataError

RECORDS = [
    Record("a_0", "kitchen", "Where is the knife?", 100.0, ((10.0, 14.0),), template="Where"),
    Record("a_1", "kitchen", "Where is the knife?", 100.0, ((60.0, 64.0),), template="Where"),
    Record("a_2", "kitchen", "What is <script>alert(1)</script>?", 100.0, ((30.0, 34.0),), template="What"),
    Record("b_0", "garden", "Who is $here$?", 50.0, ((1.0, 3.0),)),
]
RUNS = {
    "weak": {r.query_id: np.array([[40.0, 44.0, 0.3], [10.0, 15.0, 0.2]]) for r in RECORDS},
    "good": {r.query_id: np.array([[*r.moments_sec[0], 0.9], [0.0, 1.0, 0.1]]) for r in RECORDS},
}
TABLES = {
    "weak": pd.DataFrame({"query_id": list(RUNS["weak"]), "outcome": ["ranking", *["missed"] * 3]}),
    "good": pd.DataFrame({"query_id": list(RUNS["good"]), "outcome": "hit"}),
}


class Screen:
    """Stands in for the notebook's output: keeps what was shown."""

    def __init__(self, monkeypatch):
        self.shown = []
        monkeypatch.setattr(module, "display", self.display)

    def display(self, thing, display_id=False):
        self.shown.append(thing)
        return self if display_id else None

    def update(self, figure):
        self.shown.append(figure)


@pytest.fixture
def screen(monkeypatch):
    return Screen(monkeypatch)


@pytest.fixture
def explorer(screen):
    asked = []

    def scores_of(record):
        asked.append(record.query_id)
        return [np.full(16, 0.25), np.full(8, 0.5)]

    made = Explorer(RECORDS, RUNS, {"weak": scores_of}, TABLES)
    made.asked = asked
    made.show()
    return made


def bars(figure: Figure) -> set[tuple[float, float]]:
    return {(p.get_x(), round(p.get_x() + p.get_width(), 6)) for p in figure.axes[0].patches}


def offered(explorer) -> list[str]:
    return [query_id for _, query_id in explorer.query.options]


def test_the_panel_and_a_figure_are_shown_first_and_the_figure_is_replaced_in_place(explorer, screen):
    panel, figure = screen.shown
    assert panel.children
    assert isinstance(figure, Figure)
    explorer.query.value = "a_1"
    assert isinstance(screen.shown[2], Figure)


@pytest.mark.parametrize(
    "turn",
    [
        lambda e: setattr(e.query, "value", "b_0"),
        lambda e: setattr(e.run, "value", "good"),
        lambda e: setattr(e.clip, "value", "garden"),
        lambda e: setattr(e.template, "value", "What"),
        lambda e: setattr(e.search, "value", "here"),
        lambda e: setattr(e.outcome, "value", "missed"),
        lambda e: setattr(e.keep, "value", 1),
        lambda e: setattr(e.threshold, "value", 0.5),
        lambda e: setattr(e.prediction, "value", 1),
    ],
)
def test_one_turn_of_any_widget_draws_one_picture(explorer, screen, turn):
    before = len(screen.shown)
    turn(explorer)
    assert len(screen.shown) == before + 1


def test_choosing_a_query_draws_its_moment_and_its_answers(explorer, screen):
    explorer.query.value = "a_1"
    assert {(60.0, 64.0), (40.0, 44.0), (10.0, 15.0)} <= bars(screen.shown[-1])
    assert screen.shown[-1].axes[0].get_title(loc="left") == "Where is the knife?"
    explorer.run.value = "good"
    assert explorer.query.value == "a_1"  # the same query, another run
    assert (40.0, 44.0) not in bars(screen.shown[-1])


def test_queries_of_the_same_words_are_told_apart(explorer):
    explorer.query.value = "a_1"
    assert explorer.query.value == "a_1"
    assert "60.0 – 64.0 s" in explorer.summary.value
    explorer.query.index = 0
    assert "10.0 – 14.0 s" in explorer.summary.value


def test_going_to_an_answer_moves_the_window(explorer, screen):
    assert screen.shown[-1].axes[0].get_xlim() == (0.0, 100.0)
    explorer.prediction.value = 1
    assert screen.shown[-1].axes[0].get_xlim() == (32.0, 52.0)
    explorer.prediction.value = GROUND_TRUTH
    assert screen.shown[-1].axes[0].get_xlim() == (2.0, 22.0)
    explorer.prediction.value = WHOLE_CLIP
    assert screen.shown[-1].axes[0].get_xlim() == (0.0, 100.0)
    assert explorer.prediction.label == "the whole clip"


def test_filters_narrow_the_queries_and_an_empty_result_keeps_the_last(explorer):
    explorer.search.value = "KNIFE"
    assert offered(explorer) == ["a_0", "a_1"]
    explorer.outcome.value = "missed"
    assert offered(explorer) == ["a_1"]
    assert explorer.query.value == "a_1"
    explorer.clip.value = "garden"
    assert "No query fits" in explorer.summary.value
    assert explorer.query.value == "a_1"
    explorer.search.value = ""
    assert offered(explorer) == ["b_0"]
    explorer.clip.value = explorer.outcome.value = ALL
    assert len(offered(explorer)) == 4


def test_outcomes_are_those_of_the_run_that_is_looked_at(explorer):
    assert explorer.query.options[0][0].endswith("[ranking]")
    explorer.run.value = "good"
    assert explorer.query.options[0][0].endswith("[hit]")
    assert set(explorer.outcome.options) == {ALL, "hit", "missed", "ranking"} <= {ALL, *OUTCOMES}


def test_k_and_threshold_change_the_numbers_of_the_query_and_of_the_split(explorer):
    assert explorer.recall() == 25  # the second answer to the first query
    assert "1 of 2 answers" in explorer.summary.value
    explorer.keep.value = 1
    assert explorer.recall() == 0
    assert "0 of 1 answers" in explorer.summary.value
    explorer.run.value = "good"
    assert explorer.recall() == 100
    explorer.run.value, explorer.keep.value = "weak", 2
    explorer.threshold.value = 0.9  # the second answer's tIoU is 0.8
    assert explorer.recall() == 0
    assert "R@2 IoU=0.9 is 0.0 %" in explorer.summary.value


def test_answers_are_listed_by_rank_with_their_numbers(explorer):
    labels = [label for label, _ in explorer.prediction.options]
    assert labels == [
        "the whole clip",
        "ground truth",
        "1: 40.0 – 44.0 s, score 0.30, tIoU 0.00",
        "2: 10.0 – 15.0 s, score 0.20, tIoU 0.80",
    ]


def test_the_heat_map_is_there_where_scores_are_and_each_query_is_computed_once(explorer, screen):
    assert len(screen.shown[-1].axes[2].images) == 2
    for query_id in ("a_1", "a_0", "a_1"):
        explorer.query.value = query_id
    assert explorer.asked == ["a_0", "a_1"]
    explorer.run.value = "good"  # of which no scores are known
    assert len(screen.shown[-1].axes) == 2


def test_a_text_is_never_run(explorer):
    explorer.query.value = "a_2"
    assert "<script>" not in explorer.summary.value
    assert "&lt;script&gt;" in explorer.summary.value


def test_queries_without_ground_truth_and_without_answers_can_be_looked_at(screen):
    records = [Record("t_0", "c", "Where?", 20.0), Record("t_1", "c", "Who?", 20.0)]
    explorer = Explorer(records, {"run": {"t_0": np.array([[1.0, 2.0, 0.5]])}})
    explorer.show()
    assert [value for _, value in explorer.prediction.options] == [WHOLE_CLIP, 1]
    explorer.query.value = "t_1"
    assert [value for _, value in explorer.prediction.options] == [WHOLE_CLIP]
    assert isinstance(screen.shown[-1], Figure)


def test_nothing_to_explore_is_refused():
    with pytest.raises(DataError, match="nothing to explore"):
        Explorer([], RUNS)
    with pytest.raises(DataError, match="nothing to explore"):
        Explorer(RECORDS, {})


def test_sliders_act_only_when_let_go(explorer):
    assert not explorer.keep.continuous_update
    assert not explorer.threshold.continuous_update
    assert not explorer.search.continuous_update
