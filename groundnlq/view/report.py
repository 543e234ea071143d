"""Figures of a diagnosis, and the report: all figures and tables on one page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from groundnlq.analysis.diagnosis import AS_IT_IS, OUTCOMES, Diagnosis
from groundnlq.analysis.intervals import HIGH, LOW
from groundnlq.files import write_text
from groundnlq.view.style import ABOVE, BLACK, BLUE, GREEN, GREY, SEVEN, SKY, error_ends, new_figure, plain

COLORS = dict(zip(OUTCOMES, SEVEN, strict=True))
HATCHES = dict(zip(OUTCOMES, ("", "//", "", "..", "xx", "", "\\\\"), strict=True))  # for greyscale
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{{ name }}</title>
<style>
body { font: 14px sans-serif; max-width: 60em; margin: 2em auto; background: #fff; color: #111 }
td, th { padding: 2px 8px; text-align: right } img { max-width: 100% }
tbody th { text-align: left; font-weight: normal }
</style>
<h1>Diagnosis of {{ name }}</h1>
{% for line in summary %}{{ line }}<br>{% endfor %}
<p><img alt="the figures of this page" src="data:image/png;base64,{{ picture }}"></p>
{% for title, table in tables.items() %}
<h2>{{ title }}</h2>
{{ table }}
{% endfor %}
</html>
"""


def write_report(diagnosis: Diagnosis, folder: str | Path) -> list[Path]:
    """Write ``report.html`` (one file with its pictures), ``report.png``, ``report.pdf``, and ``queries.csv``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure, picture = _page(diagnosis), BytesIO()
    figure.savefig(folder / "report.pdf")
    figure.savefig(picture, format="png", dpi=110)
    (folder / "report.png").write_bytes(picture.getvalue())
    write_text(folder / "queries.csv", diagnosis.table.to_csv(index=False))
    tables = {
        "Oracle gains": diagnosis.oracle_gains,
        "By pyramid level": diagnosis.levels,
        f"{diagnosis.name} against {diagnosis.baseline_name}, paired": diagnosis.differences,
        "Changes of the outcome": diagnosis.changes,
        "By kind of query": diagnosis.sensitivity,
    }
    page = Environment(autoescape=True).from_string(PAGE)
    html = page.render(
        name=diagnosis.name,
        summary=diagnosis.summary().splitlines(),
        picture=base64.b64encode(picture.getvalue()).decode(),
        tables={title: _html(table) for title, table in tables.items() if table is not None},
    )
    write_text(folder / "report.html", html)
    return [folder / name for name in ("report.html", "report.png", "report.pdf", "queries.csv")]


def _html(table: pd.DataFrame) -> Markup:
    """HTML of a table with escaped texts; p values have more digits."""
    digits = {name: 4 if str(name).startswith("p") else 2 for name in table}
    return Markup(table.round(digits).to_html(escape=True, border=0, na_rep="–"))


def _page(diagnosis: Diagnosis) -> Figure:
    """All figures on one page (A4, upright)."""
    figure = new_figure(8.3, 11.7)
    rows: Any = figure.subfigures(5, 1, height_ratios=[0.9, 1.5, 2.0, 2.0, 5.3])
    head, outcomes, gains, trust, kinds = rows
    head.text(0.02, 0.9, "\n".join(plain(line, 140) for line in diagnosis.summary().splitlines()),
              fontsize=8.5, va="top", linespacing=1.4)  # fmt: skip
    outcome_bars(diagnosis.tables, outcomes.subplots())
    gain_bars(diagnosis.oracle_gains, gains.subplots())
    left, right = trust.subplots(1, 2)
    calibration_curve(diagnosis.calibration, left)
    right.set_axis_off() if diagnosis.levels is None else level_bars(diagnosis.levels, right)
    overall, table = diagnosis.oracle_gains.loc[AS_IT_IS, "R@1"], diagnosis.sensitivity
    for axis, names in zip(kinds.subplots(1, 2), _halves(table), strict=True):
        sensitivity_marks(table.loc[names], overall, axis, 34)
    return figure


def _halves(sensitivity: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The kinds of query in two columns of similar length."""
    kinds = list(dict.fromkeys(sensitivity.index.get_level_values(0)))
    rows = np.cumsum([len(sensitivity.loc[kind]) + 1.2 for kind in kinds])
    middle = int(np.abs(rows - rows[-1] / 2).argmin()) + 1
    return kinds[:middle], kinds[middle:]


def outcome_bars(tables: Mapping[str, pd.DataFrame], axis: Axes | None = None) -> FigureBase:
    """Shares of the outcomes, one bar for each run; outcomes that do not occur are left out."""
    axis = axis or new_figure(9, 1.7 + 0.5 * len(tables)).subplots()
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
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=7.5, frameon=False)
    return axis.figure


def gain_bars(gains: pd.DataFrame, axis: Axes | None = None) -> FigureBase:
    """R@1, and the gain of each oracle, with 95 % intervals."""
    axis = axis or new_figure(9, 3).subplots()
    now, rows = gains.loc[AS_IT_IS, "R@1"], gains.drop(AS_IT_IS)
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
    """R@1 of every group with its 95 % interval; the dotted line is the whole split."""
    num_kinds = table.index.get_level_values(0).nunique()
    axis = axis or new_figure(9, 1 + 0.2 * (len(table) + num_kinds)).subplots()
    names: list[str] = []
    places: list[float] = []
    place = 0.0
    for kind, part in table.groupby(level="kind", sort=False):
        own = place + 1 + np.arange(len(part))
        errors = error_ends(part["R@1"], part[LOW], part[HIGH])
        axis.errorbar(part["R@1"], own, xerr=errors, fmt="o", color=BLUE, markersize=3.5, linewidth=1)
        groups = zip(part.index.get_level_values(1), part["queries"], strict=True)
        names += [plain(kind).upper(), *(f"{plain(group, max_letters)}  ({n})" for group, n in groups)]
        places += [place, *own]
        place = own[-1] + 1.2
    axis.axvline(overall, color=GREY, linestyle=":")
    axis.set_yticks(places, names, fontsize=6.5)
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="R@1 [%], 95 % interval", ylim=(place - 0.5, -0.8), xlim=(-1, None))
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    return axis.figure
