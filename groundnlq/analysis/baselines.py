"""What one gets without looking: the best constant segment, and random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groundnlq.data.annotations import Record
from groundnlq.data.recall import tiou
from groundnlq.data.submission import Ranked


def constant_segment(train: Sequence[Record], records: Sequence[Record], keep: int = 5) -> Ranked:
    """The same shares of the clip for every query: those that hit most training moments at tIoU > 0.3.

    Chosen greedily: each further segment is the one that hits most of what the earlier ones miss.
    """
    moments = np.array([m for r in train for m in r.moments_sec[:1]])
    durations = np.array([r.duration_sec for r in train if r.moments_sec])
    shares = _grid_of_shares(moments, durations)
    hits = tiou(shares[:, None] * durations[None, :, None], moments[None]) > 0.3
    chosen, open_queries = [], np.ones(len(moments), dtype=bool)
    for _ in range(keep):
        best = int((hits & open_queries).sum(axis=1).argmax())
        chosen.append(shares[best])
        open_queries &= ~hits[best]
    scores = 1 / np.arange(1, keep + 1)
    return {r.query_id: np.column_stack([np.array(chosen) * r.duration_sec, scores]) for r in records}


def random_segments(
    train: Sequence[Record], records: Sequence[Record], keep: int = 5, seed: int = 0
) -> Ranked:
    """Segments of random place, as long as random training moments."""
    random = np.random.default_rng(seed)
    lengths = np.array([end - start for r in train for start, end in r.moments_sec])
    ranked: Ranked = {}
    for record in records:
        length = np.minimum(random.choice(lengths, size=keep), record.duration_sec)
        start = random.uniform(0, record.duration_sec - length)
        ranked[record.query_id] = np.column_stack([start, start + length, 1 / np.arange(1, keep + 1)])
    return ranked


def _grid_of_shares(moments: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """(G, 2) candidate segments as shares of the clip: lengths at the quantiles of the moments' own."""
    length_shares = (moments[:, 1] - moments[:, 0]) / durations
    lengths = np.unique(np.quantile(length_shares, [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]))
    starts = np.linspace(0, 1, 101)
    grid = np.array([(start, start + length) for length in lengths for start in starts])
    return grid[grid[:, 1] <= 1]
