"""Building blocks on (B, T, D) sequences with a bool mask (B, T), True = valid.

Only convolutions (and the products written out in `TransformerBlock`) mask their result. LayerNorm and ReLU
do not: a row behind the last valid one then holds the LayerNorm's bias, and the next convolution reads it.
The published weights were trained with that, so masking more would change every answer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED_SCORE = -1e4  # added to the score of a masked key; finite, so that a row without valid keys is no NaN


class MaskedConv(nn.Module):
    """Convolution over time, zero padding, result times mask; hides the transpose that a convolution needs.

    Args:
        in_dim, out_dim: widths. With `depthwise` they are equal and each channel has its own kernel.
        stride: 2 halves the length; the mask is then taken at every second step (0, 2, 4 ...).
    """

    def __init__(
        self, in_dim: int, out_dim: int, stride: int = 1, bias: bool = False, depthwise: bool = False
    ):
        super().__init__()
        self.stride = stride
        self.groups = in_dim if depthwise else 1
        template = nn.Conv1d(in_dim, out_dim, 3, groups=self.groups, bias=bias)  # PyTorch's initialisation
        self.weight = template.weight
        self.bias = nn.Parameter(torch.zeros(out_dim)) if bias else None

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, in_dim), (B, T) -> (B, T // stride, out_dim), (B, T // stride)."""
        # (B, T, D) read as an image of height 1 is channels-last already: no copy either way
        image = x.transpose(1, 2).unsqueeze(2)
        out = F.conv2d(
            image, self.weight.unsqueeze(2), self.bias, (1, self.stride), (0, 1), groups=self.groups
        )
        mask = mask[:, :: self.stride]
        return out.squeeze(2).transpose(1, 2) * mask[..., None], mask


def attend(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, num_heads: int) -> Tensor:
    """Full attention of (B, T, D) over the valid ones of (B, L, D) keys; heads split D evenly."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask[:, None, None, :])
    return out.transpose(1, 2).flatten(2)


def attend_window(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, window: int, block: int = 16
) -> Tensor:
    """Attention of every step to the `window` steps around it, never past either end.

    Queries are taken in blocks with the `block + window - 1` keys that they can reach, so cost and memory
    grow linearly with T.
    """
    num_steps, half = query.shape[1], window // 2
    num_blocks = -(-num_steps // block)
    extra = num_blocks * block - num_steps

    def reachable(x: Tensor) -> Tensor:  # (B, T, ...) -> (B, blocks, ..., block + 2 half)
        padded = F.pad(x, (0, 0) * (x.dim() - 2) + (half, half + extra))
        return padded.unfold(1, block + 2 * half, block)

    q = F.pad(query, (0, 0, 0, extra)).unflatten(1, (num_blocks, block))
    q = q.unflatten(-1, (num_heads, -1)).transpose(2, 3)  # (B, blocks, H, block, d)
    k, v = (reachable(x).unflatten(2, (num_heads, -1)) for x in (key, value))  # (B, blocks, H, d, keys)
    scores = q @ k * q.shape[-1] ** -0.5 + _window_bias(reachable(mask), block, half, q.dtype)
    out = scores.softmax(-1) @ v.transpose(-1, -2)
    return out.transpose(2, 3).flatten(3).flatten(1, 2)[:, :num_steps]


def _window_bias(reachable_mask: Tensor, block: int, half: int, dtype: torch.dtype) -> Tensor:
    """(B, blocks, keys) -> (B, blocks, 1, block, keys): 0 within the window, else -inf or MASKED_SCORE."""
    step = torch.arange(block, device=reachable_mask.device)[:, None]
    key = torch.arange(block + 2 * half, device=reachable_mask.device)
    in_band = (key >= step) & (key <= step + 2 * half)
    valid = torch.where(reachable_mask, 0.0, MASKED_SCORE)[:, :, None, None, :]
    return torch.where(in_band, valid, -torch.inf).to(dtype)


class SelfAttention(nn.Module):
    """Convolutional multi-head self-attention: query, key and value each pass a depthwise convolution first.

    Args:
        window: odd number of steps that a step attends to; 0 attends to the whole sequence.
        stride: 2 halves the length.
    """

    def __init__(self, width: int, num_heads: int, window: int = 0, stride: int = 1):
        super().__init__()
        self.num_heads, self.window = num_heads, window
        for role in ("query", "key", "value"):
            self.add_module(f"{role}_conv", MaskedConv(width, width, stride, depthwise=True))
            self.add_module(f"{role}_norm", nn.LayerNorm(width))
            self.add_module(role, _linear(width, width))
        self.out = _linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        q, out_mask = self.query_conv(x, mask)
        q = self.query(self.query_norm(q))
        k = self.key(self.key_norm(self.key_conv(x, mask)[0]))
        v = self.value(self.value_norm(self.value_conv(x, mask)[0]))
        if self.window:
            mixed = attend_window(q, k, v, out_mask, self.num_heads, self.window)
        else:
            mixed = attend(q, k, v, out_mask, self.num_heads)
        return self.out(mixed) * out_mask[..., None], out_mask


class CrossAttention(nn.Module):
    """Every video step asks, the query's valid tokens answer; no convolutions."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (_linear(width, width) for _ in range(3))
        self.out = _linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(text), self.value(text)
        return self.out(attend(q, k, v, text_mask, self.num_heads)) * mask[..., None]

    def weights(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """What each step reads: (B, H, T, L) attention weights, for pictures."""
        q, k = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (self.query(x), self.key(text))
        )
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return scores.masked_fill(~text_mask[:, None, None, :], -torch.inf).softmax(-1)


