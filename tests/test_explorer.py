"""The explorer, driven as a person would: a turn of a widget changes the picture, once, and the numbers."""

import gc
import weakref
from base64 import b64decode
from io import BytesIO
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from groundnlq.analysis import candidates
from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.analysis.events import Event
from groundnlq.analysis.free_form import ask_about_clip, random_questions, words_of_query
from groundnlq.data.records import Record
from groundnlq.errors import DataError, FeatureError
from groundnlq.view import explorer as module
from groundnlq.view import selection
from groundnlq.view.controls import ALL, GROUND_TRUTH, LOST, NONE, ORDERS, WHOLE_CLIP, WON
from groundnlq.view.explorer import Explorer
from groundnlq.view.listing import PAGE
from groundnlq.view.picture import Picture
from tests.stub_network import live_predictions
from tests.test_timeline import bars, row_names

RECORDS = [
    Record("a_0", "kitchen", "Where is the knife?", 100.0, ((10.0, 14.0),), template="Where"),
    Record("a_1", "kitchen", "Where is the knife?", 100.0, ((60.0, 64.0),), template="Where"),
    Record("a_2", "kitchen", "What is <script>alert(1)</script>?", 100.0, ((30.0, 34.0),), template="What"),
    Record("b_0", "garden", "Who is $here$?", 50.0, ((1.0, 3.0),)),
]
WEAK = {r.query_id: [[40.0, 44.0, 0.3], [10.0, 15.0, 0.2]] for r in RECORDS}
WEAK_ARRAYS = {query_id: np.array(rows) for query_id, rows in WEAK.items()}
GOOD = {r.query_id: np.array([[*r.moments_sec[0], 0.9], [0.0, 1.0, 0.1]]) for r in RECORDS}


class Screen:
    """Stands in for the notebook's output: keeps the panel, the figures, and the copies for the file."""

    def __init__(self, monkeypatch):
        self.panels, self.shown, self.copies, real = [], [], [], Picture.show
        monkeypatch.setattr(module, "display", self.panels.append)
        monkeypatch.setattr("groundnlq.view.picture.display", self.copy)
        monkeypatch.setattr(Picture, "show", lambda *a: (self.shown.append(a[1]), real(*a)))

    def copy(self, bundle, **options):
        self.copies.append((bundle, options))
        return SimpleNamespace(update=self.copy)


class Encoder:
    """One token a word; a word that it does not know is an error."""

    name, width = "words", 4
    tokenizer, prepare = SimpleNamespace(tokenize=str.split), staticmethod(str)

    def encode(self, texts):
        if "nonsense" in texts[0]:
            raise FeatureError("<b>nonsense</b> has no token")
        return [torch.ones(len(text.split()), 4) for text in texts]


@pytest.fixture
def screen(monkeypatch):
    return Screen(monkeypatch)


@pytest.fixture
def explorer(screen, monkeypatch):
    """`asked` has the free-form queries that reached the network, `attended` the queries whose attention was
    computed."""
    weak, asked, attended = live_predictions(RECORDS, WEAK | {"own_0": [[20.0, 25.0, 0.5]]}), [], []
    tokens = SimpleNamespace(read=lambda query_id: torch.ones(4, 4), encoder="words", width=4)
    lengths = {"kitchen": 100, "garden": 50}
    store = SimpleNamespace(rate={}, num_steps=lengths, read=lambda clip_uid: torch.zeros(lengths[clip_uid], 4))
    weak.dataset.tokens, weak.dataset.store = tokens, store

    def ask(run, texts, clip, encoder):
        made = ask_about_clip(run, texts, clip, encoder)
        asked.extend((clip.clip_uid, text) for text in texts)
        return made

    def attention(run, index):
        attended.append(run.records[index].query_id)
        return np.full((2, 16, len(run.records[index].query.split())), 0.1)

    monkeypatch.setattr(selection, "ask_about_clip", ask)
    monkeypatch.setattr(candidates.LivePredictions, "attention", attention)
    made = Explorer({"weak": weak, "good": FixedPredictions(RECORDS, GOOD)}, Encoder())
    made.asked, made.attended = asked, attended
    made.show()
    return made


