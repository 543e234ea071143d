"""What all figures share: colours that every eye tells apart, text that is never typeset, white ground."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind eyes tell apart
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
