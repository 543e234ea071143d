"""Parts of the figures of several notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from groundnlq.view.style import YELLOW


def mark_moments(axis: Axes, moments_sec: Sequence[Sequence[float]], **style: Any) -> None:
    """Mark the ground truth over the whole height, by default in yellow."""
    for start, end in moments_sec:
        axis.axvspan(start, end, **{"color": YELLOW, "alpha": 0.4, "linewidth": 0, "zorder": 0, **style})


def heat_map(axis: Axes, values: np.ndarray, end_sec: float, highest: float, cmap: str) -> AxesImage:
    """Rows of (R, T) values over time, coloured from 0 to `highest`."""
    extent = (0, end_sec, len(values) - 0.5, -0.5)
    return axis.imshow(values, aspect="auto", extent=extent, cmap=cmap, vmin=0, vmax=highest, interpolation="nearest")


def draw_spans(axis: Axes, rows: Sequence[float], spans_sec: np.ndarray, label: str | None, **style: Any) -> None:
    """Draw a line from start to end for each of (D, 2) segments, each in its row."""
    for number, (row, (start, end)) in enumerate(zip(rows, spans_sec, strict=True)):
        axis.plot([start, end], [row, row], label=None if number else label, **style)


def name_levels(axis: Axes, count: int) -> None:
    """Name the rows of the pyramid levels, the finest on top."""
    axis.set_yticks(range(count), [f"stride {2**level}" for level in range(count)], fontsize=9)
    axis.set_ylim(count - 0.5, -0.5)
