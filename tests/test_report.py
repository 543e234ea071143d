"""The report: figures that say what they show, a page that fits, and no text that runs."""

from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.data.records import Record
from groundnlq.view import report
from groundnlq.view.report import write_report
from tests.stub_network import live_predictions

ODD = ["<script>alert(1)</script>", "costs $5 or $\\frac{$?", "<img src=x onerror=alert(1)>", "a & b", "%d {x}"]


def records(num=30):
    return [
        Record(f"a_{i}", f"c{i // 6}", ODD[i % 5], 64.0, ((2.0 + i, 6.0 + i),), template=ODD[(i // 2) % 5])
        for i in range(num)
    ]


def live(shift):
    segments = {r.query_id: [(shift + r.moments_sec[0][0], 6.0 + i, 0.1 + i / 40), (50, 60, 0.3)]
            for i, r in enumerate(records())}  # fmt: skip
    return live_predictions(records(), segments)


@pytest.fixture(scope="module")
def diagnosis():
    return Diagnosis("<b>new</b> $x$", live(0.5), "$old", live(3.0), records(5))


@pytest.fixture(scope="module")
def of_files():
    ranked = {r.query_id: np.array([[*r.moments_sec[0], 0.5]]) for r in records()}
    return Diagnosis("file", FixedPredictions(records(), ranked))


def drawn(figure):
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return {label for axis in figure.findobj(Axes) for label in (axis.get_xlabel(), axis.get_ylabel())}


FIGURES = {
    "outcomes": (lambda d: report.outcome_bars(d.tables), {"queries [%]"}),
    "gains": (lambda d: report.gain_bars(d.oracle_gains), set()),
    "calibration": (
        lambda d: report.calibration_curve(d.calibration),
        {"score of the first prediction", "hit rate [%]"},
    ),
    "kinds": (lambda d: report.sensitivity_marks(d.sensitivity, 10.0), {"R@1 [%], 95 % interval"}),
    "page": (report._page, {"queries [%]", "score of the first prediction", "R@1 [%], 95 % interval"}),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("which", ["diagnosis", "of_files"])
@pytest.mark.filterwarnings("error")
def test_every_figure_draws_without_a_warning_and_names_its_axes(name, which, request):
    make, expected = FIGURES[name]
    assert expected <= drawn(make(request.getfixturevalue(which)))


@pytest.mark.filterwarnings("error")
def test_levels_are_drawn_where_they_are_known(diagnosis, of_files):
    assert "stride of the pyramid level" in drawn(report.level_bars(diagnosis.levels))
    assert of_files.levels is None


def test_bars_show_the_share_of_each_outcome_and_leave_out_what_never_occurs(diagnosis):
    axis = report.outcome_bars(diagnosis.tables).axes[0]
    assert sum(patch.get_width() for patch in axis.patches) == pytest.approx(200)  # two runs
    names = [text.get_text().split(":")[0] for text in axis.get_legend().get_texts()]
    assert set(names) == {o for t in diagnosis.tables.values() for o in t["outcome"]}


def test_outcomes_are_told_apart_without_colour():
    hatched = [(report.HATCHES[name], report.COLORS[name]) for name in report.HATCHES]
    plain_ones = [color for hatch, color in hatched if not hatch]
    grey = [sum(w * int(c[i : i + 2], 16) for w, i in ((0.3, 1), (0.59, 3), (0.11, 5))) for c in plain_ones]
    assert min(abs(a - b) for i, a in enumerate(grey) for b in grey[:i]) > 50  # of 255
    assert len({hatch for hatch, _ in hatched if hatch}) == len([hatch for hatch, _ in hatched if hatch])


def test_the_summary_has_the_numbers_of_the_tables(diagnosis, of_files):
    text, table = diagnosis.summary(), diagnosis.table
    assert f"R@1 IoU=0.3 is {100 * (table['outcome'] == 'hit').mean():.1f} %" in text
    assert f"over {len(table)} queries of 5 clips" in text
    assert f"{diagnosis.differences.iloc[0]['won']:.0f} queries won" in text
    assert "R@1 IoU=0.3 is 100.0 %" in of_files.summary()
    assert "Against" not in of_files.summary()


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_written_report_is_whole_and_no_text_in_it_runs(diagnosis, tmp_path):
    written = write_report(diagnosis, tmp_path / "report")
    assert [path.name for path in written] == ["report.html", "report.png", "report.pdf", "queries.csv"]
    assert all(path.stat().st_size for path in written)
    page = Tags(written[0].read_text(encoding="utf-8"))
    assert {"table", "img"} <= set(page.tags)
    assert not {"script", "b", "link", "iframe"} & set(page.tags)
    assert page.tags.count("img") == 1  # ours
    assert [name for name in page.attributes if name.startswith("on")] == []
    assert "<script>alert(1)</script>" in page.texts  # as a text, escaped
    assert len(pd.read_csv(written[3])) == len(diagnosis.table)
