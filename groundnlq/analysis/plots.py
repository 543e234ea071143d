"""Figures over a whole split: what the data is like, and how good the answers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groundnlq.analysis.metrics import Evaluation
from groundnlq.analysis.timeline import BLUE, GREEN, GREY, ORANGE, VERMILION, new_figure, plain
from groundnlq.data.annotations import Record
from groundnlq.data.feature_check import FeatureReport
from groundnlq.data.grid import StepGrid
from groundnlq.model.points import assign_targets, make_points

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


def length_distributions(records: Sequence[Record]) -> Figure:
    """Lengths of clips and moments, where moments lie, and what share of the clip they cover."""
    moments = np.array([moment for r in records for moment in r.moments_sec])
    durations = np.array([r.duration_sec for r in records for _ in r.moments_sec])
    clips = {r.clip_uid: r.duration_sec for r in records}
    lengths = moments[:, 1] - moments[:, 0]
    figure = new_figure(10, 5)
    (a, b), (c, d) = figure.subplots(2, 2)
    a.hist(list(clips.values()), bins=30, color=BLUE)
    a.set(xlabel="clip length [s]", ylabel="clips", title=f"{len(clips)} clips")
    b.hist(lengths, bins=np.geomspace(max(lengths.min(), 0.1), lengths.max() + 1e-6, 30), color=BLUE)
    b.axvline(np.median(lengths), color=VERMILION, linestyle="--", label=f"median {np.median(lengths):.1f} s")
    b.set(xscale="log", xlabel="moment length [s]", ylabel="queries", title=f"{len(lengths)} moments")
    b.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"], minor=False)
    b.set_xticks([], minor=True)
    b.set_xlim(0.9 * lengths.min(), 1.1 * lengths.max())
    b.legend(fontsize=8)
    c.hist(moments.mean(axis=1) / durations, bins=20, range=(0, 1), color=BLUE)
    c.set(xlabel="centre of the moment, as share of the clip", ylabel="queries")
    d.hist(100 * lengths / durations, bins=30, color=BLUE)
    d.axvline(100 * np.mean(lengths / durations), color=VERMILION, linestyle="--",
              label=f"mean {100 * np.mean(lengths / durations):.1f} %")  # fmt: skip
    d.set(xlabel="share of the clip covered [%]", ylabel="queries")
    d.legend(fontsize=8)
    return figure


def template_bars(records: Sequence[Record]) -> Figure:
    """How often each template is asked."""
    counts = Counter(record.template or "(none)" for record in records).most_common()
    figure = new_figure(9, 0.7 + 0.28 * len(counts))
    axis = figure.subplots()
    axis.barh([plain(name, 62) for name, _ in counts], [n for _, n in counts], color=BLUE)
    for row, (_, n) in enumerate(counts):
        axis.text(n, row, f" {n}", va="center", fontsize=8)
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
    return figure


def moments_per_level(
    records: Sequence[Record], grid: StepGrid, ranges_grid: Sequence[Sequence[float]]
) -> Figure:
    """The share of moments that have positive points on each pyramid level, and on none at all."""
    import torch

    reached = np.zeros(len(ranges_grid))
    unreachable = 0
    for record in records:
        num_steps = int(np.ceil(grid.to_grid(record.duration_sec))) + 1
        points = make_points([-(-num_steps // 2**level) for level in range(len(ranges_grid))], ranges_grid)
        moments = torch.tensor(record.moments_sec, dtype=torch.float32).reshape(-1, 2)
        labels, _ = assign_targets(points, grid.to_grid(moments))
        levels = points.level[labels > 0].unique().numpy()
        reached[levels] += 1
        unreachable += len(levels) == 0
    shares = 100 * np.append(reached, unreachable) / len(records)
    names = [f"stride {2**level}" for level in range(len(ranges_grid))] + ["none"]
    figure = new_figure(7, 2.8)
    axis = figure.subplots()
    bars = axis.bar(names, shares, color=[BLUE] * len(ranges_grid) + [VERMILION])
    axis.bar_label(bars, fmt="%.1f", fontsize=8)
    axis.set(xlabel="pyramid level", ylabel="moments with\na positive point [%]")
    axis.margins(y=0.15)
    return figure


def recall_bars(
    evaluations: Mapping[str, Evaluation], keys: Sequence[str] = ("R@1 IoU=0.3", "R@5 IoU=0.3")
) -> Figure:
    """Strict recalls of several runs with their 95 % intervals."""
    figure = new_figure(8.5, 3)
    axis = figure.subplots()
    width = 0.8 / len(keys)
    for index, (key, color) in enumerate(zip(keys, (BLUE, ORANGE, GREEN, GREY), strict=False)):
        values = np.array([e.strict.get(key, np.nan) for e in evaluations.values()])
        limits = np.array([e.intervals().get(key, (np.nan, np.nan)) for e in evaluations.values()])
        errors = np.clip(np.stack([values - limits[:, 0], limits[:, 1] - values]), 0, None)
        x = np.arange(len(values)) + (index - (len(keys) - 1) / 2) * width
        bars = axis.bar(x, values, width * 0.9, yerr=errors, capsize=3, color=color, label=key,
                        hatch="//" * index, edgecolor="white")  # fmt: skip
        axis.bar_label(bars, [f"{v:.1f}" for v in values], fontsize=8, label_type="center",
                       bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    axis.set_xticks(range(len(evaluations)), [plain(name) for name in evaluations])
    axis.set_ylabel("recall [%]")
    axis.legend(fontsize=8)
    return figure


def recall_by(tables: Mapping[str, pd.DataFrame], key: str = "R@1 IoU=0.3", title: str = "") -> Figure:
    """One recall for each group (template, moment length ...), one row of dots a run.

    Args:
        tables: for each run what `Evaluation.by` gives.
    """
    first = next(iter(tables.values()))
    figure = new_figure(9, 1.0 + 0.32 * len(first))
    axis = figure.subplots()
    markers = zip(tables.items(), (BLUE, VERMILION, GREEN, ORANGE), "osD^", strict=False)
    for (name, table), color, marker in markers:
        values = table[key].reindex(first.index)
        axis.plot(values, range(len(first)), marker, color=color, label=plain(name))
    labels = [f"{plain(str(group), 60)}  ({n:.0f})" for group, n in first["queries"].items()]
    axis.set_yticks(range(len(first)), labels, fontsize=8)
    axis.grid(axis="y", color="0.9")
    axis.set(xlabel=f"{key} [%]", xlim=(-2, 102), ylim=(len(first) - 0.4, -0.6), title=title)
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
