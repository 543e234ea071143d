"""Predictions of a split for analysis: as a file has them, or of a network, to be decoded again at will."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from groundnlq.config import DecodeConfig, RunConfig
from groundnlq.data.check import check_rate
from groundnlq.data.dataset import QueryDataset, clip_batches
from groundnlq.data.recall import tiou
from groundnlq.data.records import Record
from groundnlq.data.submission import Ranked
from groundnlq.engine.predictor import Predictor
from groundnlq.model.decode import find_candidates, suppress, vote
from groundnlq.model.grounder import Grounder
from groundnlq.model.points import Points, assign_targets, make_points

FEW, MANY = 5, 10  # segments decoded for every query; the first k of them are what `top_k=k` gives
BEST = (6, 50)  # candidates for each segment that are decoded at first; all where these do not settle it
TINY = float(np.finfo(np.float32).tiny)  # a score of 0 would mean "no segment"
QUERIES_AT_ONCE = 256  # in voting, which looks at all candidates


@dataclass(frozen=True)
class Decoded:
    """Ranked segments of a split.

    ``ranked`` (Q, K, 3): start_sec, end_sec, score, best first. ``overlaps`` (Q, K): their tIoU with the
    moment of the query that they fit best. Where a query has fewer than K segments, both scores and overlaps
    are 0.
    """

    ranked: np.ndarray
    overlaps: np.ndarray

    @classmethod
    def of_records(cls, ranked: np.ndarray, records: Sequence[Record]) -> "Decoded":
        """Ranked segments (Q, K, 3) with their overlaps with the records' moments."""
        return cls(ranked, _overlaps(ranked, _moments_table(records)))

    def of(self, index: int, top_k: int | None = None) -> np.ndarray:
        """(K, 3) segments of one query, K <= `top_k`."""
        segments = self.ranked[index, :top_k]
        return segments[segments[:, 2] > 0]


