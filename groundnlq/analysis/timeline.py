"""Figures of one clip and one run; pure: data in, a matplotlib `Figure` out, no global state.

Colours come from the Okabe-Ito set, which colour-blind eyes tell apart; what matters also differs by place,
dash or hatching, so that it survives greyscale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from groundnlq.data.annotations import Record
from groundnlq.data.recall import best_tiou

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
CURVES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"))


def plain(text: str, at_most: int = 90) -> str:
    """Text that matplotlib shows as it is: no mathtext, one line, not endless.

    >>> plain("costs $5 or $6")
    'costs \\\\$5 or \\\\$6'
    """
    words = text.encode("utf-8", "replace").decode("utf-8").split()  # JSON can hold half a surrogate pair
    text = "".join(letter for letter in " ".join(words) if letter.isprintable())
    text = text if len(text) <= at_most else text[: at_most - 1] + "…"
    return text.replace("$", r"\$")


def new_figure(width: float = 9.0, height: float = 3.2, **layout: Any) -> Figure:
    """A figure that is not registered anywhere; white, so that it reads in dark themes as well."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white", **layout)


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
    """
    ranked = {name: segments[:keep] for name, segments in _by_run(ranked).items()}
    scored = {name: levels for name, levels in _by_run(level_scores).items() if any(map(len, levels))}
    num_rows = 1 + sum(map(len, ranked.values())) + bool(others) + bool(narrations)
    heights = (
        [0.45 + 0.24 * num_rows] + [0.95] * (film is not None) + [1.4] * len(scored) + [0.9] * bool(scored)
    )
    heights += [0.3 + 0.16 * len(attention[0])] if attention else []
    axes = _time_axes(heights)
    axes[0].set_title(plain(record.query), fontsize=11, loc="left", y=1.0)
    _draw_segments(axes[0], record, ranked, others, narrations, threshold)
    below = iter(axes[1:])
    if film is not None:
        _draw_film(next(below), *film)
    for name, levels in scored.items():
        _draw_heat_map(next(below), record, levels, name)
    if scored:
        _draw_best_scores(next(below), record, scored)
    if attention:
        _draw_attention(next(below), record, *attention)
    axes[-1].set_xlabel("time in the clip [s]")
    axes[-1].set_xlim(*(window_sec or (0, record.duration_sec)))
    return axes[0].figure


def _by_run(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {"": given}


def moments_of_clip(records: Sequence[Record], narrations: Sequence[Record] = ()) -> Figure:
    """All queries of a clip over time, each with its text; narrations as ticks below."""
    figure = new_figure(9.5, 0.9 + 0.3 * len(records))
    axis = figure.subplots()
    labels = [plain(record.query, 60) for record in records]
    for row, record in enumerate(records):
        _draw_moments(axis, row, [record], color=BLUE)
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
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    validated = [row for row in history if "raw mean R@1" in row]
    for (color, dash), weights in zip(CURVES, ("raw", "ema"), strict=False):
        values = [row[f"{weights} mean R@1"] for row in validated]
        label = "weights" if weights == "raw" else "averaged weights (EMA)"
        right.plot([row["epoch"] for row in validated], values, dash, color=color, label=label, marker="o")
    right.set(xlabel="epoch", ylabel="val mean R@1 [%]", ylim=(0, None))
    for axis in (left, right):
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


def _time_axes(heights_inch: Sequence[float], width_inch: float = 9.5) -> list[Axes]:
    """Rows of axes over one time axis, with room at the right of each for its numbers (`_side`).

    Placed by hand: the layout engine would take as long as all the drawing, at every turn of a slider.
    """
    height = 0.85 + sum(heights_inch) + 0.12 * (len(heights_inch) - 1)
    figure = Figure(figsize=(width_inch, height), facecolor="white")
    axes: list[Axes] = []
    top = height - 0.32
    for inches in heights_inch:
        place = (1.1 / width_inch, (top - inches) / height, 0.77, inches / height)
        axes.append(figure.add_axes(place, sharex=axes[0] if axes else None))
        top -= inches + 0.12
    for axis in axes:
        axis.yaxis.set_label_coords(-0.1, 0.5)  # finding the place beside the ticks takes as long as drawing
        axis.tick_params(axis="x", labelbottom=axis is axes[-1])
    axes[-1].xaxis.set_label_coords(0.5, -0.32 / heights_inch[-1])
    return axes


def _side(axis: Axes, width: float) -> Axes:
    """Axes at the right of others; of the figure's width."""
    left, bottom, wide, height = axis.get_position().bounds
    return axis.figure.add_axes((left + wide + 0.01, bottom, width, height))


