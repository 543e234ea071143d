"""A figure with sliders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def sliders(make: Callable[..., Any], **choices: Sequence[float]) -> None:
    """Show a slider for each argument of `make`, and the figure that it returns; the notebook file has the last.

    >>> sliders(lambda length_sec: draw(length_sec), length_sec=(1, 2, 4))  # doctest: +SKIP

    Args:
        choices: the values of each argument; the first figure has the middle values.
    """
    import ipywidgets as widgets
    from IPython.display import display

    wide = {"layout": widgets.Layout(width="60%"), "style": {"description_width": "9em"}}
    made = {
        name: widgets.SelectionSlider(
            description=name.replace("_", " "),
            options=[(f"{value:g}", value) for value in values],
            value=values[len(values) // 2],
            continuous_update=False,
            **wide,
        )
        for name, values in choices.items()
    }
    display(widgets.VBox(list(made.values())))
    handle = display(make(**{name: slider.value for name, slider in made.items()}), display_id=True)
    for slider in made.values():
        slider.observe(lambda _: handle.update(make(**{n: s.value for n, s in made.items()})), "value")
