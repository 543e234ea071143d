"""Figures draw whatever the data is, say what their axes are, and put things where they are in time."""

from base64 import b64decode
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from groundnlq.analysis.evaluation import evaluate
from groundnlq.analysis.events import Event
from groundnlq.data.check import FeatureReport
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.view import plots, style, timeline
from groundnlq.view.canvas import Sheet
from groundnlq.view.style import DARK
from notebooks.lessons import comparison, inspection, learning, scoring, statistics
from tests.stub_network import config_of

LOG_EVENTS = [Event(9.0, 15.0, "put", "cup"), Event(20.0, 21.0, "$\\frac{$", None, "<b>")]
ODD_TEXTS = [
    "costs $5 or $6^{2}$?",
    "$\\frac{$",
    "<script>alert(1)</script> & <b>",
    "two\nlines\tand a tab",
    "half a pair \ud83d, a bell \x07",
    "x" * 500,
    "%d {name} \\ \\$",
]


def record(index=0, text="Where is the cup?", moments=((10.0, 14.0),), duration=100.0, **more):
    return Record(f"a_{index}", "clip", text, duration, moments, **more)


def ranked(*segments):
    return np.array(segments, dtype=float).reshape(-1, 3)


def pyramid(num_steps=64, num_levels=4):
    return [np.linspace(0, 1, -(-num_steps // 2**level)) for level in range(num_levels)]


def png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def bars(axis: Axes) -> set[tuple[float, float]]:
    """Start and end in time of all boxes."""
    boxes = [path.get_extents() for collection in axis.collections for path in collection.get_paths()]
    return {(round(box.x0, 4), round(box.x1, 4)) for box in boxes}


def row_names(axis: Axes) -> list[str]:
    """The words at the left of the rows, from the top."""
    return [text.get_text() for text in axis.texts if text.get_position()[0] < 0]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_text_is_drawn_as_it_is_never_as_mathematics(text):
    figure = timeline.query_timeline(record(text=text), ranked((9, 15, 0.5)))
    png(figure)  # raises where mathematics does not parse
    title = figure.axes[0].get_title(loc="left")
    assert title.count("$") == title.count(r"\$")
    assert len(title) <= 100
    png(inspection.moments_of_clip([record(text=text)]))
    png(statistics.template_bars([record(template=text)]))


@pytest.mark.parametrize(
    ("moments", "answers", "scores"),
    [
        ((), ranked(), ()),
        ((), ranked((9, 15, 0.5)), pyramid()),
        (((10.0, 14.0),), ranked(), [np.zeros(0)] * 4),
        (((10.0, 14.0),), ranked((9, 9, 0.5), (0, 100, 0.1)), [np.array([0.5])]),
        (((1.0, 2.0), (50.0, 120.0)), ranked((9, 15, 0.0)), [np.zeros(8)] * 2),
    ],
)
def test_a_timeline_draws_with_nothing_little_and_much(moments, answers, scores):
    one, other = record(moments=moments), record(1, moments=())
    figure = timeline.query_timeline(one, answers, scores, [other], LOG_EVENTS)
    assert png(figure)


def test_the_shares_of_another_data_set_stand_beside_the_templates_counts():
    records = [record(i, template="often") for i in range(3)] + [record(9, template="rare $")]
    (axis,) = statistics.template_bars(records, {"often": 25.0, "rare $": 75.0}).axes
    assert [bar.get_width() for bar in axis.patches] == [3, 1]
    assert axis.lines[0].get_xdata().tolist() == [1.0, 3.0]
    png(axis.figure)


def test_a_timeline_shows_each_prediction_where_it_is_with_its_numbers():
    figure = timeline.query_timeline(record(), ranked((10, 14, 0.7), (60, 70, 0.2)), top_k=2)
    assert bars(figure.axes[0]) >= {(10.0, 14.0), (60.0, 70.0)}
    assert {"✓ 1.00", "0.700", "0.00", "0.200"} <= set(texts(figure))


def test_the_threshold_decides_what_is_ticked():
    half = ranked((10, 18, 0.7))  # tIoU 0.5
    ticked = {t: "✓ 0.50" in texts(timeline.query_timeline(record(), half, threshold=t)) for t in (0.3, 0.5)}
    assert ticked == {0.3: True, 0.5: False}


def test_no_more_than_the_kept_are_drawn_and_without_truth_no_overlap_is_claimed():
    many = ranked(*((i, i + 1, 0.5) for i in range(8)))
    figure = timeline.query_timeline(record(), many, top_k=3)
    assert row_names(figure.axes[0]) == ["ground truth", "rank 1", "rank 2", "rank 3"]
    assert "tIoU" not in texts(timeline.query_timeline(record(moments=()), many))


def test_heat_map_cells_lie_around_the_times_of_their_points():
    one = record(duration=64.0)  # a second a step
    figure = timeline.query_timeline(one, ranked(), pyramid(64, 3))
    image, _scale = figure.axes[1].images
    assert tuple(image.get_extent()[:2]) == (0.0, 64.0)
    # point 1 of stride 4 is step 4, its cell reaches half a stride to both sides: steps 2 to 5
    of_stride_4, color = image.get_array()[2], colormaps["cividis"](pyramid(64, 3)[2][1], bytes=True)
    assert np.flatnonzero((of_stride_4 == color).all(axis=1)).tolist() == [2, 3, 4, 5]


def test_beside_cells_stands_the_scale_that_they_are_coloured_by():
    figure = timeline.query_timeline(record(), ranked(), [level * 0.123 for level in pyramid()])
    cells, scale = (image.get_array() for image in figure.axes[1].images)
    assert (scale[0] == cells[0, -1]).all()  # the highest score, on top
    assert (scale[-1] == cells[0, 0]).all()
    words = {t.get_text(): t.get_position()[1] for t in figure.axes[1].texts}
    assert (words["0.123"], words["0"]) == (1, 0)


def test_the_window_is_what_is_shown():
    figure = timeline.query_timeline(record(), ranked((9, 15, 0.5)), pyramid(), window_sec=(4.0, 20.0))
    assert all(axis.get_xlim() == (4.0, 20.0) for axis in figure.axes[:3])


def test_two_runs_stand_under_each_other_with_a_heat_map_each():
    answers = {"weak $": ranked((9, 15, 0.5)), "good": ranked((10, 14, 0.7), (60, 70, 0.2))}
    figure = timeline.query_timeline(record(), answers, {name: pyramid() for name in answers})
    assert row_names(figure.axes[0]) == ["ground truth", r"weak \$ 1", "good 1", "2"]
    assert [bool(axis.images) for axis in figure.axes] == [False, True, True, False]
    legend = figure.axes[3].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == [r"weak \$", "good"]
    curves, samples = figure.axes[3].lines, legend.get_lines()
    assert [c.get_linestyle() for c in curves] == [s.get_linestyle() for s in samples] == ["-", "--"]
    assert png(figure)


def test_two_runs_have_one_colour_scale():
    scores = {"strong": pyramid(), "weak": [level * 0.2 for level in pyramid()]}
    figure = timeline.query_timeline(record(), dict.fromkeys(scores, ranked()), scores)
    highest = [axis.images[0].get_array()[0, -1] for axis in figure.axes[1:3]]
    assert np.array_equal(highest, [colormaps["cividis"](value, bytes=True) for value in (1.0, 0.2)])


def test_a_dark_sheet_has_light_words_and_no_white():
    shown = {"ranked": ranked((9, 15, 0.5)), "level_scores": pyramid(), "others": [record(1)], "events": LOG_EVENTS}
    for colors, is_dark in ((None, False), (DARK, True)):
        figure = timeline.query_timeline(record(), **shown, sheet=Sheet(8, colors))
        image = plt.imread(BytesIO(png(figure)))[..., :3].mean(axis=-1)
        assert (np.median(image) < 0.2) == is_dark
        words = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        assert {to_rgb(t.get_color())[0] > 0.5 for t in words} == {is_dark}


def test_every_figure_has_a_text_in_words_and_two_pixels_for_each_of_the_page():
    figure = plots.loss_curve(VALIDATED)
    content, metadata = style.figure_png(figure)
    height, width = plt.imread(BytesIO(b64decode(content))).shape[:2]
    assert (width, height) == (2 * metadata["width"], 2 * metadata["height"]) == (1800, 560)
    assert {"epoch", "training loss", "classification", "averaged weights (EMA)"} <= set(
        metadata["alt"].removeprefix("Figure: ").split("; ")
    )
    figure.set_label("own words")
    assert style._in_words(figure) == "own words"


def test_attention_has_a_row_a_word_and_a_cell_a_step():
    weights = np.linspace(0, 1, 64 * 3).reshape(64, 3)
    figure = timeline.query_timeline(record(), ranked(), attention=(["where", "$x$", "</b>"], weights))
    axis = figure.axes[1]
    assert axis.images[0].get_array().shape == (3, 64, 4)
    assert row_names(axis) == ["where", r"\$x\$", "</b>"]
    assert png(figure)


def test_films_stand_under_the_time_axis_each_with_its_title_and_times():
    films = {name: (np.array(times), np.zeros((2, 9, 16, 3), np.uint8)) for name, times in FILMS.items()}
    figure = timeline.query_timeline(record(), ranked((9, 15, 0.5)), films=films)
    segments, pictures = figure.axes
    assert not pictures.axison
    assert segments.get_xlabel() == "time in the clip [s]"
    assert segments.xaxis.get_visible()
    shown = {c.get_title(loc="left"): [t.get_text() for t in c.get_xticklabels()] for c in pictures.child_axes}
    assert shown == {r"true \$": ["10.0 s", "12.0 s"], "answer": ["7.0 s", "9.0 s"]}
    assert png(figure)
    boxes = [axis.get_tightbbox() for axis in (segments, *pictures.child_axes)]
    assert all(one.y1 < boxes[0].y0 for one in boxes[1:])  # below the label of the time axis
    assert boxes[1].x1 <= boxes[2].x0
    assert min(one.y0 for one in boxes) >= 0


FILMS = {"true $": [10.0, 12.0], "answer": [7.0, 9.0]}
TWO = {"one": ranked((9, 15, 0.5)), "other": ranked((10, 14, 0.7), (60, 70, 0.2))}
PICTURES = [  # one after another on a sheet, each with other rows than the one before
    {"ranked": TWO["one"], "level_scores": pyramid()},
    {"ranked": TWO, "level_scores": dict.fromkeys(TWO, pyramid()), "events": LOG_EVENTS},
    {"ranked": TWO["one"], "window_sec": (5.0, 20.0)},
    {"ranked": ranked(), "films": {"true": (np.array([10.0]), np.zeros((1, 9, 16, 3), np.uint8))}},
    {"ranked": TWO["other"], "attention": (["where", "cup"], np.linspace(0, 1, 128).reshape(64, 2))},
    {"ranked": TWO, "level_scores": {"one": pyramid(), "other": pyramid(128, 5)}, "others": [record(1)]},
    {"ranked": TWO["one"], "level_scores": [level * 0.2 for level in pyramid()], "window_sec": (0.0, 30.0)},
]


def test_a_sheet_that_was_drawn_on_shows_nothing_of_the_pictures_before():
    sheet = Sheet()
    for number, shown in enumerate([*PICTURES, *PICTURES[::-1]]):
        one = record(number, text=f"Where is cup {number}?")
        fresh = png(timeline.query_timeline(one, **shown))
        assert png(timeline.query_timeline(one, **shown, sheet=sheet)) == fresh, number
    assert len({png(timeline.query_timeline(record(), **shown)) for shown in PICTURES}) == len(PICTURES)


def test_a_picture_leaves_nothing_behind_on_its_sheet():
    sheet = Sheet()
    for _ in range(3):
        figure = timeline.query_timeline(record(), **PICTURES[1], sheet=sheet)
    assert len(figure.findobj()) == len(timeline.query_timeline(record(), **PICTURES[1]).findobj())


def test_overlap_colors_darken():
    brightness = [sum(timeline.overlap_color(overlap)[:3]) for overlap in np.linspace(0, 1, 6)]
    assert brightness == sorted(brightness, reverse=True)


HISTORY = [
    {"epoch": i, "step": 10 * i, "loss total": 2 / i, "loss classification": 1 / i, "loss regression": 1 / i}
    for i in (1, 2, 3)
]
VALIDATED = [row | {f"{w} {k}": 5.0 for w in ("raw", "ema") for k in ("mean R@1", "R@1 IoU=0.3")}
             for row in HISTORY]  # fmt: skip

ONE_VALIDATION = [*HISTORY[:-1], VALIDATED[-1]]


@pytest.mark.parametrize("history", [VALIDATED[:1], ONE_VALIDATION], ids=["one epoch", "one validation"])
def test_ticks_of_both_loss_curves_are_epochs_of_the_run(history):
    for axis in plots.loss_curve(history).axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks
        assert set(ticks) <= {row["epoch"] for row in history}


def evaluations(num=2):
    records = [record(i, template=f"t{i % 3}") for i in range(9)]
    answers = [ranked((9 + n, 15, 0.5), (50, 52, 0.2)) for n in range(num)]
    return {f"run {n} $": evaluate({r.query_id: a for r in records}, records) for n, a in enumerate(answers)}


def report(num_clips=3):
    names = [f"c{i}" for i in range(num_clips)]
    durations = np.linspace(50, 100, num_clips)
    return FeatureReport(StepGrid(30.0, 16.043, "consistent"), names, (durations * 1.875).astype(int), durations, {})


MANY = [record(i, moments=((i, i + 0.1 + i % 7),), template=f"t{i % 4}") for i in range(40)]
NARRATED = [record(0, "C takes the cup"), record(1, "C puts it")]
LOG = {
    "duration_sec": 60.0,
    "stays": [(0.0, 30.0, "kitchen"), (30.0, 60.0, "ha$ll$")],
    "events": [{"start_sec": 3.0, "end_sec": 5.0, "verb": "put", "object": "cup", "container": "", "person": ""}],
}
TIME = {"time in the clip [s]"}
LENGTHS = {"clip length [s]", "clips", "moment length [s]", "queries", "share of the clip covered [%]"}
RECALL = {"R@1 IoU=0.3 [%]"}
FIGURES = {  # what makes it, and the labels that its axes must have
    "lengths": (lambda: statistics.length_distributions(MANY), LENGTHS),
    "lengths without moments": (lambda: statistics.length_distributions([record(moments=())]), LENGTHS),
    "lengths of one": (lambda: statistics.length_distributions([record()]), LENGTHS),
    "templates": (lambda: statistics.template_bars(MANY), {"queries"}),
    "rate": (lambda: inspection.rate_fit(report()), {"clip length [s]", "feature steps", "frames per step"}),
    "levels": (lambda: inspection.moments_per_level(MANY, config_of()), {"pyramid level"}),
    "levels without moments": (
        lambda: inspection.moments_per_level([record(moments=())], config_of()),
        {"moments with\na positive point [%]"},
    ),
    "recalls": (lambda: plots.recall_bars(evaluations()), {"strict recall [%]"}),
    "recalls by template": (lambda: plots.recall_by({n: e.by("template") for n, e in evaluations().items()}), RECALL),
    "recalls by length": (
        lambda: plots.recall_by(
            {n: e.by(scoring.length_groups(e.hits["moment_sec"])) for n, e in evaluations(1).items()}, title="$"
        ),
        RECALL,
    ),
    "moments of a clip": (lambda: inspection.moments_of_clip(MANY[:5], NARRATED), TIME),
    "jittered": (lambda: learning.jitter_timeline(NARRATED, [np.array([[9.0, 16.0], [8.0, 14.0]])] * 2), TIME),
    "losses": (lambda: plots.loss_curve(VALIDATED), {"epoch", "training loss", "val mean R@1 [%]"}),
    "losses before any validation": (lambda: plots.loss_curve(HISTORY), {"epoch", "training loss"}),
    "runs": (
        lambda: comparison.compare_runs({"a": VALIDATED, "b $": VALIDATED[:1], "c": []}),
        {"training step", "val R@1 IoU=0.3 [%]"},
    ),
    "event log": (lambda: inspection.event_log(LOG, NARRATED), TIME),
    "query": (
        lambda: timeline.query_timeline(record(), ranked((9, 15, 0.5)), pyramid(), MANY, LOG_EVENTS),
        TIME | {"pyramid level\n(stride)", "best\nscore"},
    ),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error")
def test_every_figure_draws_without_a_warning_and_names_its_axes(name):
    make, expected = FIGURES[name]
    figure = make()
    assert png(figure)
    axes = figure.findobj(Axes)
    assert expected <= {label for axis in axes for label in (axis.get_xlabel(), axis.get_ylabel())}


def test_recall_bars_show_the_strict_figures():
    shown = evaluations(2)
    expected = {f"{e.strict[key]:.1f}" for e in shown.values() for key in ("R@1 IoU=0.3", "R@1 IoU=0.5")}
    assert expected <= set(texts(plots.recall_bars(shown, ("R@1 IoU=0.3", "R@1 IoU=0.5"))))


def test_a_moment_belongs_to_one_length_group_and_the_groups_are_in_order():
    evaluation = next(iter(evaluations(1).values()))
    groups = scoring.length_groups(evaluation.hits["moment_sec"] * 0 + [0.5, 1, 1.9, 2, 4, 8, 15.9, 16, 300])
    names = ["under 1 s", "1 - 2 s", "2 - 4 s", "4 - 8 s", "8 - 16 s", "over 16 s"]
    assert groups.tolist() == [names[i] for i in (0, 1, 1, 2, 3, 4, 4, 5, 5)]
    assert list(groups.cat.categories) == names


def test_no_figure_is_left_behind_in_pyplot():
    before = plt.get_fignums()
    for make, _ in FIGURES.values():
        make()
    assert plt.get_fignums() == before
