"""A stand-in for the published program, so that everyone can see the ratios: the kit's weights, computed that
program's way.

Written from the paper and the published configuration: every clip padded to 2,560 steps and inflated from a
compressed npz for every query; channels-first memory with convolutions for linear maps; LayerNorm over
channels written out; window attention in chunks with float32 masks; the video embedded again for every query;
heads level by level. It uses none of the kit's layers, so that it does not get faster with them, and its
answers equal the kit's. Decoding is the kit's own.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.data.dataset import Batch
from groundnlq.model.attention import SelfAttention
from groundnlq.model.blocks import TransformerBlock
from groundnlq.model.grounder import Grounder, Outputs
from groundnlq.model.layers import Conv
from groundnlq.model.points import make_points

PADDED_STEPS = 2560


class StandIn(nn.Module):
    """`Grounder`'s parameters under another forward pass; takes and gives what `Grounder` does."""

    def __init__(self, model: Grounder, padded_steps: int = PADDED_STEPS):
        super().__init__()
        self.model, self.padded_steps = model, padded_steps

    def forward(self, batch: Batch) -> Outputs:
        batch = padded(batch, self.padded_steps)
        mask, text_mask = batch.video_mask[:, None], batch.text_mask[:, None]
        text = self._embed_text(batch.text.transpose(1, 2), text_mask)
        x = self._embed_video(batch.video.transpose(1, 2), mask)
        levels = []
        encoder = self.model.video_encoder
        for block in encoder.stem:
            x, mask = _block(block, x, mask, text, text_mask)
        levels.append((x, mask))
        for block in encoder.branch:
            x, mask = _block(block, x, mask, text, text_mask)
            levels.append((x, mask))
        return self._heads(levels)

    def _embed_text(self, x: Tensor, mask: Tensor) -> Tensor:
        encoder = self.model.query_encoder
        for linear, norm in zip(encoder.linears, encoder.norms, strict=True):
            x = _norm(norm, _linear(linear, x) * mask).relu()
        for block in encoder.blocks:
            x, mask = _block(block, x, mask)
        return x

    def _embed_video(self, x: Tensor, mask: Tensor) -> Tensor:
        embedding = self.model.video_encoder.embedding
        for conv, norm in zip(embedding.convs, embedding.norms, strict=True):
            x = _norm(norm, _conv(conv, x, mask)[0]).relu()
        return x + embedding.position_table.T[None, :, : x.shape[2]] * mask

    def _heads(self, levels: list[tuple[Tensor, Tensor]]) -> Outputs:
        heads, logits, offsets = self.model.heads, [], []
        for i, (x, mask) in enumerate(levels):
            x = _norm(self.model.neck.norms[i], x)
            logits.append(_head(heads.classification, x, mask)[:, 0])
            offsets.append((_head(heads.regression, x, mask) * heads.level_scale[i]).relu().transpose(1, 2))
        mask = torch.cat([mask[:, 0] for _, mask in levels], dim=1)
        points = make_points(tuple(x.shape[2] for x, _ in levels), self.model.ranges_grid)
        return Outputs(torch.cat(logits, dim=1), torch.cat(offsets, dim=1), mask, points)


def padded(batch: Batch, num_rows: int) -> Batch:
    """Every query with its own copy of its clip, padded to `num_rows`."""
    spare = num_rows - batch.video.shape[1]
    video, mask = F.pad(batch.video, (0, 0, 0, spare)), F.pad(batch.video_mask, (0, spare))
    every = torch.arange(len(batch.query_ids))
    return replace(batch, video=video[batch.clip_index], video_mask=mask[batch.clip_index], clip_index=every)


