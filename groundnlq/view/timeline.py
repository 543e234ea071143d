"""Figure of a query: frames, segments, scores of the pyramid and attention in rows over one time axis.

It is drawn again at every change of a widget. Repeated shapes are therefore one artist, and rows have texts in
place of ticks, which are slower. Colours are never the only difference (also position, dash or hatching), so
that the figure can be read in greyscale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from groundnlq.config import DecodeConfig
from groundnlq.data.recall import THRESHOLDS, best_tiou
from groundnlq.data.records import Record
from groundnlq.view.canvas import Sheet
from groundnlq.view.style import ABOVE, BLACK, BLUE, CURVES, SKY, VERMILION, YELLOW, new_figure, plain

FILM_INCH = 1.45  # title, frames and their times
RIGHT, TIOU_AT, SCORE_AT = 1.013, 1.077, 1.142  # positions right of a row, in widths of the row


def query_timeline(
    record: Record,
    ranked: np.ndarray | Mapping[str, np.ndarray],
    level_scores: Sequence[np.ndarray] | Mapping[str, Sequence[np.ndarray]] = (),
    others: Sequence[Record] = (),
    narrations: Sequence[Record] = (),
    window_sec: tuple[float, float] | None = None,
    top_k: int = DecodeConfig().top_k,
    threshold: float = THRESHOLDS[0],
    attention: tuple[Sequence[str], np.ndarray] | None = None,
    films: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    sheet: Sheet | None = None,
) -> Figure:
    """One query, its ground truth and its predictions on one time axis.

    Args:
        ranked: (K, 3) predictions, or those of several runs by name; darker means a higher tIoU.
        level_scores: scores of the points of each pyramid level, finest first, for the heat map; the finest
            covers the clip. Of several runs by name.
        others: other queries of the clip, in grey; narrations are ticks.
        window_sec: the part of the clip to show; all of it by default.
        threshold: a prediction with a higher tIoU is a hit, with a tick.
        attention: words of the query and (T, L), the attention of each step to each word.
        films: by title times (F,) and pictures (F, height, width, 3) of moments, as `film.film_strips` gives them; side
            by side under the time axis, whose scale they do not have.
        sheet: a used sheet to draw on; its figure is returned.
    """
    ranked = {name: segments[:top_k] for name, segments in _by_run(ranked).items()}
    scored = {name: levels for name, levels in _by_run(level_scores).items() if any(map(len, levels))}
    num_rows = 1 + sum(map(len, ranked.values())) + bool(others) + bool(narrations)
    heights = {"segments": 0.45 + 0.24 * num_rows}
    heights |= {f"scores {number}": 1.4 for number in range(len(scored))}
    heights |= {"best": 0.9} if scored else {}
    heights |= {"attention": 0.3 + 0.16 * len(attention[0])} if attention else {}
    sheet = sheet or Sheet()
    rows = sheet.rows(heights, window_sec or (0, record.duration_sec), FILM_INCH * bool(films))
    next(iter(rows.values())).set_title(plain(record.query), fontsize=11, loc="left", y=1.0)
    for number, (title, strip) in enumerate((films or {}).items()):
        _draw_film(rows["below"], number / 2, title, *strip)
    _draw_segments(rows["segments"], record, ranked, others, narrations, threshold)
    for number, (name, levels) in enumerate(scored.items()):
        _draw_heat_map(rows[f"scores {number}"], record, levels, name)
    if scored:
        _draw_best_scores(rows["best"], record, scored)
    if attention:
        _draw_attention(rows["attention"], record, *attention)
    return sheet.figure


def _by_run(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {"": given}


def loss_curve(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses and, where validated, the score that chooses the weights, over the epochs of one run."""
    figure = new_figure(9, 2.8)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    losses = sorted((key for key in history[0] if key.startswith("loss ")), key=lambda key: key != "loss total")
    for (color, dash), name in zip(CURVES, losses, strict=False):
        label = name.removeprefix("loss ")
        left.plot(epochs, [row[name] for row in history], dash, color=color, label=label, marker=".")
    left.set(xlabel="epoch", ylabel="training loss")
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
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _draw_segments(
    axis: Axes,
    record: Record,
    ranked: Mapping[str, np.ndarray],
    others: Sequence[Record],
    narrations: Sequence[Record],
    threshold: float,
) -> None:
    """Rows of segments, with tIoU and score at the right."""
    rows = ["ground truth" if record.moments_sec else "not annotated"]
    _mark_moments(axis, record)
    _draw_moments(axis, 0, [record], facecolor=BLACK, hatch="//", edgecolor="white")
    for name, segments in ranked.items():
        overlaps = best_tiou(segments, record.moments_sec) if record.moments_sec else None
        _draw_predictions(axis, len(rows), segments, overlaps)
        _write_numbers(axis, len(rows), segments, overlaps, threshold)
        names = [f"rank {rank}" if not name else f"{rank}" for rank in range(1, len(segments) + 1)]
        rows += [f"{plain(name, 12)} 1", *names[1:]] if name and names else names
        if name:
            below, whole = len(rows) - 0.5, [(0, record.duration_sec)]
            _boxes(axis, whole, below, below, edgecolor="0.6", linewidth=0.7)
    _write(axis, TIOU_AT, 0, "tIoU" if record.moments_sec else "")
    _write(axis, SCORE_AT, 0, "score")
    if others:
        _draw_moments(axis, len(rows), others, facecolor="0.8", edgecolor="0.5")
        rows.append("other queries")
    if narrations:
        times = [np.mean(n.moments_sec[0]) for n in narrations if n.moments_sec]
        axis.plot(times, [len(rows)] * len(times), "|", color=BLUE, markersize=8)
        rows.append("narrations")
    _name_rows(axis, rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)


