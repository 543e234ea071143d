"""Linear maps whose input is computed again in the backward pass instead of being kept until then.

LayerNorm and GELU are cheap beside the product that reads their result, and that result is large: not keeping
it saves an eighth of a training step's memory. The derivatives are written out because
`torch.utils.checkpoint`, which would do the same, costs a twelfth of a bfloat16 step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def autocast(x: Tensor) -> Tensor:
    """`x` in autocast's precision where that is on; it does not reach into a function of one's own."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def normed_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """`linear(norm(x))` of (..., D)."""
    if not torch.is_grad_enabled():
        return linear(norm(x))
    weight, bias = autocast(linear.weight), autocast(linear.bias)
    return _NormedLinear.apply(_for_norm(x, norm), norm.weight, norm.bias, weight, bias, norm.eps)


def gelu_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear(gelu(x))` of (..., D) with the exact GELU; with gradients only."""
    weight, bias = autocast(linear.weight), autocast(linear.bias)
    return _GeluLinear.apply(x.to(weight.dtype), weight, bias)


def _for_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """A CPU normalises bfloat16 with float32 parameters; elsewhere both must be the same."""
    return x if x.device.type == "cpu" else x.to(norm.weight.dtype)


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
