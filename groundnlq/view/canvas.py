"""A reusable figure of rows over one time axis."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCH, LEFT_INCH, RIGHT_INCH = 9.5, 1.1, 1.08  # of the figure; left and right of the rows are names and numbers
TOP_INCH, GAP_INCH, BOTTOM_INCH = 0.32, 0.12, 0.53  # the title, between rows, the ticks of time


class Sheet:
    """A figure with rows of axes, which are made once and cleared for every drawing.

    New axes would take a third of the drawing time, and leave 10,000 objects to the garbage collector.
    Positions are computed here, because a layout engine would take as long as the drawing itself.
    """

    def __init__(self):
        self.figure = Figure(facecolor="white")
        self._axes: dict[str, Axes] = {}

    def rows(
        self, heights_inch: Mapping[str, float], span_sec: tuple[float, float], below_inch: float = 0.0
    ) -> dict[str, Axes]:
        """Empty rows by name, from the top; the lowest has the ticks of time. A last one of `below_inch`, "below", has
        the width of the figure and no time axis."""
        height = TOP_INCH + sum(heights_inch.values()) + GAP_INCH * (len(heights_inch) - 1) + BOTTOM_INCH + below_inch
        self.figure.set_size_inches(WIDTH_INCH, height)
        for axis in self._axes.values():
            axis.set_visible(False)
        rows, top, wide = {}, height - TOP_INCH, WIDTH_INCH - LEFT_INCH - RIGHT_INCH
        for name, inches in heights_inch.items():
            rows[name] = axis = self._empty(name)
            bottom = (top - inches) / height
            axis.set_position((LEFT_INCH / WIDTH_INCH, bottom, wide / WIDTH_INCH, inches / height))
            axis.set_xlim(*span_sec)
            axis.xaxis.set_visible(False)
            top -= inches + GAP_INCH
        axis.xaxis.set_visible(True)
        axis.xaxis.set_label_coords(0.5, -0.32 / inches)
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
            self._axes[name].yaxis.set_label_coords(-0.1, 0.5)
        axis = self._axes[name]
        for artists in (axis.collections, axis.images, axis.lines, axis.texts, axis.child_axes):
            for artist in list(artists):
                artist.remove()
        axis.set_title("", loc="left")
        axis.set_visible(True)
        return axis