def _write(axis: Axes, place: float, row: float, text: str, **style: Any) -> None:
    """A text next to a row that ends at `place` in widths of the axes."""
    style = {"fontsize": 8, "va": "center", "ha": "right", **style}
    axis.text(place, row, text, transform=axis.get_yaxis_transform(), **style)


def _name_rows(axis: Axes, names: Sequence[str], **style: Any) -> None:
    axis.set_yticks([])
    axis.set_ylim(len(names) - 0.5, -0.5)
    for row, name in enumerate(names):
        _write(axis, -0.013, row, name, **style)


def _boxes(axis: Axes, spans: ArrayLike, lows: Any, highs: Any, **style: Any) -> None:
    """Boxes from start to end in time and from low to high, as one artist."""
    starts, ends = np.reshape(np.asarray(spans, float), (-1, 2)).T
    corners = np.broadcast_arrays(starts, lows, starts, highs, ends, highs, ends, lows)
    boxes = PolyCollection(list(np.stack(corners, axis=-1).reshape(-1, 4, 2)), **style)
    axis.add_collection(boxes, autolim=False)


def _draw_predictions(axis: Axes, first: int, segments: np.ndarray, overlaps: np.ndarray | None) -> None:
    colors = SKY if overlaps is None else overlap_color(overlaps)
    rows = first + np.arange(len(segments))
    _boxes(axis, segments[:, :2], rows - 0.35, rows + 0.35, facecolor=colors, edgecolor=BLACK)


def _write_numbers(axis: Axes, first: int, segments: np.ndarray, overlaps: np.ndarray | None, threshold: float) -> None:
    """tIoU and score of each prediction; hits are bold and have a tick."""
    for row, score in enumerate(segments[:, 2]):
        is_hit = overlaps is not None and overlaps[row] > threshold
        weight = "bold" if is_hit else "normal"
        _write(axis, SCORE_AT, first + row, f"{score:.3f}", fontweight=weight)
        if overlaps is not None:
            tick = "✓ " if is_hit else ""
            _write(axis, TIOU_AT, first + row, f"{tick}{overlaps[row]:.2f}", fontweight=weight)


def _draw_moments(axis: Axes, row: int, records: Sequence[Record], **style: Any) -> None:
    """Bars of all moments of the records, in one row."""
    moments = [moment for record in records for moment in record.moments_sec]
    _boxes(axis, moments, row - 0.35, row + 0.35, **style)


def _mark_moments(axis: Axes, record: Record, **style: Any) -> None:
    """Mark the ground truth over the whole height."""
    style = style or {"facecolor": YELLOW, "alpha": 0.35, "linewidth": 0, "zorder": 0}
    _boxes(axis, record.moments_sec, -0.1, 1.1, transform=axis.get_xaxis_transform(), **style)


def overlap_color(overlap: float | np.ndarray) -> tuple[float, ...] | np.ndarray:
    """RGBA from white (tIoU 0) to dark green (1), which can also be read in greyscale."""
    return colormaps["YlGn"](np.clip(overlap, 0.0, 1.0))


def _draw_heat_map(axis: Axes, record: Record, level_scores: Sequence[np.ndarray], name: str) -> None:
    """A row for each level; the cell of a point extends half a stride to both sides of its time."""
    scores = at_finest_steps(level_scores)
    highest = max(float(np.nanmax(scores, initial=0)), 1e-6)
    _draw_cells(axis, record, scores, "cividis", (0.0, highest), "score")
    _mark_moments(axis, record, facecolor="none", edgecolor="white", linestyle="--", linewidth=1)
    _name_rows(axis, [f"{2**level}" for level in range(len(scores))], fontsize=7)
    axis.set_ylabel(f"{plain(name, 14)} levels\n(stride)" if name else "pyramid level\n(stride)", fontsize=9)
    axis.set_facecolor("0.85")


