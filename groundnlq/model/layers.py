"""Building blocks on (B, T, D) sequences with a bool mask (B, T), True = valid.

Only dense convolutions and the end of a block mask their result. LayerNorm and ReLU do not: a row behind the
last valid one then holds the LayerNorm's bias, and the next convolution reads it. The published weights were
trained with that, so masking more would change every answer.
"""

from __future__ import annotations

import os
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.model.kernels import autocast, gelu_linear

# Clips of each new length need some hundred kernels, which oneDNN makes on the spot. It keeps only 1,024 of
# them unless told otherwise, and with many lengths would make them again and again. Read at the first kernel.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")


class MaskedConv(nn.Module):
    """Convolution of width 3 over time with zero padding, its result times the mask."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool = False):
        super().__init__()
        template = nn.Conv1d(in_dim, out_dim, 3, bias=bias)  # PyTorch's initialisation
        self.weight = template.weight
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, in_dim), (B, T) -> (B, T, out_dim)."""
        return convolve(x, self.weight, self.bias, mask=mask)


class DepthwiseConv(nn.Module):
    """A kernel of width 3 for each channel, without mask: the rows that it leaves behind the valid ones are
    masked keys, or dropped at the end of the block. `stride` 2 halves the length."""

    def __init__(self, width: int, stride: int = 1):
        super().__init__()
        self.stride = stride
        self.weight = nn.Conv1d(width, width, 3, groups=width, bias=False).weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, ceil(T / stride), D)."""
        return convolve(x, self.weight, stride=self.stride, groups=x.shape[-1])


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, groups: int = 1, mask: Tensor | None = None
) -> Tensor:
    """Convolution of width 3 on (B, T, D), times the mask (B, T / stride) if one is given."""
    out = F.conv2d(as_image(x), weight.unsqueeze(2), bias, (1, stride), (0, 1), groups=groups)
    if mask is not None:
        out = out.mul_(mask[:, None, None])
    return out.squeeze(2).transpose(1, 2)


def as_image(x: Tensor) -> Tensor:
    """(B, T, D) -> (B, D, 1, T), channels-last as it lies in memory: nothing is copied either way."""
    return x.transpose(1, 2).unsqueeze(2)


def halve(x: Tensor) -> Tensor:
    """(B, T, D) -> (B, T / 2, D): the maximum of three neighbours at every second step."""
    return F.max_pool2d(as_image(x), (1, 3), (1, 2), (0, 1)).squeeze(2).transpose(1, 2)


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose result has autocast's precision: its several readers would each cast it again."""

    def forward(self, x: Tensor) -> Tensor:
        return autocast(super().forward(x))


def _find_fused_dtypes() -> frozenset[torch.dtype]:
    operators = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(operators, "_linear_pointwise")):
        return frozenset()
    has_bfloat16 = hasattr(operators, "_is_mkldnn_bf16_supported") and operators._is_mkldnn_bf16_supported()
    return frozenset({torch.float32, torch.bfloat16} if has_bfloat16 else {torch.float32})


# What oneDNN's linear takes on this processor. The operator is torch.compile's own and private to PyTorch;
# where it is missing, the plain way is taken.
FUSED_DTYPES = _find_fused_dtypes()


class Linear(nn.Linear):
    """A linear map, followed by GELU if asked; its bias starts at 0.

    Without gradients a CPU adds the bias and applies GELU within the product, which is up to a quarter
    faster; tests hold both ways to the same result.
    """

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        if self._is_fused(x):
            name, algorithm = ("gelu", "none") if gelu else ("none", "")
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], algorithm)
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if gelu else y

    def _is_fused(self, x: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype
            and x.dtype in FUSED_DTYPES
            and not torch.is_autocast_enabled("cpu")
        )


class MLP(nn.Sequential):
    """Four times as wide, exact GELU, back again."""

    def __init__(self, width: int):
        super().__init__(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        widen, narrow = cast(Linear, self[0]), cast(Linear, self[2])
        if torch.is_grad_enabled():
            return gelu_linear(widen(x), narrow)
        return narrow(widen(x, gelu=True))
