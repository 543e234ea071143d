"""Figures over a whole split: what the data is like, and how good the answers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.candidates import levels_reached
from groundnlq.analysis.evaluation import HIGH, LOW, Evaluation
from groundnlq.data.check import FeatureReport
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.view.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, new_figure, plain

# Published on Ego4D's val split (arXiv 2306.15255); not measured by this project.
PUBLISHED = {
    "scratch": {"R@1 IoU=0.3": 16.74, "R@1 IoU=0.5": 11.47, "R@5 IoU=0.3": 39.02, "R@5 IoU=0.5": 27.39},
    "pretrain + finetune": {
        "R@1 IoU=0.3": 26.98,
        "R@1 IoU=0.5": 18.83,
        "R@5 IoU=0.3": 53.56,
        "R@5 IoU=0.5": 40.00,
    },
}
BARS = ((BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (GREY, "xx"))


def length_distributions(records: Sequence[Record]) -> Figure:
    """Lengths of clips and moments, where moments lie, and what share of the clip they cover."""
    moments = np.array([moment for r in records for moment in r.moments_sec]).reshape(-1, 2)
    durations = np.array([r.duration_sec for r in records for _ in r.moments_sec])
    clips = {r.clip_uid: r.duration_sec for r in records}
    lengths = moments[:, 1] - moments[:, 0]
    figure = new_figure(10, 5)
    (a, b), (c, d) = figure.subplots(2, 2)
    a.hist(list(clips.values()), bins=15, color=BLUE)
    a.set(xlabel="clip length [s]", ylabel="clips", title=f"{len(clips)} clips")
    _log_histogram(b, lengths, "s")
    b.set(xlabel="moment length [s]", ylabel="queries", title=f"{len(lengths)} moments")
    c.hist(moments.mean(axis=1) / durations, bins=20, range=(0, 1), color=BLUE)
    c.set(xlabel="centre of the moment, as share of the clip", ylabel="queries")
    _log_histogram(d, 100 * lengths / durations, "%")
    d.set(xlabel="share of the clip covered [%]", ylabel="queries")
    return figure


def _log_histogram(axis: Axes, values: np.ndarray, unit: str) -> None:
    """Bins and axis by powers of two, so that neither the many short nor the few long ones are lost."""
    if len(values):
        axis.hist(values, bins=np.geomspace(max(values.min(), 0.01), values.max() + 1e-6, 30), color=BLUE)
        axis.axvline(np.median(values), color=BLACK, label=f"median {np.median(values):.1f} {unit}")
        axis.axvline(values.mean(), color=VERMILION, linestyle="--", label=f"mean {values.mean():.1f} {unit}")
        axis.legend(fontsize=8)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.3g}")


def template_bars(records: Sequence[Record], beside: Mapping[str, float] | None = None) -> Figure:
    """How often each template is asked.

    Args:
        beside: the share [%] of each template in another data set, such as Ego4D.
    """
    counts = Counter(record.template or "(none)" for record in records).most_common()
    figure = new_figure(9, 0.7 + 0.28 * len(counts))
    axis = figure.subplots()
    axis.barh([plain(name, 70) for name, _ in counts], [n for _, n in counts], color=BLUE)
    expected = [(beside or {}).get(name, np.nan) * len(records) / 100 for name, _ in counts]
    for row, (_, n) in enumerate(counts):
        axis.text(np.nanmax([n, expected[row]]), row, f"  {n}", va="center", fontsize=8)
    if beside is not None:
        axis.plot(expected, range(len(counts)), "D", markersize=6, markerfacecolor="white",
                  markeredgecolor=BLACK, label="if as often as in Ego4D")  # fmt: skip
        axis.legend(fontsize=8, loc="lower right")
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("queries")
    axis.margins(x=0.1)
    return figure


def rate_fit(report: FeatureReport) -> Figure:
    """Every clip's own frames per step, the fitted rate and the configured one."""
    figure = new_figure(9, 3)
    left, right = figure.subplots(1, 2)
    frame = report.frame()
    longest = frame["duration_sec"].max()
    left.plot(frame["duration_sec"], frame["num_steps"], ".", color=BLUE, label="clips")
    fitted = report.fitted_stride_frames
    left.plot([0, longest], [0, longest * report.grid.fps / fitted], color=GREY, label=f"fit: {fitted:.3f}")
    left.set(xlabel="clip length [s]", ylabel="feature steps")
    left.legend(fontsize=8)
    right.hist(frame["stride_frames"], bins=30, color=BLUE)
    right.axvline(fitted, color=GREY, label=f"fitted {fitted:.3f}")
    configured = report.grid.snippet_stride_frames
    right.axvline(configured, color=VERMILION, linestyle="--", label=f"configured {configured:.3f}")
    right.set(xlabel="frames per step", ylabel="clips")
    right.legend(fontsize=8)
    right.xaxis.get_major_locator().set_params(nbins=5)
    return figure


def moments_per_level(
    records: Sequence[Record], grid: StepGrid, ranges_grid: Sequence[Sequence[float]]
) -> Figure:
    """The share of moments that have positive points on each pyramid level, and on none at all."""
    reached = [levels_reached(record, grid, ranges_grid) for record in records if record.moments_sec]
    counts = [sum(level in levels for levels in reached) for level in range(len(ranges_grid))]
    counts.append(sum(not levels for levels in reached))
    names = [f"stride {2**level}" for level in range(len(ranges_grid))] + ["none"]
    figure = new_figure(7.5, 2.8)
    axis = figure.subplots()
    colors = [BLUE] * len(ranges_grid) + [VERMILION]
    bars = axis.bar(names, 100 * np.array(counts) / max(1, len(reached)), color=colors)
    axis.bar_label(bars, fmt="%.1f", fontsize=8)
    axis.set(xlabel="pyramid level", ylabel="moments with\na positive point [%]")
    axis.margins(y=0.15)
    return figure