def offered(explorer) -> list[str]:
    return [query_id for _, query_id in explorer.query.options]


def test_the_picture_is_in_the_panel_and_a_copy_of_it_beside_the_panel(explorer, screen):
    (panel,), (figure,) = screen.panels, screen.shown
    assert explorer.picture in panel.children[1].children
    assert isinstance(figure, Figure)
    explorer.query.value = "a_1"
    for bundle, options in screen.copies[-1:]:
        assert b64decode(bundle["image/png"]) == explorer.picture.png
        assert options["metadata"]["image/png"]["alt"] == explorer.picture.alt == bundle["text/plain"]
    assert len(screen.copies) == len(screen.shown) == 2
    assert "Where is the knife? Ground truth: 60.0 – 64.0 s. Predictions: 1: 40.0 – 44.0 s" in explorer.picture.alt


def test_the_picture_has_the_width_the_sharpness_and_the_colours_of_the_page(explorer, screen):
    for width, sharpness, is_dark in ((700, 1, False), (1500, 2, True), (90, 1, False)):
        explorer.picture.room = [width, sharpness, is_dark]
        image = plt.imread(BytesIO(explorer.picture.png))
        assert image.shape[1] == pytest.approx(sharpness * max(width, 550), abs=2)
        assert (image[2, 2, :3] < 0.2).all() == is_dark
        smallest = min(t.get_fontsize() for t in screen.shown[-1].findobj(Text) if t.get_text())
        assert smallest >= 9
    assert len(screen.shown) == 4


def test_what_is_under_the_mouse_is_told_in_words(explorer):
    hover = explorer.picture.hover
    spots = {spot[4]: spot for spot in hover["spots"]}
    answers = [label for label, rank in explorer.prediction.options if rank > 0]
    assert {"ground truth", *answers, "Where is the knife? 60.0 – 64.0 s"} <= spots.keys()
    left, top, right, bottom = hover["area"]
    x0, y0, x1, y1, _, start, end = spots[answers[0]]
    assert (start, end) == (40.0, 44.0)
    assert (x0, x1) == pytest.approx((left + 0.4 * (right - left), left + 0.44 * (right - left)))
    assert top < y0 < y1 < bottom
    assert spots[answers[1]][1] > y1  # the next rank is below
    ((_, duration, scores),) = hover["curves"]
    assert (duration, max(scores)) == (100, pytest.approx(0.3, abs=1e-3))
    explorer.prediction.value = 1  # spots outside the window are not there, others end at its border
    assert hover["span"] == (0, 100)
    assert explorer.picture.hover["span"] == pytest.approx([32, 52])
    assert "ground truth" not in [spot[4] for spot in explorer.picture.hover["spots"]]


def test_a_click_goes_to_what_was_clicked(explorer, screen):
    words = {rank: label for label, rank in explorer.prediction.options}

    def click(*place):
        explorer.picture._handle_custom_msg(list(place), [])
        return screen.shown[-1].axes[0].get_xlim()

    assert click(10.0, 15.0, words[2]) == pytest.approx((2.0, 23.0))
    assert explorer.prediction.value == 2
    assert click(10.0, 14.0, "ground truth") == (2.0, 22.0)
    assert explorer.prediction.value == GROUND_TRUTH
    assert click(60.0, 64.0, "Where is the knife? 60.0 – 64.0 s") == (52.0, 72.0)
    assert explorer.prediction.label == "Where is the knife? 60.0 – 64.0 s"
    assert click(70.0, 70.0, "") == (62.0, 82.0)
    assert explorer.prediction.label == "from 70.0 s on"
    explorer.second_run.value = "good"
    assert click(40.0, 44.0, f"weak {words[1]}") == (32.0, 52.0)
    assert explorer.prediction.value == 1
    assert click(10.0, 14.0, "good 1: 10.0 – 14.0 s, score 0.90, tIoU 1.00") == (2.0, 22.0)


