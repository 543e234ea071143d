"""Figures of losses over a training, of recalls of several runs, and of recalls over groups of queries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.evaluation import KEY, Evaluation
from groundnlq.analysis.intervals import HIGH, LOW
from groundnlq.view.style import ABOVE, BLUE, CURVES, GREEN, ORANGE, VERMILION, error_ends, new_figure, plain

BARS = ((BLUE, ""), (ORANGE, "//"), (GREEN, ".."))
MARKS = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "D"), (ORANGE, "^"))


def loss_curve(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses and, where validated, the score that chooses the weights, over the epochs of one run."""
    figure = new_figure(9, 2.8)
    left, right = figure.subplots(1, 2, sharex=True)
    epochs = [row["epoch"] for row in history]
    losses = sorted((key for key in history[0] if key.startswith("loss ")), key=lambda key: key != "loss total")
    for (color, dash), name in zip(CURVES, losses, strict=False):
        label = name.removeprefix("loss ")
        left.plot(epochs, [row[name] for row in history], dash, color=color, label=label, marker=".")
    left.set(xlabel="epoch", ylabel="training loss", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
    score = "EgoMCQ mean" if any("raw EgoMCQ mean" in row for row in history) else "mean R@1"
    validated = [row for row in history if f"raw {score}" in row]
    names = {"raw": "weights", "ema": "averaged weights (EMA)"}
    for (color, dash), (weights, label) in zip(CURVES, names.items(), strict=False):
        values = [row[f"{weights} {score}"] for row in validated]
        right.plot([row["epoch"] for row in validated], values, dash, color=color, label=label, marker="o")
    right.set(xlabel="epoch", ylabel=f"val {score} [%]")
    for axis in (left, right):
        axis.set_ylim(0, 1.05 * axis.get_ylim()[1])  # the highest dots are inside the frame
        axis.legend(fontsize=8, ncols=3, **ABOVE)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return figure


def recall_bars(
    evaluations: Mapping[str, Evaluation], keys: Sequence[str] = ("R@1 IoU=0.3", "R@5 IoU=0.3")
) -> Figure:  # fmt: skip
    """Strict recalls of several runs with 95 % intervals; a dash where a run has too few predictions for one."""
    runs = [(e.strict, e.intervals()) for e in evaluations.values()]
    figure = new_figure(1.5 + 1.7 * len(runs), 3.2)
    axis = figure.subplots()
    for (key, (color, hatch)), shift in zip(zip(keys, BARS, strict=False), _dodge(len(keys)), strict=True):
        bar = {"width": 0.72 / len(keys), "hatch": hatch, "capsize": 3}
        _draw_bars(axis, shift, key, runs, facecolor=color, edgecolor="white", label=key, **bar)
    axis.set_xticks(range(len(runs)), [plain(name, 24) for name in evaluations])
    axis.set_ylabel("strict recall [%]")
    axis.margins(y=0.12)
    figure.legend(loc="outside upper left", ncols=len(keys), fontsize=9)
    return figure


def _dodge(count: int) -> np.ndarray:
    """Positions of `count` marks around a tick."""
    return (np.arange(count) - (count - 1) / 2) * 0.8 / max(1, count)


def _draw_bars(axis: Axes, first: float, key: str, runs: Iterable[tuple], **style: Any) -> None:
    """One recall of (table, intervals) of several runs, with the number above each bar."""
    for place, (table, intervals) in enumerate(runs):
        value = table.get(key, np.nan)
        low, high = intervals.get(key, (value, value))
        errors = error_ends([value], [low], [high]) if key in intervals else None
        axis.bar(first + place, value, yerr=errors, **style)
        style.pop("label", None)
        text, height = ("–", 0) if np.isnan(value) else (f"{value:.1f}", high)
        axis.annotate(text, (first + place, height), (0, 3), textcoords="offset points", ha="center",
                      fontsize=9)  # fmt: skip


def recall_by(tables: Mapping[str, pd.DataFrame], key: str = KEY, title: str = "") -> Figure:
    """One recall with its interval for each group (template, moment length ...), a mark for each run.

    Args:
        tables: for each run what `Evaluation.by` gives. With a column ``p (Holm)``, only marks of groups that differ
            from the rest of the split are filled (p < 0.05).
    """
    first = next(iter(tables.values()))
    figure = new_figure(9, 1.0 + (0.2 + 0.07 * len(tables)) * len(first))
    axis = figure.subplots()
    runs = zip(tables.items(), _dodge(len(tables)) / 2, MARKS, strict=False)
    for (name, table), shift, (color, marker) in runs:
        table = table.reindex(first.index)
        errors = error_ends(table[key], table[LOW], table[HIGH])
        places, differs = np.arange(len(first)) + shift, table.get("p (Holm)", pd.Series(0.0, table.index)) < 0.05
        axis.errorbar(table[key], places, xerr=errors, fmt=marker, color=color, mfc="white", markersize=5,
                      linewidth=1)  # fmt: skip
        axis.plot(table[key][differs], places[differs], marker, color=color, markersize=5, zorder=3, label=plain(name))
    labels = [f"{plain(str(group), 70)}  ({n:.0f})" for group, n in first["queries"].items()]
    axis.set_yticks(range(len(first)), labels, fontsize=9)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.set(xlabel=f"{key} [%]", ylim=(len(first) - 0.4, -0.6), xlim=(-1, None))
    axis.set_title(plain(title), fontsize=10, loc="left")
    figure.legend(loc="outside lower center", ncols=len(tables), fontsize=9)
    return figure
