"""Two runs over the same queries: memorisation, the interval of the difference, changed queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.evaluation import KEY, Evaluation, compare
from groundnlq.analysis.intervals import HIGH, LOW, ClipBootstrap, p_text
from groundnlq.view.style import (
    ABOVE,
    BLACK,
    BLUE,
    CURVES,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    error_ends,
    new_figure,
    plain,
)

CHANGES = ("won", "lost", "both correct", "both wrong")


def compare_runs(histories: Mapping[str, Sequence[Mapping[str, Any]]], key: str = KEY) -> Figure:
    """One validation recall over the steps of several runs, by the better of raw and averaged weights."""
    figure = new_figure(7, 3)
    axis = figure.subplots()
    for (color, dash), (name, history) in zip(CURVES, histories.items(), strict=False):
        rows = [row for row in history if f"raw {key}" in row]
        best = [max(row[f"raw {key}"], row[f"ema {key}"]) for row in rows]
        axis.plot([row["step"] for row in rows], best, dash, color=color, label=name, marker="o")
    axis.set(xlabel="training step", ylabel=f"val {key} [%]", ylim=(0, None))
    axis.legend(fontsize=9)
    return figure


def best_recall(history: Sequence[Mapping[str, Any]], key: str = KEY) -> float:
    """The highest validated recall [%] of a run, by the better of raw and averaged weights."""
    return max(max(row.get(f"{weights} {key}", 0.0) for weights in ("raw", "ema")) for row in history)


def first_step_at(history: Sequence[Mapping[str, Any]], recall: float, key: str = KEY) -> int | None:
    """The first validated step of a run at which its recall [%] is at least this high; None if it never is."""
    return next((row["step"] for row in history if f"raw {key}" in row and best_recall([row], key) >= recall), None)


def memorisation_figure(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    recalls: Mapping[str, Mapping[str, Evaluation]],
    key: str = KEY,
) -> Figure:
    """Left, training losses over the epochs; right, recall on training and on validation queries.

    Args:
        recalls: for each run the evaluations of its splits by name, such as ``train`` and ``val``.
    """
    figure = new_figure(10, 3.1)
    left, right = figure.subplots(1, 2)
    for (color, dash), (name, history) in zip(CURVES, histories.items(), strict=False):
        epochs, losses = [row["epoch"] for row in history], [row["loss total"] for row in history]
        left.plot(epochs, losses, dash, color=color, marker=".", label=plain(name))
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    left.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    left.legend(fontsize=9)
    splits = list(dict.fromkeys(split for one in recalls.values() for split in one))
    styles = zip(splits, ((ORANGE, "//"), (BLUE, "")), strict=False)
    for number, (split, (color, hatch)) in enumerate(styles):
        places = np.arange(len(recalls)) + 0.38 * number - 0.19
        values = np.array([one[split].strict[key] for one in recalls.values()])
        errors = error_ends(values, *zip(*(one[split].intervals()[key] for one in recalls.values()), strict=True))
        bars = right.bar(places, values, 0.36, color=color, hatch=hatch, edgecolor="white", yerr=errors,
                         capsize=3, label=f"{split} questions")  # fmt: skip
        right.bar_label(bars, fmt="%.0f", fontsize=9, label_type="center",
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    right.set_xticks(range(len(recalls)), [plain(name, 24) for name in recalls])
    right.set(ylabel=f"{key} [%]", ylim=(0, None))
    right.legend(fontsize=9, ncols=2, **ABOVE)
    return figure


def paired_figure(
    one: Evaluation, other: Evaluation, key: str = KEY, names: Sequence[str] = ("one", "other"),
    seed: int = 0,
) -> Figure:  # fmt: skip
    """Left, every clip's recall with both runs; right, the difference in resampled splits (whole clips).

    The dashed outline is the difference of two independently resampled splits, without pairing.
    """
    figure = new_figure(10, 3.3)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
    _clip_bubbles(left, one, other, key, names)
    draws = ClipBootstrap(one.hits["clip_uid"], seed).means(one.difference(other, key))
    unpaired = _means(other, key, seed + 1) - _means(one, key, seed)
    found = compare(one, other, key, seed)
    bins = np.histogram_bin_edges(np.concatenate([draws, unpaired, [0.0]]), 45)
    right.hist(draws, bins, color=BLUE, label="paired (same clips)")
    right.hist(
        unpaired,
        bins,
        histtype="step",
        color=BLACK,
        linestyle="--",
        label=f"unpaired ({unpaired.std() / max(draws.std(), 1e-9):.2f} × as wide)",
    )
    right.axvline(0, color=GREY, linestyle=":")
    right.hlines(-0.03 * len(draws) / 9, found[LOW], found[HIGH], color=VERMILION, linewidth=4,
                 label="95 % interval, paired")  # fmt: skip
    right.set(xlabel=f"{names[1]} − {names[0]} in {key} [points]", ylabel="resampled splits")
    right.set_title(
        f"{found['difference']:+.1f} points [{found[LOW]:+.1f}, {found[HIGH]:+.1f}], {p_text(found['p'])}",
        fontsize=10, loc="left", pad=24,
    )  # fmt: skip
    right.legend(fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1), frameon=False,
                 columnspacing=1, handlelength=1.5)  # fmt: skip
    return figure


def changes(one: Evaluation, other: Evaluation, key: str = KEY) -> pd.DataFrame:
    """For each query, by its id, its clip, text, template and ``change`` from `one` to `other` (`CHANGES`).

    Raises:
        DataError: the two are not about the same queries.
    """
    points = one.difference(other, key)
    table = one.hits.set_index("query_id")[["clip_uid", "query", "template"]]
    is_hit = one.hits.set_index("query_id")[key].to_numpy() > 0
    names = np.select([points > 0, points < 0, is_hit], CHANGES[:3], CHANGES[3])
    return table.assign(change=pd.Categorical(names, CHANGES))


def changes_bars(table: pd.DataFrame, names: Sequence[str] = ("one", "other"), by: str = "template") -> Figure:
    """Number of queries in each group that only one of two runs hits; those of the first run to the left."""
    counts = pd.crosstab(table[by], table["change"]).reindex(columns=CHANGES, fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False).index]
    figure = new_figure(9, 1.3 + 0.28 * len(counts))
    axis = figure.subplots()
    rows = np.arange(len(counts))
    axis.barh(rows, counts["won"], color=GREEN, edgecolor=BLACK, linewidth=0.5,
              label=f"only {names[1]} is correct: {counts['won'].sum()}")  # fmt: skip
    axis.barh(rows, -counts["lost"], color=VERMILION, hatch="//", edgecolor="white",
              label=f"only {names[0]} is correct: {counts['lost'].sum()}")  # fmt: skip
    for row, (won, lost) in enumerate(counts[["won", "lost"]].to_numpy()):
        axis.text(won, row, f" {won}", va="center", fontsize=9)
        axis.text(-lost, row, f"{lost} ", va="center", ha="right", fontsize=9)
    labels = [f"{plain(str(name), 60)}  ({n})" for name, n in counts.sum(axis=1).items()]
    axis.set_yticks(rows, labels, fontsize=9)
    axis.invert_yaxis()
    axis.axvline(0, color=BLACK, linewidth=0.8)
    limit = 1.15 * max(1, counts[["won", "lost"]].to_numpy().max())
    axis.set(xlabel="queries", xlim=(-limit, limit))
    axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return figure


def _clip_bubbles(axis: Axes, one: Evaluation, other: Evaluation, key: str, names: Sequence[str]) -> None:
    """One bubble for all clips with the same pair of recalls."""
    pairs = [100 * e.hits.groupby("clip_uid")[key].mean() for e in (one, other)]
    counts = pd.concat(pairs, axis=1, keys=("x", "y")).round(6).value_counts()
    places = np.array(list(counts.index))
    axis.plot([0, 100], [0, 100], color=GREY, linestyle=":", zorder=0)
    axis.scatter(*places.T, s=28 * counts.to_numpy(), color=BLUE, alpha=0.6, edgecolor=BLACK, linewidth=0.5)
    axis.set(xlabel=f"{names[0]}: {key} of a clip [%]", ylabel=f"{names[1]} [%]", xlim=(-8, 108), ylim=(-8, 108))
    axis.set_title("larger: more clips", fontsize=9.5)


def _means(evaluation: Evaluation, key: str, seed: int) -> np.ndarray:
    return ClipBootstrap(evaluation.hits["clip_uid"], seed).means(100 * evaluation.hits[key])
