"""Neck and heads: every level of the pyramid becomes scores and distances at its points."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


class Head(nn.Module):
    """Convolutions of width 3 with LayerNorm and ReLU, then one with bias, over all levels in one call.

    The levels lie one behind the other with a gap row between them. The gap stays zero, so that the first
    step of a level sees the zero padding that it would see alone.
    """

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
        nn.init.constant_(
            self.classification.out.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        )

    def forward(self, levels: Sequence[Level]) -> tuple[Tensor, Tensor, Tensor]:
        """Levels -> logits (Q, N), offsets (Q, N, 2) in strides, mask (Q, N); finest level first."""
        x = torch.cat([F.pad(level.x, (0, 0, 0, 1)) for level in levels], dim=1)
        mask = torch.cat([F.pad(level.mask, (0, 1)) for level in levels], dim=1)
        rows, gaps, level_of_row = self._layout([level.x.shape[1] for level in levels], x.device)
        logits = self.classification(x, mask, gaps)[:, rows, 0]
        distances = self.regression(x, mask, gaps)[:, rows]
        offsets = F.relu(distances * self.level_scale[level_of_row][:, None])
        return logits, offsets, mask[:, rows]

    @staticmethod
    def _layout(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of the rows that are points, of the gap rows, and the level of each point."""
        position = torch.cat([torch.arange(n + 1) for n in lengths])
        level = torch.cat([torch.full((n + 1,), i) for i, n in enumerate(lengths)])
        length = torch.tensor(lengths)[level]
        is_point = position < length - 1
        rows, gaps = is_point.nonzero()[:, 0], (position == length).nonzero()[:, 0]
        return rows.to(device), gaps.to(device), level[is_point].to(device)
