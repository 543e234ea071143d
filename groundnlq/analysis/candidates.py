"""What was answered to a whole split, kept so that it can be decoded anew at every turn of a slider."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundnlq.config import RunConfig
from groundnlq.data.dataset import QueryDataset, clip_batches, collate
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import tiou
from groundnlq.data.records import Record
from groundnlq.data.submission import Ranked
from groundnlq.engine.predictor import Predictor
from groundnlq.model.decode import decode, find_candidates
from groundnlq.model.grounder import Grounder, Outputs
from groundnlq.model.nms import soft_nms
from groundnlq.model.points import Points, assign_targets, make_points

FEW, KEEP = 5, 10  # answers to every query; the first k of them are what decoding with `keep=k` gives
BEST = (6, 50)  # candidates for each answer that are decoded at first; all where these do not settle it
TINY = float(np.finfo(np.float32).tiny)  # a score of 0 would say "no answer"


@dataclass(frozen=True)
class Decoded:
    """`ranked` (Q, K, 3): start_sec, end_sec, score, best first; `overlaps` (Q, K): their tIoU with the
    moment. Where fewer than K were kept, both scores and overlaps are 0."""

    ranked: np.ndarray
    overlaps: np.ndarray

    def of(self, index: int, keep: int = KEEP) -> np.ndarray:
        """(at most `keep`, 3) answers to one query."""
        segments = self.ranked[index, :keep]
        return segments[segments[:, 2] > 0]


class FixedRun:
    """Predictions as a file has them: nothing in them can be decoded anew."""

    is_live = False

    def __init__(self, records: Sequence[Record], ranked: Ranked):
        self.records = list(records)
        most = max((len(segments) for segments in ranked.values()), default=0)
        table = np.zeros((len(self.records), max(1, most), 3))
        for row, record in zip(table, self.records, strict=True):
            segments = ranked.get(record.query_id, row[:0])
            row[: len(segments)] = segments
            row[: len(segments), 2].clip(min=TINY, out=row[: len(segments), 2])
        self._answers = Decoded(table, overlaps_with(table, moments_of(self.records)))

    def answers(self, sigma: float = 0.0, min_score: float = 0.0, keep: int = KEEP) -> Decoded:
        """The predictions, whatever is asked for."""
        return self._answers


class LiveRun:
    """A network with its scores and segments at all points, for every query of a dataset.

    About 20 bytes a point: 170 MB for Ego4D's val split. Decoding is soft-NMS, whatever the run's own is.
    """

    is_live = True

    def __init__(self, model: Grounder, config: RunConfig, dataset: QueryDataset, progress: bool = True):
        self.model, self.config, self.dataset, self.records = model, config, dataset, dataset.records
        show = tqdm(clip_batches(self.records), desc="keep", unit="clip", leave=False,
                    disable=None if progress else True)  # fmt: skip
        found = {
            i: part for indices in show for i, part in zip(indices, self._of_batch(indices), strict=True)
        }
        parts = list(zip(*(found[i] for i in range(len(self.records))), strict=True))
        lengths = [len(scores) for scores in parts[0]]
        self._first = torch.tensor([0, *np.cumsum(lengths)])
        self._scores, self._segments, self._is_candidate, self._level, order = map(torch.cat, parts)
        self._order = order + self._first[:-1].repeat_interleave(torch.tensor(lengths))
        self.rules = {"sigma": config.decode.sigma, "min_score": config.decode.min_score}
        self._decoded = lru_cache(maxsize=4)(self._decode)
        every = torch.arange(len(self.records))
        self._best_of_all = lru_cache(maxsize=2)(lambda width: self._best_candidates(every, width))

    def _of_batch(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
        """For each query scores, segments, whether they may be answers, levels, and the order by score."""
        rules = self.config.decode
        predictions = Predictor(self.model, self.config).outputs(self.dataset.batch(indices))
        scores = predictions.logits.float().sigmoid()
        candidates = find_candidates(predictions, rules.model_copy(update={"min_score": 0.0}))
        for query, valid in enumerate(predictions.mask):
            allowed = candidates.scores[query][valid]
            order = allowed.argsort(descending=True, stable=True)
            level = predictions.points.level[valid].to(torch.int8)
            row = (scores[query][valid], candidates.segments_grid[query][valid], allowed > 0, level, order)
            yield tuple(field.cpu() for field in row)

    def answers(self, sigma: float, min_score: float, keep: int = KEEP) -> Decoded:
        """The split decoded with these numbers, at least `keep` answers each; the last few are remembered."""
        return self._decoded(sigma, min_score, FEW if keep <= FEW else KEEP)

    def _decode(self, sigma: float, min_score: float, keep: int) -> Decoded:
        """What `decode` gives with these numbers; the split at once, and exactly.

        Only the best candidates enter. A pick is settled where its score exceeds that of every candidate
        left out, since suppression only lowers scores; the other queries are decoded again with more.
        """
        segments, scores = torch.zeros(len(self.records), keep, 2), torch.zeros(len(self.records), keep)
        rows = torch.arange(len(self.records))
        for width in (*(keep * many for many in BEST), int(self._first.diff().max())):
            is_all = len(rows) == len(self.records)
            some, their_scores, left_out = (
                self._best_of_all(width) if is_all else self._best_candidates(rows, width)
            )
            segments[rows], scores[rows] = soft_nms(some, their_scores, keep, sigma, min_score)
            rows = rows[((scores[rows] <= left_out[:, None]) & (left_out[:, None] > min_score)).any(dim=1)]
            if len(rows) == 0:
                break
        is_empty = scores[:, 0] <= 0
        segments[is_empty, 0] = self._segments[self._top][is_empty]
        scores[is_empty, 0] = self._scores[self._top][is_empty].clamp(min=TINY)
        ranked = torch.cat([self._to_sec(segments, torch.arange(len(scores))), scores[..., None]], -1).numpy()
        return Decoded(ranked, overlaps_with(ranked, self._moments))

    def _best_candidates(self, rows: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Segments (R, W, 2) and scores (R, W) of the best, 0 behind the last; the best score left out.

        Starts lie apart from ends in memory: suppression takes a fifth less time than over pairs.
        """
        place = self._first[rows][:, None] + torch.arange(width + 1)
        is_there = place < self._first[rows + 1][:, None]
        index = self._order[place.clamp(max=len(self._order) - 1)]
        scores = self._scores[index] * (self._is_candidate[index] & is_there)
        return self._segments.T[:, index[:, :-1]].movedim(0, -1), scores[:, :-1], scores[:, -1]

    def _to_sec(self, segments_grid: Tensor, rows: Tensor) -> Tensor:
        end = self._durations_sec[rows].reshape(-1, *[1] * (segments_grid.dim() - 1))
        return torch.minimum(self.config.data.grid.to_sec(segments_grid).clamp(min=0), end)

    @cached_property
    def _moments(self) -> np.ndarray:
        return moments_of(self.records)

    @cached_property
    def _durations_sec(self) -> Tensor:
        return torch.tensor([record.duration_sec for record in self.records])

    @cached_property
    def _top(self) -> Tensor:
        """The best point of each query, which answers when nothing else does."""
        return torch.stack([a + self._scores[a:b].argmax() for a, b in self._first.unfold(0, 2, 1)])

    @cached_property
    def _near(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query, tIoU and score as a candidate of the few points whose segment overlaps a moment."""
        query = torch.arange(len(self.records)).repeat_interleave(self._first.diff())
        seconds = self._to_sec(self._segments, query).numpy()
        overlaps = np.nan_to_num(tiou(seconds[:, None], self._moments[query])).max(axis=1, initial=0)
        near = np.flatnonzero(overlaps)
        return query.numpy()[near], overlaps[near], (self._scores * self._is_candidate).numpy()[near]

    def right_candidates(self, threshold: float, min_score: float) -> tuple[np.ndarray, np.ndarray]:
        """For each query: is any candidate above the minimum score right, and is the segment of any point?"""
        query, overlaps, scores = self._near
        is_right = overlaps > threshold
        found = np.zeros((2, len(self.records)), bool)
        found[0, query[is_right & (scores > min_score)]] = True
        found[1, query[is_right]] = True
        return found[0], found[1]

    def candidates(self, index: int) -> np.ndarray:
        """(N, 4) of all points of one query: start_sec, end_sec, score, level."""
        span = slice(*self._first[index : index + 2].tolist())
        seconds = self._to_sec(self._segments[span], torch.full((span.stop - span.start,), index))
        return torch.cat([seconds, self._scores[span, None], self._level[span, None]], dim=1).numpy()

    def level_of(self, index: int, answer: np.ndarray) -> int:
        """The pyramid level that gave an answer (start_sec, end_sec, ...); -1 if none did."""
        rows = self.candidates(index)
        levels = rows[(rows[:, :2] == answer[:2]).all(axis=1), 3]
        return int(levels[0]) if len(levels) else -1

    @cached_property
    def levels_reached(self) -> list[set[int]]:
        """For each query the levels that its moments train."""
        grid, ranges = self.config.data.grid, self.config.model.regression_ranges_grid
        return [levels_reached(record, grid, ranges) for record in self.records]

    def level_scores(self, index: int) -> list[np.ndarray]:
        """Scores of one query: an array of its points for each pyramid level, finest first."""
        scores, level = self.candidates(index)[:, 2:].T
        return [scores[level == number] for number in range(self.config.model.num_levels)]

    def ask(
        self, record: Record, tokens: Tensor, **rules: float
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """One question about the record's clip.

        Args:
            tokens: (L, text_dim) of the question.
            rules: other numbers for decoding, such as ``sigma``.

        Returns:
            moments (K, 3), the scores of every level, and the cross-attention of every layer of the stem, its
            heads averaged: (layers, T, L), what share of its attention a step gives to each token.
        """
        settings = self.config.decode.model_copy(update={"top_k": KEEP} | rules)
        video = self.dataset.store.read(record.clip_uid)
        names = [record.query_id], [record.clip_uid], [record.duration_sec]
        batch = collate([video], [tokens], [0], [torch.zeros(0, 2)], *names)
        with _listening(self.model) as heard:
            outputs = Predictor(self.model, self.config).outputs(batch)
        (ranked,) = decode(outputs, self.config.data.grid, batch.durations_sec, settings)
        attention = torch.stack(heard).numpy()[:, : len(video), : len(tokens)]
        return ranked.numpy(), level_scores(outputs), attention


def level_scores(outputs: Outputs, query: int = 0) -> list[np.ndarray]:
    """Classification scores of one query: an array of its points for each pyramid level, finest first."""
    scores, levels = outputs.logits[query].float().sigmoid(), outputs.points.level
    valid = outputs.mask[query]
    return [scores[valid & (levels == level)].cpu().numpy() for level in range(int(levels.max()) + 1)]


def levels_reached(record: Record, grid: StepGrid, ranges_grid: Sequence[Sequence[float]]) -> set[int]:
    """Pyramid levels with a positive point for any of the record's moments, as training sees them."""
    num_steps = int(np.ceil(grid.to_grid(record.duration_sec))) + 1
    points = _points(num_steps, tuple((low, high) for low, high in ranges_grid))
    moments = torch.tensor(record.moments_sec, dtype=torch.float32).reshape(-1, 2)
    labels, _ = assign_targets(points, grid.to_grid(moments.clamp(0, record.duration_sec)), 1.5)
    return set(points.level[labels > 0].tolist())


@lru_cache(maxsize=256)
def _points(num_steps: int, ranges_grid: tuple[tuple[float, float], ...]) -> Points:
    return make_points([-(-num_steps // 2**level) for level in range(len(ranges_grid))], ranges_grid)


def overlaps_with(ranked: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(Q, K) tIoU of answers (Q, K, 3) with the moment of their query that they fit best; 0 without any.

    Args:
        moments: (Q, M, 2), as `moments_of` gives them.
    """
    found = np.nan_to_num(tiou(ranked[:, :, None, :2], moments[:, None]))
    return found.max(axis=2, initial=0) * (ranked[..., 2] > 0)


def moments_of(records: Sequence[Record]) -> np.ndarray:
    """(Q, M, 2) start and end in seconds, NaN behind the last of each query."""
    most = max((len(record.moments_sec) for record in records), default=0)
    table = np.full((len(records), most, 2), np.nan)
    for row, record in zip(table, records, strict=True):
        row[: len(record.moments_sec)] = np.reshape(record.moments_sec, (-1, 2))
    return table


@contextmanager
def _listening(model: Grounder) -> Iterator[list[Tensor]]:
    """Collects the cross-attention weights (T, L) of the first query, one of each layer of the stem."""
    heard: list[Tensor] = []

    def hear(module, arguments) -> None:
        x, text, text_mask = arguments
        heard.append(module.weights(x, text, text_mask)[0].mean(0).float().cpu())

    hooks = [b.cross_attention.register_forward_pre_hook(hear) for b in model.video_encoder.stem]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
