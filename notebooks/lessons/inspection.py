"""From the annotation files to what the network gets: one question's way, and what a guesser can learn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.baselines import HIT, constant_segment
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import tiou
from groundnlq.data.records import Record
from groundnlq.data.schema import read_json
from groundnlq.errors import DataError
from groundnlq.sample.make import read_events
from groundnlq.sample.vocabulary import VERBS, plural
from groundnlq.view.style import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION, YELLOW, new_figure, plain

MOST_STEPS = 14  # that a picture of the grid shows
SLOTS = ("verb", "object", "container", "person")


def official_entry(path: str | Path, query_id: str) -> dict[str, Any]:
    """A query as it stands in an official file, untouched, with the clip around it.

    Raises:
        DataError: the file has no such query.
    """
    annotation_uid, _, index = query_id.rpartition("_")
    for video in read_json(Path(path))["videos"]:
        for clip in video["clips"]:
            for annotation in clip["annotations"]:
                if annotation["annotation_uid"] == annotation_uid:
                    around = {key: value for key, value in clip.items() if key != "annotations"}
                    query = annotation["language_queries"][int(index)]
                    return {"video_uid": video["video_uid"], "clip": around, "query": query}
    raise DataError(f"{path}: has no query {query_id} -- is it of another split?")


def step_figure(record: Record, grid: StepGrid) -> Figure:
    """The feature steps around the start of a query's moment: windows, middles, and the moment's edges.

    Seconds below, the step grid above; an edge seldom falls on a step.
    """
    start, end = record.moments_sec[0]
    step = grid.step_sec
    first = max(0, int(start / step) - 2)
    last = min(int(end / step) + 3, first + MOST_STEPS, int(np.ceil(record.duration_sec / step)))
    figure = new_figure(10, 1.9)
    axis = figure.subplots()
    for number in range(first, last):
        axis.barh(0, 0.94 * step, left=(number + 0.03) * step, height=0.6, color=SKY, edgecolor="white")
        axis.text((number + 0.5) * step, 0.06, str(number), ha="center", va="bottom", fontsize=8)
        axis.plot(grid.to_sec(number), -0.12, ".", color=BLACK, markersize=4)
    axis.axvspan(start, min(end, last * step), color=YELLOW, alpha=0.45, linewidth=0, zorder=0)
    for name, time, side, height in (("starts", start, "left", 0.75), ("ends", end, "right", 0.45)):
        if time <= last * step:
            axis.axvline(time, color=VERMILION, linestyle="--")
            text = f" {name} at {time:.2f} s = step {grid.to_grid(time):.2f} "
            axis.text(time, height, text, ha=side, fontsize=8.5)
    axis.set(xlabel="time in the clip [s]", xlim=(first * step, last * step), ylim=(-0.4, 1.05))
    axis.set_yticks([])
    above = axis.secondary_xaxis("top", functions=(grid.to_grid, grid.to_sec))
    above.set_xlabel("step grid (a dot: the middle of a step, where its features are said to be)", fontsize=9)
    return figure


def bias_figure(train: Sequence[Record], num_shown: int = 3) -> Figure:
    """Where moments lie and how long they are, with the best constant segments and what each would hit."""
    moments = np.array([record.moments_sec[0] for record in train if record.moments_sec])
    durations = np.array([record.duration_sec for record in train if record.moments_sec])[:, None]
    shares, unit = moments / durations, Record("a_0", "any", "?", 1.0)
    chosen = constant_segment(train, [unit])[unit.query_id][:num_shown, :2]
    center, length = shares.mean(axis=1), np.maximum(shares[:, 1] - shares[:, 0], 1e-4)
    figure = new_figure(10, 3.8)
    axis, side = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    x, y = np.meshgrid(np.linspace(0, 1, 300), np.geomspace(length.min() / 1.5, 1, 200))
    cells = np.stack([x - y / 2, x + y / 2], axis=-1)
    for rank, (segment, color) in enumerate(zip(chosen, (VERMILION, ORANGE, GREY), strict=False), 1):
        axis.contourf(x, y, tiou(cells, segment) > HIT, levels=(0.5, 1), colors=[color], alpha=0.3)
        box = {"facecolor": "white", "edgecolor": color, "pad": 2}
        axis.text(segment.mean(), segment[1] - segment[0], str(rank), fontsize=11, fontweight="bold",
                  ha="center", va="center", bbox=box)  # fmt: skip
    axis.plot(center, length, ".", color=BLUE, markersize=3, alpha=0.6)
    axis.set_yscale("log")
    percents = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    axis.set_yticks([percent / 100 for percent in percents], [f"{percent:g}" for percent in percents])
    axis.minorticks_off()
    axis.set(xlabel="centre of the moment, as share of the clip", ylabel="share of the clip covered [%]",
             xlim=(0, 1), ylim=(y.min(), 1))  # fmt: skip
    hits = 100 * (tiou(chosen[0] * durations, moments) > HIT).mean()
    axis.set_title(f"shaded: what constant segment 1, 2, … would hit at tIoU {HIT:g}; the first hits "
                   f"{hits:.1f} % of the training moments", fontsize=9, loc="left")  # fmt: skip
    side.hist(length, bins=np.geomspace(length.min(), length.max() + 1e-9, 25), orientation="horizontal",
              color=BLUE)  # fmt: skip
    side.set_xlabel("queries")
    return figure


def narrated_event(folder: str | Path, record: Record) -> tuple[float, float] | None:
    """When the action of a narration really was, as a sample world's event log has it; None without one."""
    is_known = (Path(folder) / "official" / "events.jsonl").exists()
    if not is_known or record.query_type != "nlq_narration":
        return None
    events = {log["clip_uid"]: log["events"] for log in read_events(folder)}[record.clip_uid]
    return events[record.query_idx]["start_sec"], events[record.query_idx]["end_sec"]


def draw_events(axis: Axes, log: Mapping[str, Any], query: str = "") -> None:
    """Rows of a sample world's events; what the query names is orange and hatched."""
    axis.set_ylim(len(SLOTS) - 0.5, -0.5)
    for event in log["events"]:
        start, end = event["start_sec"], event["end_sec"]
        for row, slot in enumerate(SLOTS):
            if event[slot]:
                style = (
                    {"color": ORANGE, "hatch": "//"} if is_named(event[slot], query) else {"color": "0.87"}
                )
                axis.barh(row, end - start, left=start, height=0.8, edgecolor="white", **style)
                is_narrow = end - start < 0.009 * len(event[slot]) * log["duration_sec"]
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
                axis.text((start + end) / 2, row, plain(event[slot]), fontsize=6.5, ha="center", va="center",
                          rotation=90 if is_narrow else 0, clip_on=True,
                          bbox=box if "hatch" in style else None)  # fmt: skip
    axis.set_yticks(range(len(SLOTS)), SLOTS, fontsize=8)


def is_named(word: str, query: str) -> bool:
    """Whether a query names a word of the sample world's vocabulary, in any of its forms.

    >>> is_named("knife", "How many knives did I wash?"), is_named("wash", "How many knives did I wash?")
    (True, True)
    >>> is_named("pen", "Did I open the drawer?")
    False
    """
    forms = "|".join(re.escape(form) for form in (word, plural(word), *VERBS.get(word, ())))
    return re.search(rf"\b({forms})\b", query, re.IGNORECASE) is not None
