"""What a data set is like in numbers, beside Ego4D NLQ's own (train split, version 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from groundnlq.data.annotations import NlqFile
from groundnlq.data.records import Record
from groundnlq.sample.queries import TEMPLATES

EGO4D = {
    "clips": 1270,
    "questions a clip": 13_847 / 1270,
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


def beside_ego4d(file: NlqFile, narrations: Sequence[Record] = ()) -> pd.DataFrame:
    """One row a figure: of this file, of Ego4D's train split; empty where Ego4D's is not at hand.

    Args:
        file: an annotation file with moments; narrations: the records for pretraining, if any.
    """
    here = _of_moments(file) | _of_texts(file)
    if narrations:
        minutes = sum({r.clip_uid: r.duration_sec for r in narrations}.values()) / 60
        here["narrations a minute"] = len(narrations) / minutes
    return pd.DataFrame({"here": here, "Ego4D": EGO4D}).reindex(here).round(1)


def templates_beside_ego4d(records: Sequence[Record]) -> pd.DataFrame:
    """The share of every template [%], here and in Ego4D (val split)."""
    here = pd.Series([record.template for record in records]).value_counts()
    table = pd.DataFrame({"here": here, "Ego4D": {t.name: t.weight for t in TEMPLATES}}).fillna(0)
    return (100 * table / table.sum()).sort_values("Ego4D", ascending=False).round(1)


def _of_moments(file: NlqFile) -> dict[str, float]:
    moments = np.array([moment for r in file.records for moment in r.moments_sec]).reshape(-1, 2)
    within = np.array([r.duration_sec for r in file.records for _ in r.moments_sec])
    lengths, clips = moments[:, 1] - moments[:, 0], np.array([clip.duration_sec for clip in file.clips])
    return {
        "clips": len(clips),
        "questions a clip": len(file.records) / len(clips),
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
        "words a question, mean": float(np.mean([len(record.query.split()) for record in file.records])),
    }
