"""Style of all figures: colours for colour-blind readers, plain text, white background, error bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
NINE = (GREEN, BLUE, YELLOW, PURPLE, ORANGE, SKY, GREY, BLACK, VERMILION)
CURVES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"))
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


def error_ends(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """(2, N) lengths of error bars below and above N values, as matplotlib takes them.

    >>> error_ends([2.0, 5.0], [1.0, 5.0], [4.0, 6.0]).tolist()
    [[1.0, 0.0], [2.0, 1.0]]
    """
    centre = np.asarray(values, float)
    return np.clip([centre - np.asarray(low, float), np.asarray(high, float) - centre], 0, None)
