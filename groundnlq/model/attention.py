"""Attention of (B, T, D) sequences: over all keys, within a window, to itself and to the query."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from groundnlq.model.layers import Conv, LayerNorm, Linear, convolve, normed_linears

MASKED_SCORE = -1e4  # added to the score of a masked key; finite, so that a row without valid keys is not NaN


def _attend(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, num_heads: int) -> Tensor:
    """Full attention of (B, T, D) over the valid ones of (B, L, D) keys; heads split D evenly."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask[:, None, None, :])
    return out.transpose(1, 2).flatten(2)


def attend_window(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, num_heads: int, window: int, block: int = 24
) -> Tensor:
    """Attention of every step to the `window` steps around it, never past either end.

    Queries are taken in blocks with the `block + window - 1` keys that they can reach, so cost and memory grow
    linearly with T.
    """
    half = window // 2
    num_clips, num_steps = mask.shape
    blocks = _Blocks(num_clips, num_steps, num_heads, half, max(block, 2 * half))
    return _WindowAttention.apply(query, key, value, mask, blocks)


class _Blocks(NamedTuple):
    """Heads of all clips in rows (R, d), one behind the other, each behind 2 `half` zero rows; zero rows end them all.

    So a block of queries, and of the keys that it can reach, is a view of neighbouring rows. No block that has steps of
    one head reaches those of another. Queries in zero rows are computed and dropped.
    """

    num_clips: int
    num_steps: int
    num_heads: int
    half: int
    block: int

    @property
    def length(self) -> int:
        """Rows of a head."""
        return self.block * -(-(self.num_steps + 2 * self.half) // self.block)

    def to_rows(self, x: Tensor) -> Tensor:
        """(B, T, H d) -> (R, d)."""
        heads = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        rows = x.new_zeros(self.num_clips * self.num_heads * self.length + 2 * self.half, heads.shape[-1])
        inner = rows[: len(rows) - 2 * self.half].view(*heads.shape[:2], self.length, -1)
        inner[:, :, 2 * self.half : 2 * self.half + self.num_steps] = heads
        return rows

    def to_steps(self, blocks: Tensor, first: int) -> Tensor:
        """(blocks, block, d) -> (B, T, H d), from row `first` of every head on."""
        heads = blocks.reshape(self.num_clips, self.num_heads, self.length, -1)
        return heads[:, :, first : first + self.num_steps].transpose(1, 2).flatten(2)

    def queries(self, rows: Tensor) -> Tensor:
        """(R, d) -> (blocks, block, d)."""
        return rows[self.half : len(rows) - self.half].unflatten(0, (-1, self.block))

    def keys(self, rows: Tensor) -> Tensor:
        """(R, d) -> (blocks, d, block + 2 half)."""
        return rows.unfold(0, self.block + 2 * self.half, self.block)

    def add_keys(self, x: Tensor) -> Tensor:
        """(blocks, block + 2 half, d) -> (B, T, H d): a key's parts of the blocks that reach it added up."""
        x[1:, : 2 * self.half] += x[:-1, self.block :]
        return self.to_steps(x[:, : self.block], 2 * self.half)


class _WindowAttention(torch.autograd.Function):
    """With its derivative, which adds up the gradients of keys that two blocks share."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, blocks: _Blocks) -> Tensor:
        q, k, v = map(blocks.to_rows, (query, key, value))
        scores = torch.bmm(blocks.queries(q), blocks.keys(k)).mul_(q.shape[-1] ** -0.5)
        reached = F.pad(mask, (2 * blocks.half, blocks.length - blocks.num_steps))
        bias = _window_bias(blocks.keys(reached.T).transpose(0, 1)[:, None], blocks.block, blocks.half)
        scores.view(len(mask), blocks.num_heads, *bias.shape[2:]).add_(bias)
        weights = scores.softmax(-1).to(v.dtype)
        ctx.blocks = blocks
        ctx.save_for_backward(q, k, v, weights)
        return blocks.to_steps(torch.bmm(weights, blocks.keys(v).transpose(1, 2)), blocks.half)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        blocks, (q, k, v, weights) = ctx.blocks, ctx.saved_tensors
        out = blocks.queries(blocks.to_rows(grad))
        scores = torch.ops.aten._softmax_backward_data(torch.bmm(out, blocks.keys(v)), weights, -1, weights.dtype)
        scores.mul_(q.shape[-1] ** -0.5)
        of_query = blocks.to_steps(torch.bmm(scores, blocks.keys(k).transpose(1, 2)), blocks.half)
        of_key = blocks.add_keys(torch.bmm(scores.transpose(1, 2), blocks.queries(q)))
        return of_query, of_key, blocks.add_keys(torch.bmm(weights.transpose(1, 2), out)), None, None


def _window_bias(key_mask: Tensor, block: int, half: int) -> Tensor:
    """(B, 1, blocks, keys) -> (B, 1, blocks, block, keys): 0 within the window, else -inf or MASKED_SCORE."""
    step = torch.arange(block, device=key_mask.device)[:, None]
    key = torch.arange(block + 2 * half, device=key_mask.device)
    in_band = (key >= step) & (key <= step + 2 * half)
    return torch.where(in_band, torch.where(key_mask, 0.0, MASKED_SCORE)[..., None, :], -torch.inf)


class SelfAttention(nn.Module):
    """Convolutional multi-head self-attention: query, key and value each pass a depthwise convolution first.

    The convolutions have no mask: the rows that they leave behind the valid ones are masked keys, or dropped at the
    end of the block.

    Args:
        window: odd number of steps that a step attends to; 0 attends to the whole sequence.
        stride: 2 halves the length.
    """

    ROLES = ("query", "key", "value")

    def __init__(self, width: int, num_heads: int, window: int = 0, stride: int = 1):
        super().__init__()
        self.num_heads, self.window = num_heads, window
        for role in self.ROLES:
            self.add_module(f"{role}_conv", Conv(width, width, stride, groups=width))
            self.add_module(f"{role}_norm", LayerNorm(width))
            self.add_module(role, Linear(width, width))
        self.out = Linear(width, width)

    def forward(self, x: Tensor, out_mask: Tensor) -> Tensor:
        """(B, T, D) and the mask of the result -> (B, T / stride, D); its invalid rows hold anything."""
        convs, norms, linears = ([getattr(self, role + part) for role in self.ROLES] for part in ("_conv", "_norm", ""))
        if torch.is_grad_enabled():  # the three roles at once
            weight = torch.cat([conv.weight for conv in convs])
            rows = convolve(x.repeat(1, 1, 3), weight, None, convs[0].stride[0], groups=len(weight))
            q, k, v = normed_linears(rows, norms, linears)
        else:
            q, k, v = (linear(norm(conv(x))) for conv, norm, linear in zip(convs, norms, linears, strict=True))
        if self.window:
            return self.out(attend_window(q, k, v, out_mask, self.num_heads, self.window))
        return self.out(_attend(q, k, v, out_mask, self.num_heads))


class CrossAttention(nn.Module):
    """Every video step asks, the query's valid tokens answer; no convolutions.

    A query has so few tokens (L) that it is cheaper to carry them to the steps than the steps to them: the query map is
    applied to the keys and the output map to the values, once per query, and what is left for every step are two
    products of width H x L in place of two of width D.
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
