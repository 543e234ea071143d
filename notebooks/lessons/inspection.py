"""Annotation files and network input in figures, and the biases that a constant prediction can use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.baselines import HIT, constant_segment
from groundnlq.analysis.candidates import levels_reached
from groundnlq.config import RunConfig
from groundnlq.data.check import FeatureReport
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import tiou
from groundnlq.data.records import OF_CLIP, Record
from groundnlq.data.schema import read_json
from groundnlq.errors import DataError
from groundnlq.sample.make import read_events
from groundnlq.sample.vocabulary import VERBS, plural
from groundnlq.view.film import film_strip
from groundnlq.view.style import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION, new_figure, plain
from notebooks.lessons.parts import mark_moments

MAX_STEPS = 14  # in the figure of the grid
SLOTS = ("verb", "object", "container", "person")


def official_entry(path: str | Path, query_id: str) -> dict[str, Any]:
    """Unchanged entry of a query in an official file, with the fields of its clip.

    Raises:
        DataError: the file has no such query.
    """
    for video in read_json(Path(path))["videos"]:
        for clip in video["clips"]:
            name = query_id.removeprefix(f"{clip.get('clip_uid')}{OF_CLIP}")
            annotation_uid, _, index = name.rpartition("_")
            for annotation in clip["annotations"]:
                if annotation.get("annotation_uid") == annotation_uid:
                    around = {key: value for key, value in clip.items() if key != "annotations"}
                    query = annotation["language_queries"][int(index)]
                    return {"video_uid": video.get("video_uid"), "clip": around, "query": query}
    raise DataError(f"{path}: has no query {query_id} -- is it of another split?")


def step_figure(record: Record, grid: StepGrid) -> Figure:
    """Feature steps around the start of a query's moment: intervals, middles, and the ends of the moment.

    The lower axis has seconds, the upper one the step grid.
    """
    start, end = record.moments_sec[0]
    step = grid.step_sec
    first = max(0, int(start / step) - 2)
    last = min(int(end / step) + 3, first + MAX_STEPS, int(np.ceil(record.duration_sec / step)))
    figure = new_figure(10, 1.9)
    axis = figure.subplots()
    for number in range(first, last):
        axis.barh(0, 0.94 * step, left=(number + 0.03) * step, height=0.6, color=SKY, edgecolor="white")
        axis.text((number + 0.5) * step, 0.06, str(number), ha="center", va="bottom", fontsize=9)
        axis.plot(grid.to_sec(number), -0.12, ".", color=BLACK, markersize=4)
    mark_moments(axis, [(start, min(end, last * step))], alpha=0.45)
    for name, time, side, height in (("starts", start, "left", 0.75), ("ends", end, "right", 0.45)):
        if time <= last * step:
            axis.axvline(time, color=VERMILION, linestyle="--")
            text = f" {name} at {time:.2f} s = step {grid.to_grid(time):.2f} "
            axis.text(time, height, text, ha=side, fontsize=9.5)
    axis.set(xlabel="time in the clip [s]", xlim=(first * step, last * step), ylim=(-0.4, 1.05))
    axis.set_yticks([])
    above = axis.secondary_xaxis("top", functions=(grid.to_grid, grid.to_sec))
    above.set_xlabel("step grid (dot: middle of a step, the time of its features)", fontsize=9)
    return figure


def bias_figure(train: Sequence[Record], num_shown: int = 3) -> Figure:
    """Positions and lengths of the moments, and the regions that the best constant segments hit."""
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
    axis.set_title(f"shaded: moments that constant segment 1, 2, … hits (tIoU > {HIT:g}); the first one hits "
                   f"{hits:.1f} % of the training moments", fontsize=9, loc="left")  # fmt: skip
    side.hist(length, bins=np.geomspace(length.min(), length.max() + 1e-9, 25), orientation="horizontal",
              color=BLUE)  # fmt: skip
    side.set_xlabel("queries")
    return figure


def rate_fit(report: FeatureReport) -> Figure:
    """Frames per step of every clip, the fitted rate and the configured one."""
    figure = new_figure(9, 3)
    left, right = figure.subplots(1, 2)
    longest = report.durations_sec.max()
    left.plot(report.durations_sec, report.num_steps, ".", color=BLUE, label="clips")
    fitted = report.fitted_stride_frames
    left.plot([0, longest], [0, longest * report.grid.fps / fitted], color=GREY, label=f"fit: {fitted:.3f}")
    left.set(xlabel="clip length [s]", ylabel="feature steps")
    left.legend(fontsize=9)
    right.hist(report.stride_frames, bins=30, color=BLUE)
    right.axvline(fitted, color=GREY, label=f"fitted {fitted:.3f}")
    configured = report.grid.snippet_stride_frames
    right.axvline(configured, color=VERMILION, linestyle="--", label=f"configured {configured:.3f}")
    right.set(xlabel="frames per step", ylabel="clips")
    right.legend(fontsize=9)
    right.xaxis.get_major_locator().set_params(nbins=5)
    return figure


def moments_per_level(records: Sequence[Record], config: RunConfig) -> Figure:
    """Share of moments with positive points on each pyramid level, and on no level.

    Args:
        config: of the run, with pyramid, centre radius and frame rate.
    """
    reached = [levels_reached(record, config) for record in records if record.moments_sec]
    num_levels = config.model.num_levels
    counts = [sum(level in levels for levels in reached) for level in range(num_levels)]
    counts.append(sum(not levels for levels in reached))
    names = [f"stride {2**level}" for level in range(num_levels)] + ["none"]
    figure = new_figure(7.5, 2.8)
    axis = figure.subplots()
    colors = [BLUE] * num_levels + [VERMILION]
    bars = axis.bar(names, 100 * np.array(counts) / max(1, len(reached)), color=colors)
    axis.bar_label(bars, fmt="%.1f", fontsize=9)
    axis.set(xlabel="pyramid level", ylabel="moments with\na positive point [%]")
    axis.margins(y=0.15)
    return figure


def moments_of_clip(records: Sequence[Record], narrations: Sequence[Record] = ()) -> Figure:
    """Moments of all queries of a clip, each with its text; narrations are ticks."""
    figure = new_figure(9.5, 0.9 + 0.3 * len(records))
    axis = figure.subplots()
    labels = [plain(record.query, 60) for record in records]
    for row, record in enumerate(records):
        for start, end in record.moments_sec:
            axis.barh(row, end - start, left=start, height=0.7, color=BLUE)
    if narrations:
        times = [np.mean(n.moments_sec[0]) for n in narrations if n.moments_sec]
        axis.plot(times, [len(records)] * len(times), "|", color=BLACK, markersize=9)
        labels.append("narrations")
    axis.set_yticks(range(len(labels)), labels, fontsize=9)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_xlim(0, max((record.duration_sec for record in records), default=1.0))
    axis.set_xlabel("time in the clip [s]")
    return figure


def narrated_event(folder: str | Path, record: Record) -> tuple[float, float] | None:
    """Start and end of the action of a narration from the event log of a sample world; None without a log."""
    is_known = (Path(folder) / "official" / "events.jsonl").exists()
    if not is_known or record.query_type != "nlq_narration":
        return None
    events = {log["clip_uid"]: log["events"] for log in read_events(folder)}[record.clip_uid]
    return events[record.query_idx]["start_sec"], events[record.query_idx]["end_sec"]


def event_log(log: Mapping[str, Any], records: Sequence[Record] = (), film: Path | None = None) -> Figure:
    """Event log of a clip of the sample world below its film: places, events, and the moments of its queries."""
    figure = new_figure(12, 5.4 + 1.1 * bool(film))
    above, axis = figure.subplots(2, 1, sharex=True, height_ratios=(1.1, 5)) if film else (None, figure.subplots())
    if film:
        draw_film(above, film, log["duration_sec"])
    draw_events(axis, log, first_row=1, color=SKY)
    for index, (start, end, place) in enumerate(log["stays"]):
        axis.barh(0, end - start, left=start, color=("0.85", "0.72")[index % 2])
        axis.text((start + end) / 2, 0, plain(place), ha="center", va="center", fontsize=9, clip_on=True)
    rows = ["place", *SLOTS, *["queries"][: len(records)]]
    for start, end in (moment for record in records for moment in record.moments_sec):
        axis.barh(len(rows) - 1, end - start, left=start, color=VERMILION, alpha=0.6)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel="time in the clip [s]", xlim=(0, log["duration_sec"]), ylim=(len(rows) - 0.5, -0.5))
    return figure


def draw_film(axis: Axes, path: Path, end_sec: float, num_frames: int = 13) -> None:
    """A film from 0 to `end_sec` as frames in a row, each where it belongs on the time axis."""
    half = end_sec / num_frames / 2
    pictures = film_strip(path, half, end_sec - half, num_frames)[1]
    extent = (0, end_sec * len(pictures) / num_frames, 1, 0)
    axis.imshow(np.concatenate(list(pictures), axis=1), aspect="auto", extent=extent)
    axis.set(yticks=[], ylabel="film")


def draw_events(axis: Axes, log: Mapping[str, Any], query: str = "", first_row: int = 0, color: str = "0.87") -> None:
    """Events of a sample world in rows; those that the query names are orange and hatched."""
    axis.set_ylim(first_row + len(SLOTS) - 0.5, first_row - 0.5)
    for event in log["events"]:
        start, end = event["start_sec"], event["end_sec"]
        for row, slot in enumerate(SLOTS, first_row):
            if event[slot]:
                named = bool(query) and is_named(event[slot], query)
                style = {"color": ORANGE, "hatch": "//"} if named else {"color": color}
                axis.barh(row, end - start, left=start, height=0.8, edgecolor="white", **style)
                is_narrow = end - start < 0.009 * len(event[slot]) * log["duration_sec"]
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
                axis.text((start + end) / 2, row, plain(event[slot]), fontsize=9, ha="center", va="center",
                          rotation=90 if is_narrow else 0, clip_on=True,
                          bbox=box if named else None)  # fmt: skip
    axis.set_yticks(range(first_row, first_row + len(SLOTS)), SLOTS, fontsize=9)


def is_named(word: str, query: str) -> bool:
    """Whether a query contains a word of the sample world's vocabulary, in any form.

    >>> is_named("knife", "How many knives did I wash?"), is_named("wash", "How many knives did I wash?")
    (True, True)
    >>> is_named("pen", "Did I open the drawer?")
    False
    """
    forms = "|".join(re.escape(form) for form in (word, plural(word), *VERBS.get(word, ())))
    return re.search(rf"\b({forms})\b", query, re.IGNORECASE) is not None
