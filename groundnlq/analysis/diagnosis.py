"""Why a query was missed: every query falls into exactly one outcome, and each outcome has its worth.

In the manner of detection error analysis (Hoiem et al. 2012; Alwassel et al. 2018, for actions in time).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from groundnlq.analysis.candidates import FixedRun, LiveRun
from groundnlq.analysis.evaluation import HIGH, LOW, bootstrap_means
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record

OUTCOMES = {  # the first that applies
    "hit": "the first answer is right",
    "ranking": "a later one of the k answers is right",
    "localisation": "an answer overlaps the moment, too loosely",
    "suppressed": "a right candidate before NMS, none of the k kept",
    "scored out": "right candidates only below the cut of scores",
    "unreachable": "no point of the pyramid could be positive",
    "missed": "no candidate is right, no answer overlaps",
}
NO_MOMENT = -1


def outcome_codes(
    run: FixedRun | LiveRun, threshold: float, keep: int, sigma: float = 0.75, min_score: float = 0.001
) -> np.ndarray:
    """(Q,) the outcome of every query as a place in `OUTCOMES`; `NO_MOMENT` where it is not annotated.

    Of a `FixedRun` neither candidates nor pyramid are known: what is no hit and overlaps nothing is "missed".
    """
    overlaps = run.answers(sigma, min_score, keep).overlaps[:, :keep]
    nothing = np.zeros(len(overlaps), bool)
    alive, right = run.right_candidates(threshold, min_score) if run.is_live else (nothing, nothing)
    unreachable = np.array([not levels for levels in run.levels_reached]) if run.is_live else nothing
    tests = [
        (overlaps[:, :1] > threshold).any(axis=1),
        (overlaps > threshold).any(axis=1),
        (overlaps > 0).any(axis=1),
        *(alive, right, unreachable, ~nothing),
    ]
    is_annotated = np.array([bool(record.moments_sec) for record in run.records])
    return np.where(is_annotated, np.argmax(tests, axis=0), NO_MOMENT)


def diagnose(run: FixedRun | LiveRun, threshold: float = 0.3, keep: int = 5, **rules: float) -> pd.DataFrame:
    """One row an annotated query: its outcome, what was answered, and of which kind the query is.

    ``answers_other`` says whether the first answer to a missed query hits another query of its clip;
    ``level`` is the pyramid level that gave the first answer, ``found by`` the one of the first right one.

    Args:
        rules: ``sigma`` and ``min_score`` of the decoding; by default the run's own.
    """
    rules = {**(run.rules if run.is_live else {}), **rules}
    answers, codes = run.answers(**rules, keep=keep), outcome_codes(run, threshold, keep, **rules)
    first = answers.ranked[:, 0]
    others = _answer_others(run.records, first, threshold)
    frame = pd.DataFrame(
        {
            "query_id": [record.query_id for record in run.records],
            "clip_uid": [record.clip_uid for record in run.records],
            "query": [record.query for record in run.records],
            "template": [record.template or "(none)" for record in run.records],
            "outcome": pd.Categorical.from_codes(codes, list(OUTCOMES), ordered=True),
            "first tIoU": answers.overlaps[:, 0],
            "best tIoU": answers.overlaps[:, :keep].max(axis=1),
            "score": first[:, 2],
            "moment_sec": [r.moments_sec[0][1] - r.moments_sec[0][0] if r.moments_sec else np.nan
                           for r in run.records],
            "answers_other": others & (codes != 0),
        }
    )  # fmt: skip
    if run.is_live:
        found_by = np.argmax(answers.overlaps[:, :keep] > threshold, axis=1)
        frame["level"] = [run.level_of(i, row[0]) for i, row in enumerate(answers.ranked)]
        frame["found by"] = [run.level_of(i, row[k]) for i, (row, k) in
                             enumerate(zip(answers.ranked, found_by, strict=True))]  # fmt: skip
        frame.loc[~frame["outcome"].isin(["hit", "ranking"]), "found by"] = NO_MOMENT
    return frame[codes != NO_MOMENT].reset_index(drop=True)


def worth(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What each outcome costs: the recalls if an oracle mended it alone, all else as it is.

    The outcomes exclude each other, so their gains at rank 1 add up to what is missing to 100. Two oracles of
    another cut stand below: *boundaries* gives every answer that overlaps the moment its true ends,
    *order* puts the best of the k answers first.

    Returns:
        a row an outcome: share of the queries, ``R@1`` and ``R@k`` if mended, gain at rank 1 with its 95 %
        interval (bootstrap over clips); all in percent or points.
    """
    hit, ranked = (table["outcome"] == "hit").to_numpy(), table["outcome"].isin(["hit", "ranking"]).to_numpy()
    mended = {name: (table["outcome"] == name).to_numpy() for name in OUTCOMES if name != "hit"}
    rows = {"as it is": (hit, ranked)} | {n: (hit | m, ranked | m) for n, m in mended.items()}
    rows["oracle of boundaries"] = ((table["first tIoU"] > 0).to_numpy(), (table["best tIoU"] > 0).to_numpy())
    rows["oracle of order"] = (ranked, ranked)
    gains = 100 * np.stack([at_1.astype(float) - hit for at_1, _ in rows.values()], axis=1)
    low, high = _interval(table, gains, seed)
    frame = pd.DataFrame.from_dict({name: [100 * a.mean(), 100 * b.mean()] for name, (a, b) in rows.items()},
                                   orient="index", columns=["R@1", "R@k"])  # fmt: skip
    shares = {name: 100 * mask.mean() for name, mask in ({"as it is": hit} | mended).items()}
    frame.insert(0, "queries", pd.Series(shares))
    return frame.assign(gain=gains.mean(axis=0), **{LOW: low, HIGH: high})


