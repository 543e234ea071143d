"""A reusable figure of rows over one time axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

WIDTH_INCH, LEFT_INCH, RIGHT_INCH = 9.5, 1.1, 1.15  # of the figure; left and right of the rows are names and numbers
TOP_INCH, GAP_INCH, BOTTOM_INCH = 0.28, 0.09, 0.47  # the title, between rows, the ticks of time


class Sheet:
    """A figure with rows of axes, which are made once and cleared for every drawing.

    New axes would take a third of the drawing time, and leave 10,000 objects to the garbage collector.
    Positions are computed here, because a layout engine would take as long as the drawing itself.

    Attributes:
        wide: width of the rows in inches.
        colors: rcParams of the drawing, by default matplotlib's.
    """

    def __init__(self, width_inch: float = WIDTH_INCH, colors: Mapping[str, Any] | None = None):
        self.colors: dict[Any, Any] = dict(colors or {"figure.facecolor": "white"})
        self.wide = width_inch - LEFT_INCH - RIGHT_INCH
        self.figure = Figure(facecolor=self.colors["figure.facecolor"])
        self._width, self._axes = width_inch, dict[str, Axes]()

    def rows(
        self, heights_inch: Mapping[str, float], span_sec: tuple[float, float], below_inch: float = 0.0
    ) -> dict[str, Axes]:
        """Empty rows by name, from the top; the lowest has the ticks of time. A last one of `below_inch`, "below", has
        the width of the figure and no time axis."""
        height = TOP_INCH + sum(heights_inch.values()) + GAP_INCH * (len(heights_inch) - 1) + BOTTOM_INCH + below_inch
        self.figure.set_size_inches(self._width, height)
        for axis in self._axes.values():
            axis.set_visible(False)
        rows, top = {}, height - TOP_INCH
        for name, inches in heights_inch.items():
            rows[name] = axis = self._empty(name)
            bottom = (top - inches) / height
            axis.set_position((LEFT_INCH / self._width, bottom, self.wide / self._width, inches / height))
            axis.set_xlim(*span_sec)
            axis.xaxis.set_visible(False)
            top -= inches + GAP_INCH
        axis.xaxis.set_visible(True)
        axis.xaxis.set_label_coords(0.5, -0.3 / inches)
        axis.set_xlabel("time in the clip [s]")
        if below_inch:
            rows["below"] = self._empty("below")
            rows["below"].set_axis_off()
            rows["below"].set_position((0.01, 0, 0.98, below_inch / height))
        return rows

    def _empty(self, name: str) -> Axes:
        if name not in self._axes:
            self._axes[name] = self.figure.add_axes((0, 0, 1, 1), label=name)
            # finding a position next to the ticks takes as long as drawing them
            self._axes[name].yaxis.set_label_coords(-0.68 / self.wide, 0.5)
        axis = self._axes[name]
        for artists in (axis.collections, axis.images, axis.lines, axis.texts, axis.child_axes):
            for artist in list(artists):
                artist.remove()
        axis.set_title("", loc="left")
        axis.legend_ = None
        axis.set_visible(True)
        return axis


def write_beside(axis: Axes, inches: float, row: float, text: str, **style: Any) -> None:
    """A text next to a row that ends so many inches right of it, or left of it if negative."""
    style = {"fontsize": 9, "va": "center", "ha": "right", **style}
    axis.text(beside(axis, inches), row, text, transform=axis.get_yaxis_transform(), **style)


def beside(axis: Axes, inches: float) -> float:
    """The place that is so many inches right of a row, or left of it if negative, in widths of the row."""
    return (inches > 0) + inches * axis.figure.dpi / axis.bbox.width


def name_rows(axis: Axes, names: Sequence[str], **style: Any) -> None:
    axis.set_yticks([])
    axis.set_ylim(len(names) - 0.5, -0.5)
    for row, name in enumerate(names):
        write_beside(axis, -0.09, row, name, **style)


def draw_boxes(axis: Axes, spans: ArrayLike, lows: Any, highs: Any, **style: Any) -> None:
    """Boxes from start to end in time and from low to high, as one artist; its `urls` say in words what they are."""
    starts, ends = np.reshape(np.asarray(spans, float), (-1, 2)).T
    corners = np.broadcast_arrays(starts, lows, starts, highs, ends, highs, ends, lows)
    boxes = PolyCollection(list(np.stack(corners, axis=-1).reshape(-1, 4, 2)), **style)
    axis.add_collection(boxes, autolim=False)