def test_the_collector_leaves_alone_what_is_loaded_but_gets_what_an_explorer_before_left(explorer):
    class Left:
        """Something in a circle, as a run is."""

        def __init__(self):
            self.itself = self

    left = Left()
    explorer.show()
    assert gc.get_freeze_count() > 0
    gone = weakref.ref(left)
    del left
    explorer.show()
    assert gone() is None


TURNS = {
    "query": lambda e: setattr(e.query, "value", "b_0"),
    "next": lambda e: e.next.click(),
    "previous": lambda e: e.previous.click(),
    "run": lambda e: setattr(e.run, "value", "good"),
    "second_run": lambda e: setattr(e.second_run, "value", "good"),
    "clip": lambda e: setattr(e.clip, "value", "garden"),
    "template": lambda e: setattr(e.template, "value", "What"),
    "search": lambda e: setattr(e.search, "value", "here"),
    "order": lambda e: setattr(e.order, "value", ORDERS[1]),
    "reset": lambda e: e.reset.click(),
    "room": lambda e: setattr(e.picture, "room", [700, 1, True]),
    "outcome": lambda e: setattr(e.outcome, "value", "suppressed"),
    "top_k": lambda e: setattr(e.top_k, "value", 1),
    "threshold": lambda e: setattr(e.threshold, "value", 0.5),
    "sigma": lambda e: setattr(e.sigma, "value", 0.05),
    "min_score": lambda e: setattr(e.min_score, "value", 0.1),
    "prediction": lambda e: setattr(e.prediction, "value", 1),
    "attention": lambda e: setattr(e.attention, "value", True),
    "question": lambda e: setattr(e.question, "value", "Where is my hat?"),
}


@pytest.mark.parametrize("turn", [t for t in TURNS if t != "outcome"])
def test_one_turn_of_any_widget_draws_one_picture(explorer, screen, turn):
    before = len(screen.shown)
    TURNS[turn](explorer)
    assert len(screen.shown) == before + 1


def test_choosing_a_query_draws_its_moment_and_its_answers(explorer, screen):
    explorer.query.value = "a_1"
    assert {(60.0, 64.0), (40.0, 44.0), (10.0, 15.0)} <= bars(screen.shown[-1].axes[0])
    assert screen.shown[-1].axes[0].get_title(loc="left") == "Where is the knife?"
    explorer.run.value = "good"
    assert explorer.query.value == "a_1"  # the same query, another run
    assert (40.0, 44.0) not in bars(screen.shown[-1].axes[0])


def test_queries_of_the_same_words_are_told_apart(explorer):
    explorer.query.value = "a_1"
    assert "60.0 – 64.0 s" in explorer.summary.value
    explorer.query.index = 0
    assert "10.0 – 14.0 s" in explorer.summary.value


def test_next_and_previous_walk_the_fitting_queries_in_a_circle(explorer):
    explorer.clip.value = "kitchen"
    seen = []
    for _ in range(4):
        explorer.next.click()
        seen.append(explorer.query.value)
    assert seen == ["a_1", "a_2", "a_0", "a_1"]
    explorer.previous.click()
    assert explorer.query.value == "a_0"


def test_going_to_an_answer_moves_the_window(explorer, screen):
    assert screen.shown[-1].axes[0].get_xlim() == (0.0, 100.0)
    explorer.prediction.value = 1
    assert screen.shown[-1].axes[0].get_xlim() == pytest.approx((32.0, 52.0))
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
    assert explorer.count.value == "1 of 1"
    explorer.clip.value = "garden"
    assert "No query matches" in explorer.summary.value
    assert explorer.query.options == (("No query matches these filters.", ""),)
    assert explorer.count.value == "<b>0 of 4</b>"
    assert explorer.next.disabled
    assert explorer.record.query_id == "a_1"
    explorer.query.index = 0  # the line that says so is not a query
    explorer.search.value = ""
    assert offered(explorer) == ["b_0"]
    assert not explorer.next.disabled
    explorer.reset.click()
    assert len(offered(explorer)) == 4
    assert explorer.clip.value == explorer.outcome.value == ALL


