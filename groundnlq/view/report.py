"""Figures of a diagnosis, and the report: all figures and tables on one page and as files of their own."""

import base64
import json
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

from groundnlq.analysis.agreement import agreement
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.events import SHOWN
from groundnlq.analysis.intervals import HIGH, LOW, p_text
from groundnlq.analysis.outcomes import OUTCOMES
from groundnlq.analysis.runs import all_pairs, found_by, recalls_of_runs, trainings
from groundnlq.data.schema import read_json
from groundnlq.files import sha256_of, write_json, write_text
from groundnlq.provenance import made_by
from groundnlq.view.gallery import CARDS, KINDS_OF_EVENTS, STYLE, cards, chosen_failures
from groundnlq.view.plots import BARS, recall_by
from groundnlq.view.style import ABOVE, BLACK, BLUE, GREY, NINE, error_ends, new_figure, plain

COLORS = dict(zip(OUTCOMES, NINE, strict=True))
HATCHES = dict(zip(OUTCOMES, ("", "//", "\\\\", "oo", "", "..", "--", "", "xx"), strict=True))  # for greyscale
CHANCE = {
    "random event": "by chance: any other event of the clip",
    "random segment": "by chance: a segment as long, anywhere in the clip",
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Diagnosis of {{ title }}</title>
<style>
body { font: 14px sans-serif; max-width: 64em; margin: 2em auto; padding: 0 1em; background: #fff; color: #111 }
td, th { padding: 2px 8px; text-align: right } p > img { max-width: 100% } pre { white-space: pre-wrap }
tbody th { text-align: left; font-weight: normal } table { display: block; overflow-x: auto }
{{ style }}
</style>
<h1>Diagnosis of {{ title }}</h1>
{% for line in summary %}<p>{{ line }}</p>{% endfor %}
<p><a href="{{ other }}.html">{{ other }}</a></p>
{% for name, picture in figures.items() %}
<h2>{{ name }}</h2>
<p><img alt="{{ name }}" src="data:image/svg+xml;base64,{{ picture }}"></p>
{% endfor %}
<h2>{{ heading }}</h2>
{{ draw(cards, kinds) }}
{% for name, rows in lists.items() %}
<details><summary>{{ name }}: {{ rows|length }}</summary><ol>{% for row in rows %}
<li><a href="queries.html#{{ row.query_id }}">{{ row.query }}</a> {{ row.outcome }}</li>{% endfor %}</ol></details>
{% endfor %}
{% for name, table in tables.items() %}
<h2>{{ name }}</h2>
{{ table }}
{% endfor %}
<h2>Provenance</h2>
<pre>{{ provenance }}</pre>
</html>
"""
NUM_SHOWN, FAILURES = 18, "wrong answers: of each outcome in turn, those with the highest scores"
DIFFERS = "filled: p < 0.05 after Holm's correction, of the group alone or of its whole kind"


def write_report(diagnosis: Diagnosis, folder: str | Path, films: str | Path | None = None) -> list[Path]:
    """Write a diagnosis into a folder of its own, ``RUN-on-DATA``, below `folder`: a page, figures as SVG and PDF,
    tables as CSV and LaTeX, all queries as page and CSV, and ``provenance.json`` with the hash of each file.

    A diagnosis of other files that has the same names gets ``RUN-on-DATA-2`` and so on. The page shows some wrong
    answers, with frames where the folder `films` has a video of the clip.

    Returns:
        all files, the page first.
    """
    origin = made_by(**diagnosis.inputs, threshold=diagnosis.threshold, runs=[*diagnosis.tables])
    title, provenance = f"{diagnosis.name} on {diagnosis.data or 'some queries'}", json.dumps(origin, indent=1)
    folder, tables = _own_folder(Path(folder), title, origin), _tables(diagnosis)
    pictures = {name: _picture(figure, folder, name, title, provenance) for name, figure in _figures(diagnosis).items()}
    for name, table in tables.items():
        write_text(folder / f"{_slug(name)}.csv", table.to_csv())
        latex = readable(table).to_latex(escape=True, caption=re.sub(r"([&%$#_{}])", r"\\\1", f"{name}: {title}"))
        latex = latex.replace("≤", r"$\leq$").replace("–", "--")
        write_text(folder / f"{_slug(name)}.tex", re.sub("(?m)^", "% ", provenance) + "\n" + latex)
    write_text(folder / "queries.csv", diagnosis.queries.to_csv(index=False))
    page = Environment(autoescape=True).from_string(CARDS + PAGE)
    content: dict[str, Any] = {"title": title, "provenance": provenance, "style": Markup(STYLE)}
    content |= {"figures": {}, "lists": {}, "tables": {}}
    every = cards(diagnosis, diagnosis.table["query_id"], is_short=True)
    write_text(folder / "queries.html", page.render(content, heading="all queries", cards=every, other="report"))
    content["tables"] = {name: Markup(readable(table).to_html(border=0)) for name, table in tables.items()}
    content["lists"] = {name: [*rows.itertuples()] for name, rows in found_by(diagnosis.tables).items()}
    content |= {"summary": diagnosis.summary().splitlines(), "figures": pictures, "heading": FAILURES}
    failures = cards(diagnosis, chosen_failures(diagnosis.table, NUM_SHOWN), films)
    kinds = KINDS_OF_EVENTS if diagnosis.events else ()
    write_text(folder / "report.html", page.render(content, cards=failures, kinds=kinds, other="queries"))
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != "provenance.json"}
    write_json(folder / "provenance.json", {"diagnosis": title, "provenance": origin, "files": files}, indent=1)
    return sorted((folder / name for name in files), key=lambda path: path.name != "report.html")


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def _own_folder(parent: Path, title: str, origin: Mapping[str, Any]) -> Path:
    """A new folder, or the one of the same inputs."""
    for number in count(1):
        folder = parent / (_slug(title) + f"-{number}" * (number > 1))
        known = folder / "provenance.json"
        if not folder.exists() or (known.exists() and read_json(known)["provenance"].get("inputs") == origin["inputs"]):
            folder.mkdir(parents=True, exist_ok=True)
            return folder
    raise AssertionError


def _picture(figure: Figure, folder: Path, name: str, title: str, provenance: str) -> str:
    """Write a figure as SVG and PDF; the SVG in base 64."""
    figure.text(0.995, 0.005, plain(title), fontsize=8, color="0.4", ha="right", va="bottom")
    figure.savefig(folder / f"{_slug(name)}.pdf", metadata={"Title": f"{name}: {title}", "Subject": provenance})
    path = folder / f"{_slug(name)}.svg"
    figure.savefig(path, metadata={"Title": f"{name}: {title}", "Description": provenance})
    return base64.b64encode(path.read_bytes()).decode()


def _figures(diagnosis: Diagnosis) -> dict[str, Figure]:
    figures = {"what wrong answers show": shown_bars(diagnosis.shown)} if diagnosis.shown else {}
    return figures | {
        "outcomes": outcome_bars(diagnosis.tables),
        "calibration": calibration_curve(diagnosis.calibration),
        "kinds of query": kinds_figure(diagnosis),
    }


def kinds_figure(diagnosis: Diagnosis, num_groups: int = 25) -> Figure:
    """R@1 of the groups that differ most from the rest of the split, alone and with all other kinds held."""
    tables = {"alone": diagnosis.sensitivity, "other kinds held": diagnosis.held}
    least = pd.concat([table["p"] for table in tables.values()], axis=1).min(axis=1)
    chosen = [key for key in diagnosis.sensitivity.index if key in set(least.nsmallest(num_groups).index)]
    return recall_by({name: table.loc[chosen].set_axis([": ".join(key) for key in chosen])
                      for name, table in tables.items()}, "R@1", DIFFERS)  # fmt: skip


def _tables(diagnosis: Diagnosis) -> dict[str, pd.DataFrame]:
    tables = {
        "runs": recalls_of_runs(diagnosis.tables),
        "trainings": trainings(diagnosis.tables),
        "pairs of runs": all_pairs(diagnosis.tables) if len(diagnosis.others) > 1 else pd.DataFrame(),
        **{f"what wrong answers of {name} show": table for name, table in diagnosis.shown.items()},
        "oracle gains": diagnosis.oracle_gains,
        "outcomes by threshold": diagnosis.by_threshold,
        "distance of wrong answers": diagnosis.distances,
        "other queries answered": diagnosis.confusion[diagnosis.confusion["wrong answers"] > 0],
        **{f"{diagnosis.name} against {name}": table for name, table in diagnosis.differences.items()},
        "kinds of query": diagnosis.sensitivity,
        "kinds of query, others held": diagnosis.held,
        "agreement of annotators": agreement(diagnosis.run.records, diagnosis.threshold),
    }
    return {name: table for name, table in tables.items() if len(table)}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of texts: one decimal, two of scores, p values as `p_text` has them."""
    shown = table.astype(object)
    for name, column in table.select_dtypes("number").items():
        digits = 0 if column.dtype.kind == "i" else 2 if name == "score" else 1
        is_p = name in ("p", "p (Holm)")
        texts = [
            p_text(value).removeprefix("p").removeprefix(" = ") if is_p else f"{value:.{digits}f}" for value in column
        ]
        shown[name] = np.where(column.isna(), "–", texts)
    return shown


def shown_bars(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """What the wrong first answers of each run show, with 95 % intervals, and what chance gives."""
    kinds = [kind for kind in SHOWN if kind != "hit"]
    figure = new_figure(9, 1.4 + (0.18 + 0.2 * len(tables)) * len(kinds))
    axis, height = figure.subplots(), 0.8 / len(tables)
    for number, (name, table) in enumerate(tables.items()):
        table, (color, hatch) = table.loc[kinds], BARS[number % len(BARS)]
        places, label = np.arange(len(kinds)) + (number + 0.5) * height - 0.4, f"{plain(name, 24)}: "
        errors = error_ends(table["wrong answers"], table[LOW], table[HIGH])
        axis.barh(places, table["wrong answers"], height * 0.9, xerr=errors, capsize=2, color=color, hatch=hatch,
                  edgecolor="white", label=f"{label}{table['queries'].sum()} wrong answers")  # fmt: skip
        for chance, mark in zip(CHANCE, "Do", strict=True):
            axis.plot(table[chance], places, mark, color="white", markeredgecolor=BLACK, markersize=5.5,
                      label=None if number else CHANCE[chance])  # fmt: skip
    axis.set_yticks(range(len(kinds)), [SHOWN[kind] for kind in kinds], fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="share of the wrong first answers [%]", xlim=(0, None))
    axis.legend(fontsize=9, **ABOVE)
    return figure


def outcome_bars(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Shares of the outcomes, one bar for each run; outcomes that do not occur are left out."""
    axis = (figure := new_figure(9, 2.7 + 0.5 * len(tables))).subplots()
    names, left = [plain(name, 20) for name in tables], np.zeros(len(tables))
    for outcome, meaning in OUTCOMES.items():
        shares = np.array([100 * (table["outcome"] == outcome).mean() for table in tables.values()])
        if not shares.any():
            continue
        bars = axis.barh(names, shares, left=left, color=COLORS[outcome], edgecolor="white",
                         hatch=HATCHES[outcome], label=f"{outcome}: {meaning}")  # fmt: skip
        texts = [f"{s:.0f}" if s >= 3 else "" for s in shares]
        axis.bar_label(bars, texts, label_type="center", fontsize=9,
                       bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85})  # fmt: skip
        left += shares
    axis.invert_yaxis()
    axis.set(xlabel="queries [%]", xlim=(0, 100))
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1, fontsize=9, frameon=False)
    return figure


def calibration_curve(bins: pd.DataFrame) -> Figure:
    """Score of the first prediction and its hit rate, with 95 % intervals."""
    axis = (figure := new_figure(5, 3.4)).subplots()
    errors = error_ends(bins["hit rate"], bins[LOW], bins[HIGH])
    axis.plot([0, 1], [0, 100], color=GREY, linestyle=":", label="score = hit rate")
    axis.errorbar(bins["score"], bins["hit rate"], yerr=errors, fmt="o-", color=BLUE, markersize=4, capsize=2,
                  linewidth=1, label=f"{len(bins)} bins of queries")  # fmt: skip
    axis.set(xlabel="score of the first prediction", ylabel="hit rate [%]", xlim=(0, 1), ylim=(0, 100))
    axis.legend(fontsize=8, loc="upper left")
    return figure
