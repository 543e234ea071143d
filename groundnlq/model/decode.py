"""Decoding: from scores and offsets at points to a few ranked moments in seconds, by non-maximum suppression."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from groundnlq.config import DecodeConfig
from groundnlq.data.grid import StepGrid
from groundnlq.model.grounder import Outputs

DURATION_FLOOR = 1e-6  # added to durations in the IoU of soft-NMS, as published


def decode(outputs: Outputs, grid: StepGrid, durations_sec: Sequence[float], settings: DecodeConfig) -> list[Tensor]:
    """The `settings.top_k` best moments of every query.

    Returns:
        Q tensors (K, 3), 1 <= K <= top_k: start_sec, end_sec (within [0, duration]), score, best first. A query
        without any candidate is answered by its best point with its score, however low.
    """
    candidates = find_candidates(outputs, settings)
    segments, scores = suppress(*candidates, settings)
    if settings.voting_iou > 0:
        segments = vote(segments, *candidates, settings.voting_iou)
    segments, scores = _answer_always(segments, scores, outputs)
    rows = torch.cat([segments, scores[..., None]], dim=-1).cpu()  # the one wait for a GPU
    found = [row[row[:, 2] > 0] for row in rows]
    return [
        torch.cat([grid.to_sec(row[:, :2]).clamp(0, duration), row[:, 2:]], dim=1)
        for row, duration in zip(found, durations_sec, strict=True)
    ]


def find_candidates(outputs: Outputs, settings: DecodeConfig) -> tuple[Tensor, Tensor]:
    """Segments (Q, N, 2) on the step grid and scores (Q, N) of all points, as they enter suppression.

    Scores of at most `min_score`, beyond a level's `pre_nms_topk` best, and of segments that last no longer than
    `min_duration_grid` become 0.
    """
    scores = outputs.logits.float().sigmoid() * outputs.mask
    scores = torch.where(scores > settings.min_score, scores, 0.0)
    lengths = outputs.points.lengths
    if max(lengths) > settings.pre_nms_topk:
        levels = scores.split(lengths, dim=1)
        scores = torch.cat([_top_only(level, settings.pre_nms_topk) for level in levels], dim=1)
    segments = to_segments(outputs)
    is_long = (segments[..., 1] - segments[..., 0]) > settings.min_duration_grid
    return segments, scores * is_long


def to_segments(outputs: Outputs) -> Tensor:
    """(Q, N, 2) start and end on the step grid of every point's segment."""
    time, stride = outputs.points.time_grid, outputs.points.stride
    left, right = outputs.offsets.float().unbind(-1)
    return torch.stack([time - left * stride, time + right * stride], dim=-1)


def suppress(segments: Tensor, scores: Tensor, settings: DecodeConfig) -> tuple[Tensor, Tensor]:
    """The first `top_k` segments (Q, K, 2) and scores (Q, K) after non-maximum suppression."""
    if settings.nms == "soft":
        return soft_nms(segments, scores, settings.top_k, settings.sigma, settings.min_score)
    if settings.nms == "hard":
        return hard_nms(segments, scores, settings.top_k, settings.iou_threshold, settings.min_score)
    best_scores, best = scores.topk(min(settings.top_k, scores.shape[1]))
    return segments.gather(1, best[..., None].expand(-1, -1, 2)), best_scores


def _top_only(scores: Tensor, k: int) -> Tensor:
    values, best = scores.topk(min(k, scores.shape[1]), dim=1)
    return torch.zeros_like(scores).scatter(1, best, values)


def _answer_always(segments: Tensor, scores: Tensor, outputs: Outputs) -> tuple[Tensor, Tensor]:
    score, best = (outputs.logits.float().sigmoid() * outputs.mask).max(dim=1)
    fallback = to_segments(outputs)[torch.arange(len(best), device=best.device), best]
    tiny = torch.finfo(score.dtype).tiny  # a score of 0 would mean "nothing here"
    is_empty = scores[:, 0] <= 0  # to ask whether any is would wait for a GPU
    segments[:, 0] = torch.where(is_empty[:, None], fallback, segments[:, 0])
    scores[:, 0] = torch.where(is_empty, score.clamp(min=tiny), scores[:, 0])
    return segments, scores


# ---- Non-maximum suppression in time, for many queries at once; only the first `top_k` picks are computed.


def soft_nms(segments: Tensor, scores: Tensor, top_k: int, sigma: float, min_score: float) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS (Bodla et al. 2017): each pick fades the rest by ``exp(-IoU^2 / sigma)``.

    Args:
        segments: (Q, N, 2) start and end, end >= start.
        scores: (Q, N); a candidate at or below `min_score` does not take part (use 0 for padding).

    Returns:
        segments (Q, top_k, 2) and scores (Q, top_k) in the order picked; score 0 where nothing was left.
    """
    return _pick(segments, scores, top_k, lambda iou: torch.exp(-(iou**2) / sigma), min_score, DURATION_FLOOR)


def hard_nms(
    segments: Tensor, scores: Tensor, top_k: int, iou_threshold: float, min_score: float
) -> tuple[Tensor, Tensor]:
    """Hard NMS: each pick removes what overlaps it by `iou_threshold` or more. Shapes as in `soft_nms`."""
    return _pick(segments, scores, top_k, lambda iou: (iou < iou_threshold).to(iou.dtype), min_score, 0.0)


def vote(picked: Tensor, segments: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Each picked segment becomes the mean of its near-duplicates, weighted by score x IoU.

    Args:
        picked: (Q, K, 2); segments, scores: (Q, N, 2), (Q, N) all candidates before suppression.
    """
    # (Q, K, N), one pick after the other: all at once would need K times the memory
    iou = torch.stack([_iou(picked[:, i, None], segments) for i in range(picked.shape[1])], dim=1)
    weight = torch.where(iou >= iou_threshold, iou * scores[:, None], 0.0)
    total = weight.sum(-1, keepdim=True)
    # a segment without duration overlaps nothing, not even itself: it stays
    return torch.where(total > 0, weight @ segments / total.clamp(min=1e-12), picked)


def _pick(
    segments: Tensor, scores: Tensor, top_k: int, fade: Callable[[Tensor], Tensor], min_score: float, floor: float
) -> tuple[Tensor, Tensor]:
    alive = torch.where(scores > min_score, scores, 0.0)
    query = torch.arange(len(segments), device=segments.device)
    picked, picked_scores = [], []
    for _ in range(top_k):
        score, best = alive.max(dim=1)
        chosen = segments[query, best]  # (Q, 2)
        picked.append(chosen)
        picked_scores.append(score)
        alive = alive * fade(_iou(chosen[:, None], segments, floor))
        alive = alive.masked_fill(alive < min_score, 0.0)
        alive.scatter_(1, best[:, None], 0.0)  # an index assignment would copy a number to the GPU
    return torch.stack(picked, dim=1), torch.stack(picked_scores, dim=1)


def _iou(one: Tensor, many: Tensor, duration_floor: float = 0.0) -> Tensor:
    inter = (torch.minimum(one[..., 1], many[..., 1]) - torch.maximum(one[..., 0], many[..., 0])).clamp(min=0)
    durations = (one[..., 1] - one[..., 0]) + (many[..., 1] - many[..., 0]) + 2 * duration_floor
    return inter / (durations - inter).clamp(min=1e-12)
