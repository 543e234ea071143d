"""Points of the pyramid and the targets that a moment gives them."""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Points:
    """The N candidate times of a pyramid, finest level first; each tensor (N,) float32 but `level` (int64)."""

    time_grid: Tensor
    stride: Tensor
    level: Tensor
    low: Tensor  # regression range of the point's level, in steps
    high: Tensor
    lengths: tuple[int, ...]  # number of points of each level

    def __len__(self) -> int:
        return len(self.time_grid)


@cache  # lengths are few. Nothing is copied to a GPU again, and CUDA graphs read the tensors where they are
@torch.inference_mode(False)  # whoever asks first, training may use them
def make_points(
    lengths: tuple[int, ...], ranges_grid: tuple[tuple[float, float], ...], device: torch.device | None = None
) -> Points:
    """Points of levels of the given lengths; level l has points at 0, s, 2 s ... with s = 2 ** l. Not to be changed.

    >>> make_points((4, 2), ((0, 4), (2, 100))).time_grid.tolist()
    [0.0, 1.0, 2.0, 3.0, 0.0, 2.0]
    """
    level = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    stride = 2.0**level
    time = torch.cat([torch.arange(n) for n in lengths]) * stride
    ranges = torch.tensor(ranges_grid, dtype=torch.float32)[level]
    time, stride, level, low, high = (x.to(device) for x in (time, stride, level, ranges[:, 0], ranges[:, 1]))
    return Points(time, stride, level, low, high, lengths)


def assign_targets(points: Points, moments_grid: Tensor, center_radius: float) -> tuple[Tensor, Tensor]:
    """Labels (..., N) float 0/1 and distances (..., N, 2) in strides to start and end of the assigned moment.

    A point p of stride s is positive for a moment when it lies strictly within both the moment and `center_radius * s`
    around its centre, and its larger distance to an end lies in the level's range. Of several moments it takes the
    shortest, and a moment without duration has no points. Distances of negative points have no meaning.

    Args:
        moments_grid: (..., M, 2) start and end on the step grid; M may be 0.
    """
    moments_grid = F.pad(moments_grid, (0, 0, 0, 1))  # so that there is one; it has no duration
    start, end = moments_grid[..., None, :, :].unbind(-1)  # (..., 1, M)
    center, radius = (start + end) / 2, center_radius * points.stride[:, None]
    time = points.time_grid[:, None]
    to_start, to_end = time - start, end - time  # (..., N, M)
    inside = torch.minimum(time - torch.maximum(start, center - radius), torch.minimum(end, center + radius) - time)
    reach = torch.maximum(to_start, to_end)
    fits = (inside > 0) & (reach >= points.low[:, None]) & (reach <= points.high[:, None])
    length = torch.where(fits, end - start, torch.inf)
    shortest, chosen = length.min(dim=-1)
    distances = torch.cat([x.gather(-1, chosen[..., None]) for x in (to_start, to_end)], dim=-1)
    return shortest.isfinite().float(), distances / points.stride[:, None]
