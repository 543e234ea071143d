"""Stage one in pictures: narrated frames, positives, similarities, EgoMCQ, and what is confused with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from groundnlq.analysis.intervals import HIGH, LOW, ClipBootstrap
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.data.schema import read_json
from groundnlq.video.egonce import egomcq, is_positive
from groundnlq.view.style import BLACK, CURVES, GREEN, GREY, VERMILION, new_figure, plain
from notebooks.lessons.inspection import draw_events, draw_film

PAIRS = ("different", "same noun", "same verb", "positive")  # of two narrations


def relation(one: Record, other: Record) -> str:
    """What two narrations have in common: one of `PAIRS`.

    >>> relation(Record("a_0", "a", "C opens it", 9.0), Record("a_1", "a", "C opens it", 9.0))
    'positive'
    """
    if is_positive(one, other):
        return "positive"
    verb, noun = not set(one.verbs).isdisjoint(other.verbs), not set(one.nouns).isdisjoint(other.nouns)
    return "same verb" if verb else "same noun" if noun else "different"


def narrated_figure(texts: Sequence[str], strips: Sequence[np.ndarray], columns: int = 2) -> Figure:
    """Narrations with the frames (F, H, W, 3) that the encoder takes of each."""
    rows = -(-len(texts) // columns)
    figure = new_figure(10, 1.55 * rows)
    for axis, text, strip in zip(figure.subplots(rows, columns, squeeze=False).flat, texts, strips, strict=False):
        axis.imshow(np.concatenate(list(strip), axis=1))
        axis.set_title(plain(text, 60), fontsize=10, loc="left")
        axis.set_axis_off()
    return figure


def pairs_figure(records: Sequence[Record]) -> Figure:
    """Which pairs of narrations are positive, and which have only the verb or the noun in common."""
    colors, letters = ("white", "#DDEBF7", "#FCE4D6", GREEN), ("", "n", "v", "+")
    figure = new_figure(8.5, 5)
    axis = figure.subplots()
    for row, one in enumerate(records):
        for column, other in enumerate(records):
            kind = PAIRS.index(relation(one, other))
            axis.add_patch(_cell(column, row, facecolor=colors[kind], edgecolor="0.8"))
            axis.text(column, row, letters[kind], ha="center", va="center", fontsize=9)
    _name_pairs(axis, records)
    names = [f"{kind} ({letter})" if letter else kind for kind, letter in zip(PAIRS, letters, strict=True)]
    boxes = [Rectangle((0, 0), 1, 1, facecolor=color, edgecolor="0.6") for color in colors]
    figure.legend(boxes, names, loc="outside right upper", fontsize=9)
    return figure


def similarity_figure(similarities: Mapping[str, np.ndarray], records: Sequence[Record]) -> Figure:
    """(N, N) similarities of texts (rows) and frames (columns) by several encoders; positive pairs have a frame."""
    figure = new_figure(11, 4.4)
    axes = figure.subplots(1, len(similarities), sharey=True, squeeze=False)[0]
    for axis, (name, values) in zip(axes, similarities.items(), strict=True):
        image = axis.imshow(values, cmap="cividis", vmin=-1, vmax=1)
        for row, one in enumerate(records):
            for column, other in enumerate(records):
                if relation(one, other) == "positive":
                    axis.add_patch(_cell(column, row, fill=False, edgecolor=VERMILION, linewidth=1.5))
        axis.set_title(plain(name), fontsize=10)
        axis.set_xlabel("frames")
        _name_pairs(axis, records)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


def mcq_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """EgoMCQ of both kinds over the epochs, of the weights that were better."""
    figure = new_figure(6, 2.8)
    axis = figure.subplots()
    for (color, dash), kind in zip(CURVES, ("inter", "intra"), strict=False):
        rows = [row for row in history if f"raw EgoMCQ {kind}" in row]
        better = [max(row.get(f"{w} EgoMCQ {kind}", 0) for w in ("raw", "ema")) for row in rows]
        axis.plot([row["epoch"] for row in rows], better, dash, color=color, marker="o", label=kind)
    axis.axhline(20, color=GREY, linestyle=":", label="chance")
    axis.set(xlabel="epoch", ylabel="EgoMCQ [%]", ylim=(0, 103))
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.legend(fontsize=9)
    return figure


def choices_figure(text: str, pictures: Sequence[np.ndarray], similarity: Sequence[float]) -> Figure:
    """One question of EgoMCQ: a narration and five clips, of which the first is its own; the nearest is bold."""
    figure = new_figure(10, 2.6)
    figure.suptitle(plain(text), fontsize=11, x=0.01, ha="left")
    for number, axis in enumerate(figure.subplots(1, len(pictures))):
        axis.imshow(pictures[number])
        is_nearest = similarity[number] == max(similarity)
        name = f"{'✓ ' if number == 0 else ''}{similarity[number]:.2f}"
        axis.set_title(name, fontweight="bold" if is_nearest else "normal", fontsize=10)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(color=VERMILION if is_nearest else "0.8", linewidth=4 if is_nearest else 1)
    return figure


def mcq_table(records: Sequence[Record], videos: np.ndarray, texts: np.ndarray, asked: Mapping[str, Any]) -> Any:
    """Accuracy of EgoMCQ [%] by kind, with an interval over clips."""
    rows = {}
    for kind, choices in asked.items():
        clips = [records[place].clip_uid for place in choices[:, 0]]
        rows[kind] = {"questions": len(choices)}
        rows[kind] |= ClipBootstrap(clips).summary("accuracy", 100 * egomcq(videos, texts, choices))
    return pd.DataFrame(rows).T[["accuracy", LOW, HIGH, "questions"]].round(1)


def nearest_events(records: Sequence[Record], similarity: np.ndarray, count: int = 5) -> list[int]:
    """Places of the narrations with the highest similarity, at most one of each event (the middles 2 s apart)."""
    found: list[int] = []
    for place in np.argsort(-similarity).tolist():
        here = records[place]
        same = [p for p in found if records[p].clip_uid == here.clip_uid]
        if all(abs(np.mean(records[p].moments_sec[0]) - np.mean(here.moments_sec[0])) > 2 for p in same):
            found.append(place)
        if len(found) == count:
            break
    return found


def features_figure(video: np.ndarray, grid: StepGrid, film: Path | None, log: Mapping[str, Any] | None) -> Figure:
    """(T, D) features of a clip between its film, if there is one, and its event log, if there is one."""
    heights = [0.9] * (film is not None) + [2.2] + [3.0] * (log is not None)
    figure, end_sec = new_figure(12, sum(heights) + 0.6), len(video) * grid.step_sec
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
    if film is not None:
        draw_film(axes[0], film, end_sec)
    rows = axes[-1 - (log is not None)]
    highest = float(np.percentile(np.abs(video), 99))
    extent = (0, end_sec, video.shape[1], 0)
    rows.imshow(
        video.T, aspect="auto", extent=extent, cmap="RdBu", vmin=-highest, vmax=highest, interpolation="nearest"
    )
    rows.set_ylabel("channel")
    if log is not None:
        draw_events(axes[-1], log)
    axes[-1].set(xlabel="time in the clip [s]", xlim=(0, end_sec))
    return figure


def class_names(folder: Path, kind: str, records: Sequence[Record]) -> list[str]:
    """Names of the classes of "verbs" or "nouns"; their numbers where the data folder has no names."""
    path = folder / "official" / "egoclip_classes.json"
    last = max((number for record in records for number in getattr(record, kind)), default=-1)
    return read_json(path)[kind] if path.exists() else [str(number) for number in range(last + 1)]


def confusions(records: Sequence[Record], videos: np.ndarray, texts: np.ndarray, kind: str) -> np.ndarray:
    """(2, N) first class, "verbs" or "nouns", of each narration and of the text that is nearest to its frames."""
    classes = np.array([[*getattr(record, kind), -1][0] for record in records])
    found = np.stack([classes, classes[(videos @ texts.T).argmax(axis=1)]])
    return found[:, (found >= 0).all(axis=0)]


def confusion_figure(pairs: np.ndarray, names: Sequence[str]) -> Figure:
    """Share of the narrations of each class (row) whose frames are nearest to a text of a class (column)."""
    used = np.unique(pairs)
    counts = np.array([[((pairs[0] == row) & (pairs[1] == column)).sum() for column in used] for row in used])
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    figure = new_figure(1.5 + 0.42 * len(used), 1 + 0.36 * len(used))
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
        color = "white" if shares[row, column] > 60 else BLACK
        axis.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=9, color=color)
    labels = [names[number] for number in used]
    axis.set_xticks(range(len(used)), labels, rotation=90)
    axis.set_yticks(range(len(used)), labels)
    axis.set(xlabel="of the text nearest to the frames", ylabel="true")
    return figure


def confusion_table(pairs: np.ndarray, names: Sequence[str], count: int = 8) -> pd.DataFrame:
    """The most frequent confusions of classes."""
    wrong = pairs[:, pairs[0] != pairs[1]].T.tolist()
    table = pd.Series([(names[true], names[found]) for true, found in wrong], dtype=object).value_counts()[:count]
    rows = [(*pair, number, int((pairs[0] == names.index(pair[0])).sum())) for pair, number in table.items()]
    return pd.DataFrame(rows, columns=["true", "taken for", "times", "of"])


def _name_pairs(axis: Any, records: Sequence[Record]) -> None:
    names = [plain(record.query, 42) for record in records]
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_xticks(range(len(names)), [str(n + 1) for n in range(len(names))], fontsize=9)
    axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))


def _cell(column: int, row: int, **style: Any) -> Any:
    return Rectangle((column - 0.5, row - 0.5), 1, 1, **style)
