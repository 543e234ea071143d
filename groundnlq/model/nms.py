"""Non-maximum suppression in time, for many queries at once; only the first `keep` picks are computed."""

from __future__ import annotations

import torch
from torch import Tensor

DURATION_FLOOR = 1e-6  # added to durations in the IoU of soft-NMS, as published


def soft_nms(
    segments: Tensor, scores: Tensor, keep: int, sigma: float = 0.75, min_score: float = 0.001
) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS (Bodla et al. 2017): each pick fades the rest by ``exp(-IoU^2 / sigma)``.

    Args:
        segments: (Q, N, 2) start and end, end >= start.
        scores: (Q, N); a candidate at or below `min_score` does not take part (use 0 for padding).

    Returns:
        segments (Q, keep, 2) and scores (Q, keep) in the order picked; score 0 where nothing was left.
    """

    def fade(iou: Tensor) -> Tensor:
        return torch.exp(-(iou**2) / sigma)

    return _pick(segments, scores, keep, fade, min_score, DURATION_FLOOR)


def hard_nms(
    segments: Tensor, scores: Tensor, keep: int, iou_threshold: float = 0.1, min_score: float = 0.001
) -> tuple[Tensor, Tensor]:
    """Hard NMS: each pick removes what overlaps it by `iou_threshold` or more. Shapes as in `soft_nms`."""

    def fade(iou: Tensor) -> Tensor:
        return (iou < iou_threshold).to(iou.dtype)

    return _pick(segments, scores, keep, fade, min_score, 0.0)


def vote(kept: Tensor, segments: Tensor, scores: Tensor, iou_threshold: float = 0.9) -> Tensor:
    """Each kept segment becomes the mean of its near-duplicates, weighted by score x IoU.

    Args:
        kept: (Q, K, 2); segments, scores: (Q, N, 2), (Q, N) all candidates before suppression.
    """
    iou = torch.stack([_iou(kept[:, i, None], segments) for i in range(kept.shape[1])], dim=1)  # (Q, K, N)
    weight = torch.where(iou >= iou_threshold, iou * scores[:, None], 0.0)
    total = weight.sum(-1, keepdim=True)
    # a segment without duration overlaps nothing, not even itself: it stays
    return torch.where(total > 0, weight @ segments / total.clamp(min=1e-12), kept)


def _pick(segments, scores, keep, fade, min_score, duration_floor):
    alive = torch.where(scores > min_score, scores, 0.0)
    query = torch.arange(len(segments), device=segments.device)
    kept_segments, kept_scores = [], []
    for _ in range(keep):
        score, best = alive.max(dim=1)
        chosen = segments[query, best]  # (Q, 2)
        kept_segments.append(chosen)
        kept_scores.append(score)
        alive = alive * fade(_iou(chosen[:, None], segments, duration_floor))
        alive = alive.masked_fill(alive < min_score, 0.0)
        alive[query, best] = 0.0
    return torch.stack(kept_segments, dim=1), torch.stack(kept_scores, dim=1)


def _iou(one: Tensor, many: Tensor, duration_floor: float = 0.0) -> Tensor:
    inter = (torch.minimum(one[..., 1], many[..., 1]) - torch.maximum(one[..., 0], many[..., 0])).clamp(min=0)
    durations = (one[..., 1] - one[..., 0]) + (many[..., 1] - many[..., 0]) + 2 * duration_floor
    return inter / (durations - inter).clamp(min=1e-12)
