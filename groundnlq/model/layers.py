"""Building blocks on (B, T, D) sequences with a bool mask (B, T), True = valid.

Only dense convolutions and the end of a block mask their result. LayerNorm and ReLU do not: a row behind the
last valid one then holds the LayerNorm's bias, and the next convolution reads it. The published weights were
trained with that, so masking more would change every answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Clips of each new length need some hundred kernels, which oneDNN makes on the spot. It keeps only 1,024 of
# them unless told otherwise, and with many lengths would make them again and again. Read at the first kernel.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

MASKED_SCORE = -1e4  # added to the score of a masked key; finite, so that a row without valid keys is no NaN


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
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    groups: int = 1,
    mask: Tensor | None = None,
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
        y, device = super().forward(x), x.device.type
        return y.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else y


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
            activation = ("gelu", [], "none") if gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *activation)
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
        widen, activation, narrow = self
        if torch.is_grad_enabled():
            return recomputed(lambda wide: narrow(activation(wide)), widen(x))
        return narrow(widen(x, gelu=True))


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`; what lies between the two is not kept for the backward pass but computed again there.

    Where it is cheap (a LayerNorm, GELU) that saves an eighth of a training step's memory for a few percent
    of its time. A last linear map is not computed twice: only what it reads is missing.
    """
    if not torch.is_grad_enabled():
        return function(x)
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)


def attend(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, num_heads: int) -> Tensor:
    """Full attention of (B, T, D) over the valid ones of (B, L, D) keys; heads split D evenly."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask[:, None, None, :])
    return out.transpose(1, 2).flatten(2)


def attend_window(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, window: int, block: int = 24
) -> Tensor:
    """Attention of every step to the `window` steps around it, never past either end.

    Queries are taken in blocks with the `block + window - 1` keys that they can reach, so cost and memory
    grow linearly with T.
    """
    num_steps, half = query.shape[1], window // 2
    block = max(block, half)
    extra = -num_steps % block

    def reachable(x: Tensor) -> Tensor:  # (B, H, T, ...) -> (B, H, blocks, half + block + half, ...)
        x = F.pad(x, (0, 0) * (x.dim() - 3) + (block, block + extra)).unflatten(2, (-1, block))
        return torch.cat([x[:, :, :-2, block - half :], x[:, :, 1:-1], x[:, :, 2:, :half]], dim=3)

    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    q = F.pad(q, (0, 0, 0, extra)).unflatten(2, (-1, block))  # (B, H, blocks, block, d)
    scores = (q @ reachable(k).transpose(-1, -2)).mul_(q.shape[-1] ** -0.5)
    scores = scores.add_(_window_bias(reachable(mask[:, None]), block, half))
    out = scores.softmax(-1) @ reachable(v)
    return out.flatten(2, 3)[:, :, :num_steps].transpose(1, 2).flatten(2)


def _window_bias(key_mask: Tensor, block: int, half: int) -> Tensor:
    """(B, 1, blocks, keys) -> (B, 1, blocks, block, keys): 0 within the window, else -inf or MASKED_SCORE."""
    step = torch.arange(block, device=key_mask.device)[:, None]
    key = torch.arange(block + 2 * half, device=key_mask.device)
    in_band = (key >= step) & (key <= step + 2 * half)
    return torch.where(in_band, torch.where(key_mask, 0.0, MASKED_SCORE)[..., None, :], -torch.inf)


class SelfAttention(nn.Module):
    """Convolutional multi-head self-attention: query, key and value each pass a depthwise convolution first.

    Args:
        window: odd number of steps that a step attends to; 0 attends to the whole sequence.
        stride: 2 halves the length.
    """

    ROLES = ("query", "key", "value")

    def __init__(self, width: int, num_heads: int, window: int = 0, stride: int = 1):
        super().__init__()
        self.num_heads, self.window = num_heads, window
        for role in self.ROLES:
            self.add_module(f"{role}_conv", DepthwiseConv(width, stride))
            self.add_module(f"{role}_norm", LayerNorm(width))
            self.add_module(role, Linear(width, width))
        self.out = Linear(width, width)

    def forward(self, x: Tensor, out_mask: Tensor) -> Tensor:
        """(B, T, D) and the mask of the result -> (B, T / stride, D); its invalid rows hold anything."""
        q, k, v = (self._project(x, role) for role in self.ROLES)
        if self.window:
            return self.out(attend_window(q, k, v, out_mask, self.num_heads, self.window))
        return self.out(attend(q, k, v, out_mask, self.num_heads))

    def _project(self, x: Tensor, role: str) -> Tensor:
        conv, norm, linear = (getattr(self, name) for name in (f"{role}_conv", f"{role}_norm", role))
        return recomputed(lambda rows: linear(norm(rows)), conv(x))


class CrossAttention(nn.Module):
    """Every video step asks, the query's valid tokens answer; no convolutions.

    A query has so few tokens (L) that it is cheaper to carry them to the steps than the steps to them: the
    query map is applied to the keys and the output map to the values, once per query, and what is left for
    every step are two products of width H x L in place of two of width D.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.out = Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """(B, T, D), (B, L, D), (B, L) -> (B, T, D)."""
        weights = self.weights(x, text, text_mask).transpose(2, 3).flatten(1, 2)  # (B, H L, T)
        value = self.value(text).unflatten(-1, (self.num_heads, -1))  # (B, L, H, d)
        out = self.out.weight.unflatten(1, (self.num_heads, -1))  # (D, H, d)
        answers = torch.einsum("blhd,chd->bhlc", value, out).flatten(1, 2)
        return torch.baddbmm(self.out.bias, weights.transpose(1, 2), answers)

    def weights(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """What each step reads: (B, H, T, L) attention weights, which sum to 1 over the tokens."""
        key = self.key(text).unflatten(-1, (self.num_heads, -1))  # (B, L, H, d)
        key = key * key.shape[-1] ** -0.5
        query = self.query.weight.unflatten(0, (self.num_heads, -1))  # (H, d, D)
        questions = torch.einsum("blhd,hdc->bhlc", key, query).flatten(1, 2)
        offset = torch.einsum("blhd,hd->bhl", key, self.query.bias.unflatten(0, (self.num_heads, -1)))
        offset = offset.masked_fill(~text_mask[:, None], -torch.inf).flatten(1)[..., None]
        # a softmax along the steps in memory is twenty times as fast as one along the few tokens
        scores = torch.baddbmm(offset, questions, x.transpose(1, 2)).unflatten(1, (self.num_heads, -1))
        return scores.softmax(2).transpose(2, 3)


class ScaledPath(nn.Module):
    """Adds a branch with a learned scale per channel and stochastic depth per sample (kept: / (1 - rate))."""

    def __init__(self, width: int, drop_rate: float, scale_init: float):
        super().__init__()
        self.drop_rate = drop_rate
        self.scale = nn.Parameter(torch.full((width,), scale_init))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        scale = self.scale
        if self.training and self.drop_rate > 0:
            keep = 1 - self.drop_rate
            scale = scale * scale.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep)
        return torch.addcmul(x, branch, scale)


class TransformerBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention to the query where `cross`, then an MLP.

    Behind the self-attention every row is computed by itself, so one product with the mask at the end does
    what the published program's products behind every part do.

    Args:
        stride: 2 halves the length (the skip is then a max-pooling of width 3).
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        window: int = 0,
        stride: int = 1,
        cross: bool = False,
        drop_path: float = 0.1,
        scale_init: float = 1e-4,
    ):
        super().__init__()
        self.stride = stride
        self.self_norm = LayerNorm(width)
        self.self_attention = SelfAttention(width, num_heads, window, stride)
        self.cross_norm = LayerNorm(width) if cross else None
        self.cross_attention = CrossAttention(width, num_heads) if cross else None
        self.attention_path = ScaledPath(width, drop_path, scale_init)
        self.mlp_norm = LayerNorm(width)
        self.mlp = MLP(width)
        self.mlp_path = ScaledPath(width, drop_path, scale_init)

    def attend_self(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """skip and attention, both (B, T / stride, D), and the new mask; of the query it knows nothing."""
        if x.shape[1] % self.stride:  # the last step that is kept reads a row behind the valid ones
            x, mask = F.pad(x, (0, 0, 0, 1)), F.pad(mask, (0, 1))
        skip = x if self.stride == 1 else halve(x)
        mask = mask[:, :: self.stride]
        return skip, self.self_attention(self.self_norm(x), mask), mask

    def finish(
        self, skip: Tensor, attention: Tensor, mask: Tensor, text: Tensor | None, text_mask: Tensor | None
    ) -> Tensor:
        """Everything behind the self-attention."""
        x = self.attention_path(skip, attention)
        if self.cross_attention is not None:
            # one LayerNorm and one scale serve both sides and both attentions, as published
            answer = self.cross_attention(self.cross_norm(x), self.cross_norm(text), text_mask)
            x = self.attention_path(x, answer)
        return self.mlp_path(x, self.mlp(self.mlp_norm(x))).mul_(mask[..., None])

    def forward(
        self, x: Tensor, mask: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        skip, attention, mask = self.attend_self(x, mask)
        return self.finish(skip, attention, mask, text, text_mask), mask