def _draw_segments(
    axis: Axes,
    record: Record,
    ranked: Mapping[str, np.ndarray],
    others: Sequence[Record],
    narrations: Sequence[Record],
    threshold: float,
) -> None:
    """Rows of segments, with the numbers of the predictions beside them."""
    side = _side(axis, 0.1)
    side.set_axis_off()
    rows = ["ground truth" if record.moments_sec else "not annotated"]
    _mark_moments(axis, record)
    _draw_moments(axis, 0, [record], color=BLACK, hatch="//", edgecolor="white")
    for name, segments in ranked.items():
        overlaps = best_tiou(segments, record.moments_sec) if record.moments_sec else None
        _draw_answers(axis, len(rows), segments, overlaps)
        _write_numbers(side, len(rows), segments, overlaps, threshold)
        names = [f"rank {rank}" if not name else f"{rank}" for rank in range(1, len(segments) + 1)]
        rows += [f"{plain(name, 12)} 1", *names[1:]] if name and names else names
        if name:
            axis.axhline(len(rows) - 0.5, color="0.6", linewidth=0.7)
    _write_heads(side, bool(record.moments_sec))
    if others:
        _draw_moments(axis, len(rows), others, color="0.8", edgecolor="0.5")
        rows.append("other queries")
    if narrations:
        times = [np.mean(n.moments_sec[0]) for n in narrations if n.moments_sec]
        axis.plot(times, [len(rows)] * len(times), "|", color=BLUE, markersize=8)
        rows.append("narrations")
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for one in (axis, side):
        one.set_ylim(len(rows) - 0.4, -0.6)


def _draw_answers(axis: Axes, first: int, segments: np.ndarray, overlaps: np.ndarray | None) -> None:
    colors = [SKY] * len(segments) if overlaps is None else [overlap_color(overlap) for overlap in overlaps]
    for row, ((start, end, _), color) in enumerate(zip(segments, colors, strict=True), first):
        axis.barh(row, end - start, left=start, height=0.7, color=color, edgecolor=BLACK)


def _write_heads(axis: Axes, has_truth: bool) -> None:
    for place, head in ((0.5, "tIoU" if has_truth else ""), (1, "score")):
        axis.text(place, 0, head, fontsize=8, va="center", ha="right")


def _write_numbers(
    axis: Axes, first: int, segments: np.ndarray, overlaps: np.ndarray | None, threshold: float
) -> None:
    """tIoU and score beside each prediction; hits are ticked and bold."""
    for row, score in enumerate(segments[:, 2]):
        is_hit = overlaps is not None and overlaps[row] > threshold
        style = {"fontsize": 8, "va": "center", "ha": "right", "fontweight": "bold" if is_hit else "normal"}
        axis.text(1, first + row, f"{score:.3f}", **style)
        if overlaps is not None:
            axis.text(0.5, first + row, f"{'✓ ' if is_hit else ''}{overlaps[row]:.2f}", **style)


def _draw_moments(axis: Axes, row: int, records: Sequence[Record], **style: Any) -> None:
    for start, end in (moment for record in records for moment in record.moments_sec):
        axis.barh(row, end - start, left=start, height=0.7, **style)


def _mark_moments(axis: Axes, record: Record) -> None:
    for start, end in record.moments_sec:
        axis.axvspan(start, end, color=YELLOW, alpha=0.35, linewidth=0, zorder=0)


def overlap_color(overlap: float) -> tuple[float, ...]:
    """From white (tIoU 0) to dark green (1); dark is good in greyscale as well."""
    return colormaps["YlGn"](float(np.clip(overlap, 0, 1)))


