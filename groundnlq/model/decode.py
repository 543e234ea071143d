"""From scores and offsets at points to a few ranked moments in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from groundnlq.data.grid import StepGrid
from groundnlq.model.grounder import Predictions
from groundnlq.model.nms import hard_nms, soft_nms, vote


@dataclass(frozen=True)
class Candidates:
    """All segments that enter suppression; a score of 0 marks those that were cut."""

    segments_grid: Tensor  # (Q, N, 2)
    scores: Tensor  # (Q, N)


def decode(
    predictions: Predictions,
    grid: StepGrid,
    durations_sec: Sequence[float],
    *,
    min_score: float = 0.001,
    pre_nms_topk: int = 2000,
    min_duration_grid: float = 0.001,
    nms: Literal["soft", "hard", "none"] = "soft",
    sigma: float = 0.75,
    iou_threshold: float = 0.1,
    voting_iou: float = 0.0,
    keep: int = 5,
) -> list[Tensor]:
    """The `keep` best moments of every query.

    Returns:
        Q tensors (K, 3), 1 <= K <= keep: start_sec, end_sec (within [0, duration]), score, best first. A
        query of which nothing survives is answered by its best point with its score, however low.
    """
    candidates = find_candidates(predictions, min_score, pre_nms_topk, min_duration_grid)
    segments, scores = candidates.segments_grid, candidates.scores
    if nms == "soft":
        kept, kept_scores = soft_nms(segments, scores, keep, sigma, min_score)
    elif nms == "hard":
        kept, kept_scores = hard_nms(segments, scores, keep, iou_threshold, min_score)
    else:
        kept_scores, best = scores.topk(min(keep, scores.shape[1]))
        kept = segments.gather(1, best[..., None].expand(-1, -1, 2))
    if voting_iou > 0:
        kept = vote(kept, segments, scores, voting_iou)
    kept, kept_scores = _answer_always(kept, kept_scores, predictions)
    return [
        _to_moments(s[score > 0], score[score > 0], grid, duration)
        for s, score, duration in zip(kept, kept_scores, durations_sec, strict=True)
    ]


def find_candidates(
    predictions: Predictions,
    min_score: float = 0.001,
    pre_nms_topk: int = 2000,
    min_duration_grid: float = 0.001,
) -> Candidates:
    """Segments of all points; scores at most `min_score` or beyond a level's `pre_nms_topk` best become 0."""
    scores = predictions.logits.float().sigmoid() * predictions.mask
    scores = torch.where(scores > min_score, scores, 0.0)
    lengths = torch.bincount(predictions.points.level).tolist()
    if max(lengths) > pre_nms_topk:
        scores = torch.cat([_top_only(level, pre_nms_topk) for level in scores.split(lengths, dim=1)], dim=1)
    segments = to_segments(predictions)
    is_long = (segments[..., 1] - segments[..., 0]) > min_duration_grid
    return Candidates(segments, scores * is_long)


def to_segments(predictions: Predictions) -> Tensor:
    """(Q, N, 2) start and end on the step grid of every point's segment."""
    time, stride = predictions.points.time_grid, predictions.points.stride
    left, right = predictions.offsets.float().unbind(-1)
    return torch.stack([time - left * stride, time + right * stride], dim=-1)


def _top_only(scores: Tensor, k: int) -> Tensor:
    if scores.shape[1] <= k:
        return scores
    values, best = scores.topk(k, dim=1)
    return torch.zeros_like(scores).scatter(1, best, values)


def _answer_always(kept: Tensor, scores: Tensor, predictions: Predictions) -> tuple[Tensor, Tensor]:
    is_empty = scores[:, 0] <= 0
    if is_empty.any():
        valid = predictions.logits.float().sigmoid() * predictions.mask
        score, best = valid.max(dim=1)
        fallback = to_segments(predictions)[torch.arange(len(best), device=best.device), best]
        tiny = torch.finfo(score.dtype).tiny  # a score of 0 would mean "nothing here"
        kept[:, 0] = torch.where(is_empty[:, None], fallback, kept[:, 0])
        scores[:, 0] = torch.where(is_empty, score.clamp(min=tiny), scores[:, 0])
    return kept, scores


def _to_moments(segments_grid: Tensor, scores: Tensor, grid: StepGrid, duration_sec: float) -> Tensor:
    seconds = grid.to_sec(segments_grid).clamp(0, duration_sec)
    return torch.cat([seconds, scores[:, None]], dim=1).cpu()