@pytest.mark.parametrize(("text", "found"), [("KNI whe", ["a_0", "a_1"]), ("garden", ["b_0"]), ("a_2 what", ["a_2"])])
def test_a_search_takes_parts_of_several_words_and_ids(explorer, text, found):
    explorer.search.value = text
    assert offered(explorer) == found


def test_queries_are_sorted_by_score_tiou_and_outcome(screen):
    first = {"a_0": [10.0, 14.0, 0.1], "a_1": [61.0, 65.0, 0.4], "a_2": [0.0, 1.0, 0.3], "b_0": [1.0, 2.0, 0.2]}
    explorer = Explorer({"run": FixedPredictions(RECORDS, {q: np.array([row]) for q, row in first.items()})})
    expected = [["a_0", "a_1", "a_2", "b_0"], ["a_1", "a_2", "b_0", "a_0"], ["a_2", "b_0", "a_1", "a_0"],
                ["a_0", "a_1", "b_0", "a_2"]]  # fmt: skip
    for order, ids in zip(ORDERS, expected, strict=True):
        explorer.order.value = order
        assert offered(explorer) == ids
    explorer.next.click()
    assert (explorer.query.value, explorer.count.value) == ("a_1", "2 of 4")


def test_queries_that_one_of_two_runs_alone_hits_can_be_listed(explorer):
    explorer.outcome.value = WON
    assert "No query matches" in explorer.summary.value  # there is no second run
    explorer.second_run.value = "good"
    explorer.outcome.value = LOST
    assert len(offered(explorer)) == 4  # the other one hits all, this one none
    explorer.run.value, explorer.second_run.value, explorer.outcome.value = "good", "weak", WON
    assert len(offered(explorer)) == 4


def test_a_typed_question_is_held_against_nonsense(explorer, monkeypatch):
    scores = np.repeat([0.6, 0.0], [19, 21])
    monkeypatch.setattr(explorer, "_nonsense_of", lambda name, clip_uid: scores)
    explorer.question.value = "Where is my hat?"  # 0.5
    assert "weak: 19 of 40 questions of random letters about this clip score 0.50 or more" in explorer.summary.value
    scores[19] = 0.5
    explorer.question.value = "Where is my coat?"
    assert "<b>no better than nonsense</b>: 20 of 40" in explorer.summary.value
    explorer.query.value = "a_1"  # is not typed
    assert "random letters" not in explorer.summary.value


def test_nonsense_is_asked_about_the_clip_once(explorer):
    scores = explorer._nonsense_of("weak", "garden")
    assert scores.shape == (40,)
    assert explorer.asked == [("garden", text) for text in random_questions(40)]
    explorer._nonsense_of("weak", "garden")
    assert len(explorer.asked) == 40
    assert len(set(random_questions(40))) == 40


def test_events_stand_under_the_segments_and_tell_what_the_query_shares_with_them(screen):
    events = [Event(10.0, 14.0, "put", "knife"), Event(40.0, 44.0, "puts", "cup"), Event(70.0, 71.0, "see", "knives"),
              Event(80.0, 81.0, "talk", person="baby")]  # fmt: skip
    explorer = Explorer({"run": FixedPredictions(RECORDS, WEAK_ARRAYS)}, events={"kitchen": events})
    explorer.show()
    words = {spot[4] for spot in explorer.picture.hover["spots"]}
    assert {"put knife, 10.0 – 14.0 s, same verb and object", "puts cup, 40.0 – 44.0 s, same verb",
            "see knives, 70.0 – 71.0 s, same object", "talk baby, 80.0 – 81.0 s"} <= words  # fmt: skip
    assert {"put knife", "puts cup"} <= {text.get_text() for text in screen.shown[-1].axes[1].texts}
    explorer.query.value = "b_0"  # a clip without a log
    assert not any("put" in spot[4] for spot in explorer.picture.hover["spots"])