def calibration_table(table: pd.DataFrame, num_bins: int = 8, seed: int = 0) -> pd.DataFrame:
    """Mean score of the first answer and how often it is right [%], in bins of equally many queries.

    ``attrs["error"]`` is the expected calibration error in points (Naeini et al. 2015).
    """
    ordered = table.sort_values("score", kind="stable")
    rows = []
    for part in np.array_split(np.arange(len(ordered)), max(1, min(num_bins, len(ordered)))):
        queries = ordered.iloc[part]
        hits = 100 * (queries["outcome"] == "hit").to_numpy(float)[:, None]
        (low,), (high,) = _interval(queries, hits, seed)
        rows.append((queries["score"].mean(), hits.mean(), low, high, len(queries)))
    frame = pd.DataFrame(rows, columns=["score", "hit rate", LOW, HIGH, "queries"])
    gap = (100 * frame["score"] - frame["hit rate"]).abs()
    frame.attrs["error"] = float((gap * frame["queries"]).sum() / frame["queries"].sum())
    return frame


def by_level(table: pd.DataFrame, run: LiveRun) -> pd.DataFrame:
    """Who finds what: for each pyramid level the moments that train it, the first answers that it gives and
    how many of them are right, and the queries whose first right answer it gives."""
    reached = dict(zip((r.query_id for r in run.records), run.levels_reached, strict=True))
    rows = {}
    for level in range(run.config.model.num_levels):
        is_first, is_found = table["level"] == level, table["found by"] == level
        rows[f"stride {2**level}"] = {
            "trained by": 100 * np.mean([level in reached[query_id] for query_id in table["query_id"]]),
            "first answers": 100 * is_first.mean(),
            "of these right": 100 * (table.loc[is_first, "outcome"] == "hit").mean(),
            "right answers": 100 * is_found.mean(),
            "median found [s]": table.loc[is_found, "moment_sec"].median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def outcome_changes(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """How many queries went from which outcome (rows, `one`) to which (columns, `other`)."""
    after = other.set_index("query_id")["outcome"].reindex(one["query_id"]).to_numpy()
    return pd.crosstab(one["outcome"].to_numpy(), after, rownames=["from"], colnames=["to"])


def _answer_others(records: Sequence[Record], first: np.ndarray, threshold: float) -> np.ndarray:
    """(Q,) does the first answer hit the moment of another query of its clip?"""
    by_clip: dict[str, list[Record]] = {}
    for record in records:
        by_clip.setdefault(record.clip_uid, []).append(record)
    found = []
    for record, answer in zip(records, first, strict=True):
        moments = [m for other in by_clip[record.clip_uid] if other is not record for m in other.moments_sec]
        found.append(answer[2] > 0 and bool((best_tiou(answer[None], moments) > threshold).any()))
    return np.array(found, dtype=bool)


def _interval(table: pd.DataFrame, values: np.ndarray, seed: int) -> np.ndarray:
    """95 % of the means of `values` (Q, K) by bootstrap over clips: (2, K)."""
    draws = bootstrap_means(table["clip_uid"].to_numpy(), values, seed)
    return np.percentile(draws, [2.5, 97.5], axis=0)
