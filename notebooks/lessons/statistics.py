"""Numbers and distributions of a data set, compared with Ego4D NLQ (train split, version 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.data.annotations import NlqFile
from groundnlq.data.records import Record
from groundnlq.sample.queries import TEMPLATES
from groundnlq.view.style import BLACK, BLUE, VERMILION, new_figure, plain

EGO4D = {
    "clips": 1270,
    "questions per clip": 13_847 / 1270,
    "clip length, median [s]": 480.0,
    "clip length, shortest [s]": 207.0,
    "clip length, longest [s]": 1200.0,
    "moment length, median [s]": 4.4,
    "moment length, mean [s]": 11.3,
    "moments under 1 s [%]": 100 * 1088 / 13_847,
    "moments that end beyond the clip [%]": 100 * 249 / 13_847,
    "share of the clip covered, mean [%]": 2.2,
    "questions without a question mark [%]": 17.0,
}


def compare_to_ego4d(file: NlqFile, narrations: Sequence[Record] = ()) -> pd.DataFrame:
    """Numbers of this file and of Ego4D's train split; empty where Ego4D's is not known.

    Args:
        file: an annotation file with moments; narrations: the records for pretraining, if any.
    """
    here = _of_moments(file) | _of_texts(file)
    if narrations:
        minutes = sum({r.clip_uid: r.duration_sec for r in narrations}.values()) / 60
        here["narrations per minute"] = len(narrations) / minutes
    return pd.DataFrame({"this data": here, "Ego4D": EGO4D}).reindex(here).round(1)


def template_shares(records: Sequence[Record]) -> pd.DataFrame:
    """Share of every template [%], in these records and in Ego4D (val split)."""
    here = pd.Series([record.template for record in records]).value_counts()
    table = pd.DataFrame({"this data": here, "Ego4D": {t.name: t.weight for t in TEMPLATES}}).fillna(0)
    return (100 * table / table.sum()).sort_values("Ego4D", ascending=False).round(1)


def length_distributions(records: Sequence[Record]) -> Figure:
    """Histograms of clip lengths, moment lengths, positions, and covered shares of the clip."""
    moments = np.array([moment for r in records for moment in r.moments_sec]).reshape(-1, 2)
    durations = np.array([r.duration_sec for r in records for _ in r.moments_sec])
    clips = {r.clip_uid: r.duration_sec for r in records}
    lengths = moments[:, 1] - moments[:, 0]
    figure = new_figure(10, 5)
    (a, b), (c, d) = figure.subplots(2, 2)
    a.hist(list(clips.values()), bins=15, color=BLUE)
    a.set(xlabel="clip length [s]", ylabel="clips", title=f"{len(clips)} clips")
    _log_histogram(b, lengths, "s")
    b.set(xlabel="moment length [s]", ylabel="queries", title=f"{len(lengths)} moments")
    c.hist(moments.mean(axis=1) / durations, bins=20, range=(0, 1), color=BLUE)
    c.set(xlabel="centre of the moment, as share of the clip", ylabel="queries")
    _log_histogram(d, 100 * lengths / durations, "%")
    d.set(xlabel="share of the clip covered [%]", ylabel="queries")
    return figure


def template_bars(records: Sequence[Record], reference: Mapping[str, float] | None = None) -> Figure:
    """Number of queries of each template.

    Args:
        reference: share [%] of each template in another data set, such as Ego4D.
    """
    counts = Counter(record.template or "(none)" for record in records).most_common()
    figure = new_figure(9, 0.7 + 0.28 * len(counts))
    axis = figure.subplots()
    axis.barh([f"{plain(name, 70)}  ({n})" for name, n in counts], [n for _, n in counts], color=BLUE)
    expected = [(reference or {}).get(name, np.nan) * len(records) / 100 for name, _ in counts]
    if reference is not None:
        axis.plot(expected, range(len(counts)), "D", markersize=6, markerfacecolor="white",
                  markeredgecolor=BLACK, label="with the share in Ego4D")  # fmt: skip
        axis.legend(fontsize=9, loc="lower right")
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=9)
    axis.set_xlabel("queries")
    axis.margins(x=0.1)
    return figure


def _of_moments(file: NlqFile) -> dict[str, float]:
    moments = np.array([moment for r in file.records for moment in r.moments_sec]).reshape(-1, 2)
    within = np.array([r.duration_sec for r in file.records for _ in r.moments_sec])
    lengths, clips = moments[:, 1] - moments[:, 0], np.array([clip.duration_sec for clip in file.clips])
    return {
        "clips": len(clips),
        "questions per clip": len(file.records) / len(clips),
        "clip length, median [s]": float(np.median(clips)),
        "clip length, shortest [s]": float(clips.min()),
        "clip length, longest [s]": float(clips.max()),
        "moment length, median [s]": float(np.median(lengths)),
        "moment length, mean [s]": float(lengths.mean()),
        "moments under 1 s [%]": 100 * float((lengths < 1).mean()),
        "moments that end beyond the clip [%]": 100 * float((moments[:, 1] > within).mean()),
        "share of the clip covered, mean [%]": 100 * float((lengths / within).mean()),
        "centre of the moment, mean share of the clip": float((moments.mean(axis=1) / within).mean()),
    }


def _of_texts(file: NlqFile) -> dict[str, float]:
    texts = [record.raw_query or record.query for record in file.records]
    return {
        "questions without a question mark [%]": 100 * float(np.mean(["?" not in text for text in texts])),
        "words per question, mean": float(np.mean([len(record.query.split()) for record in file.records])),
    }


def _log_histogram(axis: Axes, values: np.ndarray, unit: str) -> None:
    """Histogram with a logarithmic axis, since most values are short and a few are long."""
    if len(values):
        axis.hist(values, bins=np.geomspace(max(values.min(), 0.01), values.max() + 1e-6, 30), color=BLUE)
        axis.axvline(np.median(values), color=BLACK, label=f"median {np.median(values):.1f} {unit}")
        axis.axvline(values.mean(), color=VERMILION, linestyle="--", label=f"mean {values.mean():.1f} {unit}")
        axis.legend(fontsize=9)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.3g}")