class ScaledPath(nn.Module):
    """A learned scale per channel, then stochastic depth per sample (a kept path is divided by 1 - rate)."""

    def __init__(self, width: int, drop_rate: float, scale_init: float):
        super().__init__()
        self.drop_rate = drop_rate
        self.scale = nn.Parameter(torch.full((width,), scale_init))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if not self.training or self.drop_rate == 0:
            return x
        keep = 1 - self.drop_rate
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep)


class TransformerBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention to the query where `cross`, then an MLP.

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
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = SelfAttention(width, num_heads, window, stride)
        self.cross_norm = nn.LayerNorm(width) if cross else None
        self.cross_attention = CrossAttention(width, num_heads) if cross else None
        self.attention_path = ScaledPath(width, drop_path, scale_init)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(_linear(width, 4 * width), nn.GELU(), _linear(4 * width, width))
        self.mlp_path = ScaledPath(width, drop_path, scale_init)

    def attend_self(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(skip, attention), both (B, T // stride, D), and the new mask; of the query it knows nothing."""
        attention, out_mask = self.self_attention(self.self_norm(x), mask)
        skip = x if self.stride == 1 else F.max_pool1d(x.transpose(1, 2), 3, 2, 1).transpose(1, 2)
        return (skip * out_mask[..., None], attention), out_mask

    def finish(
        self, skip: Tensor, attention: Tensor, mask: Tensor, text: Tensor | None, text_mask: Tensor | None
    ) -> Tensor:
        """Everything behind the self-attention."""
        x = skip + self.attention_path(attention)
        if self.cross_attention is not None:
            # one LayerNorm and one scale serve both sides and both attentions, as published
            c = self.cross_attention(self.cross_norm(x), mask, self.cross_norm(text), text_mask)
            x = x * mask[..., None] + self.attention_path(c)
        return x + self.mlp_path(self.mlp(self.mlp_norm(x)) * mask[..., None])

    def forward(
        self, x: Tensor, mask: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        (skip, attention), mask = self.attend_self(x, mask)
        return self.finish(skip, attention, mask, text, text_mask), mask


def _linear(in_dim: int, out_dim: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
