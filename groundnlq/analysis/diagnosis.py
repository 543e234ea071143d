"""Diagnosis of a run: the outcome of every query, and the gain of an oracle for each outcome.

In the manner of detection error analysis (Hoiem et al. 2012; Alwassel et al. 2018, for actions in time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from groundnlq.analysis.candidates import LivePredictions, SplitPredictions
from groundnlq.analysis.intervals import HIGH, LOW, ClipBootstrap
from groundnlq.analysis.sensitivity import kinds_of_query, paired_difference, sensitivity
from groundnlq.config import DecodeConfig
from groundnlq.data.dataset import clip_batches
from groundnlq.data.recall import THRESHOLDS, best_tiou
from groundnlq.data.records import Record

OUTCOMES = {  # the first that applies
    "hit": "the first prediction is correct",
    "ranking": "a later one of the top k is correct",
    "localisation": "a prediction overlaps the moment, tIoU too low",
    "suppressed": "a candidate is correct, but not in the top k",
    "scored out": "correct candidates only below the minimum score",
    "unreachable": "no point of the pyramid could be positive",
    "missed": "no candidate is correct, no prediction overlaps",
}
NO_MOMENT = -1
AS_IT_IS = "as it is"  # the first row of `oracle_gains`
NUM_BINS = 8  # of calibration


def outcome_codes(run: SplitPredictions, threshold: float, settings: DecodeConfig) -> np.ndarray:
    """(Q,) the outcome of every query as a place in `OUTCOMES`; `NO_MOMENT` where it is not annotated.

    Of `FixedPredictions` neither candidates nor pyramid are known: what is not a hit and overlaps nothing is
    "missed".
    """
    overlaps = run.decode(settings).overlaps[:, : settings.top_k]
    found = right = unreachable = nothing = np.zeros(len(overlaps), bool)
    if isinstance(run, LivePredictions):
        found, right = run.right_candidates(threshold, settings.min_score)
        unreachable = np.array([not levels for levels in run.levels_reached])
    tests = [
        (overlaps[:, :1] > threshold).any(axis=1),
        (overlaps > threshold).any(axis=1),
        (overlaps > 0).any(axis=1),
        *(found, right, unreachable, ~nothing),
    ]
    is_annotated = np.array([bool(record.moments_sec) for record in run.records])
    return np.where(is_annotated, np.argmax(tests, axis=0), NO_MOMENT)


def diagnose(
    run: SplitPredictions, threshold: float = THRESHOLDS[0], settings: DecodeConfig | None = None
) -> pd.DataFrame:
    """One row an annotated query: its outcome, the overlaps of its predictions, and what kind of query it is.

    ``answers_other`` says whether the first prediction of a missed query hits another query of its clip;
    ``level`` is the pyramid level of the first prediction, ``found by`` that of the first hit.

    Args:
        settings: of decoding; by default the run's own.
    """
    settings = settings or run.settings
    decoded, codes = run.decode(settings), outcome_codes(run, threshold, settings)
    overlaps, first = decoded.overlaps[:, : settings.top_k], decoded.ranked[:, 0]
    frame = pd.DataFrame(
        {
            "query_id": [record.query_id for record in run.records],
            "clip_uid": [record.clip_uid for record in run.records],
            "query": [record.query for record in run.records],
            "template": [record.template or "(none)" for record in run.records],
            "outcome": pd.Categorical.from_codes(codes, list(OUTCOMES), ordered=True),
            "first tIoU": overlaps[:, 0],
            "best tIoU": overlaps.max(axis=1),
            "score": first[:, 2],
            "moment_sec": [r.moments_sec[0][1] - r.moments_sec[0][0] if r.moments_sec else np.nan
                           for r in run.records],
            "answers_other": _hits_other_query(run.records, first, threshold) & (codes != 0),
        }
    )  # fmt: skip
    if isinstance(run, LivePredictions):
        right = np.argmax(overlaps > threshold, axis=1)
        frame["level"] = [run.level_of(i, segment) for i, segment in enumerate(first)]
        frame["found by"] = [run.level_of(i, decoded.ranked[i, k]) for i, k in enumerate(right)]
        frame.loc[~frame["outcome"].isin(["hit", "ranking"]), "found by"] = NO_MOMENT
    return frame[codes != NO_MOMENT].reset_index(drop=True)


@dataclass(frozen=True)
class Diagnosis:
    """All tables about a run, and beside a baseline if there is one; shares in percent, gains in points.

    Args:
        run, baseline: over the same records.
        train: records of the train split, for unseen words.
        threshold: tIoU above which a prediction is right.
        settings: of decoding; by default each run's own.
    """

    name: str
    run: SplitPredictions
    baseline_name: str = ""
    baseline: SplitPredictions | None = None
    train: Sequence[Record] = ()
    threshold: float = THRESHOLDS[0]
    settings: DecodeConfig | None = None

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a query (see `diagnose`)."""
        return diagnose(self.run, self.threshold, self.settings)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """`table` of the baseline, where there is one, and of the run."""
        runs = {self.baseline_name: self.baseline} if self.baseline else {}
        others = {name: diagnose(run, self.threshold, self.settings) for name, run in runs.items()}
        return others | {self.name: self.table}

    @cached_property
    def oracle_gains(self) -> pd.DataFrame:
        """Recalls if an oracle corrected one outcome and nothing else.

        The outcomes exclude each other, so R@1 and their gains add up to 100. Two other oracles follow:
        *boundaries* gives every prediction that overlaps the moment the true start and end, *order* puts the
        best of the top k first.

        Returns:
            a row an outcome: share of the queries, ``R@1`` and ``R@k`` with the oracle, gain at rank 1 with
            its 95 % interval (bootstrap over clips).
        """
        outcome = self.table["outcome"]
        is_outcome = {name: (outcome == name).to_numpy() for name in OUTCOMES}
        hit = is_outcome.pop("hit")
        right = hit | is_outcome["ranking"]
        recalls = {AS_IT_IS: (hit, right)} | {n: (hit | mask, right | mask) for n, mask in is_outcome.items()}
        overlaps = [(self.table[name] > 0).to_numpy() for name in ("first tIoU", "best tIoU")]
        recalls |= {"oracle: boundaries": tuple(overlaps), "oracle: order": (right, right)}
        at_1, at_k = np.array(list(recalls.values())).swapaxes(0, 1)  # (oracles, Q) each
        gains = 100 * (at_1.astype(float) - hit).T
        low, high = ClipBootstrap(self.table["clip_uid"]).interval(gains)
        shares = pd.Series({name: 100 * mask.mean() for name, mask in ({AS_IT_IS: hit} | is_outcome).items()})
        columns = {"R@1": 100 * at_1.mean(axis=1), "R@k": 100 * at_k.mean(axis=1), "gain": gains.mean(axis=0)}
        frame = pd.DataFrame({**columns, LOW: low, HIGH: high}, index=list(recalls))
        frame.insert(0, "queries", shares)
        return frame

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """Mean score of the first answer and how often it is right, in 8 bins of equally many queries.

        ``attrs["error"]`` is the expected calibration error in points (Naeini et al. 2015).
        """
        rows, ordered = [], self.table.sort_values("score", kind="stable")
        for places in np.array_split(np.arange(len(ordered)), max(1, min(NUM_BINS, len(ordered)))):
            part = ordered.iloc[places]
            rate = ClipBootstrap(part["clip_uid"]).summary("hit rate", 100 * (part["outcome"] == "hit"))
            rows.append({"score": part["score"].mean(), **rate, "queries": len(part)})
        frame = pd.DataFrame(rows)
        gap = (100 * frame["score"] - frame["hit rate"]).abs()
        frame.attrs["error"] = float((gap * frame["queries"]).sum() / frame["queries"].sum())
        return frame

    @cached_property
    def levels(self) -> pd.DataFrame | None:
        """For each pyramid level the moments with positive points on it, the first predictions that come from it
        and how many of them are correct, and the first hits that come from it; None for predictions of a file."""
        if not isinstance(self.run, LivePredictions):
            return None
        run, table, rows = self.run, self.table, {}
        reached = dict(zip((r.query_id for r in run.records), run.levels_reached, strict=True))
        for level in range(run.config.model.num_levels):
            is_first, is_found = table["level"] == level, table["found by"] == level
            rows[f"stride {2**level}"] = {
                "moments": 100 * np.mean([level in reached[query_id] for query_id in table["query_id"]]),
                "first predictions": 100 * is_first.mean(),
                "of these correct": 100 * (table.loc[is_first, "outcome"] == "hit").mean(),
                "first hits": 100 * is_found.mean(),
                "median moment [s]": table.loc[is_found, "moment_sec"].median(),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def kinds(self) -> pd.DataFrame:
        """The group of every query under each kind (see `kinds_of_query`)."""
        return kinds_of_query(self.run.records, self.train)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """R@1 of each group of each kind of query."""
        return sensitivity(self.table, self.kinds)

    @cached_property
    def differences(self) -> pd.DataFrame | None:
        """R@1 of the run minus the baseline's, over all queries and in each group."""
        one = self.tables.get(self.baseline_name)
        return None if one is None else paired_difference(one, self.table, self.kinds)

    @cached_property
    def changes(self) -> pd.DataFrame | None:
        """How many queries went from which outcome (rows, the baseline's) to which (columns, the run's)."""
        one = self.tables.get(self.baseline_name)
        if one is None:
            return None
        after = self.table.set_index("query_id")["outcome"].reindex(one["query_id"])
        return pd.crosstab(one["outcome"].to_numpy(), after.to_numpy(), rownames=["from"], colnames=["to"])

    def summary(self) -> str:
        """The most important numbers, in one sentence each."""
        now = self.oracle_gains.loc[AS_IT_IS]
        gains = self.oracle_gains.loc[[n for n in OUTCOMES if n != "hit"], "gain"].sort_values(ascending=False)
        largest = ", ".join(f"{name} {gain:.1f}" for name, gain in gains[:2].items())
        missed, top_k = self.table[self.table["outcome"] != "hit"], (self.settings or self.run.settings).top_k
        of_other = 100 * missed["answers_other"].mean() if len(missed) else 0.0
        lines = [
            f"{self.name}: R@1 IoU={self.threshold:g} is {now['R@1']:.1f} %, R@{top_k} {now['R@k']:.1f} "
            f"%, over {len(self.table)} queries of {self.table['clip_uid'].nunique()} clips.",
            f"Largest oracle gains [points]: {largest}.",
            f"In {of_other:.0f} % of the missed queries, the first prediction hits the moment of another query.",
            f"Score and hit rate differ by {self.calibration.attrs['error']:.1f} points on average.",
        ]
        if self.differences is not None:
            row = self.differences.iloc[0]
            lines.append(
                f"Against {self.baseline_name}: {row['difference']:+.1f} points at rank 1 "
                f"[{row[LOW]:+.1f}, {row[HIGH]:+.1f}], {row['won']:.0f} queries won, {row['lost']:.0f} lost, "
                f"p = {row['p']:.4f}."
            )
        return "\n".join(lines)


def _hits_other_query(records: Sequence[Record], first: np.ndarray, threshold: float) -> np.ndarray:
    """(Q,) does the first answer hit the moment of another query of its clip?"""
    found = np.zeros(len(records), bool)
    for clip in clip_batches(records, max(1, len(records))):
        for index in clip:
            moments = [m for other in clip if other != index for m in records[other].moments_sec]
            is_right = (best_tiou(first[index][None], moments) > threshold).any()
            found[index] = first[index, 2] > 0 and bool(is_right)
    return found
