"""Style of all figures: colours for colour-blind readers, plain text, white background, error bars, PNG with words."""

import re
import textwrap
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

# Okabe and Ito's colours, which colour-blind readers can distinguish
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
NINE = (GREEN, BLUE, YELLOW, PURPLE, ORANGE, SKY, GREY, BLACK, VERMILION)
CURVES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"))
DARK = {"figure.facecolor": "#111111", "axes.facecolor": "#111111", "hatch.color": "#111111"}
DARK |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), "#E0E0E0")
PAGE_DPI = 100  # pixels of a page for an inch of a figure
# position of a legend
ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "frameon": False}


def plain(text: str, at_most: int = 90) -> str:
    """Text that matplotlib shows unchanged: no mathtext, one line, limited length.

    >>> plain("costs $5 or $6")
    'costs \\\\$5 or \\\\$6'
    """
    words = text.encode("utf-8", "replace").decode("utf-8").split()  # JSON can hold half a surrogate pair
    text = "".join(letter for letter in " ".join(words) if letter.isprintable())
    text = text if len(text) <= at_most else text[: at_most - 1] + "…"
    return text.replace("$", r"\$")


def new_figure(width: float = 9.0, height: float = 3.2, **layout: Any) -> Figure:
    """A figure that pyplot does not register; white, so that it can be read in dark themes."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white", **layout)


def figure_png(figure: Figure, sharpness: float = 2.0) -> tuple[str, dict[str, Any]]:
    """A figure as PNG in base64, `sharpness` pixels for each of the page, and its metadata for a notebook: width and
    height on the page, and in words what it shows ("alt"), for readers who do not see it.
    """
    buffer = BytesIO()
    # a higher level saves a tenth of the bytes, and takes twice as long
    figure.savefig(buffer, format="png", dpi=sharpness * PAGE_DPI, pil_kwargs={"compress_level": 3})
    width, height = (figure.get_size_inches() * PAGE_DPI).round().astype(int).tolist()
    return b64encode(buffer.getvalue()).decode(), {"width": width, "height": height, "alt": _in_words(figure)}


def _in_words(figure: Figure) -> str:
    """The label of a figure (`set_label`), else all words in it, those in the largest letters first."""
    texts: list[Any] = list(figure.findobj(Text))
    texts.sort(key=lambda text: -text.get_fontsize())
    words = dict.fromkeys(" ".join(text.get_text().split()) for text in texts if text.get_visible())
    said = "; ".join(word for word in words if re.search(r"[^\W\d_]{3}", word)).replace(r"\$", "$")
    return textwrap.shorten(str(figure.get_label() or f"Figure: {said}"), 500, placeholder=" …")


def error_ends(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """(2, N) lengths of error bars below and above N values, as matplotlib takes them.

    >>> error_ends([2.0, 5.0], [1.0, 5.0], [4.0, 6.0]).tolist()
    [[1.0, 0.0], [2.0, 1.0]]
    """
    centre = np.asarray(values, float)
    return np.clip([centre - np.asarray(low, float), np.asarray(high, float) - centre], 0, None)
