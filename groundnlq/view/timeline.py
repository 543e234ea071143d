"""Figures of one clip and one run; pure: data in, a matplotlib `Figure` out, no global state.

What matters differs not only by colour but by place, dash or hatching, so that it survives greyscale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from groundnlq.data.records import Record
from groundnlq.view.canvas import Sheet
from groundnlq.view.style import BLACK, BLUE, CURVES, SKY, VERMILION, new_figure, plain
from groundnlq.view.tracks import (
    draw_attention,
    draw_best_scores,
    draw_film,
    draw_heat_map,
    draw_moments,
    draw_segments,
)


def query_timeline(
    record: Record,
    ranked: np.ndarray | Mapping[str, np.ndarray],
    level_scores: Sequence[np.ndarray] | Mapping[str, Sequence[np.ndarray]] = (),
    others: Sequence[Record] = (),
    narrations: Sequence[Record] = (),
    window_sec: tuple[float, float] | None = None,
    keep: int = 5,
    threshold: float = 0.3,
    attention: tuple[Sequence[str], np.ndarray] | None = None,
    film: tuple[np.ndarray, np.ndarray] | None = None,
    sheet: Sheet | None = None,
) -> Figure:
    """All that is known about one query on one time axis.

    Args:
        ranked: (K, 3) predictions, or those of several runs by name; the darker, the more they overlap the
            ground truth.
        level_scores: scores of the points of each pyramid level, finest first, for the heat map; the finest
            covers the clip. Of several runs by name.
        others: further queries of the clip, drawn faintly; narrations as ticks.
        window_sec: the part of the clip to show; all of it by default.
        threshold: the tIoU above which a prediction is ticked as a hit.
        attention: words of the query and (T, L), how much each step looks at each of them.
        film: times (F,) and pictures (F, height, width, 3) of a moment, as `film.film_strip` gives them.
        sheet: to draw on again; its figure then is what is returned.
    """
    ranked = {name: segments[:keep] for name, segments in _by_run(ranked).items()}
    scored = {name: levels for name, levels in _by_run(level_scores).items() if any(map(len, levels))}
    num_rows = 1 + sum(map(len, ranked.values())) + bool(others) + bool(narrations)
    heights = {"film": 0.95} if film is not None else {}
    heights |= {"segments": 0.45 + 0.24 * num_rows}
    heights |= {f"scores {number}": 1.4 for number in range(len(scored))}
    heights |= {"best": 0.9} if scored else {}
    heights |= {"attention": 0.3 + 0.16 * len(attention[0])} if attention else {}
    sheet = sheet or Sheet()
    rows = sheet.rows(heights, window_sec or (0, record.duration_sec))
    next(iter(rows.values())).set_title(plain(record.query), fontsize=11, loc="left", y=1.0)
    if film is not None:
        draw_film(rows["film"], *film)
    draw_segments(rows["segments"], record, ranked, others, narrations, threshold)
    for number, (name, levels) in enumerate(scored.items()):
        draw_heat_map(rows[f"scores {number}"], record, levels, name)
    if scored:
        draw_best_scores(rows["best"], record, scored)
    if attention:
        draw_attention(rows["attention"], record, *attention)
    return sheet.figure


def _by_run(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {"": given}


def moments_of_clip(records: Sequence[Record], narrations: Sequence[Record] = ()) -> Figure:
    """All queries of a clip over time, each with its text; narrations as ticks below."""
    figure = new_figure(9.5, 0.9 + 0.3 * len(records))
    axis = figure.subplots()
    labels = [plain(record.query, 60) for record in records]
    for row, record in enumerate(records):
        draw_moments(axis, row, [record], color=BLUE)
    if narrations:
        times = [np.mean(n.moments_sec[0]) for n in narrations if n.moments_sec]
        axis.plot(times, [len(records)] * len(times), "|", color=BLACK, markersize=9)
        labels.append("narrations")
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_xlim(0, max((record.duration_sec for record in records), default=1.0))
    axis.set_xlabel("time in the clip [s]")
    return figure


def event_log(log: Mapping[str, Any], records: Sequence[Record] = ()) -> Figure:
    """The sample world's truth: where the person was, what happened, and which moments were asked for."""
    slots = ("place", "verb", "object", "container", "person")
    figure = new_figure(12, 4.4)
    axis = figure.subplots()
    for index, (start, end, place) in enumerate(log["stays"]):
        axis.barh(0, end - start, left=start, color=("0.85", "0.72")[index % 2])
        axis.text((start + end) / 2, 0, plain(place), ha="center", va="center", fontsize=8, clip_on=True)
    for event in log["events"]:
        start, end = event["start_sec"], event["end_sec"]
        for row, slot in enumerate(slots[1:], 1):
            if event[slot]:
                axis.barh(row, end - start, left=start, color=SKY, edgecolor="white")
                turned = 90 if end - start < 0.06 * log["duration_sec"] else 0
                axis.text((start + end) / 2, row, plain(event[slot]), fontsize=6.5, rotation=turned,
                          ha="center", va="center", clip_on=True)  # fmt: skip
    for record in records:
        for start, end in record.moments_sec:
            axis.barh(len(slots), end - start, left=start, color=VERMILION, alpha=0.6)
    rows = [*slots, "asked for"] if records else slots
    axis.set_yticks(range(len(rows)), rows)
    axis.invert_yaxis()
    axis.set_xlim(0, log["duration_sec"])
    axis.set_xlabel("time in the clip [s]")
    return figure


