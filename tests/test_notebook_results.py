"""Pages of executed notebooks, the page that leads to them, and the table of a sweep."""

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from groundnlq.analysis.evaluation import KEY, Evaluation
from groundnlq.analysis.intervals import HIGH, LOW
from groundnlq.notebook_results import _summary, write_index, write_page

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HEAD = "# 3 · Pretraining\n\n**Question.** What <b>can</b>\na network learn? **Time.** Long."


@pytest.fixture
def run(tmp_path):
    """A run folder with one executed notebook, whose figures are a picture and a widget."""
    shown = [
        new_output("display_data", {"image/png": PIXEL, "text/plain": "bars of 3 < 4"}),
        new_output("stream", name="stdout", text="recall 54"),
    ]
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "VBox(children=())"}
    cells = [new_markdown_cell(HEAD), new_code_cell("1", outputs=[*shown, new_output("display_data", widget)])]
    (tmp_path / "run" / "notebooks").mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), tmp_path / "run" / "notebooks" / "03_pretraining.ipynb")
    return tmp_path / "run"


def write_metrics(run, **shares):
    (run / "metrics").mkdir(exist_ok=True)
    for name, share in shares.items():
        strict = {KEY: share, "mean R@1": share - 1} | ({} if name == "random" else {"R@10 IoU=0.3": 90.0})
        content = {"official": {}, "strict": strict, "intervals": {KEY: [share - 5, share + 5]}}
        (run / "metrics" / f"{name}.json").write_text(json.dumps(content))


def test_a_page_has_its_figures_as_files_and_leaves_out_what_needs_a_kernel(run):
    page = write_page(run / "notebooks" / "03_pretraining.ipynb")
    assert page == run / "pages" / "03_pretraining.html"
    assert [path.name for path in (page.parent / "03_pretraining").iterdir()] == ["01-0.png"]
    text = page.read_text(encoding="utf-8")
    assert 'src="03_pretraining/01-0.png"' in text
    assert "recall 54" in text
    assert "VBox" not in text
    assert PIXEL not in text
    assert 'alt="bars of 3 &lt; 4"' in text
    assert re.findall(r'<script[^>]* src="[^"]*(?:require|mermaid|widgets)', text) == []


def test_a_page_that_is_made_again_keeps_no_figure_of_before(run):
    write_page(run / "notebooks" / "03_pretraining.ipynb")
    (run / "pages" / "03_pretraining" / "old.png").touch()
    write_page(run / "notebooks" / "03_pretraining.ipynb")
    assert [path.name for path in (run / "pages" / "03_pretraining").iterdir()] == ["01-0.png"]


def test_every_link_of_the_index_leads_to_a_file_and_every_file_is_linked(run):
    (run / "report" / "finetune-on-nlq_val").mkdir(parents=True)
    (run / "report" / "finetune-on-nlq_val" / "report.html").touch()
    write_page(run / "notebooks" / "03_pretraining.ipynb")
    write_metrics(run, finetune=54.0, random=6.0)
    printed = write_index(run)
    assert printed.splitlines()[-1].endswith((run / "index.html").as_uri())
    text = (run / "index.html").read_text(encoding="utf-8")
    links = set(re.findall(r'(?:href|src)="([^"#:]+)"', text))
    expected = {"pages/03_pretraining.html", "pages/03_pretraining/01-0.png"}
    assert links == expected | {"report/finetune-on-nlq_val/report.html"}
    assert all((run / link).is_file() for link in links)
    assert "3 · Pretraining" in text
    assert "54.00" in text


def test_the_table_is_best_first_and_the_sentence_says_what_it_shows(run):
    write_metrics(run, random=6.0, finetune=54.0, linear=42.0)
    printed = write_index(run)
    rows = [line.split() for line in printed.splitlines() if line]
    assert [row[0] for row in rows[2:5]] == ["finetune", "linear", "random"]
    assert rows[4] == ["random", "6.00", "5.00", "-"]
    claim = "finetune is best: its first answer is right for 54 % of the questions [49, 59]"
    assert f"{claim}, of a linear map for 42 %, a random one for 6 %." in printed
    assert "not clearly less" not in printed


def test_the_sentence_does_not_praise_what_is_no_better_than_chance(run):
    write_metrics(run, random=6.0, finetune=7.0, scratch=5.0)
    assert "finetune is best" in (printed := write_index(run))
    assert "without pretraining for 5 % (not clearly less), a random one for 6 % (not clearly less)." in printed
    write_metrics(run, random=9.0)
    assert "random is best" in write_index(run)


def test_without_metrics_the_index_has_no_table(run):
    printed = write_index(run, "A note.")
    assert printed.splitlines() == ["A note.", "", f"all on one page: {(run / 'index.html').as_uri()}"]
    assert "<table" not in (run / "index.html").read_text(encoding="utf-8")


def training(hits):
    """An evaluation of four queries a clip."""
    names = [f"q{number}" for number in range(len(hits))]
    clips = [f"c{number // 4}" for number in range(len(hits))]
    scores = dict.fromkeys((KEY, "R@1 IoU=0.5", "mIoU"), np.asarray(hits, float))
    return Evaluation(pd.DataFrame({"query_id": names, "clip_uid": clips, "is_answered": True, **scores}), 1)


def test_trainings_that_differ_have_a_wider_interval_than_those_that_agree():
    random = np.random.default_rng(0)
    agree, (low, high) = random.random(80) < 0.4, np.random.default_rng(1).random((2, 80)) < [[0.3], [0.5]]
    alike, apart = _summary([training(agree)] * 2), _summary([training(low), training(high)])
    assert apart[HIGH] - apart[LOW] > 1.5 * (alike[HIGH] - alike[LOW]) > 0
    assert alike[KEY] == alike["mean R@1"] == pytest.approx(100 * agree.mean())
    assert (apart["trainings"], apart["queries"]) == (2, 80)
    assert apart[KEY] == pytest.approx(100 * np.mean([low, high]))


def test_queries_in_another_order_are_the_same_queries():
    one, other = training([1, 0, 0, 0, 1, 1, 0, 0]), training([1, 0, 0, 0, 1, 1, 0, 0])
    shuffled = Evaluation(other.hits.sample(frac=1, random_state=1), 1)
    assert _summary([one, shuffled]) == _summary([one, other])
