"""Non-maximum suppression in time, for many queries at once; only the first `top_k` picks are computed."""

from collections.abc import Callable

import torch
from torch import Tensor

DURATION_FLOOR = 1e-6  # added to durations in the IoU of soft-NMS, as published


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