def test_notes_are_kept_in_a_table_with_a_picture_each(tmp_path):
    notes = tmp_path / "deep" / "notes.csv"
    for text in ('the "wrong", knife', "again"):
        explorer = Explorer({"run": FixedPredictions(RECORDS, WEAK_ARRAYS)}, notes=notes)
        explorer.show()
        explorer.prediction.value, explorer.note.value = 1, text
        explorer.keep.click()
    table = pd.read_csv(notes)
    assert table["note"].tolist() == ['the "wrong", knife', "again"]
    assert table.loc[0, ["query_id", "run", "outcome"]].tolist() == ["a_0", "run", "ranking within k"]
    assert table.loc[0, "shown"] == "1: 40.0 – 44.0 s, score 0.30, tIoU 0.00"
    assert (notes.with_suffix("") / table.loc[1, "picture"]).read_bytes() == explorer.picture.png
    assert f"kept in {notes}" in explorer.summary.value


def test_outcomes_are_those_of_the_run_and_of_the_settings_that_are_looked_at(explorer):
    assert explorer.query.options[0][0].startswith("ranking within k: ")
    explorer.threshold.value = 0.9  # the second answer's tIoU is 0.8
    assert explorer.query.options[0][0].startswith("localisation: ")
    explorer.run.value = "good"
    assert explorer.query.options[0][0].startswith("hit: ")


def test_k_and_threshold_change_the_numbers_of_the_query_and_of_the_split(explorer):
    assert explorer.recall("weak", 5) == 25  # the second answer to the first query
    assert "<td>1 of 2</td>" in explorer.summary.value
    assert "<td>0.0 %</td><td>25.0 %</td>" in explorer.summary.value
    explorer.top_k.value = 1
    assert "<td>0 of 1</td><td>0.0 %</td></tr>" in explorer.summary.value
    explorer.run.value = "good"
    assert explorer.recall("good", 1) == 100
    explorer.run.value, explorer.top_k.value = "weak", 2
    explorer.threshold.value = 0.9
    assert "R@2 IoU=0.9" in explorer.summary.value
    assert explorer.recall("weak", 2) == 0


def test_decoding_is_done_anew_with_another_sigma_or_minimum_score(screen):
    close = {r.query_id: [[40.0, 44.0, 0.3], [40.5, 44.5, 0.29], [10.0, 15.0, 0.2]] for r in RECORDS}
    explorer = Explorer({"run": live_predictions(RECORDS, close)})
    explorer.top_k.value = 2
    assert explorer.recall("run", 2) == 25  # the near-duplicate has faded below the third
    explorer.sigma.value = 5.0
    assert explorer.recall("run", 2) == 0
    explorer.sigma.value, explorer.min_score.value = 0.75, 0.3
    assert len([value for _, value in explorer.prediction.options if value > 0]) == 1


def test_nothing_but_sigma_and_minimum_score_decodes_the_split_again(explorer, monkeypatch):
    calls, real = [], candidates.suppress
    monkeypatch.setattr(candidates, "suppress", lambda *a: calls.append(a) or real(*a))
    for name in sorted(TURNS.keys() - {"sigma", "min_score", "question"}):
        TURNS[name](explorer)
    assert calls == []
    explorer.reset.click()
    explorer.run.value = "weak"
    TURNS["sigma"](explorer)
    assert len(calls) == 1


def test_no_turn_waits_for_a_run_that_was_not_shown_before(screen, monkeypatch):
    explorer = Explorer(
        {name: live_predictions(RECORDS, segments) for name, segments in (("weak", WEAK), ("other", WEAK))}
    )
    calls, real = [], candidates.suppress
    monkeypatch.setattr(candidates, "suppress", lambda *a: calls.append(a) or real(*a))
    explorer.second_run.value = "other"
    explorer.run.value = "other"
    assert calls == []
    explorer.sigma.value = 0.05
    assert len(calls) == 1  # of the shown one alone


def test_the_network_computes_attention_once_a_query(explorer):
    explorer.attention.value = True
    assert explorer.attended == ["a_0"]
    explorer.top_k.value, explorer.prediction.value = 1, GROUND_TRUTH
    assert explorer.attended == ["a_0"]
    explorer.query.value = "a_1"
    assert explorer.attended == ["a_0", "a_1"]


