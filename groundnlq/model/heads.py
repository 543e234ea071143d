"""Neck and heads: every level of the pyramid becomes scores and distances at its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.model.encoders import Level
from groundnlq.model.layers import LayerNorm, MaskedConv

PRIOR_PROBABILITY = 0.01  # of the untrained classifier, so that the many background points start cheap


class Neck(nn.Module):
    """One LayerNorm per level, and one padded row behind every level.

    That row holds the LayerNorm's bias. The published program, which pads to 2560 steps, has such a row
    behind the valid ones of every level, and the heads' convolutions read it.
    """

    def __init__(self, width: int, num_levels: int):
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(num_levels))

    def forward(self, levels: Sequence[Level]) -> list[Level]:
        return [
            Level(norm(F.pad(level.x, (0, 0, 0, 1))), F.pad(level.mask, (0, 1)))
            for norm, level in zip(self.norms, levels, strict=True)
        ]


@dataclass(frozen=True)
class Rows:
    """The levels behind the neck, R rows one behind the other with a gap row behind each level.

    The heads' convolutions keep the gap at zero, so that the first step of a level sees the zero padding that
    it would see alone.
    """

    x: Tensor  # (Q, R, D)
    mask: Tensor  # (Q, R) bool
    lengths: tuple[int, ...]  # points of each level, without the neck's row and the gap

    @classmethod
    def join(cls, levels: Sequence[Level]) -> Rows:
        x = torch.cat([F.pad(level.x, (0, 0, 0, 1)) for level in levels], dim=1)
        mask = torch.cat([F.pad(level.mask, (0, 1)) for level in levels], dim=1)
        return cls(x, mask, tuple(level.x.shape[1] - 1 for level in levels))

    def layout(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of the rows that are points, of the gap rows, and the level of each point."""
        position = torch.cat([torch.arange(n + 2) for n in self.lengths])
        level = torch.cat([torch.full((n + 2,), i) for i, n in enumerate(self.lengths)])
        length = torch.tensor(self.lengths)[level]
        is_point = position < length
        rows, gaps = is_point.nonzero()[:, 0], (position == length + 1).nonzero()[:, 0]
        device = self.x.device
        return rows.to(device), gaps.to(device), level[is_point].to(device)


class Head(nn.Module):
    """Convolutions of width 3 with LayerNorm and ReLU, then one with bias, over all levels in one call."""

    def __init__(self, width: int, out_dim: int, num_layers: int = 2):
        super().__init__()
        self.convs = nn.ModuleList(MaskedConv(width, width) for _ in range(num_layers))
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(num_layers))
        self.out = MaskedConv(width, out_dim, bias=True)

    def forward(self, x: Tensor, mask: Tensor, gaps: Tensor) -> Tensor:
        """(Q, R, D), (Q, R) and the indices of the gap rows -> (Q, R, out_dim); R rows of all levels."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, mask)).index_fill_(1, gaps, 0.0).relu_()
        return self.out(x, mask)


class Heads(nn.Module):
    """Classification and regression, shared by all levels."""

    def __init__(self, width: int, num_levels: int):
        super().__init__()
        self.classification = Head(width, 1)
        self.regression = Head(width, 2)
        self.level_scale = nn.Parameter(torch.ones(num_levels))
        prior = math.log(PRIOR_PROBABILITY / (1 - PRIOR_PROBABILITY))
        nn.init.constant_(cast(Tensor, self.classification.out.bias), prior)

    def forward(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (Q, N), offsets (Q, N, 2) in strides, mask (Q, N); finest level first."""
        points, gaps, level = rows.layout()
        logits = self.classification(rows.x, rows.mask, gaps)[:, points, 0]
        distances = self.regression(rows.x, rows.mask, gaps)[:, points]
        offsets = F.relu(distances * self.level_scale[level][:, None])
        return logits, offsets, rows.mask[:, points]
