"""The report: figures that say what they show, a page that fits, and no text that runs."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.axes import Axes

from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.events import Event
from groundnlq.cli import main
from groundnlq.data.records import Record
from groundnlq.view import report
from groundnlq.view.plots import recall_by
from groundnlq.view.report import write_report
from notebooks.lessons.levels import level_bars, level_table
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
    events = {
        clip: [Event(t, t + 3.0, "put", "$5") for t in range(2, 60, 4)] for clip in ("c0", "c1", "c2", "c3", "c4")
    }
    return Diagnosis("<b>new</b> $x$", live(0.5), {"$old": live(3.0)}, records(5), events=events, data="a_%&")


@pytest.fixture(scope="module")
def of_files():
    ranked = {r.query_id: np.array([[*r.moments_sec[0], 0.5]]) for r in records()}
    return Diagnosis("file", FixedPredictions(records(), ranked))


def drawn(figure):
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return {label for axis in figure.findobj(Axes) for label in (axis.get_xlabel(), axis.get_ylabel())}


LABELS = {
    "what wrong answers show": "share of the wrong first answers [%]",
    "outcomes": "queries [%]",
    "calibration": "score of the first prediction",
    "kinds of query": "R@1 [%]",
}


@pytest.mark.parametrize("which", ["diagnosis", "of_files"])
@pytest.mark.filterwarnings("error")
def test_every_figure_draws_without_a_warning_and_names_its_axes(which, request):
    diagnosis = request.getfixturevalue(which)
    figures = report._figures(diagnosis)
    assert set(LABELS) - set(figures) == (set() if diagnosis.events else {"what wrong answers show"})
    for name, figure in figures.items():
        assert LABELS[name] in drawn(figure)


@pytest.mark.filterwarnings("error")
def test_levels_are_drawn_where_they_are_known(diagnosis):
    assert "stride of the pyramid level" in drawn(level_bars(level_table(diagnosis)))


def test_the_first_figure_shows_the_numbers_of_its_table_and_chance_beside_them(diagnosis):
    (axis,) = report.shown_bars(diagnosis.shown).axes
    widths = [bar.get_width() for container in axis.containers if hasattr(container, "patches") for bar in container]
    table = pd.concat(diagnosis.shown.values())
    assert widths == pytest.approx(table["wrong answers"].tolist())
    marks = [x for line in axis.lines for x in line.get_xdata() if line.get_marker() in ("D", "o")]
    assert sorted(marks) == pytest.approx(sorted([*table["random event"], *table["random segment"]]))


def test_only_groups_that_differ_after_correction_have_filled_marks(diagnosis):
    table = diagnosis.sensitivity.assign(**{"p (Holm)": 1.0})
    table.iloc[2, table.columns.get_loc("p (Holm)")] = 0.01
    (axis,) = recall_by({"run": table.set_axis([": ".join(key) for key in table.index])}, "R@1").axes
    filled = [line for line in axis.lines if line.get_marker() == "o" and line.get_markerfacecolor() != "white"]
    assert [list(line.get_ydata()) for line in filled] == [[2]]


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
    shown = diagnosis.shown[diagnosis.name]
    share = shown["wrong answers"].max()
    assert f"{share:.0f} % of the {shown['queries'].sum()} wrong answers show" in text
    assert f"R@1 IoU=0.3 is {100 * (table['outcome'] == 'hit').mean():.1f} %" in text
    assert f"over {len(table)} queries of 5 clips" in text
    assert f"{diagnosis.differences['$old'].iloc[0]['won']:.0f} queries won" in text
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


@pytest.fixture(scope="module")
def written(diagnosis, tmp_path_factory):
    return write_report(diagnosis, tmp_path_factory.mktemp("report"))


def test_the_written_page_is_whole_and_no_text_in_it_runs(diagnosis, written):
    assert all(path.stat().st_size for path in written)
    assert len({path.parent for path in written}) == 1
    page = Tags(written[0].read_text(encoding="utf-8"))
    assert {"table", "img"} <= set(page.tags)
    assert not {"script", "b", "link", "iframe"} & set(page.tags)
    assert page.tags.count("img") == page.attributes.count("alt") == 4  # ours
    assert [name for name in page.attributes if name.startswith("on")] == []
    assert "<script>alert(1)</script>" in page.texts  # as a text, escaped
    assert all(line in page.texts for line in diagnosis.summary().splitlines())


def test_every_figure_is_a_vector_and_every_table_is_for_programs_and_for_papers(diagnosis, written):
    names = {
        suffix: {path.stem for path in written if path.suffix == suffix} for suffix in (".svg", ".pdf", ".csv", ".tex")
    }
    assert names[".svg"] == names[".pdf"] == {name.replace(" ", "-") for name in LABELS}
    assert names[".csv"] == names[".tex"] | {"queries"}
    for path in written:
        if path.suffix == ".tex":
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("%")]
            text = re.sub(r"\$\\leq\$", "", "\n".join(lines))
            assert re.findall(r"(?<!\\)[$%_#]", text) == []


def test_the_table_of_queries_has_seconds_ranks_groups_and_all_runs(diagnosis, written):
    table = pd.read_csv(next(path for path in written if path.name == "queries.csv")).set_index("query_id")
    assert len(table) == len(diagnosis.table)
    for record in records():
        assert tuple(table.loc[record.query_id, ["start_sec", "end_sec"]]) == pytest.approx(record.moments_sec[0])
    assert {"first_start_sec", "right rank", "rank without NMS", "shows", "relation", "noun in training",
            "$old: outcome", "$old: first_start_sec"} <= set(table)  # fmt: skip


def test_all_files_have_their_provenance_and_show_reads_it(diagnosis, written, capsys, monkeypatch):
    for path in (*written, written[0].parent):
        assert main(["show", str(path)]) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["provenance"]["inputs"]["runs"] == [*diagnosis.tables]
        assert shown.get("as written", True)
    inside = [path for path in written if path.suffix in (".svg", ".html", ".tex")]
    assert all('"threshold"' in unescape(path.read_text(encoding="utf-8")) for path in inside)
    assert all(b"threshold" in path.read_bytes() for path in written if path.suffix == ".pdf")
    changed = next(path for path in written if path.name == "queries.csv")
    whole = changed.read_bytes()
    changed.write_bytes(whole + b"x")
    assert main(["show", str(changed)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["as written"] is False
    changed.write_bytes(whole)


def test_a_report_never_overwrites_that_of_another_run_or_other_data(of_files, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_figures", lambda diagnosis: {})

    def write(**changes):
        return write_report(replace(of_files, **changes), tmp_path)[0].parent.name

    names = [write(data="val"), write(data="val"), write(data="test"), write(data="val", threshold=0.5),
             write(data="val", inputs={"files": {"P.json": "1"}}), write(data="val", threshold=0.5)]  # fmt: skip
    assert names == ["file-on-val", "file-on-val", "file-on-test", "file-on-val-2", "file-on-val-3", "file-on-val-2"]