def recall_bars(
    evaluations: Mapping[str, Evaluation],
    keys: Sequence[str] = ("R@1 IoU=0.3", "R@5 IoU=0.3"),
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Strict recalls of several runs with their 95 % intervals; a dash where a run keeps too few for one.

    Args:
        published: figures of others, such as `PUBLISHED`; drawn hollow, apart from ours.
    """
    ours = {name: (e.strict, e.intervals()) for name, e in evaluations.items()}
    others = {name: (table, {}) for name, table in (published or {}).items()}
    figure = new_figure(1.5 + 1.7 * (len(ours) + len(others)), 3.2)
    axis = figure.subplots()
    apart = len(ours) + 0.5
    for (key, (color, hatch)), shift in zip(zip(keys, BARS, strict=False), _dodge(len(keys)), strict=True):
        bar = {"width": 0.72 / len(keys), "hatch": hatch, "capsize": 3}
        _draw_bars(axis, shift, key, ours.values(), facecolor=color, edgecolor="white", label=key, **bar)
        _draw_bars(axis, apart + shift, key, others.values(), facecolor="white", edgecolor=color, **bar)
    places = [*range(len(ours)), *(apart + np.arange(len(others)))]
    axis.set_xticks(places, [plain(name, 24) for name in [*ours, *others]])
    axis.set_ylabel("strict recall [%]")
    axis.margins(y=0.12)
    if others:
        axis.axvline(apart - 0.75, color=GREY, linestyle=":")
        axis.text(apart - 0.7, 0.98, "published, other data", fontsize=8, color="0.3", va="top",
                  transform=axis.get_xaxis_transform())  # fmt: skip
    figure.legend(loc="outside upper left", ncols=len(keys), fontsize=8)
    return figure


def _dodge(count: int) -> np.ndarray:
    """Where `count` marks stand side by side around a tick."""
    return (np.arange(count) - (count - 1) / 2) * 0.8 / max(1, count)


def _draw_bars(axis: Axes, first: float, key: str, runs: Iterable[tuple], **style: Any) -> None:
    """One recall of (table, intervals) of several runs, with the figure above each bar."""
    for place, (table, intervals) in enumerate(runs):
        value = table.get(key, np.nan)
        low, high = intervals.get(key, (value, value))
        errors = np.clip([[value - low], [high - value]], 0, None) if key in intervals else None
        axis.bar(first + place, value, yerr=errors, **style)
        style.pop("label", None)
        text, height = ("–", 0) if np.isnan(value) else (f"{value:.1f}", high)
        axis.annotate(text, (first + place, height), (0, 3), textcoords="offset points", ha="center",
                      fontsize=8)  # fmt: skip


def recall_by(tables: Mapping[str, pd.DataFrame], key: str = "R@1 IoU=0.3", title: str = "") -> Figure:
    """One recall with its interval for each group (template, moment length ...), a mark for each run.

    Args:
        tables: for each run what `Evaluation.by` gives.
    """
    first = next(iter(tables.values()))
    figure = new_figure(9, 1.0 + 0.34 * len(first))
    axis = figure.subplots()
    marks = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "D"), (ORANGE, "^"))
    runs = zip(tables.items(), _dodge(len(tables)) / 2, marks, strict=False)
    for (name, table), shift, (color, marker) in runs:
        table = table.reindex(first.index)
        errors = np.clip([table[key] - table[LOW], table[HIGH] - table[key]], 0, None)
        axis.errorbar(table[key], np.arange(len(first)) + shift, xerr=errors, fmt=marker, color=color,
                      markersize=5, linewidth=1, label=plain(name))  # fmt: skip
    labels = [f"{plain(str(group), 70)}  ({n:.0f})" for group, n in first["queries"].items()]
    axis.set_yticks(range(len(first)), labels, fontsize=8)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.set(xlabel=f"{key} [%]", ylim=(len(first) - 0.4, -0.6))
    axis.set_xlim(left=-1)
    axis.set_title(plain(title), fontsize=10, loc="left")
    figure.legend(loc="outside lower center", ncols=len(tables), fontsize=8)
    return figure


def length_groups(moment_sec: pd.Series, edges: Sequence[float] = (1, 2, 4, 8, 16)) -> pd.Series:
    """Moment lengths as readable groups, in order."""
    bounds = [0, *edges, np.inf]
    names = [f"under {edges[0]:g} s", *(f"{a:g} - {b:g} s" for a, b in pairwise(edges))]
    return pd.cut(moment_sec, bounds, labels=[*names, f"over {edges[-1]:g} s"], right=False)


def published_beside_ours(evaluations: Mapping[str, Evaluation], ours: str) -> pd.DataFrame:
    """A table of strict recalls: published on Ego4D's val split above, ours on `ours` below."""
    rows = {("published, Ego4D val", name): table for name, table in PUBLISHED.items()}
    rows |= {(f"ours, {ours}", name): e.strict for name, e in evaluations.items()}
    return pd.DataFrame.from_dict(rows, orient="index").round(2)