class FixedPredictions:
    """Predictions as a file has them, (K, 3) segments by query_id; they cannot be decoded again."""

    settings = DecodeConfig()  # of which only `top_k` has a meaning

    def __init__(self, records: Sequence[Record], ranked: Ranked):
        self.records = list(records)
        most = max((len(segments) for segments in ranked.values()), default=0)
        table = np.zeros((len(self.records), max(1, most), 3))
        for row, record in zip(table, self.records, strict=True):
            segments = ranked.get(record.query_id, row[:0])
            row[: len(segments)] = segments
            row[: len(segments), 2].clip(min=TINY, out=row[: len(segments), 2])
        self._decoded = Decoded.of_records(table, self.records)

    def decode(self, settings: DecodeConfig | None = None) -> Decoded:
        """The predictions of the file, whatever the settings."""
        return self._decoded

    def right_ranks(self, threshold: float, min_score: float) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) rank of the first right prediction, inf without any; (Q,) is there any?"""
        is_right = self._decoded.overlaps > threshold
        found: np.ndarray = np.asarray(is_right.any(axis=1))
        return np.where(found, 1.0 + is_right.argmax(axis=1), np.inf), found


class LivePredictions:
    """Network outputs of a split, cached so that decoding can be re-run interactively.

    They take about 20 bytes a point: 170 MB for Ego4D's val split. The predictor's decode settings are the default; of
    these `pre_nms_topk` and `min_duration_grid` are fixed.
    """

    def __init__(self, predictor: Predictor, dataset: QueryDataset):
        self.predictor, self.dataset, self.records = predictor, dataset, dataset.records
        self.config, self.settings = predictor.config, predictor.config.decode
        check_rate(dataset.store, [], self.config.data.grid)
        self._moments = _moments_table(self.records)
        self._durations_sec = torch.tensor([record.duration_sec for record in self.records])
        found: dict[int, tuple[Tensor, ...]] = {}
        for indices in clip_batches(self.records):
            found |= zip(indices, self._of_batch(indices), strict=True)
            predictor.reporter.status({"state": "predicting", "step": len(found), "total_steps": len(self.records)})
        parts = list(zip(*(found[i] for i in range(len(self.records))), strict=True))
        lengths = [len(scores) for scores in parts[0]]
        self._first = torch.tensor([0, *np.cumsum(lengths)])
        self._scores, self._segments, self._is_candidate, self._level, order = map(torch.cat, parts)
        self._order = order + self._first[:-1].repeat_interleave(torch.tensor(lengths))
        self._decoded = lru_cache(maxsize=6)(self._decode)
        every = torch.arange(len(self.records))
        self._best_of_all = lru_cache(maxsize=2)(partial(self._best_candidates, every))

    def _of_batch(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
        """For each query scores, segments, whether they are candidates, levels, and the order by score."""
        outputs = self.predictor.outputs(self.dataset.batch(indices))
        scores = outputs.logits.float().sigmoid()
        segments, candidate_scores = find_candidates(outputs, self.settings.model_copy(update={"min_score": 0.0}))
        for query, valid in enumerate(outputs.mask):
            allowed = candidate_scores[query][valid]
            order = allowed.argsort(descending=True, stable=True)
            level = outputs.points.level[valid].to(torch.int8)
            row = (scores[query][valid], segments[query][valid], allowed > 0, level, order)
            yield tuple(field.cpu() for field in row)

    def decode(self, settings: DecodeConfig | None = None) -> Decoded:
        """At least `top_k` segments for each query, with these settings or the run's own; the last few are cached."""
        settings = settings or self.settings
        num = FEW if settings.top_k <= FEW else max(MANY, settings.top_k)
        return self._decoded(settings.model_copy(update={"top_k": num}))

    def _decode(self, settings: DecodeConfig) -> Decoded:
        """What `model.decode` gives with these settings; the whole split at once, and exactly.

        Only the best candidates enter suppression. A pick is settled where its score exceeds that of every
        candidate left out, since suppression only lowers scores; other queries are decoded again with more.
        """
        count, longest, cut = settings.top_k, int(self._first.diff().max()), settings.min_score
        segments, scores = torch.zeros(len(self.records), count, 2), torch.zeros(len(self.records), count)
        rows = every = torch.arange(len(self.records))
        for width in (*(count * many for many in BEST), longest):
            find = self._best_of_all if len(rows) == len(every) else partial(self._best_candidates, rows)
            best, best_scores, left_out = find(width)
            segments[rows], scores[rows] = suppress(best, best_scores, settings)
            rows = rows[((scores[rows] <= left_out[:, None]) & (left_out[:, None] > cut)).any(dim=1)]
            if len(rows) == 0:
                break
        if settings.nms == "none":  # the others apply the minimum score themselves
            scores[scores <= cut] = 0.0
        for rows in every.split(QUERIES_AT_ONCE) if settings.voting_iou > 0 else ():
            found, weights, _ = self._best_candidates(rows, longest)
            segments[rows] = vote(segments[rows], found, weights * (weights > cut), settings.voting_iou)
        is_empty = scores[:, 0] <= 0
        segments[is_empty, 0] = self._segments[self._top][is_empty]
        scores[is_empty, 0] = self._scores[self._top][is_empty].clamp(min=TINY)
        ranked = torch.cat([self._to_sec(segments, torch.arange(len(scores))), scores[..., None]], -1).numpy()
        return Decoded(ranked, _overlaps(ranked, self._moments))

    def _best_candidates(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best `width` candidates of R queries, score 0 behind the last; the best score left out (R,).

        Starts lie apart from ends in memory: suppression takes a fifth less time than over pairs.
        """
        place = self._first[rows][:, None] + torch.arange(width + 1)
        is_there = place < self._first[rows + 1][:, None]
        index = self._order[place.clamp(max=len(self._order) - 1)]
        scores = self._scores[index] * (self._is_candidate[index] & is_there)
        segments = self._segments.T[:, index[:, :-1]].movedim(0, -1)
        return segments, scores[:, :-1], scores[:, -1]

    def _to_sec(self, segments_grid: Tensor, rows: Tensor) -> Tensor:
        end = self._durations_sec[rows].reshape(-1, *[1] * (segments_grid.dim() - 1))
        return torch.minimum(self.config.data.grid.to_sec(segments_grid).clamp(min=0), end)

    @cached_property
    def _top(self) -> Tensor:
        """The best point of each query, which is the prediction for a query without candidates."""
        return torch.stack([a + self._scores[a:b].argmax() for a, b in self._first.unfold(0, 2, 1)])

    @cached_property
    def _near(self) -> tuple[np.ndarray, ...]:
        """Query, tIoU, score and rank as a candidate of the few points whose segment overlaps a moment."""
        query = torch.arange(len(self.records)).repeat_interleave(self._first.diff())
        seconds = self._to_sec(self._segments, query).numpy()
        overlaps = np.nan_to_num(tiou(seconds[:, None], self._moments[query])).max(axis=1, initial=0)
        near, rank = np.flatnonzero(overlaps), np.empty(len(overlaps))
        rank[self._order.numpy()] = 1 + np.arange(len(overlaps)) - self._first[query].numpy()
        return query.numpy()[near], overlaps[near], (self._scores * self._is_candidate).numpy()[near], rank[near]

    def right_ranks(self, threshold: float, min_score: float) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) rank of the best right candidate above the minimum score, by score alone, without NMS; inf without any.
        (Q,) is the segment of any point right?"""
        query, overlaps, scores, rank = self._near
        is_right = overlaps > threshold
        ranks, found = np.full(len(self.records), np.inf), np.zeros(len(self.records), bool)
        is_found = is_right & (scores > min_score)
        np.minimum.at(ranks, query[is_found], rank[is_found])
        found[query[is_right]] = True
        return ranks, found

    def candidates(self, index: int) -> np.ndarray:
        """(N, 4) of all points of one query: start_sec, end_sec, score, level."""
        span = slice(*self._first[index : index + 2].tolist())
        seconds = self._to_sec(self._segments[span], torch.full((span.stop - span.start,), index))
        return torch.cat([seconds, self._scores[span, None], self._level[span, None]], dim=1).numpy()

    def level_of(self, index: int, segment: np.ndarray) -> int:
        """The pyramid level of the point that gave a segment (start_sec, end_sec, ...); -1 if none did."""
        rows = self.candidates(index)
        levels = rows[(rows[:, :2] == segment[:2]).all(axis=1), 3]
        return int(levels[0]) if len(levels) else -1

    @cached_property
    def levels_reached(self) -> list[set[int]]:
        """For each query the levels on which its moments have positive points in training."""
        return [levels_reached(record, self.config) for record in self.records]

    def level_scores(self, index: int) -> list[np.ndarray]:
        """Scores of one query: an array of its points for each pyramid level, finest first."""
        scores, level = self.candidates(index)[:, 2:].T
        return [scores[level == number] for number in range(self.config.model.num_levels)]

    def attention(self, index: int) -> np.ndarray:
        """Cross-attention of every layer of the stem for one query, averaged over heads: (layers, T, L), the
        share of its attention that a step of the clip gives to each token."""
        batch = self.dataset.batch([index])
        with _cross_attention(self.predictor.model) as weights:
            self.predictor.outputs(batch)
        num_steps, num_tokens = int(batch.video_mask.sum()), int(batch.text_mask.sum())
        return torch.stack(weights).numpy()[:, :num_steps, :num_tokens]


SplitPredictions = FixedPredictions | LivePredictions


def positive_points(moments_sec: ArrayLike, num_steps: int, config: RunConfig) -> tuple[Points, Tensor]:
    """All points of a clip, and (N,) bool which of them the moments (M, 2) make positive in training.

    Grid, regression ranges and centre radius are those of the run.
    """
    ranges_grid = config.model.regression_ranges_grid
    points = make_points(tuple(-(-num_steps // 2**level) for level in range(len(ranges_grid))), ranges_grid)
    moments_grid = config.data.grid.to_grid(torch.as_tensor(moments_sec)).float()
    labels, _ = assign_targets(points, moments_grid, config.train.center_radius)
    return points, labels > 0


def levels_reached(record: Record, config: RunConfig) -> set[int]:
    """Pyramid levels with a positive point for any of the record's moments, as training sees them."""
    num_steps = int(np.ceil(config.data.grid.to_grid(record.duration_sec))) + 1
    moments = torch.tensor(record.moments_sec, dtype=torch.float32).reshape(-1, 2)
    points, is_positive = positive_points(moments.clamp(0, record.duration_sec), num_steps, config)
    return set(points.level[is_positive].tolist())


def _overlaps(ranked: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(Q, K) tIoU of segments (Q, K, 3) with the moment (Q, M, 2) that they fit best; 0 without any."""
    found = np.nan_to_num(tiou(ranked[:, :, None, :2], moments[:, None]))
    return found.max(axis=2, initial=0) * (ranked[..., 2] > 0)


def _moments_table(records: Sequence[Record]) -> np.ndarray:
    """(Q, M, 2) start and end in seconds, NaN behind the last of each query."""
    most = max((len(record.moments_sec) for record in records), default=0)
    table = np.full((len(records), most, 2), np.nan)
    for row, record in zip(table, records, strict=True):
        row[: len(record.moments_sec)] = np.reshape(record.moments_sec, (-1, 2))
    return table


@contextmanager
def _cross_attention(model: Grounder) -> Iterator[list[Tensor]]:
    """Collects the cross-attention weights (T, L) of the first query, one of each layer of the stem."""
    found: list[Tensor] = []

    def collect(module, arguments) -> None:
        x, text, text_mask = arguments
        found.append(module.weights(x, text, text_mask)[0].mean(0).float().cpu())

    layers = [block.get_submodule("cross_attention") for block in model.video_encoder.stem]
    hooks = [layer.register_forward_pre_hook(collect) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
