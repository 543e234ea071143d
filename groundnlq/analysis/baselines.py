"""Baselines that do not look at the video: constant segments, one set for each template, random segments.

Training records without moments are a DataError.
"""

from collections.abc import Sequence

import numpy as np

from groundnlq.config import DecodeConfig
from groundnlq.data.recall import THRESHOLDS, tiou
from groundnlq.data.records import Record
from groundnlq.data.submission import Ranked
from groundnlq.errors import DataError

HIT = THRESHOLDS[0]  # the tIoU that the constant segment is fitted to exceed
TOP_K = DecodeConfig().top_k  # segments for each query, as many as a run gives


def constant_segment(train: Sequence[Record], records: Sequence[Record], top_k: int = TOP_K) -> Ranked:
    """The same shares of the clip for every query: those that hit most training moments at tIoU > 0.3.

    They are found by a grid search over start and length, and chosen greedily: each further segment is the
    one that hits most of the moments that the earlier ones miss.
    """
    moments, durations = _first_moments(train)
    shares = _grid_of_shares(moments, durations)
    hits = np.stack([tiou(share * durations[:, None], moments) > HIT for share in shares])  # (G, M)
    chosen, is_open = [], np.ones(len(moments), dtype=bool)
    for _ in range(top_k):
        best = int((hits & is_open).sum(axis=1).argmax())
        chosen.append(shares[best])
        is_open &= ~hits[best]
    return {r.query_id: _ranked(np.array(chosen) * r.duration_sec) for r in records}


def constant_by_template(train: Sequence[Record], records: Sequence[Record]) -> Ranked:
    """For every template the constant segments of its own training queries: they measure what the *kind* of
    question alone gives away. A template without training queries gets those of all queries.
    """
    ranked: Ranked = {}
    known = {record.template for record in train if record.moments_sec and not record.oddity}
    for template in dict.fromkeys(record.template for record in records):
        own = [record for record in train if record.template == template] if template in known else train
        ranked |= constant_segment(own, [r for r in records if r.template == template])
    return {record.query_id: ranked[record.query_id] for record in records}


def random_segments(train: Sequence[Record], records: Sequence[Record], seed: int = 0) -> Ranked:
    """Random segments: each has the length of a random training moment, and its place as a share of the clip."""
    random = np.random.default_rng(seed)
    moments, durations = _first_moments(train)
    lengths = moments[:, 1] - moments[:, 0]
    places = np.clip(moments[:, 0] / np.maximum(durations - lengths, 1e-9), 0, 1)  # share of the room before
    ranked: Ranked = {}
    for record in records:
        drawn = random.integers(len(moments), size=TOP_K)
        length = np.minimum(lengths[drawn], record.duration_sec)
        start = places[drawn] * (record.duration_sec - length)
        ranked[record.query_id] = _ranked(np.column_stack([start, start + length]))
    return ranked


def _first_moments(train: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """First moments (M, 2) and their clips' durations (M,), in seconds."""
    annotated = [record for record in train if record.moments_sec and not record.oddity]
    if not annotated:
        raise DataError("the training records have no moments to fit a baseline to -- use the train split")
    moments = np.array([record.moments_sec[0] for record in annotated])
    return moments, np.array([record.duration_sec for record in annotated])


def _grid_of_shares(moments: np.ndarray, durations: np.ndarray) -> np.ndarray:
    """(G, 2) candidate segments as shares of the clip: lengths at the quantiles of the moments' own."""
    shares = np.clip((moments[:, 1] - moments[:, 0]) / durations, 0, 1)
    lengths = np.unique(np.quantile(shares, [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]))
    return np.array([(s, s + length) for length in lengths for s in np.linspace(0, 1 - length, 101)])


def _ranked(segments_sec: np.ndarray) -> np.ndarray:
    return np.column_stack([segments_sec, 1 / np.arange(1, len(segments_sec) + 1)])
