"""Figures of a diagnosis, and the report: all figures and tables on one page and as files of their own."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from groundnlq.analysis.diagnosis import AS_IT_IS, Diagnosis
from groundnlq.analysis.events import SHOWN
from groundnlq.analysis.intervals import HIGH, LOW, p_text
from groundnlq.analysis.outcomes import OUTCOMES
from groundnlq.data.schema import read_json
from groundnlq.files import sha256_of, write_json, write_text
from groundnlq.provenance import made_by
from groundnlq.view.plots import BARS
from groundnlq.view.style import (
    ABOVE,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    error_ends,
    new_figure,
    plain,
)  # fmt: skip

NINE = (GREEN, BLUE, YELLOW, PURPLE, ORANGE, SKY, GREY, BLACK, VERMILION)
COLORS = dict(zip(OUTCOMES, NINE, strict=True))
HATCHES = dict(zip(OUTCOMES, ("", "//", "\\\\", "oo", "", "..", "--", "", "xx"), strict=True))  # for greyscale
CHANCE = {
    "random event": "by chance: any other event of the clip",
    "random segment": "by chance: a segment as long, anywhere in the clip",
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 14px sans-serif; max-width: 64em; margin: 2em auto; background: #fff; color: #111 }
td, th { padding: 2px 8px; text-align: right } img { max-width: 100% } pre { white-space: pre-wrap }
tbody th { text-align: left; font-weight: normal }
</style>
<h1>{{ title }}</h1>
{% for line in summary %}<p>{{ line }}</p>{% endfor %}
{% for name, picture in figures.items() %}
<h2>{{ name }}</h2>
<p><img alt="{{ name }}" src="data:image/svg+xml;base64,{{ picture }}"></p>
{% endfor %}
{% for name, table in tables.items() %}
<h2>{{ name }}</h2>
{{ table }}
{% endfor %}
<h2>Provenance</h2>
<pre>{{ provenance }}</pre>
</html>
"""
SURE = ["query", "outcome", "start_sec", "end_sec", "first_start_sec", "first_end_sec", "score", "shows"]


def write_report(diagnosis: Diagnosis, folder: str | Path) -> list[Path]:
    """Write a diagnosis into a folder of its own, ``RUN-on-DATA``, below `folder`: a page, figures as SVG and PDF,
    tables as CSV and LaTeX, a table of all queries, and ``provenance.json`` with the hash of each file.

    A diagnosis of other files, of the same names, gets ``RUN-on-DATA-2`` and so on.

    Returns:
        all files, the page first.
    """
    origin = made_by(**diagnosis.inputs, threshold=diagnosis.threshold, runs=[*diagnosis.tables])
    title = f"Diagnosis of {diagnosis.name}" + (f" on {diagnosis.data}" if diagnosis.data else "")
    folder, pictures = _own_folder(Path(folder), diagnosis, origin), {}
    provenance = json.dumps(origin, indent=1, sort_keys=True)
    for name, figure in _figures(diagnosis).items():
        figure.suptitle(plain(f"{diagnosis.name}, {diagnosis.data}"), fontsize=8, color="0.4", x=0.99, ha="right")
        about = {"Title": f"{title}: {name}"}
        figure.savefig(picture := BytesIO(), format="svg", metadata=about | {"Description": provenance})
        (folder / f"{name}.svg").write_bytes(picture.getvalue())
        figure.savefig(folder / f"{name}.pdf", metadata=about | {"Subject": provenance})
        pictures[name] = base64.b64encode(picture.getvalue()).decode()
    tables = {name: table for name, table in _tables(diagnosis).items() if table is not None and len(table)}
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv())
        latex = _readable(table).to_latex(escape=True, caption=f"{title}: {name}".replace("_", r"\_"))
        latex = latex.replace("≤", r"$\leq$").replace("–", "--")
        write_text(folder / f"{name}.tex", re.sub("(?m)^", "% ", provenance) + "\n" + latex)
    write_text(folder / "queries.csv", diagnosis.queries.to_csv(index=False))
    html = Environment(autoescape=True).from_string(PAGE).render(
        title=title, summary=diagnosis.summary().splitlines(), figures=pictures, provenance=provenance,
        tables={name: _html(table) for name, table in tables.items()},
    )  # fmt: skip
    write_text(folder / "report.html", html)
    written = sorted(path for path in folder.iterdir() if path.name != "provenance.json")
    files = {path.name: sha256_of(path) for path in written}
    write_json(folder / "provenance.json", {"title": title, "provenance": origin, "files": files}, indent=1)
    return [folder / "report.html", *(path for path in written if path.name != "report.html")]


