"""The explorer's picture as a widget: as wide as the page has room, sharp, in the colours of its theme."""

from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure

from groundnlq.view.canvas import WIDTH_INCH, Sheet
from groundnlq.view.style import DARK, PAGE_DPI, figure_png

NARROWEST_INCH = 5.5


class Picture(anywidget.AnyWidget):
    """A figure in a page that tells what is under the mouse; with a copy of it for the saved file.

    Attributes:
        room: width in pixels of the page, pixels of the screen for each of them, and whether the theme is dark.
        hover: `spots`, the boxes of the figure that have `urls`: left, top, right, bottom in shares of the picture,
            words, start and end in seconds; `area` of the rows, `span` in seconds; `curves`: name, length, values.
    """

    _esm, _css = Path(__file__).with_name("picture.js"), Path(__file__).with_name("picture.css")
    png, alt = traitlets.Bytes().tag(sync=True), traitlets.Unicode().tag(sync=True)
    room = traitlets.List([PAGE_DPI * WIDTH_INCH, 2, False]).tag(sync=True)
    hover = traitlets.Dict({"area": [0, 0, 0, 0], "span": [0, 0], "spots": [], "curves": []}).tag(sync=True)

    def __init__(self, clicked: Callable[[float, float, str], None]):
        """`clicked` is called with start, end and words of the clicked spot; between spots the words are empty."""
        super().__init__()
        self.on_msg(lambda _widget, content, _buffers: clicked(float(content[0]), float(content[1]), str(content[2])))
        self._copy: DisplayHandle | None = None
        self._shown: tuple[dict[str, Any], dict[str, Any]] = {}, {}

    def sheet(self) -> Sheet:
        """A sheet for the room that there is."""
        width, _, is_dark = self.room
        return Sheet(max(NARROWEST_INCH, width / PAGE_DPI), DARK if is_dark else None)

    def show(self, figure: Figure) -> None:
        """Show this figure, here and in the copy."""
        content, metadata = figure_png(figure, min(3.0, max(1.0, float(self.room[1]))))
        with self.hold_sync():
            self.png, self.alt, self.hover = b64decode(content), metadata["alt"], _places(figure)
        self._shown = {"image/png": content, "text/plain": self.alt}, {"image/png": metadata}
        if self._copy is not None:
            self._copy.update(self._shown[0], metadata=self._shown[1], raw=True)

    def show_copy(self) -> None:
        """Display the copy, which a saved file keeps; a living panel hides it."""
        self._copy = display(self._shown[0], metadata=self._shown[1], raw=True, display_id=True)


def _places(figure: Figure) -> dict[str, Any]:
    """What `hover` is for a figure of rows."""
    width, height = figure.bbox.size
    rows = [axis for axis in figure.axes if axis.get_visible() and axis.axison]
    boxes = [axis.get_position() for axis in rows]
    spots = []
    for axis, box in zip(rows, boxes, strict=True):
        for collection in axis.collections:
            for path, words in zip(collection.get_paths(), collection.get_urls(), strict=False):
                ends = path.get_extents().get_points()
                (left, y0), (right, y1) = (axis.transData.transform(ends) / (width, height)).tolist()
                if words and right >= box.x0 and left <= box.x1:
                    place = max(left, box.x0), 1 - max(y0, y1), min(right, box.x1), 1 - min(y0, y1)
                    spots.append([*place, words, *ends[:, 0].tolist()])
    area = [boxes[0].x0, 1 - boxes[0].y1, boxes[0].x1, 1 - min(box.y0 for box in boxes)]
    lines: list[Any] = [(line.get_label(), *line.get_data()) for axis in rows for line in axis.lines]
    curves = [(name, x[0] + x[-1], np.nan_to_num(y).round(3).tolist()) for name, x, y in lines]
    return {"area": area, "span": rows[0].get_xlim(), "spots": spots, "curves": curves}
