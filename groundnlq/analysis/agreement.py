"""Agreement of annotators: two questions of a clip that mean the same should have the same moment."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from groundnlq.analysis.events import shares_half, stem
from groundnlq.analysis.intervals import share_summary
from groundnlq.data.recall import tiou
from groundnlq.data.records import Record


def agreement(records: Sequence[Record], threshold: float) -> pd.DataFrame:
    """How well the moments of two questions of a clip agree: of those with the same words (up to endings and articles),
    of those by two annotators, and of those about the same time, where half of the shorter moment is in common.

    ``agree`` is the share of pairs [%] with a tIoU above the threshold. A run that answers one question of a pair by
    the moment of the other would be right so often: a ceiling for runs that cannot tell them apart.
    """
    of_clip = defaultdict[str, list[Record]](list)
    for record in records:
        of_clip[record.clip_uid] += [record] if record.moments_sec else []
    pairs = [pair for own in of_clip.values() for pair in combinations(own, 2)]
    words = {record.query_id: _words(record.query) for record in records}
    times = np.array([[r.moments_sec[0] for r in pair] for pair in pairs], float).reshape(-1, 2, 2)
    overlaps, clips = tiou(times[:, 0], times[:, 1]), np.array([one.clip_uid for one, _ in pairs])
    alike = np.array([words[one.query_id] == words[other.query_id] for one, other in pairs], bool)
    by_two = np.array([one.annotation_uid != other.annotation_uid for one, other in pairs], bool)
    kinds = {"same words": alike, "same words, two annotators": alike & by_two,
             "same time": shares_half(times[:, 0], times[:, 1])}  # fmt: skip
    rows = {
        kind: share_summary("agree", clips[chosen], overlaps[chosen] > threshold)
        | {"mean tIoU": overlaps[chosen].mean(), "pairs": int(chosen.sum())}
        for kind, chosen in kinds.items()
        if chosen.any()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _words(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the"))
