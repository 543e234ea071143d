"""Batches: clips padded to what the pyramid needs, each read once for all its queries."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """V clips and Q queries about them; query q looks at clip `clip_index[q]`.

    Rows behind the valid ones are zero. Every clip and every query has at least one such padded row: the
    published weights read it (see `pad_length`), and without it a result would depend on its neighbours.
    """

    video: Tensor  # (V, T, video_dim) float32
    video_mask: Tensor  # (V, T) bool, True = valid
    text: Tensor  # (Q, L, text_dim) float32
    text_mask: Tensor  # (Q, L) bool
    clip_index: Tensor  # (Q,) int64
    moments_grid: tuple[Tensor, ...]  # Q tensors (M, 2): start and end on the step grid; M = 0 in test
    query_ids: tuple[str, ...]
    clip_uids: tuple[str, ...]  # V
    durations_sec: tuple[float, ...]  # Q

    def to(self, device, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("video", "video_mask", "text", "text_mask", "clip_index")
        }
        return replace(self, moments_grid=tuple(m.to(device) for m in self.moments_grid), **moved)
