"""The arithmetic of the official score, in one place: temporal IoU and recall at k."""

from collections.abc import Mapping, Sequence

import numpy as np

from groundnlq.data.records import Record

KS = (1, 5, 10)
THRESHOLDS = (0.3, 0.5)


def tiou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Temporal IoU of segments (..., 2), broadcast: intersection over (latest end - earliest start).

    That is the official denominator; for segments that overlap it equals the union.

    >>> tiou(np.array([0.0, 4.0]), np.array([[2.0, 4.0], [4.0, 8.0]])).tolist()
    [0.5, 0.0]
    """
    inter = np.minimum(one[..., 1], other[..., 1]) - np.maximum(one[..., 0], other[..., 0])
    hull = np.maximum(one[..., 1], other[..., 1]) - np.minimum(one[..., 0], other[..., 0])
    return np.clip(inter, 0, None) / np.maximum(hull, 1e-12)


def best_tiou(segments: np.ndarray, moments_sec: Sequence[Sequence[float]]) -> np.ndarray:
    """(K,) tIoU of each ranked segment (K, 2 or more) with the moment that it fits best."""
    if len(segments) == 0 or len(moments_sec) == 0:
        return np.zeros(len(segments))
    return tiou(segments[:, None, :2], np.asarray(moments_sec)[None]).max(axis=1)


def recall_key(k: int, threshold: float) -> str:
    """How a recall is named everywhere, such as ``R@1 IoU=0.3``."""
    return f"R@{k} IoU={threshold:g}"


def kept_ks(ranked: Mapping[str, np.ndarray]) -> list[int]:
    """Those of `KS` that these predictions have enough segments for; 1 always."""
    return [k for k in KS if k <= max([1, *map(len, ranked.values())])]


def recalls(ranked: Mapping[str, np.ndarray], records: Sequence[Record]) -> dict[str, float]:
    """Strict recalls in percent plus ``mean R@1``: a hit is tIoU > threshold; no answer is a miss.

    A recall at more than the number of kept segments is left out: it would only repeat a smaller one.
    """
    overlaps = [best_tiou(ranked.get(r.query_id, np.zeros((0, 3))), r.moments_sec) for r in records]
    table = {
        recall_key(k, threshold): 100 * float(np.mean([bool((o[:k] > threshold).any()) for o in overlaps]))
        for k in kept_ks(ranked)
        for threshold in THRESHOLDS
    }
    return table | {"mean R@1": float(np.mean([table[recall_key(1, t)] for t in THRESHOLDS]))}