def test_a_figure_of_ones_own_stays_as_it_is_while_the_shown_one_is_drawn_on_again(explorer, screen):
    own = explorer.figure()
    explorer.query.value = "a_1"
    assert own is not screen.shown[-1]
    assert own.axes[0].get_title(loc="left") == "Where is the knife?"
    assert (10.0, 14.0) in bars(own.axes[0])
    explorer.next.click()
    assert screen.shown[-1] is screen.shown[-2]


def test_a_split_of_ego4ds_size_is_offered_by_the_page_and_every_query_can_be_reached(screen):
    """What is done at a turn is bounded: the split is decoded at once, and a page of queries is sent."""
    many = [Record(f"q_{i}", f"c{i // 11}", f"Where is thing {i}?", 100.0, ((10.0, 14.0),)) for i in range(4552)]
    explorer = Explorer({"run": FixedPredictions(many, {r.query_id: np.array([[10.0, 14.0, 0.5]]) for r in many})})
    assert len(explorer.query.options) == PAGE
    explorer.previous.click()
    assert explorer.query.value == "q_4551"
    assert len(explorer.query.options) == 4552 % PAGE
    explorer.next.click()
    assert explorer.query.value == "q_0"
    explorer.go_to("q_2000")
    assert explorer.query.value == "q_2000"
    assert "Where is thing 2000?" in explorer.summary.value
    explorer.search.value = "thing 4551"
    with pytest.raises(DataError, match="query q_2000 is not among those that fit the filters"):
        explorer.go_to("q_2000")
    assert offered(explorer) == ["q_4551"]
    assert explorer.count.value == "1 of 1"


def test_two_runs_stand_side_by_side_in_picture_and_table(explorer, screen):
    explorer.second_run.value = "good"
    assert row_names(screen.shown[-1].axes[0])[:5] == ["ground truth", "weak 1", "2", "good 1", "2"]
    assert explorer.summary.value.count("<tr>") == 3
    explorer.second_run.value = "weak"  # the same one twice is one
    assert row_names(screen.shown[-1].axes[0])[1] == "rank 1"
    explorer.second_run.value = NONE
    assert explorer.summary.value.count("<tr>") == 2


def test_a_question_of_ones_own_is_asked_of_the_clip_that_is_shown(explorer, screen):
    explorer.query.value = "b_0"
    explorer.question.value = "Where is <i>my</i> hat?"
    assert explorer.asked == [("garden", text) for text in ("Where is <i>my</i> hat?", *random_questions(40))]
    assert (20.0, 25.0) in bars(screen.shown[-1].axes[0])
    assert screen.shown[-1].axes[0].get_title(loc="left") == "Where is <i>my</i> hat?"
    assert "&lt;i&gt;my" in explorer.summary.value
    assert "<i>" not in explorer.summary.value
    assert row_names(screen.shown[-1].axes[0])[0] == "not annotated"
    explorer.prediction.value = 1
    assert len(explorer.asked) == 41  # looked at again, not asked again
    explorer.query.value = "a_0"
    assert screen.shown[-1].axes[0].get_title(loc="left") == "Where is the knife?"


def test_a_question_that_cannot_be_encoded_is_a_message_and_the_query_stays(explorer):
    explorer.question.value = "nonsense"
    assert "&lt;b&gt;nonsense&lt;/b&gt; has no token" in explorer.summary.value
    assert explorer.record.query_id == "a_0"
    explorer.question.value = "Where is it?"
    explorer.question.value = "   "  # back to the query
    assert explorer.record.query_id == "a_0"


@pytest.mark.parametrize(
    ("encoder", "width", "is_refused"),
    [("words", 4, False), ("letters", 4, True), ("import of x", 4, False), ("import of x", 5, True)],
)
def test_a_question_is_encoded_as_the_queries_were_or_not_at_all(explorer, encoder, width, is_refused):
    explorer.runs["weak"].dataset.tokens.encoder, explorer.runs["weak"].dataset.tokens.width = encoder, width
    explorer.question.value = "Where is my hat?"
    assert ("give the explorer the encoder of the queries" in explorer.summary.value) == is_refused
    assert bool(explorer.asked) == (not is_refused)


