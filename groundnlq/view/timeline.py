"""Figure of a query: frames, segments, scores of the pyramid and attention in rows over one time axis.

It is drawn again at every change of a widget. Repeated shapes are therefore one artist, and rows have texts in
place of ticks, which are slower. Colours are never the only difference (also position, dash or hatching), so
that the figure can be read in greyscale. The `urls` of boxes say in words what they are, for a page to show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure

from groundnlq.analysis.events import Event
from groundnlq.config import DecodeConfig
from groundnlq.data.recall import THRESHOLDS, best_tiou
from groundnlq.data.records import Record
from groundnlq.view.canvas import Sheet, beside, draw_boxes, name_rows, write_beside
from groundnlq.view.event_rows import EVENT_ROWS, draw_events
from groundnlq.view.style import CURVES, GREEN, SKY, VERMILION, YELLOW, plain

ROW_INCH = 0.195  # of a segment or of an event
FILM_INCH = 1.2  # title, frames and their times
RIGHT, TIOU_AT, SCORE_AT = 0.09, 0.6, 1.07  # inches right of a row


def query_timeline(
    record: Record,
    ranked: np.ndarray | Mapping[str, np.ndarray],
    level_scores: Sequence[np.ndarray] | Mapping[str, Sequence[np.ndarray]] = (),
    others: Sequence[Record] = (),
    events: Sequence[Event] = (),
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
        others: other queries of the clip, in grey.
        events: what happens in the clip; in colour where verb or object are those that the query asks for.
        window_sec: the part of the clip to show; all of it by default.
        threshold: a prediction with a higher tIoU is a hit, with a tick.
        attention: words of the query and (T, L), the attention of each step to each word.
        films: by title times (F,) and pictures (F, height, width, 3) of moments, as `film.film_strips` gives them; side
            by side under the time axis, whose scale they do not have.
        sheet: a used sheet to draw on; its figure is returned.
    """
    ranked = {name: segments[:top_k] for name, segments in _by_run(ranked).items()}
    scored = {name: levels for name, levels in _by_run(level_scores).items() if any(map(len, levels))}
    sheet, num_rows = sheet or Sheet(), 1 + sum(map(len, ranked.values())) + bool(others)
    heights = {"segments": 0.06 + ROW_INCH * num_rows}
    heights |= {"events": ROW_INCH * EVENT_ROWS} if events else {}
    heights |= {f"scores {number}": 0.8 + 0.15 * (len(scored) == 1) for number in range(len(scored))}
    heights |= {"best": 0.5} if scored else {}
    heights |= {"attention": 0.1 + 0.16 * len(attention[0])} if attention else {}
    with rc_context(sheet.colors):
        rows = sheet.rows(heights, window_sec or (0, record.duration_sec), FILM_INCH * bool(films))
        title = plain(record.query, min(90, 12 + int(12 * sheet.wide)))  # as much as there is room for
        next(iter(rows.values())).set_title(title, fontsize=10, loc="left", y=1.0)
        for number, (title, strip) in enumerate((films or {}).items()):
            _draw_film(rows["below"], number / 2, title, *strip)
        _draw_segments(rows["segments"], record, ranked, others, threshold)
        if events:
            _mark_moments(rows["events"], record)
            draw_events(rows["events"], record, events, sheet.wide)
        highest = max([1e-6, *(float(np.nanmax(s, initial=0)) for levels in scored.values() for s in levels)])
        for number, (name, levels) in enumerate(scored.items()):
            _draw_heat_map(rows[f"scores {number}"], record, levels, name, highest)
        if scored:
            _draw_best_scores(rows["best"], record, scored, highest)
        if attention:
            _draw_attention(rows["attention"], record, *attention)
    said = "; ".join(text for name, segments in ranked.items() for text in segments_in_words(record, segments, name))
    moments = ", ".join(f"{start:.1f} – {end:.1f} s" for start, end in record.moments_sec) or "not annotated"
    sheet.figure.set_label(f"{record.query} Ground truth: {moments}. Predictions: {said or 'none'}.")
    return sheet.figure


