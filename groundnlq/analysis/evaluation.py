"""Recalls of a split as the challenge computes them, and strictly, with intervals over clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from groundnlq.analysis.intervals import HIGH, LOW, ClipBootstrap, paired_summary, share_summary
from groundnlq.data.annotations import read_truth
from groundnlq.data.recall import KS, THRESHOLDS, best_tiou, kept_ks, recall_key
from groundnlq.data.records import Record, identity_of, odd_moments
from groundnlq.data.submission import Predictions, Ranked, read_submission
from groundnlq.errors import DataError, sample_of
from groundnlq.provenance import made_by

KEY = recall_key(1, THRESHOLDS[0])  # the recall that is compared where none is named


@dataclass(frozen=True)
class Evaluation:
    """Hits of every query that has ground truth; everything else is a mean of them.

    ``hits`` has a row a query: its ids, template, moment length, whether it was answered, `mIoU` (the tIoU of the first
    prediction), and a 0/1 column for each recall. A recall at more than the number of kept predictions is left out: it
    would repeat a smaller one. `odd` says which moments no segment of the clip can hit: misses, also officially.
    """

    hits: pd.DataFrame
    num_kept: int
    made_by: Mapping[str, Any] = field(default_factory=dict)
    odd: str = ""

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

    def intervals(self, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % intervals of the strict recalls, by bootstrap over clips; `share_summary` where all are equal."""
        keys = [*self.keys, "mean R@1"]
        first = self.hits[[recall_key(1, t) for t in THRESHOLDS]].mean(axis=1)
        values = 100 * self.hits.assign(**{"mean R@1": first})[keys]
        low, high = ClipBootstrap(self.hits["clip_uid"], seed).interval(values)
        for place in np.flatnonzero(low == high):
            found = share_summary("share", self.hits["clip_uid"], values.iloc[:, place] / 100)
            low[place], high[place] = found[LOW], found[HIGH]
        return {key: (float(a), float(b)) for key, a, b in zip(keys, low, high, strict=True)}

    def table(self) -> pd.DataFrame:
        """Official and strict percent with the strict interval, one row a figure."""
        intervals = pd.DataFrame.from_dict(self.intervals(), orient="index", columns=[LOW, HIGH])
        return pd.DataFrame({"official": self.official, "strict": self.strict}).join(intervals).round(2)

    def report(self) -> str:
        """The table as text, and a line for each way in which the predictions are incomplete."""
        parts = [self.table().to_string()]
        if missing := self.hits.loc[~self.hits["is_answered"], "query_id"].tolist():
            parts.append(f"unanswered, a miss in the strict figures: {sample_of(missing)} -- predict all records")
        if self.odd:
            parts.append(f"no segment of the clip hits {self.odd}; they are misses in both columns")
        for name, count in self.num_short.items():
            parts.append(f"{name}: {count} answered queries have fewer moments; a missing one counts as a miss")
        if self.num_kept < 10:
            parts.append(f"no R@10: {self.num_kept} moments per query were kept -- predict with --top-k 10")
        return "\n\n".join(parts)

    def by(self, group: str | pd.Series, key: str = KEY) -> pd.DataFrame:
        """Strict recall (percent) with its interval, and the number of queries, one row a group; `group` is a column of
        `hits` such as ``template``, or a series with the index of `hits`."""
        rows = {}
        for name, part in self.hits.groupby(group, observed=True):
            rows[name] = share_summary(key, part["clip_uid"], part[key]) | {"queries": len(part)}
        return pd.DataFrame.from_dict(rows, orient="index", columns=[key, LOW, HIGH, "queries"])

    def difference(self, other: Self, key: str = KEY) -> np.ndarray:
        """(Q,) `other` minus this one in points for every query, in the order of `hits`."""
        left, right = (e.hits.set_index("query_id")[key] for e in (self, other))
        if set(left.index) != set(right.index):
            raise DataError("the two evaluations are not about the same queries -- evaluate both on one split")
        return 100 * (right.reindex(left.index) - left).to_numpy(float)

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
            "odd moments": self.odd,
            "text changed by cleaning": self.by_cleaning(),
            "provenance": dict(self.made_by),
        }

    def by_cleaning(self) -> dict[str, dict[str, float]]:
        """Strict figures on the queries whose annotated text cleaning changed (such as the stray prefix
        ``Query Text:``) and on the others; empty where none was changed or the annotated texts are unknown."""
        groups = self.hits["is_cleaned"].map({True: "changed", False: "unchanged"})
        parts = dict(list(self.hits.groupby(groups))) if groups.nunique() > 1 else {}
        return {name: _means(part, self.keys) | {"queries": len(part)} for name, part in parts.items()}


def evaluate(predictions: Ranked | str | Path, truth: Sequence[Record] | str | Path) -> Evaluation:
    """Compare ranked predictions, or a submission file, with records, or a file of records or official annotations; a
    hit is tIoU > threshold, strictly. Predictions of another split are refused."""
    ranked = read_submission(predictions) if isinstance(predictions, str | Path) else predictions
    records = read_truth(truth) if isinstance(truth, str | Path) else truth
    annotated = [record for record in records if record.moments_sec]
    if not annotated or not ranked:
        lacking = "predictions" if annotated else "records with moments"
        raise DataError(f"there are no {lacking} to score -- predict a split that has ground truth")
    origin, ranked = Predictions.origin_of(ranked), by_record(records, ranked)
    ks, num_kept = kept_ks(ranked), max(len(segments) for segments in ranked.values())
    hits = pd.DataFrame([_row(record, ranked, ks) for record in annotated])
    return Evaluation(hits, num_kept, made_by(predictions=origin, truth=identity_of(records)), odd_moments(annotated))


def compare(one: Evaluation, other: Evaluation, key: str = KEY, seed: int = 0) -> dict[str, float]:
    """``other - one`` in points, query by query (see `paired_summary`); a DataError where they are not about the same
    queries."""
    return paired_summary(one.hits["clip_uid"], one.difference(other, key), seed)


def by_record(records: Sequence[Record], ranked: Ranked) -> Ranked:
    """Predictions by the records' query ids; those of a submission are looked up by clip and annotation, as in the
    official script. A DataError names the ones that are not found."""
    ids = {record.place: record.query_id for record in records}
    clips = {name: clip_uid for clip_uid, name in ids}
    asked = {query.query_id: query.place for query in getattr(ranked, "queries", ()) or records}
    if foreign := [asked.get(i, ("", i)) for i in sorted(ranked) if asked.get(i) not in ids]:
        names = [f"{n} in clip {c}, expected {clips[n]}" if n in clips else n for c, n in foreign]
        raise DataError(
            f"{Predictions.origin_of(ranked).get('path', 'predictions')}: {len(names)} answers are to queries that "
            f"the ground truth does not have: {sample_of(names)} -- are these predictions of another split?"
        )
    return {ids[asked[query_id]]: segments for query_id, segments in ranked.items()}


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