def compress(features: Tensor) -> bytes:
    """A clip as the published program stores it."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, features=features.numpy())
    return buffer.getvalue()


def inflate(stored: bytes) -> Tensor:
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["features"])


def update_average(average: nn.Module, model: nn.Module, decay: float = 0.999) -> None:
    """The running average of the weights, one parameter after the other."""
    with torch.no_grad():
        for mean, now in zip(average.parameters(), model.parameters(), strict=True):
            mean.copy_(decay * mean + (1 - decay) * now)


# ---- channels-first layers: x (B, D, T), mask (B, 1, T)


def _block(
    block: TransformerBlock, x: Tensor, mask: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    attention, out_mask = _self_attention(block.self_attention, _norm(block.self_norm, x), mask)
    skip = x if block.stride == 1 else F.max_pool1d(x, 3, 2, 1)
    x = skip * out_mask + _scaled(block.attention_path, attention)
    if block.cross_attention is not None:
        cross = block.cross_attention
        q = _heads_of(_linear(cross.query, _norm(block.cross_norm, x)), cross.num_heads)
        answer = _norm(block.cross_norm, text)
        k, v = (_heads_of(_linear(layer, answer), cross.num_heads) for layer in (cross.key, cross.value))
        mixed = _full_attention(q, k, v, text_mask)
        x = x * out_mask + _scaled(block.attention_path, _linear(cross.out, mixed) * out_mask)
    hidden = F.gelu(_linear(block.mlp[0], _norm(block.mlp_norm, x)))
    return x + _scaled(block.mlp_path, _linear(block.mlp[2], hidden) * out_mask), out_mask


def _self_attention(layer: SelfAttention, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    q, out_mask = _conv(layer.query_conv, x, mask)
    q = _linear(layer.query, _norm(layer.query_norm, q))
    k = _linear(layer.key, _norm(layer.key_norm, _conv(layer.key_conv, x, mask)[0]))
    v = _linear(layer.value, _norm(layer.value_norm, _conv(layer.value_conv, x, mask)[0]))
    q, k, v = (_heads_of(part, layer.num_heads) for part in (q, k, v))
    if layer.window:
        mixed = _window_attention(q, k, v, out_mask, layer.window)
    else:
        mixed = _full_attention(q, k, v, out_mask)
    return _linear(layer.out, mixed) * out_mask, out_mask


def _full_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor) -> Tensor:
    scores = (q * q.shape[2] ** -0.5).transpose(2, 3) @ k  # (B, H, T, L)
    weights = scores.masked_fill(~key_mask[:, None], -torch.inf).softmax(-1)
    return (v @ weights.transpose(2, 3)).flatten(1, 2)


def _window_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, window: int) -> Tensor:
    block, half = (window - 1, window // 2)  # chunks of 8 queries with their 16 keys; 2,560 >> 6 is a multiple of 8

    def reachable(x: Tensor) -> Tensor:  # (..., T) -> (..., T / block, 2 block)
        return F.pad(x, (half, half)).unfold(-1, 2 * block, block)

    q = (q * q.shape[2] ** -0.5).unflatten(-1, (-1, block))
    scores = torch.einsum("bhdnq,bhdnk->bhnqk", q, reachable(k))
    ahead = torch.arange(2 * block) - torch.arange(block)[:, None]
    is_far = (ahead < 0) | (ahead > 2 * half)
    masked = torch.where(reachable(mask.float())[:, :, :, None] > 0, 0.0, -1e4)
    weights = (scores + masked).masked_fill(is_far, -torch.inf).softmax(-1)
    mixed = torch.einsum("bhnqk,bhdnk->bhdnq", weights, reachable(v))
    return mixed.flatten(3).flatten(1, 2) * mask


def _head(head: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    for conv, norm in zip(head.convs, head.norms, strict=True):
        x = _norm(norm, _conv(conv, x, mask)[0]).relu()
    return _conv(head.out, x, mask)[0]


def _conv(layer: Conv, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    mask = mask[..., :: layer.stride[0]]
    return F.conv1d(x, layer.weight, layer.bias, layer.stride, 1, groups=layer.groups) * mask, mask


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.conv1d(x, layer.weight[..., None], layer.bias)


def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    variance = (centred**2).mean(dim=1, keepdim=True)
    return centred / torch.sqrt(variance + layer.eps) * layer.weight[:, None] + layer.bias[:, None]


def _scaled(path: nn.Module, x: Tensor) -> Tensor:
    x = x * path.scale[:, None]
    if not path.training or path.drop_rate == 0:
        return x
    keep = 1 - path.drop_rate
    return x / keep * (keep + torch.rand(len(x), 1, 1)).floor()


def _heads_of(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(1, (num_heads, -1))  # (B, H, d, T)