def test_attention_is_drawn_with_the_words_of_the_query(explorer, screen):
    explorer.attention.value = True
    assert row_names(screen.shown[-1].axes[3]) == ["Where", "is", "the", "knife?"]
    explorer.run.value = "good"  # a file has no attention
    assert [axis.get_visible() for axis in screen.shown[-1].axes] == [True, False, False, False]


def test_tokens_without_known_words_are_numbered():
    assert words_of_query(None, "Where is it?", 2) == ["token 1", "token 2"]
    assert words_of_query(Encoder(), "Where is it?", 2) == ["token 1", "token 2"]


def test_answers_are_listed_by_rank_with_their_numbers(explorer):
    assert [label for label, _ in explorer.prediction.options] == [
        "the whole clip",
        "ground truth",
        "1: 40.0 – 44.0 s, score 0.30, tIoU 0.00",
        "2: 10.0 – 15.0 s, score 0.20, tIoU 0.80",
    ]


def test_a_text_is_never_run(explorer):
    explorer.query.value = "a_2"
    assert "<script>" not in explorer.summary.value
    assert "&lt;script&gt;" in explorer.summary.value


def test_queries_without_ground_truth_and_without_answers_can_be_looked_at(screen):
    records = [Record("t_0", "c", "Where?", 20.0), Record("t_1", "c", "Who?", 20.0)]
    explorer = Explorer({"run": FixedPredictions(records, {"t_0": np.array([[1.0, 2.0, 0.5]])})})
    explorer.show()
    assert [value for _, value in explorer.prediction.options] == [WHOLE_CLIP, 1]
    explorer.query.value = "t_1"
    assert [value for _, value in explorer.prediction.options] == [WHOLE_CLIP]
    assert "not annotated" in explorer.summary.value
    assert isinstance(screen.shown[-1], Figure)


def test_what_cannot_be_explored_is_refused():
    run = FixedPredictions(RECORDS, GOOD)
    for runs in ({}, {"empty": FixedPredictions([], {})}):
        with pytest.raises(DataError, match="nothing to explore"):
            Explorer(runs)
    with pytest.raises(DataError, match="not over the same records"):
        Explorer({"one": run, "other": FixedPredictions(RECORDS[:2], GOOD)})


def test_controls_that_could_do_nothing_are_switched_off():
    explorer = Explorer({"file": FixedPredictions(RECORDS, GOOD)})
    for control in (explorer.sigma, explorer.min_score, explorer.attention, explorer.question):
        assert control.disabled


def test_sliders_act_only_when_let_go_and_every_control_has_a_name(explorer):
    for control in (explorer.top_k, explorer.threshold, explorer.sigma, explorer.min_score, explorer.question):
        assert not control.continuous_update
    assert explorer.search.continuous_update  # acts as one types
    controls, _ = explorer.panel(explorer.picture).children
    boxes = [*controls.children, *(c for box in controls.children for c in getattr(box, "children", ()))]
    assert all(box.description for box in boxes if hasattr(box, "description") and box is not explorer.count)


def test_a_moment_that_nothing_can_hit_is_a_miss_and_no_segment_to_go_to(screen):
    moments = [(5.0, 5.0), (9.0, 4.0), (700.0, 709.0), (-9.0, -5.0), (10.0, 14.0)]
    records = [Record(f"a_{i}", "kitchen", "Where?", 50.0, (moment,)) for i, moment in enumerate(moments)]
    first = {r.query_id: np.array([[*np.sort(np.clip(m, 0, 50)), 0.9]]) for r, m in zip(records, moments, strict=True)}
    explorer = Explorer({"run": FixedPredictions(records, first)})
    assert explorer.recall("run", 1) == 20
    for record in records:
        explorer.go_to(record.query_id)
        segments = dict(explorer.prediction.options)
        assert ("ground truth" in segments) == (not record.oddity)
        for segment in segments.values():
            explorer.prediction.value = segment
            low, high = explorer.figure().axes[0].get_xlim()
            assert 0 <= low < high <= 50
