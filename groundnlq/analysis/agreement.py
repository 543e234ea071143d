"""Agreement of annotators: two questions of a clip that mean the same should have the same moment."""

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

_WORD = re.compile(r"\b(?!(?:an?|the)\b)\w+")  # articles say nothing


def agreement(records: Sequence[Record], threshold: float) -> pd.DataFrame:
    """How well the moments of two questions of a clip agree: with the same words (up to endings and articles), also by
    two annotators; about the same time, where half of the shorter moment is in common.

    ``agree``: share of the pairs [%] with a tIoU above the threshold. So often is the moment of one question the right
    answer to the other: a ceiling for a run that answers as an annotator would.
    """
    of_clip = defaultdict[str, list[Record]](list)
    for record in records:
        of_clip[record.clip_uid] += [record] if record.moments_sec else []
    pairs = [pair for own in of_clip.values() for pair in combinations(own, 2)]
    times = np.array([[r.moments_sec[0] for r in pair] for pair in pairs], float).reshape(-1, 2, 2)
    overlaps, clips = tiou(times[:, 0], times[:, 1]), np.array([one.clip_uid for one, _ in pairs])
    words = {record.query: frozenset(map(stem, _WORD.findall(record.query.lower()))) for record in records}
    alike = np.array([words[one.query] == words[other.query] for one, other in pairs], bool)
    by_two = np.array([one.annotation_uid != other.annotation_uid for one, other in pairs], bool)
    kinds = {"same words": alike, "same words, two annotators": alike & by_two,
             "same time": shares_half(times[:, 0], times[:, 1])}  # fmt: skip
    rows = {}
    for kind, chosen in ((kind, chosen) for kind, chosen in kinds.items() if chosen.any()):
        rows[kind] = share_summary("agree", clips[chosen], overlaps[chosen] > threshold)
        rows[kind] |= {"mean tIoU": overlaps[chosen].mean(), "pairs": int(chosen.sum())}
    return pd.DataFrame.from_dict(rows, orient="index")
