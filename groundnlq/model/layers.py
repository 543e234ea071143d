"""Building blocks on (B, T, D) sequences with a bool mask (B, T), True = valid.

Only dense convolutions and the end of a block mask their result. LayerNorm and ReLU do not: a row behind the last
valid one then holds the LayerNorm's bias, and the next convolution reads it. The published weights were trained with
that, so masking more would change every answer.
"""

import os
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Clips of each new length need some hundred kernels, which oneDNN makes on the spot. It keeps only 1,024 of
# them by default, and with many lengths would make them again and again. Read at the first kernel.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")


class Conv(nn.Conv1d):
    """Convolution of width 3 over time with zero padding; its bias starts at 0.

    Depthwise with `groups` = width. `stride` 2 halves the length.
    """

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1, groups: int = 1, bias: bool = False):
        super().__init__(in_dim, out_dim, 3, stride, padding=1, groups=groups, bias=bias)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, in_dim) -> (B, ceil(T / stride), out_dim), times the mask of the result if one is given."""
        weight = self.weight.unsqueeze(2)
        out = F.conv2d(_as_image(x), weight, self.bias, (1, *self.stride), (0, 1), groups=self.groups)
        if mask is not None:
            out = out.mul_(mask[:, None, None])
        return out.squeeze(2).transpose(1, 2)


def halve(x: Tensor) -> Tensor:
    """(B, T, D) -> (B, T / 2, D): the maximum of three neighbours at every second step."""
    return F.max_pool2d(_as_image(x), (1, 3), (1, 2), (0, 1)).squeeze(2).transpose(1, 2)


def _as_image(x: Tensor) -> Tensor:
    """(B, T, D) -> (B, D, 1, T), channels-last as it lies in memory: nothing is copied either way."""
    return x.transpose(1, 2).unsqueeze(2)


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose result has autocast's precision: its several readers would each cast it again."""

    def forward(self, x: Tensor) -> Tensor:
        return _autocast(super().forward(x))


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

    Without gradients a CPU adds the bias and applies GELU within the product, which is up to a quarter faster; tests
    hold both ways to the same result.
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
            return _gelu_linear(widen(x), narrow)
        return narrow(widen(x, gelu=True))


# ---- Linear maps whose input, where it is large, is computed again in the backward pass instead of being kept.
# LayerNorm and GELU are cheap beside the product that reads their result: not keeping it saves an eighth of a training
# step's memory. The derivatives are written out because `torch.utils.checkpoint`, which would do the same, costs a
# twelfth of a bfloat16 step. A small input is kept, which makes a step of a small network a twentieth faster.
LARGE = 2**20  # elements


def normed_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`linear(norm(x))` of (..., D)."""
    if not torch.is_grad_enabled() or x.numel() < LARGE:
        return linear(norm(x))
    if x.device.type != "cpu":  # a CPU normalises bfloat16 with float32 parameters; elsewhere both must be the same
        x = x.to(norm.weight.dtype)
    return _NormedLinear.apply(x, norm.weight, norm.bias, _autocast(linear.weight), _autocast(linear.bias), norm.eps)


def _gelu_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear(gelu(x))` of (..., D) with the exact GELU; with gradients only."""
    if x.numel() < LARGE:
        return linear(F.gelu(x))
    weight, bias = _autocast(linear.weight), _autocast(linear.bias)
    return _GeluLinear.apply(x.to(weight.dtype), weight, bias)


def _autocast(x: Tensor) -> Tensor:
    """`x` in autocast's precision where that is on; autocast does not reach into custom autograd functions."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _NormedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        normed, mean, deviation = torch.native_layer_norm(x, scale.shape, scale, shift, eps)
        ctx.save_for_backward(x, scale, shift, weight, mean, deviation)
        ctx.eps = eps
        return F.linear(normed.to(weight.dtype), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight, mean, deviation = ctx.saved_tensors
        normed = torch.native_layer_norm(x, scale.shape, scale, shift, ctx.eps)[0].to(weight.dtype)
        grad_normed = (grad @ weight).to(x.dtype)
        grads = torch.ops.aten.native_layer_norm_backward(
            grad_normed, x, scale.shape, mean, deviation, scale, shift, [True, True, True]
        )
        return *grads, *_parameter_grads(grad, normed), None


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grad @ weight, x), *_parameter_grads(grad, F.gelu(x))


def _parameter_grads(grad: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the weight and the bias of a linear map that read `read`."""
    rows = grad.flatten(0, -2)
    return rows.T @ read.flatten(0, -2), rows.sum(0)