def _draw_heat_map(axis: Axes, record: Record, level_scores: Sequence[np.ndarray], name: str) -> None:
    """A row for each level; a point's cell reaches half a stride to both sides of its time."""
    scores = at_finest_steps(level_scores)
    norm = Normalize(0, max(float(np.nanmax(scores, initial=0)), 1e-6))
    extent = (0, record.duration_sec, len(scores) - 0.5, -0.5)
    axis.imshow(scores, aspect="auto", extent=extent, cmap="cividis", norm=norm, interpolation="nearest")
    for time in (time for moment in record.moments_sec for time in moment):
        axis.axvline(time, color="white", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(scores)), [f"stride {2**level}" for level in range(len(scores))])
    axis.tick_params(axis="y", labelsize=7)
    axis.set_ylabel(f"{plain(name, 20)}\nlevels" if name else "pyramid level", fontsize=9)
    axis.set_facecolor("0.85")
    bar = axis.figure.colorbar(ScalarMappable(norm, "cividis"), cax=_side(axis, 0.012), label="score")
    bar.ax.yaxis.set_label_coords(5.2, 0.5)


def _draw_best_scores(axis: Axes, record: Record, scored: Mapping[str, Sequence[np.ndarray]]) -> None:
    for (name, levels), (color, dash) in zip(scored.items(), CURVES, strict=False):
        best = np.nanmax(at_finest_steps(levels), axis=0)
        time = (np.arange(len(best)) + 0.5) / max(1, len(best)) * record.duration_sec
        axis.plot(time, best, dash, color=color, linewidth=1, drawstyle="steps-mid", label=plain(name, 12))
    _mark_moments(axis, record)
    axis.set(ylabel="best score", ylim=(0, None))
    if len(scored) > 1:
        axis.legend(
            loc="center left", bbox_to_anchor=(1.005, 0.5), fontsize=7, handlelength=1.2, frameon=False
        )


def _draw_attention(axis: Axes, record: Record, words: Sequence[str], weights: np.ndarray) -> None:
    """A row for each word; dark where the video looks at it more."""
    norm = Normalize(float(weights.min()), float(weights.max()))
    extent = (0, record.duration_sec, len(words) - 0.5, -0.5)
    axis.imshow(weights.T, aspect="auto", extent=extent, cmap="Greys", norm=norm, interpolation="nearest")
    for start, end in record.moments_sec:
        axis.axvspan(start, end, fill=False, edgecolor=VERMILION, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(words)), [plain(word, 14) for word in words], fontsize=8)
    axis.set_ylabel("attention", fontsize=9)
    bar = axis.figure.colorbar(ScalarMappable(norm, "Greys"), cax=_side(axis, 0.012), label="share")
    bar.ax.yaxis.set_label_coords(5.2, 0.5)


def _draw_film(axis: Axes, times_sec: np.ndarray, pictures: np.ndarray) -> None:
    """The pictures side by side, each with its time; they share the place of the time axis, not its scale."""
    axis.set_axis_off()
    row = axis.inset_axes([0, 0.18, 1, 0.82])
    row.imshow(np.concatenate(list(pictures), axis=1))
    width = pictures.shape[2]
    row.set_xticks(
        width * (np.arange(len(times_sec)) + 0.5), [f"{time:.1f} s" for time in times_sec], fontsize=7
    )
    row.tick_params(axis="x", length=0, pad=2)
    row.set_yticks([])
    for edge in width * np.arange(1, len(times_sec)):
        row.axvline(edge - 0.5, color="white", linewidth=2)


def at_finest_steps(level_scores: Sequence[np.ndarray]) -> np.ndarray:
    """(levels, T) for each step of the finest level the score of the point next to it on every level.

    NaN where a level has no points.

    >>> at_finest_steps([np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 0.35])]).tolist()
    [[0.1, 0.2, 0.3, 0.4], [0.0, 0.35, 0.35, 0.35]]
    """
    steps = np.arange(len(level_scores[0]))
    nearest = [(steps + 2**level // 2) >> level for level in range(len(level_scores))]
    nothing = np.full(len(steps), np.nan)
    rows = zip(level_scores, nearest, strict=True)
    return np.stack([s[np.minimum(i, len(s) - 1)] if len(s) else nothing for s, i in rows])