def _own_folder(parent: Path, diagnosis: Diagnosis, origin: Mapping[str, Any]) -> Path:
    """The folder of this diagnosis: new, or the one of the same inputs."""
    name = "-on-".join(re.sub(r"[^\w.-]+", "_", part) for part in (diagnosis.name, diagnosis.data) if part)
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        known = folder / "provenance.json"
        if not folder.exists() or (known.exists() and read_json(known)["provenance"].get("inputs") == origin["inputs"]):
            folder.mkdir(parents=True, exist_ok=True)
            return folder
    raise AssertionError


def _figures(diagnosis: Diagnosis) -> dict[str, FigureBase]:
    figures = {"what wrong answers show": shown_bars(diagnosis.shown)} if diagnosis.shown else {}
    figures |= {
        "outcomes": outcome_bars(diagnosis.tables),
        "oracle gains": gain_bars(diagnosis.oracle_gains),
        "calibration": calibration_curve(diagnosis.calibration),
        "kinds of query": sensitivity_marks(diagnosis.sensitivity, diagnosis.oracle_gains.loc[AS_IT_IS, "R@1"]),
    }
    return figures if diagnosis.levels is None else figures | {"pyramid levels": level_bars(diagnosis.levels)}


def _tables(diagnosis: Diagnosis) -> dict[str, pd.DataFrame | None]:
    wrong = diagnosis.table[diagnosis.table["outcome"] != "hit"].sort_values("score", ascending=False)
    tables = {
        "runs": diagnosis.runs,
        **{f"what wrong answers of {name} show": table for name, table in diagnosis.shown.items()},
        "oracle gains": diagnosis.oracle_gains,
        "outcomes by threshold": diagnosis.by_threshold,
        "distance of wrong answers": diagnosis.distances,
        "other queries answered": diagnosis.confusion[diagnosis.confusion["wrong answers"] > 0],
        "pyramid levels": diagnosis.levels,
        **{f"against {name}": table for name, table in diagnosis.differences.items()},
        **{f"outcomes from {name}": table for name, table in diagnosis.changes.items()},
        "kinds of query": diagnosis.sensitivity,
        "wrong with the highest scores": wrong[SURE].head(20).set_index("query"),
    }
    return {re.sub(r"[^\w .-]+", "_", name): table for name, table in tables.items()}


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of texts: one decimal, p values as `p_text` has them."""
    shown = table.copy()
    for name, column in table.items():
        if str(name).startswith("p"):
            shown[name] = [re.sub("^p (= )?", "", p_text(p)) for p in column]
        elif pd.api.types.is_float_dtype(column):
            digits = 2 if "score" in str(name) else 1
            shown[name] = ["–" if np.isnan(value) else f"{value:.{digits}f}" for value in column]
    return shown


def _html(table: pd.DataFrame) -> Markup:
    """HTML of a table with escaped texts."""
    return Markup(_readable(table).to_html(escape=True, border=0, na_rep="–"))


def shown_bars(tables: Mapping[str, pd.DataFrame]) -> FigureBase:
    """What the wrong first answers of each run show, with 95 % intervals, and what chance gives."""
    kinds = [kind for kind in SHOWN if kind != "hit"]
    figure = new_figure(9, 1.2 + (0.25 + 0.28 * len(tables)) * len(kinds))
    axis, height = figure.subplots(), 0.8 / len(tables)
    for run, (name, table) in enumerate(tables.items()):
        table, (color, hatch) = table.loc[kinds], BARS[run % len(BARS)]
        places, label = (
            np.arange(len(kinds)) + (run + 0.5) * height - 0.4,
            f"{plain(name, 24)} ({table['queries'].sum()})",
        )
        errors = error_ends(table["wrong answers"], table[LOW], table[HIGH])
        axis.barh(places, table["wrong answers"], height * 0.9, xerr=errors, capsize=2, color=color, hatch=hatch,
                  edgecolor="white", label=label)  # fmt: skip
        for (chance, meaning), mark in zip(CHANCE.items(), "Do", strict=True):
            axis.plot(table[chance], places, mark, color="white", markeredgecolor=BLACK, markersize=5.5,
                      label=meaning if run == len(tables) - 1 else None)  # fmt: skip
    axis.set_yticks(range(len(kinds)), [SHOWN[kind] for kind in kinds], fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="wrong first answers that show it [%]", xlim=(0, 100))
    axis.legend(fontsize=9, ncols=2, **ABOVE)
    return figure


def outcome_bars(tables: Mapping[str, pd.DataFrame], axis: Axes | None = None) -> FigureBase:
    """Shares of the outcomes, one bar for each run; outcomes that do not occur are left out."""
    axis = axis or new_figure(9, 2.7 + 0.5 * len(tables)).subplots()
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
    return axis.figure


def gain_bars(gains: pd.DataFrame, axis: Axes | None = None) -> FigureBase:
    """R@1, and the gain of each oracle, with 95 % intervals."""
    axis = axis or new_figure(9, 3.2).subplots()
    now, rows = gains.loc[AS_IT_IS, "R@1"], gains.drop(AS_IT_IS).query("queries != 0")  # what never occurs is left out
    errors = error_ends(rows["gain"], rows[LOW], rows[HIGH])
    places = np.arange(len(rows)) + 0.4 * rows.index.str.startswith("oracle")
    bars = axis.barh(places, rows["gain"], left=now, xerr=errors, capsize=3, edgecolor=BLACK, linewidth=0.7)
    for name, bar in zip(rows.index, bars, strict=True):
        bar.set(facecolor=COLORS.get(name, "white"), hatch=HATCHES.get(name, ""))
    for place, (gain, high) in zip(places, rows[["gain", HIGH]].to_numpy(), strict=True):
        axis.text(now + high + 1, place, f"+{gain:.1f}", va="center", fontsize=8)
    axis.axvline(now, color=GREY, linestyle=":")
    axis.set_yticks(places, rows.index, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel=f"R@1 [%] if only this were corrected (now: {now:.1f})", xlim=(0, 100))
    return axis.figure


def calibration_curve(bins: pd.DataFrame, axis: Axes | None = None) -> FigureBase:
    """Score of the first prediction and its hit rate, with 95 % intervals."""
    axis = axis or new_figure(4.5, 3.2).subplots()
    errors = error_ends(bins["hit rate"], bins[LOW], bins[HIGH])
    axis.plot([0, 1], [0, 100], color=GREY, linestyle=":", label="score = hit rate")
    axis.errorbar(bins["score"], bins["hit rate"], yerr=errors, fmt="o-", color=BLUE, markersize=4, capsize=2,
                  linewidth=1, label=f"{len(bins)} bins of queries")  # fmt: skip
    axis.set(xlabel="score of the first prediction", ylabel="hit rate [%]", xlim=(0, 1), ylim=(0, 100))
    axis.legend(fontsize=8, loc="upper left")
    return axis.figure


def level_bars(levels: pd.DataFrame, axis: Axes | None = None) -> FigureBase:
    """For each pyramid level: moments with positive points on it, its first predictions and its first hits."""
    axis = axis or new_figure(6, 3.2).subplots()
    marks = (("moments", "0.8", ""), ("first predictions", SKY, ".."), ("first hits", GREEN, "//"))
    for shift, (name, color, hatch) in zip((-0.27, 0, 0.27), marks, strict=True):
        axis.bar(np.arange(len(levels)) + shift, levels[name], 0.26, color=color, hatch=hatch,
                 edgecolor=BLACK, linewidth=0.5, label=name)  # fmt: skip
    axis.set_xticks(range(len(levels)), [name.removeprefix("stride ") for name in levels.index])
    axis.set(xlabel="stride of the pyramid level", ylabel="queries [%]")
    axis.legend(fontsize=7, ncols=3, **ABOVE)
    return axis.figure


def sensitivity_marks(
    table: pd.DataFrame, overall: float, axis: Axes | None = None, max_letters: int = 70
) -> FigureBase:
    """R@1 of every group with its 95 % interval; the dotted line is the whole split. Filled marks differ from the rest of
    the split (p < 0.05 after Holm's correction for all groups)."""
    num_kinds = table.index.get_level_values(0).nunique()
    axis = axis or new_figure(9, 1 + 0.21 * (len(table) + num_kinds)).subplots()
    names: list[str] = []
    places: list[float] = []
    place = 0.0
    for kind, part in table.groupby(level="kind", sort=False):
        own = place + 1 + np.arange(len(part))
        errors = error_ends(part["R@1"], part[LOW], part[HIGH])
        differs = part["p (Holm)"] < 0.05
        axis.errorbar(part["R@1"], own, xerr=errors, fmt="o", color=BLUE, mfc="white", markersize=4.5, linewidth=1)
        axis.plot(part["R@1"][differs], own[differs], "o", color=BLUE, markersize=5)
        groups = zip(part.index.get_level_values(1), part["queries"], strict=True)
        names += [plain(kind).upper(), *(f"{plain(group, max_letters)}  ({n})" for group, n in groups)]
        places += [place, *own]
        place = own[-1] + 1.2
    axis.axvline(overall, color=GREY, linestyle=":")
    axis.set_yticks(places, names, fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.set(
        xlabel="R@1 [%], 95 % interval; filled: differs from the rest, p < 0.05 (Holm)",
        ylim=(place - 0.5, -0.8),
        xlim=(-1, None),
    )
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    return axis.figure
