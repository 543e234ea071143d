"""Neck and heads: every level of the pyramid becomes scores and distances at its points."""

import math
from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.model.encoders import Level
from groundnlq.model.layers import Conv, LayerNorm

PRIOR_PROBABILITY = 0.01  # of the untrained classifier, so that the many background points start cheap


class Neck(nn.Module):
    """One LayerNorm per level, and two rows behind every level before all are joined.

    The first row holds the LayerNorm's bias. The published program, which pads to 2560 steps, has such a row behind the
    valid ones of every level, and the heads' convolutions read it. The second is a gap that they keep at zero, so that
    the first step of the next level sees the zero padding that it would see alone.
    """

    def __init__(self, width: int, num_levels: int):
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(num_levels))

    def forward(self, levels: Sequence[Level]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Rows of all levels (Q, R, D), their mask (Q, R), and the number of points of each level."""
        normed = (norm(F.pad(level.x, (0, 0, 0, 1))) for norm, level in zip(self.norms, levels, strict=True))
        x = torch.cat([F.pad(rows, (0, 0, 0, 1)) for rows in normed], dim=1)
        mask = torch.cat([F.pad(level.mask, (0, 2)) for level in levels], dim=1)
        return x, mask, tuple(level.x.shape[1] for level in levels)


class Heads(nn.Module):
    """Classification and regression, shared by all levels."""

    def __init__(self, width: int, num_levels: int):
        super().__init__()
        self.classification = _Head(width, 1)
        self.regression = _Head(width, 2)
        self.level_scale = nn.Parameter(torch.ones(num_levels))
        prior = math.log(PRIOR_PROBABILITY / (1 - PRIOR_PROBABILITY))
        nn.init.constant_(cast(Tensor, self.classification.out.bias), prior)

    def forward(self, x: Tensor, mask: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as `Neck` gives them -> logits (Q, N), offsets (Q, N, 2) in strides, mask (Q, N); finest level first."""
        points, gaps, level = _layout(lengths, x.device)
        logits = self.classification(x, mask, gaps)[:, points, 0]
        distances = self.regression(x, mask, gaps)[:, points]
        offsets = F.relu(distances * self.level_scale[level][:, None])
        return logits, offsets, mask[:, points]


class _Head(nn.Module):
    """Convolutions of width 3 with LayerNorm and ReLU, then one with bias, over all levels in one call."""

    def __init__(self, width: int, out_dim: int, num_layers: int = 2):
        super().__init__()
        self.convs = nn.ModuleList(Conv(width, width) for _ in range(num_layers))
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(num_layers))
        self.out = Conv(width, out_dim, bias=True)

    def forward(self, x: Tensor, mask: Tensor, gaps: Tensor) -> Tensor:
        """(Q, R, D), (Q, R) and (R, 1), -inf in gap rows, else 0 -> (Q, R, out_dim); R rows of all levels."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, mask)).add_(gaps).relu_()
        return self.out(x, mask)


@cache  # lengths are few. Nothing is copied to a GPU again, and CUDA graphs read the tensors where they are
@torch.inference_mode(False)  # whoever asks first, training may use them
def _layout(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the rows that are points; (R, 1) -inf in gap rows, which ReLU makes 0; the level of each point."""
    position = torch.cat([torch.arange(n + 2) for n in lengths])
    level = torch.cat([torch.full((n + 2,), i) for i, n in enumerate(lengths)])
    length = torch.tensor(lengths)[level]
    is_point = position < length
    gaps = torch.where(position == length + 1, -torch.inf, 0.0)[:, None]
    return is_point.nonzero()[:, 0].to(device), gaps.to(device), level[is_point].to(device)
