"""The published ensemble: first segments of several runs that agree are averaged and join the candidates."""

from collections.abc import Sequence

import numpy as np

from groundnlq.analysis.baselines import TOP_K
from groundnlq.data.recall import tiou
from groundnlq.data.submission import Predictions, Ranked
from groundnlq.errors import DataError, sample_of
from groundnlq.provenance import made_by

NEAR_SEC = 2.0  # centres closer than this belong to one group
SEGMENTS_OF_EACH_RUN = 4
NMS_IOU = 0.5


def ensemble(runs: Sequence[Ranked]) -> Predictions:
    """Fuse the runs' predictions query by query; a DataError where they do not answer the same queries."""
    if not runs:
        raise DataError("an ensemble needs at least one run's predictions")
    for number, run in enumerate(runs[1:], 2):
        if differing := runs[0].keys() ^ run.keys():
            raise DataError(
                f"run {number} ({Predictions.origin_of(run).get('path', 'unnamed')}) answers other queries than run 1: "
                f"{sample_of(sorted(differing))} -- predict the same split with both"
            )
    fused = {query_id: _fuse([run[query_id] for run in runs]) for query_id in runs[0]}
    return Predictions(fused, made_by(runs=[Predictions.origin_of(run) for run in runs], top_k=TOP_K))


def _fuse(answers: Sequence[np.ndarray], top_k: int = TOP_K) -> np.ndarray:
    """(top_k, 3) fused segments of one query from the (K, 3) of each run; the last is repeated to fill.

    The first answers are grouped by centre. Each group gives one segment: the mean, score included, of its
    best-scored member and its middle one. These and each run's first four pass hard NMS. (GroundNLQ's
    submission to the Ego4D challenge 2023.)

    >>> _fuse([np.array([[10.0, 14.0, 0.8]]), np.array([[11.0, 16.0, 0.4]])], top_k=1).tolist()
    [[10.0, 14.0, 0.8]]
    """
    new = [_mean_of_group(group) for group in _groups(np.stack([answer[0] for answer in answers]))]
    candidates = np.concatenate([np.stack(new), *(answer[:SEGMENTS_OF_EACH_RUN] for answer in answers)])
    kept = _hard_nms(candidates)[:top_k]
    return np.concatenate([kept, np.repeat(kept[-1:], top_k - len(kept), axis=0)])


def _groups(firsts: np.ndarray) -> list[np.ndarray]:
    """Runs' first answers in order of their centres, cut where neighbours are NEAR_SEC or more apart."""
    by_center = {(first[0] + first[1]) / 2: first for first in firsts}  # of equal centres the later run's
    centers = sorted(by_center)
    cuts = [i for i in range(1, len(centers)) if centers[i] - centers[i - 1] >= NEAR_SEC]
    return np.split(np.stack([by_center[center] for center in centers]), cuts)


def _mean_of_group(group: np.ndarray) -> np.ndarray:
    best = group[group[:, 2].argmax()]
    middle = group[(len(group) - 1) // 2 : len(group) // 2 + 1]  # of two the higher-scored, the earlier at a tie
    return (best + middle[middle[:, 2].argmax()]) / 2


def _hard_nms(candidates: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    for candidate in candidates[np.argsort(-candidates[:, 2], kind="stable")]:
        if not kept or (tiou(np.stack(kept)[:, :2], candidate[:2]) <= NMS_IOU).all():
            kept.append(candidate)
    return np.stack(kept)
