"""The rows of a query's picture: segments, film, scores of the pyramid, attention, all over one time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from groundnlq.analysis.style import BLACK, BLUE, CURVES, SKY, VERMILION, YELLOW, plain
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record


def time_axes(heights_inch: Sequence[float], width_inch: float = 9.5) -> list[Axes]:
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


def draw_segments(
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
    draw_moments(axis, 0, [record], color=BLACK, hatch="//", edgecolor="white")
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
        draw_moments(axis, len(rows), others, color="0.8", edgecolor="0.5")
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


def draw_moments(axis: Axes, row: int, records: Sequence[Record], **style: Any) -> None:
    """Bars of all moments of the records, in one row."""
    for start, end in (moment for record in records for moment in record.moments_sec):
        axis.barh(row, end - start, left=start, height=0.7, **style)


def _mark_moments(axis: Axes, record: Record) -> None:
    for start, end in record.moments_sec:
        axis.axvspan(start, end, color=YELLOW, alpha=0.35, linewidth=0, zorder=0)


def overlap_color(overlap: float) -> tuple[float, ...]:
    """From white (tIoU 0) to dark green (1); dark is good in greyscale as well."""
    return colormaps["YlGn"](float(np.clip(overlap, 0, 1)))


def draw_heat_map(axis: Axes, record: Record, level_scores: Sequence[np.ndarray], name: str) -> None:
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


def draw_best_scores(axis: Axes, record: Record, scored: Mapping[str, Sequence[np.ndarray]]) -> None:
    """For each run the best score of any level over time."""
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


def draw_attention(axis: Axes, record: Record, words: Sequence[str], weights: np.ndarray) -> None:
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


def draw_film(axis: Axes, times_sec: np.ndarray, pictures: np.ndarray) -> None:
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
