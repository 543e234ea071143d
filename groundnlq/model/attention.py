"""Attention of (B, T, D) sequences: over all keys, within a window, to itself and to the query."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.model.layers import Conv, LayerNorm, Linear, normed_linear

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
        q, k, v = (
            normed_linear(getattr(self, f"{role}_conv")(x), getattr(self, f"{role}_norm"), getattr(self, role))
            for role in self.ROLES
        )
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