def segments_in_words(record: Record, segments: np.ndarray, name: str = "") -> list[str]:
    """Rank, time, score and, where it is known, tIoU of predictions (K, 3) of a run of this name."""
    overlaps, words = best_tiou(segments, record.moments_sec), list[str]()
    for rank, ((start, end, score), overlap) in enumerate(zip(segments, overlaps, strict=True), 1):
        tiou = f", tIoU {overlap:.2f}" if record.moments_sec else ""
        words.append(f"{name} {rank}: {start:.1f} – {end:.1f} s, score {score:.2f}{tiou}".strip())
    return words


def _by_run(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {"": given}


def _draw_segments(
    axis: Axes, record: Record, ranked: Mapping[str, np.ndarray], others: Sequence[Record], threshold: float
) -> None:
    """Rows of segments, with tIoU and score at the right."""
    rows, ink = ["ground truth" if record.moments_sec else "not annotated"], rcParams["text.color"]
    _mark_moments(axis, record)
    _draw_moments(axis, 0, [record], facecolor=ink, hatch="//", edgecolor=rcParams["axes.facecolor"])
    for name, segments in ranked.items():
        overlaps = best_tiou(segments, record.moments_sec) if record.moments_sec else None
        colors, places = SKY if overlaps is None else overlap_color(overlaps), len(rows) + np.arange(len(segments))
        words = segments_in_words(record, segments, name)
        draw_boxes(axis, segments[:, :2], places - 0.35, places + 0.35, facecolor=colors, edgecolor=ink, urls=words)
        _write_numbers(axis, len(rows), segments, overlaps, threshold)
        names = [f"rank {rank}" if not name else f"{rank}" for rank in range(1, len(segments) + 1)]
        rows += [f"{plain(name, 12)} 1", *names[1:]] if name and names else names
        if name:
            below, whole = len(rows) - 0.5, [(0, record.duration_sec)]
            draw_boxes(axis, whole, below, below, edgecolor="0.6", linewidth=0.7)
    write_beside(axis, TIOU_AT, 0, "tIoU" if record.moments_sec else "")
    write_beside(axis, SCORE_AT, 0, "score")
    if others:
        _draw_moments(axis, len(rows), others, facecolor=to_rgba(ink, 0.2), edgecolor="0.5")
        rows.append("other queries")
    name_rows(axis, rows)


def _write_numbers(axis: Axes, first: int, segments: np.ndarray, overlaps: np.ndarray | None, threshold: float) -> None:
    """tIoU and score of each prediction; hits are bold and have a tick."""
    for row, score in enumerate(segments[:, 2]):
        is_hit = overlaps is not None and overlaps[row] > threshold
        weight = "bold" if is_hit else "normal"
        write_beside(axis, SCORE_AT, first + row, f"{score:.3f}", fontweight=weight)
        if overlaps is not None:
            tick = "✓ " if is_hit else ""
            write_beside(axis, TIOU_AT, first + row, f"{tick}{overlaps[row]:.2f}", fontweight=weight)


def _draw_moments(axis: Axes, row: int, records: Sequence[Record], **style: Any) -> None:
    """Bars of all moments of the records, in one row; that of the ground truth, 0, is called so."""
    moments = [(moment, record.query if row else "") for record in records for moment in record.moments_sec]
    words = [f"{query} {start:.1f} – {end:.1f} s" if query else "ground truth" for (start, end), query in moments]
    draw_boxes(axis, [moment for moment, _ in moments], row - 0.35, row + 0.35, urls=words, **style)


def _mark_moments(axis: Axes, record: Record, **style: Any) -> None:
    """Mark the ground truth over the whole height."""
    style = style or {"facecolor": YELLOW, "alpha": 0.35, "linewidth": 0, "zorder": 0}
    draw_boxes(axis, record.moments_sec, -0.1, 1.1, transform=axis.get_xaxis_transform(), **style)


def overlap_color(overlap: float | np.ndarray) -> np.ndarray:
    """RGB from the background (tIoU 0) to green (1), which can also be read in greyscale."""
    paper, green = np.array(to_rgb(rcParams["axes.facecolor"])), np.array(to_rgb(GREEN))
    return np.asarray(paper + np.clip(np.asarray(overlap, float), 0.0, 1.0)[..., None] * (green - paper))


def _draw_heat_map(axis: Axes, record: Record, level_scores: Sequence[np.ndarray], name: str, highest: float) -> None:
    """A row for each level; the cell of a point extends half a stride to both sides of its time."""
    scores = at_finest_steps(level_scores)
    _draw_cells(axis, record, scores, "cividis", (0.0, highest), "score")
    _mark_moments(axis, record, facecolor="none", edgecolor="white", linestyle="--", linewidth=1)
    name_rows(axis, [f"{2**level}" for level in range(len(scores))])
    axis.set_ylabel(f"{plain(name, 12)}\n(stride)" if name else "pyramid level\n(stride)", fontsize=9)
    axis.set_facecolor("0.85")


def _draw_cells(
    axis: Axes, record: Record, values: np.ndarray, cmap: str, ends: tuple[float, float], label: str
) -> None:
    """A row of cells over the clip for each of (R, T) values, and at the right the colour scale.

    Colours are computed here for T values per row; matplotlib would compute them for every pixel.
    """
    extent: tuple[float, float, float, float] = (0, record.duration_sec, len(values) - 0.5, -0.5)
    show: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
    axis.imshow(colormaps[cmap]((values - ends[0]) / (ends[1] - ends[0]), bytes=True), extent=extent, **show)
    ramp = colormaps[cmap](np.linspace(1, 0, 64)[:, None], bytes=True)
    extent = (beside(axis, RIGHT), beside(axis, RIGHT + 0.12), 0, 1)
    axis.imshow(ramp, extent=extent, transform=axis.transAxes, clip_on=False, **show)
    style: dict[str, Any] = {"fontsize": 9, "transform": axis.transAxes}
    for place, end, align in zip((0, 1), ends, ("bottom", "top"), strict=True):
        axis.text(beside(axis, RIGHT + 0.17), place, f"{round(end, 3):g}", va=align, **style)
    axis.text(beside(axis, RIGHT + 0.5), 0.5, label, va="center", rotation=90, **style)


def _draw_best_scores(axis: Axes, record: Record, scored: Mapping[str, Sequence[np.ndarray]], highest: float) -> None:
    """For each run the highest score of all levels over time."""
    for (name, levels), (color, dash) in zip(scored.items(), CURVES, strict=False):
        best = np.nanmax(at_finest_steps(levels), axis=0)
        time = (np.arange(len(best)) + 0.5) / max(1, len(best)) * record.duration_sec
        axis.plot(time, best, dash, color=color, linewidth=1, drawstyle="steps-mid", label=plain(name, 12))
    if len(scored) > 1:
        axis.legend(fontsize=9, frameon=False, handlelength=1.2, loc="center left", bbox_to_anchor=(1, 0.5))
    _mark_moments(axis, record)
    axis.set_ylabel("best\nscore", fontsize=9)
    axis.set_ylim(0, 1.05 * highest)


def _draw_attention(axis: Axes, record: Record, words: Sequence[str], weights: np.ndarray) -> None:
    """A row for each word; less like the background means more attention of the step to this word."""
    low, high = float(weights.min()), float(weights.max())
    is_dark = to_rgb(rcParams["axes.facecolor"])[0] < 0.5
    _draw_cells(axis, record, weights.T, "Greys" + "_r" * is_dark, (low, max(high, low + 1e-6)), "share")
    _mark_moments(axis, record, facecolor="none", edgecolor=VERMILION, linestyle="--", linewidth=1)
    name_rows(axis, [plain(word, 14) for word in words])
    axis.set_ylabel("attention", fontsize=9)


def _draw_film(axis: Axes, left: float, title: str, times_sec: np.ndarray, pictures: np.ndarray) -> None:
    """The frames in a row from `left`, half as wide as the axes, each with its time in the clip."""
    row = axis.inset_axes((left, 0.18, 0.49, 0.64), anchor="NW")
    row.set_title(plain(title, 60), fontsize=9, loc="left", pad=3)
    row.imshow(np.concatenate(list(pictures), axis=1))
    width = pictures.shape[2]
    row.set_xticks(width * (np.arange(len(times_sec)) + 0.5), [f"{time:.1f} s" for time in times_sec], fontsize=9)
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
