"""Pictures from the sample world's films: each verb, each setting at an easy and a hard value, the kinds of objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from matplotlib.figure import Figure

from groundnlq.sample.film import FRAME_RATE, film_frames
from groundnlq.sample.pictures import BLACK, colour_of, mixed, sprite
from groundnlq.sample.vocabulary import ALL_OBJECTS, NEEDS_CONTAINER, OBJECT_VERBS, OBJECTS, PLACES, VERBS
from groundnlq.sample.world import ClipLog, Event, WorldConfig
from groundnlq.view.style import new_figure

# settings of the film, with an easy and a hard value
SETTINGS = {
    "look_alikes": (0.0, 1.0), "clutter": (0.0, 1.0), "light": (0.0, 1.0), "shake": (0.0, 1.0),
    "occlusion": (0.0, 1.0), "motion_speed": (0.5, 2.0),
}  # fmt: skip
_THINGS = ("cup", "hammer", "apple", "shirt", "robot", "phone", "map", "camera", "banana", "guitar")


def verb_figure(config: WorldConfig, num_frames: int = 8) -> Figure:
    """Consecutive frames of each verb, 7.5 a second."""
    rows = {}
    for verb, thing, place in zip(VERBS, [*_THINGS, *_THINGS], [*PLACES, *PLACES], strict=False):
        event = Event(
            0.0, 3.0, verb, place,
            object=thing if verb in OBJECT_VERBS else None,
            container={"open": "fridge", "close": "box"}.get(verb, "basket" if verb in NEEDS_CONTAINER else None),
            person="uncle" if verb in ("talk", "wash") else None,
        )  # fmt: skip
        rows[verb] = list(islice(film_frames(config, clip_of([event])), num_frames))
    return _strips(rows)


def setting_figure(config: WorldConfig, names: Sequence[str] = tuple(SETTINGS)) -> Figure:
    """The same clip under an easy (left) and a hard value of each setting, all others at their easy values.

    Frames are 1.2 s apart; those of `motion_speed` are consecutive.
    """
    easy = {name: low for name, (low, _) in SETTINGS.items()} | {"motion_speed": 1.0}
    events = [Event(1.2 * i, 1.2 * i + 1.2, "shake", "office", object=thing) for i, thing in enumerate(OBJECTS["tool"])]
    every, rows = round(1.2 * FRAME_RATE), {}
    for name in names:
        for value in SETTINGS[name]:
            changed = config.model_copy(update=easy | {name: value})
            stride = 1 if name == "motion_speed" else every
            frames = film_frames(changed, clip_of(events))
            rows[f"{name}={value:g}"] = list(islice(frames, every // 2, every // 2 + 8 * stride, stride))
    return _strips(rows, columns=2)


def kind_figure(config: WorldConfig, at_most: int = 12) -> Figure:
    """Some objects of each kind: asked in training, narrated there but never asked, only in val and test."""
    kinds: dict[str, list[str]] = {"asked": [], "unasked": [], "unseen": []}
    for name in ALL_OBJECTS:
        kinds[config.kind_of([name]) or ""].append(name)
    figure = new_figure(at_most, 4.2)
    for axis in (axes := figure.subplots(len(kinds), at_most)).flat:
        axis.set_axis_off()
    for row, (kind, names) in zip(axes, kinds.items(), strict=True):
        row[0].text(-0.3, 0.5, f"{kind}\n({len(names)})", transform=row[0].transAxes, ha="right", va="center")
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(at_most, len(names))).round().astype(int)]
        for axis, name in zip(row, chosen, strict=False):
            colour = colour_of(name, config.look_alikes)
            axis.imshow(np.asarray(sprite(name, (96, 96), colour, mixed(colour, BLACK, 0.65))))
            axis.set_title(name, fontsize=9)
    return figure


def clip_of(events: Sequence[Event]) -> ClipLog:
    """A clip in one place with these events."""
    end, place = events[-1].end_sec, events[0].place
    return ClipLog("shown", "shown", "val", 0.0, end, ((0.0, end, place),), {place: _THINGS[:6]}, tuple(events))


def _strips(rows: dict[str, list[np.ndarray]], columns: int = 1) -> Figure:
    """Rows of frames side by side, each with its name."""
    count, side = max(len(frames) for frames in rows.values()), 1.25 if columns == 1 else 0.75
    figure = new_figure(columns * side * count + (columns == 1), (side + 0.3 * (columns > 1)) * len(rows) / columns)
    axes = figure.subplots(-(-len(rows) // columns), columns, squeeze=False)
    for axis, (name, frames) in zip(axes.flat, rows.items(), strict=False):
        axis.imshow(np.hstack([np.pad(frame, ((2, 2), (2, 2), (0, 0)), constant_values=255) for frame in frames]))
        if columns == 1:
            axis.set_ylabel(name, rotation=0, ha="right", va="center")
        else:
            axis.set_title(name, fontsize=10, loc="left")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure
