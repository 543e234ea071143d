"""Recalls of a split as the challenge computes them, and strictly, with intervals over clips."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from groundnlq.data.recall import KS, THRESHOLDS, best_tiou, kept_ks, recall_key
from groundnlq.data.records import Record, identity_of
from groundnlq.data.submission import Ranked, origin_of
from groundnlq.errors import DataError, sample_of
from groundnlq.provenance import made_by

NUM_BOOTSTRAP = 1000
LOW, HIGH = "95 % low", "95 % high"
Grouping = Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True)
class Evaluation:
    """Hits of every query that has ground truth; everything else is a mean of them.

    ``hits`` has a row a query: its ids, template, moment length, whether it was answered, `mIoU` (the tIoU of
    the first prediction), and a 0/1 column for each recall. A recall at more than the number of kept
    predictions is left out: it would repeat a smaller one.
    """

    hits: pd.DataFrame
    num_kept: int
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        return [k for k in (recall_key(k, t) for k in KS for t in THRESHOLDS) if k in self.hits] + ["mIoU"]

    @cached_property
    def official(self) -> dict[str, float]:
        """Percent over the *submitted* queries, as the official script has it: a missing one is free."""
        return _means(self.hits[self.hits["is_answered"]], self.keys)

    @cached_property
    def strict(self) -> dict[str, float]:
        """Percent over all queries; a missing answer is a miss."""
        return _means(self.hits, self.keys)

    @property
    def num_missing(self) -> int:
        return int((~self.hits["is_answered"]).sum())

    @property
    def num_short(self) -> dict[str, int]:
        """For each recall at k the answered queries that have fewer than k segments, where there are any."""
        kept = self.hits.loc[self.hits["is_answered"], "num_kept"]
        counts = {f"R@{k}": int((kept < k).sum()) for k in KS if k <= self.num_kept}
        return {name: count for name, count in counts.items() if count}

    def intervals(self, seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals of the strict recalls; whole clips are drawn: their queries hang together."""
        keys = [*self.keys, "mean R@1"]
        first = self.hits[[recall_key(1, t) for t in THRESHOLDS]].mean(axis=1)
        values = 100 * self.hits[self.keys].assign(**{"mean R@1": first})[keys].to_numpy(float)
        draws = bootstrap_means(self.hits["clip_uid"].to_numpy(), values, seed)
        low, high = np.percentile(draws, [50 * (1 - level), 50 * (1 + level)], axis=0)
        return {key: (float(a), float(b)) for key, a, b in zip(keys, low, high, strict=True)}

    def table(self) -> pd.DataFrame:
        """Official and strict percent with the strict interval, one row a figure."""
        intervals = self.intervals()
        frame = pd.DataFrame({"official": self.official, "strict": self.strict})
        frame[LOW] = [intervals[key][0] for key in frame.index]
        frame[HIGH] = [intervals[key][1] for key in frame.index]
        return frame.round(2)

    def by(self, group: str | pd.Series | Grouping, key: str = "R@1 IoU=0.3", seed: int = 0) -> pd.DataFrame:
        """Strict recall (percent) with its interval, and the number of queries, one row a group.

        Args:
            group: a column of `hits` such as ``template``, a series beside `hits`, or what makes one of it.
        """
        groups = group(self.hits) if callable(group) else group
        rows = {}
        for name, part in self.hits.groupby(groups, observed=True):
            values = 100 * part[key].to_numpy(float)
            draws = bootstrap_means(part["clip_uid"].to_numpy(), values[:, None], seed)[:, 0]
            low, high = np.percentile(draws, [2.5, 97.5])
            rows[name] = {key: values.mean(), LOW: low, HIGH: high, "queries": len(part)}
        return pd.DataFrame.from_dict(rows, orient="index", columns=[key, LOW, HIGH, "queries"])

    def to_json(self) -> dict[str, Any]:
        """Sections ``official`` and ``strict`` in percent, unrounded, with counts and intervals."""
        return {
            "official": self.official,
            "strict": self.strict,
            "intervals": {key: list(value) for key, value in self.intervals().items()},
            "num_queries": len(self.hits),
            "num_missing": self.num_missing,
            "num_kept": self.num_kept,
            "num_short": self.num_short,
            "text changed by cleaning": self.by_cleaning().T.to_dict(),
            "provenance": dict(self.made_by),
        }

    def by_cleaning(self) -> pd.DataFrame:
        """Strict figures on the queries whose annotated text cleaning changed (such as the stray prefix
        ``Query Text:``) and on the others; empty where none was changed, or the texts as annotated are not
        known."""
        groups = self.hits["is_cleaned"].map({True: "changed", False: "unchanged"})
        if groups.nunique() < 2:
            return pd.DataFrame()
        parts = dict(list(self.hits.groupby(groups)))
        rows = {name: _means(part, self.keys) | {"queries": len(part)} for name, part in parts.items()}
        return pd.DataFrame.from_dict(rows, orient="index")