def jitter_timeline(narrations: Sequence[Record], jittered_sec: Sequence[np.ndarray]) -> Figure:
    """Narrations as annotated and several draws of temporal jittering of each, on one time axis.

    Args:
        jittered_sec: for each narration (draws, 2) start and end.
    """
    figure = new_figure(9.5, 0.8 + 0.5 * len(narrations))
    axis = figure.subplots()
    for row, (record, draws) in enumerate(zip(narrations, jittered_sec, strict=True)):
        for offset, (start, end) in zip(np.linspace(-0.3, 0.3, len(draws)), draws, strict=True):
            label = "jittered" if row == 0 and offset < -0.29 else None
            axis.plot([start, end], [row + offset] * 2, color=SKY, linewidth=2, label=label)
        for start, end in record.moments_sec:
            axis.barh(
                row, end - start, left=start, height=0.85, color=BLACK, label=None if row else "annotated"
            )
    axis.set_yticks(range(len(narrations)), [plain(r.query, 44) for r in narrations], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("time in the clip [s]")
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    return figure


def loss_curve(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses and, where validated, mean R@1 over the epochs of one run."""
    figure = new_figure(9, 2.8)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for (color, dash), name in zip(CURVES, ("total", "classification", "regression"), strict=False):
        left.plot(epochs, [row[f"loss {name}"] for row in history], dash, color=color, label=name, marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
    validated = [row for row in history if "raw mean R@1" in row]
    for (color, dash), weights in zip(CURVES, ("raw", "ema"), strict=False):
        values = [row[f"{weights} mean R@1"] for row in validated]
        label = "weights" if weights == "raw" else "averaged weights (EMA)"
        right.plot([row["epoch"] for row in validated], values, dash, color=color, label=label, marker="o")
    right.set(xlabel="epoch", ylabel="val mean R@1 [%]")
    for axis in (left, right):
        axis.set_ylim(0, 1.05 * axis.get_ylim()[1])  # the highest dots lie within the frame
        axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def compare_runs(histories: Mapping[str, Sequence[Mapping[str, Any]]], key: str = "R@1 IoU=0.3") -> Figure:
    """One validation recall over the steps of several runs, by the better of raw and averaged weights."""
    figure = new_figure(7, 3)
    axis = figure.subplots()
    for (color, dash), (name, history) in zip(CURVES, histories.items(), strict=False):
        rows = [row for row in history if f"raw {key}" in row]
        best = [max(row[f"raw {key}"], row[f"ema {key}"]) for row in rows]
        axis.plot([row["step"] for row in rows], best, dash, color=color, label=name, marker="o")
    axis.set(xlabel="training step", ylabel=f"val {key} [%]", ylim=(0, None))
    axis.legend(fontsize=8)
    return figure
