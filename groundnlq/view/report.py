"""The diagnosis as figures, and all of it on one page, written by one call."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.candidates import FixedRun, LiveRun
from groundnlq.analysis.diagnosis import (
    OUTCOMES,
    by_level,
    calibration_table,
    diagnose,
    outcome_changes,
    worth,
)
from groundnlq.analysis.evaluation import HIGH, LOW
from groundnlq.analysis.sensitivity import kinds_of_query, paired_difference, sensitivity
from groundnlq.data.records import Record
from groundnlq.files import write_text
from groundnlq.view.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
    plain,
)

COLORS = dict(zip(OUTCOMES, (GREEN, BLUE, ORANGE, SKY, PURPLE, BLACK, VERMILION), strict=True))
HATCHES = dict(zip(OUTCOMES, ("", "//", "", "..", "xx", "", "\\\\"), strict=True))  # for greyscale
STYLE = "body{font:14px sans-serif;max-width:60em;margin:2em auto;background:#fff;color:#111}"
STYLE += (
    "td,th{padding:2px 8px;text-align:right}tbody th{text-align:left;font-weight:normal}img{max-width:100%}"
)


@dataclass(frozen=True)
class Diagnosis:
    """All tables about a run, beside another one if there is one.

    Args:
        run, baseline: over the same records.
        train: records of the train split, for unseen words.
        threshold, keep: as in `diagnose`.
    """

    name: str
    run: FixedRun | LiveRun
    baseline_name: str = ""
    baseline: FixedRun | LiveRun | None = None
    train: Sequence[Record] = ()
    threshold: float = 0.3
    keep: int = 5

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a query."""
        return diagnose(self.run, self.threshold, self.keep)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """`table` of the baseline, where there is one, and of the run."""
        if self.baseline is None:
            return {self.name: self.table}
        return {self.baseline_name: diagnose(self.baseline, self.threshold, self.keep), self.name: self.table}

    @cached_property
    def kinds(self) -> pd.DataFrame:
        return kinds_of_query(self.run.records, self.train)

    @cached_property
    def worth(self) -> pd.DataFrame:
        return worth(self.table)

    @cached_property
    def calibration(self) -> pd.DataFrame:
        return calibration_table(self.table)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        return sensitivity(self.table, self.kinds)

    @cached_property
    def levels(self) -> pd.DataFrame | None:
        return by_level(self.table, self.run) if self.run.is_live else None

    @cached_property
    def differences(self) -> pd.DataFrame | None:
        one = self.tables.get(self.baseline_name)
        return None if one is None else paired_difference(one, self.table, self.kinds)

    @property
    def answers_other(self) -> float:
        """Percent of the missed queries whose first answer is another query's moment."""
        missed = self.table[self.table["outcome"] != "hit"]
        return 100 * missed["answers_other"].mean() if len(missed) else 0.0

    def summary(self) -> str:
        """What a reader needs first, in one sentence each."""
        now = self.worth.loc["as it is"]
        gains = self.worth.loc[[n for n in OUTCOMES if n != "hit"], "gain"].sort_values(ascending=False)
        lines = [
            f"{self.name}: R@1 IoU={self.threshold:g} is {now['R@1']:.1f} %, R@{self.keep} {now['R@k']:.1f} "
            f"%, over {len(self.table)} queries of {self.table['clip_uid'].nunique()} clips.",
            f"Most is lost to {gains.index[0]} ({gains.iloc[0]:.1f} points), then {gains.index[1]} "
            f"({gains.iloc[1]:.1f}).",
            f"{self.answers_other:.0f} % of the missed queries were given another query's moment.",
            f"Score and hit rate differ by {self.calibration.attrs['error']:.1f} points on average.",
        ]
        if self.differences is not None:
            row = self.differences.iloc[0]
            lines.append(
                f"Against {self.baseline_name}: {row['difference']:+.1f} points at rank 1 "
                f"[{row[LOW]:+.1f}, {row[HIGH]:+.1f}], {row['won']:.0f} queries won, {row['lost']:.0f} lost, "
                f"p = {row['p']:.4f}."
            )
        return "\n".join(lines)

    def page(self) -> Figure:
        """All of it on one page (A4, upright)."""
        figure = new_figure(8.3, 11.7)
        head, outcomes, costs, trust, kinds = figure.subfigures(5, 1, height_ratios=[0.9, 1.5, 2.0, 2.0, 5.3])
        head.text(0.02, 0.9, "\n".join(plain(line, 140) for line in self.summary().splitlines()),
                  fontsize=8.5, va="top", linespacing=1.4)  # fmt: skip
        outcome_bars(self.tables, outcomes.subplots())
        worth_bars(self.worth, costs.subplots())
        left, right = trust.subplots(1, 2)
        calibration(self.calibration, left)
        right.set_axis_off() if self.levels is None else level_bars(self.levels, right)
        names = list(dict.fromkeys(self.sensitivity.index.get_level_values(0)))
        for axis, some in zip(kinds.subplots(1, 2), self._halves(names), strict=True):
            sensitivity_marks(self.sensitivity.loc[some], self.worth.loc["as it is", "R@1"], axis, 34)
        return figure

    def _halves(self, kinds: Sequence[str]) -> tuple[list[str], list[str]]:
        """The kinds in two columns of about as many rows."""
        rows = np.cumsum([len(self.sensitivity.loc[kind]) + 1.2 for kind in kinds])
        middle = int(np.abs(rows - rows[-1] / 2).argmin()) + 1
        return list(kinds[:middle]), list(kinds[middle:])

    def write(self, folder: str | Path) -> list[Path]:
        """``report.html``, whole in itself, ``report.png``, ``report.pdf``, and ``queries.csv``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        page = self.page()
        page.savefig(folder / "report.pdf")
        page.savefig(folder / "report.png", dpi=110)
        write_text(folder / "queries.csv", self.table.to_csv(index=False))
        write_text(folder / "report.html", self._html(_png(page)))
        return [folder / name for name in ("report.html", "report.png", "report.pdf", "queries.csv")]

    def _html(self, picture: bytes) -> str:
        tables = {
            "What each outcome costs": self.worth,
            "By pyramid level": self.levels,
            f"{self.name} against {self.baseline_name}, paired": self.differences,
            "From outcome to outcome": self._changes(),
            "By kind of query": self.sensitivity,
        }
        shown = {title: table for title, table in tables.items() if table is not None}
        parts = [f"<h2>{escape(title)}</h2>{_table(table)}" for title, table in shown.items()]
        image = base64.b64encode(picture).decode()
        lines = "<br>".join(map(escape, self.summary().splitlines()))
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(self.name)}</title>"
            f"<style>{STYLE}</style><h1>Diagnosis of {escape(self.name)}</h1><p>{lines}</p>"
            f'<img alt="the figures of this page" src="data:image/png;base64,{image}">{"".join(parts)}</html>'
        )

    def _changes(self) -> pd.DataFrame | None:
        one = self.tables.get(self.baseline_name)
        return None if one is None else outcome_changes(one, self.table)


def outcome_bars(tables: Mapping[str, pd.DataFrame], axis: Axes | None = None) -> Figure:
    """Shares of the outcomes, one bar for each run; those that never occur are left out."""
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


def worth_bars(worth: pd.DataFrame, axis: Axes | None = None) -> Figure:
    """R@1 as it is, and what each oracle would add, with 95 % intervals."""
    axis = axis or new_figure(9, 3).subplots()
    now, rows = worth.loc["as it is", "R@1"], worth.drop("as it is")
    colors = [COLORS.get(name, "white") for name in rows.index]
    hatches = [HATCHES.get(name, "") for name in rows.index]
    errors = np.clip([rows["gain"] - rows[LOW], rows[HIGH] - rows["gain"]], 0, None)
    places = np.arange(len(rows)) + 0.4 * rows.index.str.startswith("oracle")
    axis.barh(places, rows["gain"], left=now, color=colors, hatch=hatches, edgecolor=BLACK, linewidth=0.7,
              xerr=errors, capsize=3)  # fmt: skip
    for place, (gain, high) in zip(places, rows[["gain", HIGH]].to_numpy(), strict=True):
        axis.text(now + high + 1, place, f"+{gain:.1f}", va="center", fontsize=8)
    axis.axvline(now, color=GREY, linestyle=":")
    axis.set_yticks(places, rows.index, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel=f"R@1 [%] if this alone were mended; as it is: {now:.1f}", xlim=(0, 100))
    return axis.figure


def calibration(bins: pd.DataFrame, axis: Axes | None = None) -> Figure:
    """Score of the first answer against how often it is right, with 95 % intervals."""
    axis = axis or new_figure(4.5, 3.2).subplots()
    errors = np.clip([bins["hit rate"] - bins[LOW], bins[HIGH] - bins["hit rate"]], 0, None)
    axis.plot([0, 1], [0, 100], color=GREY, linestyle=":", label="score = hit rate")
    axis.errorbar(bins["score"], bins["hit rate"], yerr=errors, fmt="o-", color=BLUE, markersize=4, capsize=2,
                  linewidth=1, label=f"{len(bins)} bins of queries")  # fmt: skip
    axis.set(xlabel="score of the first answer", ylabel="right at rank 1 [%]", xlim=(0, 1), ylim=(0, 100))
    axis.legend(fontsize=8, loc="upper left")
    return axis.figure


def level_bars(levels: pd.DataFrame, axis: Axes | None = None) -> Figure:
    """For each pyramid level: moments that train it, first answers and right answers that it gives."""
    axis = axis or new_figure(6, 3.2).subplots()
    marks = (("trained by", "0.8", ""), ("first answers", SKY, ".."), ("right answers", GREEN, "//"))
    for shift, (name, color, hatch) in zip((-0.27, 0, 0.27), marks, strict=True):
        axis.bar(np.arange(len(levels)) + shift, levels[name], 0.26, color=color, hatch=hatch,
                 edgecolor=BLACK, linewidth=0.5, label=name)  # fmt: skip
    axis.set_xticks(range(len(levels)), [name.removeprefix("stride ") for name in levels.index])
    axis.set(xlabel="stride of the pyramid level", ylabel="queries [%]")
    axis.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return axis.figure


def sensitivity_marks(
    table: pd.DataFrame, overall: float, axis: Axes | None = None, max_letters: int = 70
) -> Figure:
    """R@1 of every group with its 95 % interval; the dotted line is the whole split."""
    axis = (
        axis or new_figure(9, 1 + 0.2 * (len(table) + table.index.get_level_values(0).nunique())).subplots()
    )
    names: list[str] = []
    places: list[float] = []
    place = 0.0
    for kind, part in table.groupby(level="kind", sort=False):
        names.append(plain(kind).upper())
        values = part["R@1"].to_numpy()
        own = place + 1 + np.arange(len(part))
        places.append(place)
        errors = np.clip([values - part[LOW], part[HIGH] - values], 0, None)
        axis.errorbar(values, own, xerr=errors, fmt="o", color=BLUE, markersize=3.5, linewidth=1)
        groups = zip(part.index.get_level_values(1), part["queries"], strict=True)
        names += [f"{plain(group, max_letters)}  ({n})" for group, n in groups]
        places += own.tolist()
        place = own[-1] + 1.2
    axis.axvline(overall, color=GREY, linestyle=":")
    axis.set_yticks(places, names, fontsize=6.5)
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel="R@1 [%], 95 % interval", ylim=(place - 0.5, -0.8))
    axis.set_xlim(left=-1)
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    return axis.figure


def _table(table: pd.DataFrame) -> str:
    """As HTML, its texts escaped; p values with more digits than the rest."""
    digits = {name: 4 if str(name).startswith("p") else 2 for name in table}
    return table.round(digits).to_html(escape=True, border=0, na_rep="–")


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
