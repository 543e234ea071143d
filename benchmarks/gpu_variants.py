"""Other ways to compute the same, to be compared with the package's: each replaces a part for a while."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import gpu_site  # noqa: F401  (first: the import path)
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from groundnlq.model import attention, blocks, layers
from groundnlq.model.layers import Conv

# ---- window attention


def reachable(x: Tensor, block: int, half: int) -> Tensor:
    """(B, T, ...) -> (B, blocks, half + block + half, ...); T a multiple of the block."""
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (block, block)).unflatten(1, (-1, block))
    return torch.cat([x[:, :-2, block - half :], x[:, 1:-1], x[:, 2:, :half]], dim=2)


def window_by_sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, window: int, block: int = 24
) -> Tensor:
    """Each block of queries is an entry of the batch of `scaled_dot_product_attention`."""
    num_steps, half = query.shape[1], window // 2
    extra = -num_steps % block
    q, k, v, mask = (F.pad(x, (0, 0) * (x.dim() - 2) + (0, extra)) for x in (query, key, value, mask[..., None]))
    q = q.unflatten(1, (-1, block))
    k, v, seen = (reachable(x, block, half) for x in (k, v, mask))
    bias = attention._window_bias(seen.squeeze(-1)[:, None], block, half).flatten(0, 2)[:, None]
    heads = (x.flatten(0, 1).unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(*heads, attn_mask=bias.to(query.dtype))
    return out.transpose(1, 2).flatten(2).unflatten(0, (len(query), -1)).flatten(1, 2)[:, :num_steps]


def window_dense(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, window: int) -> Tensor:
    """All steps against all steps with a band for a mask."""
    step = torch.arange(query.shape[1], device=query.device)
    band = (step[:, None] - step).abs() <= window // 2
    band = band & (mask[:, None, None] | (step[:, None] == step))  # no row without a key
    heads = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*heads, attn_mask=band).transpose(1, 2).flatten(2)


def window_by_shifts(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, window: int) -> Tensor:
    """One product per channel and neighbour, summed; nothing but element-wise work."""
    half, num_steps = window // 2, query.shape[1]
    q, k, v = (x.unflatten(-1, (num_heads, -1)) for x in (query, key, value))
    bias = torch.where(F.pad(mask, (half, half)), 0.0, attention.MASKED_SCORE)
    step = torch.arange(num_steps + 2 * half, device=mask.device)
    bias = bias.masked_fill((step < half) | (step >= num_steps + half), -torch.inf)[..., None]
    k, v = (F.pad(x, (0, 0, 0, 0, half, half)) for x in (k, v))
    at = [slice(i, i + num_steps) for i in range(window)]
    scores = torch.stack([(q * k[:, s]).sum(-1) * q.shape[-1] ** -0.5 + bias[:, s] for s in at])
    weights = scores.float().softmax(0).to(q.dtype)
    return sum(weights[i, ..., None] * v[:, s] for i, s in enumerate(at)).flatten(2)


def window_by_flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, window: int) -> Tensor:
    """The flash kernel with a window; a clip's valid rows are one sequence, its padded rows another.

    bfloat16 only. Valid rows come first in every clip.
    """
    (batch, num_steps), half = query.shape[:2], window // 2
    first = torch.arange(batch, device=mask.device, dtype=torch.int32) * num_steps
    ends = torch.stack([first + mask.sum(1, dtype=torch.int32), first + num_steps], dim=1).flatten()
    begins = F.pad(ends, (1, 0))
    heads = (x.flatten(0, 1).unflatten(-1, (num_heads, -1)) for x in (query, key, value))
    out = varlen_attn(*heads, begins, begins, num_steps, num_steps, window_size=(half, half))
    return out.flatten(1).unflatten(0, (batch, num_steps))


@contextmanager
def window_replaced(act: Callable[..., Tensor]) -> Iterator[None]:
    with patch.object(attention, "attend_window", act):
        yield


# ---- layers


@contextmanager
def results_kept() -> Iterator[None]:
    """LayerNorm's and GELU's results are kept for the backward pass, as autograd does by itself."""
    with patch.object(layers, "LARGE", math.inf):
        yield


def depthwise_by_shifts(self: Conv, x: Tensor) -> Tensor:
    """Three products per channel; even lengths where the stride is 2."""
    before, here, after = self.weight.to(x.dtype).unbind(-1)  # (D, 1) each
    before, here, after = (w[:, 0] for w in (before, here, after))
    if self.stride == (1,):
        padded = F.pad(x, (0, 0, 1, 1))
        return padded[:, :-2] * before + x * here + padded[:, 2:] * after
    odd = x[:, 1::2]
    return F.pad(odd, (0, 0, 1, 0))[:, :-1] * before + x[:, ::2] * here + odd * after


@contextmanager
def depthwise_shifted() -> Iterator[None]:
    plain = Conv.forward

    def forward(self: Conv, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return depthwise_by_shifts(self, x) if self.groups > 1 else plain(self, x, mask)

    with patch.object(Conv, "forward", forward):
        yield


def halve_by_maximum(x: Tensor) -> Tensor:
    """The maximum of three neighbours at every second step; even lengths."""
    odd = x[:, 1::2]
    before = F.pad(odd, (0, 0, 1, 0), value=-torch.inf)[:, :-1]
    return torch.maximum(torch.maximum(before, x[:, ::2]), odd)


@contextmanager
def halving_by_maximum() -> Iterator[None]:
    with patch.object(blocks, "halve", halve_by_maximum):
        yield


@contextmanager
def convolutions_tried() -> Iterator[None]:
    """cuDNN times its kernels for every new shape and takes the fastest."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False