def _draw_cells(
    axis: Axes, record: Record, values: np.ndarray, cmap: str, ends: tuple[float, float], label: str
) -> None:
    """A row of cells over the clip for each of (R, T) values, and at the right the colour scale.

    Colours are computed here for T values per row; matplotlib would compute them for every pixel.
    """
    extent = (0, record.duration_sec, len(values) - 0.5, -0.5)
    show: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
    axis.imshow(colormaps[cmap]((values - ends[0]) / (ends[1] - ends[0]), bytes=True), extent=extent, **show)
    ramp = colormaps[cmap](np.linspace(1, 0, 64)[:, None], bytes=True)
    axis.imshow(ramp, extent=(RIGHT, RIGHT + 0.016, 0, 1), transform=axis.transAxes, clip_on=False, **show)
    style: dict[str, Any] = {"fontsize": 8, "transform": axis.transAxes}
    for place, end, align in zip((0, 1), ends, ("bottom", "top"), strict=True):
        axis.text(RIGHT + 0.022, place, f"{round(end, 3):g}", va=align, **style)
    axis.text(RIGHT + 0.055, 0.5, label, va="center", rotation=90, **style)


def _draw_best_scores(axis: Axes, record: Record, scored: Mapping[str, Sequence[np.ndarray]]) -> None:
    """For each run the highest score of all levels over time."""
    highest = 1e-6
    outside: dict[str, Any] = {"transform": axis.transAxes, "clip_on": False}
    for number, ((name, levels), (color, dash)) in enumerate(zip(scored.items(), CURVES, strict=False)):
        best = np.nanmax(at_finest_steps(levels), axis=0)
        highest = max(highest, float(np.nanmax(best, initial=0)))
        time = (np.arange(len(best)) + 0.5) / max(1, len(best)) * record.duration_sec
        style: dict[str, Any] = {"color": color, "linestyle": dash, "linewidth": 1}
        axis.plot(time, best, drawstyle="steps-mid", label=plain(name, 12), **style)
        if len(scored) > 1:
            height = 0.75 - 0.25 * number
            axis.add_line(Line2D([RIGHT, RIGHT + 0.025], [height, height], **style, **outside))
            axis.text(RIGHT + 0.033, height, plain(name, 12), fontsize=8, va="center", **outside)
    _mark_moments(axis, record)
    axis.set(ylabel="best score", ylim=(0, 1.05 * highest))


def _draw_attention(axis: Axes, record: Record, words: Sequence[str], weights: np.ndarray) -> None:
    """A row for each word; darker means more attention of the step to this word."""
    low, high = float(weights.min()), float(weights.max())
    _draw_cells(axis, record, weights.T, "Greys", (low, max(high, low + 1e-6)), "share")
    _mark_moments(axis, record, facecolor="none", edgecolor=VERMILION, linestyle="--", linewidth=1)
    _name_rows(axis, [plain(word, 14) for word in words])
    axis.set_ylabel("attention", fontsize=9)


def _draw_film(axis: Axes, left: float, title: str, times_sec: np.ndarray, pictures: np.ndarray) -> None:
    """The frames in a row from `left`, half as wide as the axes, each with its time in the clip."""
    row = axis.inset_axes((left, 0.2, 0.49, 0.62), anchor="NW")
    row.set_title(plain(title, 60), fontsize=9, loc="left", pad=3)
    row.imshow(np.concatenate(list(pictures), axis=1))
    width = pictures.shape[2]
    row.set_xticks(width * (np.arange(len(times_sec)) + 0.5), [f"{time:.1f} s" for time in times_sec], fontsize=8)
    row.tick_params(axis="x", length=0, pad=2)
    row.set_yticks([])
    for edge in width * np.arange(1, len(times_sec)):
        row.axvline(edge - 0.5, color="white", linewidth=2)


def at_finest_steps(level_scores: Sequence[np.ndarray]) -> np.ndarray:
    """(levels, T) for each step of the finest level the score of the nearest point on every level.

    NaN where a level has no points.

    >>> at_finest_steps([np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 0.35])]).tolist()
    [[0.1, 0.2, 0.3, 0.4], [0.0, 0.35, 0.35, 0.35]]
    """
    steps = np.arange(len(level_scores[0]))
    nearest = [(steps + 2**level // 2) >> level for level in range(len(level_scores))]
    nothing = np.full(len(steps), np.nan)
    rows = zip(level_scores, nearest, strict=True)
    return np.stack([s[np.minimum(i, len(s) - 1)] if len(s) else nothing for s, i in rows])
