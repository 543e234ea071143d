"""What executed notebooks leave: pages, a page that leads to them and to all figures, one table of many runs."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd

from groundnlq.analysis.evaluation import KEY, Evaluation, evaluate
from groundnlq.analysis.intervals import replicate_summary
from groundnlq.config import load_config
from groundnlq.data.records import read_records
from groundnlq.data.submission import write_submission
from groundnlq.engine.predictor import Predictor
from groundnlq.files import write_text
from groundnlq.notebook import about
from groundnlq.view.plots import recall_by

_COMPARED = {"scratch": "without pretraining", "linear": "of a linear map", "random": "a random one"}


def write_page(executed: Path) -> Path:
    """The page of ``RUN/notebooks/NAME.ipynb``: ``RUN/pages/NAME.html``, with its figures in a folder NAME.

    Widgets are left out: they need a kernel, and each has a figure beside it.
    """
    notebook, folder = nbformat.read(executed, as_version=4), executed.parents[1] / "pages"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not any("widget-view" in kind for kind in o.get("data", ()))]
    shutil.rmtree(folder / executed.stem, ignore_errors=True)
    return _write_html(folder, executed.stem, notebook)


def _write_html(folder: Path, name: str, notebook: Any) -> Path:
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import ExtractOutputPreprocessor
    from nbconvert.writers import FilesWriter

    exporter = HTMLExporter(require_js_url="", mermaid_js_url="")
    exporter.register_preprocessor(
        ExtractOutputPreprocessor(output_filename_template="{cell_index:02}-{index}{extension}"), enabled=True
    )
    exporter.log.setLevel("ERROR")  # it warns of images without a text, which they get here
    body, files = exporter.from_notebook_node(notebook, {"metadata": {"name": name}, "output_files_dir": name})
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = (data.get("text/plain", "") for data in outputs if any(kind.startswith("image/") for kind in data))
    body = re.sub('alt="No description[^"]*"', lambda _: f'alt="{escape(next(texts, ""))}"', body)
    FilesWriter(build_directory=str(folder)).write(body, files, notebook_name=name)
    return folder / f"{name}.html"


def write_index(run_dir: Path, note: str = "") -> str:
    """Write ``RUN/index.html``, which leads to pages, figures and reports; returns, as text, the table of recalls, best
    first, what it says, and the address of the page."""
    run_dir, how = run_dir.resolve(), {"float_format": "{:.2f}".format, "na_rep": "-"}
    metrics = {path.stem: json.loads(path.read_text("utf-8")) for path in (run_dir / "metrics").glob("*.json")}
    metrics = dict(sorted(metrics.items(), key=lambda pair: -pair[1]["strict"]["mean R@1"]))
    table = pd.DataFrame({name: content["strict"] for name, content in metrics.items()}).T
    says = f"{_sentence(metrics) if metrics else ''} {note}".strip()
    parts = [f"# Results in {run_dir.name}", says, table.to_html(**how) * bool(metrics)]
    parts += [f"[{path}]({path})" for path in _inside(run_dir, "report/**/*.html")]
    for page in _inside(run_dir, "pages/*.html"):
        words = about(nbformat.read(run_dir / "notebooks" / f"{Path(page).stem}.ipynb", as_version=4))
        figures = _inside(run_dir, f"{page.removesuffix('.html')}/*")
        parts += [f"## [{words['title']}]({page})", words.get("Question", "")]
        parts += [" ".join(f'<a href="{f}"><img src="{f}" style="height: 9em" alt="figure"></a>' for f in figures)]
    cells = [nbformat.v4.new_markdown_cell("\n\n".join(parts))]
    index = _write_html(run_dir, "index", nbformat.v4.new_notebook(cells=cells))
    shown = f"strict recalls, in percent:\n{table.to_string(**how)}\n\n" * bool(metrics)
    return f"{shown}{says}\n\nall on one page: {index.as_uri()}"


def _inside(folder: Path, pattern: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern))]


def _sentence(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """What a table of recalls, best first, says about the best run, compared with those that show what it gains."""
    best, shares = next(iter(metrics)), {name: content["strict"][KEY] for name, content in metrics.items()}
    low, high = metrics[best]["intervals"][KEY]
    text = (
        f"{best} is best: its first answer is right for {shares[best]:.0f} % of the questions [{low:.0f}, {high:.0f}]"
    )
    for name, words in _COMPARED.items():
        if name in shares and name != best:
            text += f", {words} for {shares[name]:.0f} %" + " (not clearly less)" * bool(shares[name] >= low)
    return f"{text}. This is {KEY}; in brackets stands the 95 % interval over clips."


def sweep_table(run_dir: Path, settings: Mapping[Path, str]) -> pd.DataFrame:
    """A row for each network in run folders and each of their settings, over the trainings that have the same one.

    Also written to ``RUN/sweep.csv`` and, as a figure, to ``sweep.png``.
    """
    found = dict[tuple[str, str], list[Evaluation]]()
    for best in (best for folder in settings for best in sorted(folder.glob("*/best.pt"))):
        key = best.parent.name, settings[best.parents[1]] or "as configured"
        found.setdefault(key, []).append(_evaluate(best))
    table = pd.DataFrame({key: _summary(trainings) for key, trainings in found.items()}).T.sort_values(KEY)[::-1]
    write_text(run_dir / "sweep.csv", table.rename_axis(["network", "setting"]).to_csv())
    parts = {name: part.droplevel(0) for name, part in table.groupby(level=0)}
    recall_by(parts, KEY, "95 % intervals over clips and trainings").savefig(run_dir / "sweep.png", dpi=150)
    return table


def _evaluate(best: Path) -> Evaluation:
    """Of a network on its val split; its predictions are kept beside it."""
    path, config = best.with_name("val.json"), load_config(best.with_name("config.yaml"))
    records = [record for name in config.data.val_records for record in read_records(config.data.path(name))]
    if not path.exists() or path.stat().st_mtime < best.stat().st_mtime:
        write_submission(path, Predictor.load(best.parent).predict(records), records)
    return evaluate(path, records)


def _summary(trainings: Sequence[Evaluation]) -> dict[str, float]:
    """Mean recalls of trainings of one setting; for the interval see `replicate_summary`."""
    first = trainings[0].hits.set_index("query_id")
    values = np.array([100 * e.hits.set_index("query_id")[KEY].reindex(first.index) for e in trainings])
    means = pd.DataFrame([e.strict for e in trainings]).mean().to_dict()
    counts = {"trainings": len(trainings), "queries": len(first)}
    return means | replicate_summary(KEY, first["clip_uid"], values) | counts