def evaluate(ranked: Ranked, records: Sequence[Record]) -> Evaluation:
    """Compare ranked predictions with the records' ground truth; a hit is tIoU > threshold, strictly.

    Raises:
        DataError: answers to queries that the records do not have (predictions of another split); no answer
            at all; records without moments.
    """
    truth = [record for record in records if record.moments_sec]
    if not truth or not ranked:
        lacking = "predictions" if truth else "records with moments"
        raise DataError(f"there are no {lacking} to score -- predict a split that has ground truth")
    foreign = ranked.keys() - {record.query_id for record in records}
    if foreign:
        where = origin_of(ranked).get("path", "predictions")
        raise DataError(
            f"{where}: {len(foreign)} answers are to queries that the ground truth does not have: "
            f"{sample_of(sorted(foreign))} -- are these predictions of another split?"
        )
    ks, num_kept = kept_ks(ranked), max(len(segments) for segments in ranked.values())
    hits = pd.DataFrame([_row(record, ranked, ks) for record in truth])
    return Evaluation(hits, num_kept, made_by(predictions=origin_of(ranked), truth=identity_of(records)))


def by_unseen_words(train: Sequence[Record]) -> Grouping:
    """A grouping for `Evaluation.by`: does a query have a word that no training query has?"""
    known = {word for record in train for word in words_of(record.query)}

    def group(hits: pd.DataFrame) -> pd.Series:
        is_known = hits["query"].map(lambda text: words_of(text) <= known)
        return is_known.map({True: "all words known", False: "a word unseen in training"})

    return group


def compare(one: Evaluation, other: Evaluation, key: str = "R@1 IoU=0.3", seed: int = 0) -> dict[str, float]:
    """``other - one`` in points, paired: the difference, its interval by bootstrap over clips, and how likely
    one so far from 0 is if the two are equally good (`sign_flip_p`).

    Raises:
        DataError: the two are not about the same queries.
    """
    clips, difference = differences(one, other, key)
    draws = bootstrap_means(clips, difference[:, None], seed)[:, 0]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "difference": float(difference.mean()),
        LOW: float(low),
        HIGH: float(high),
        "p": sign_flip_p(clips, difference, seed),
    }


def differences(one: Evaluation, other: Evaluation, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The clip of every query (Q,) and ``other - one`` in points (Q,).

    Raises:
        DataError: the two are not about the same queries.
    """
    left, right = (e.hits.set_index("query_id") for e in (one, other))
    if set(left.index) != set(right.index):
        raise DataError("the two evaluations are not about the same queries -- evaluate both on one split")
    difference = 100 * (right[key].reindex(left.index) - left[key]).to_numpy(float)
    return left["clip_uid"].to_numpy(), difference


def bootstrap_means(clips: np.ndarray, values: np.ndarray, seed: int, num: int = NUM_BOOTSTRAP) -> np.ndarray:
    """Means of `values` (Q, K) over `num` draws of clips with replacement: (num, K)."""
    _, index = np.unique(clips, return_inverse=True)
    num_clips = index.max() + 1
    sums = np.zeros((num_clips, values.shape[1]))
    np.add.at(sums, index, values)
    counts = np.bincount(index)
    weights = np.random.default_rng(seed).multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=num)
    return (weights @ sums) / (weights @ counts)[:, None]


def sign_flip_p(clips: np.ndarray, difference: np.ndarray, seed: int = 0, num: int = 5000) -> float:
    """Two-sided p of a paired difference (Q,): the share of random signs, one a clip, with so large a sum.

    If two runs are equally good, either could have been named first, clip by clip (Fisher's randomisation).

    >>> sign_flip_p(np.array(["a", "b"]), np.array([0.0, 0.0]))
    1.0
    """
    _, index = np.unique(clips, return_inverse=True)
    sums = np.bincount(index, weights=difference)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(num, len(sums)))
    num_as_far = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).sum()
    return float((1 + num_as_far) / (1 + num))


def words_of(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def _row(record: Record, ranked: Mapping[str, np.ndarray], ks: Sequence[int]) -> dict[str, Any]:
    overlaps = best_tiou(ranked.get(record.query_id, np.zeros((0, 3))), record.moments_sec)
    start, end = record.moments_sec[0]
    row = {
        "query_id": record.query_id,
        "clip_uid": record.clip_uid,
        "query": record.query,
        "template": record.template or "(none)",
        "moment_sec": end - start,
        "duration_sec": record.duration_sec,
        "is_answered": record.query_id in ranked,
        "num_kept": len(overlaps),
        "is_cleaned": record.raw_query is not None and record.raw_query != record.query,
    }
    for k in ks:
        for threshold in THRESHOLDS:
            row[recall_key(k, threshold)] = float((overlaps[:k] > threshold).any())
    return row | {"mIoU": float(overlaps[0]) if len(overlaps) else 0.0}


def _means(hits: pd.DataFrame, keys: list[str]) -> dict[str, float]:
    table = {key: 100 * float(hits[key].mean()) for key in keys if key != "mIoU"}
    mean_r1 = float(np.mean([table[recall_key(1, t)] for t in THRESHOLDS]))
    return table | {"mean R@1": mean_r1, "mIoU": 100 * float(hits["mIoU"].mean())}
