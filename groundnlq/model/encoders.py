"""From features to a pyramid of fused video levels."""

import itertools
import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.model.blocks import ClipEncoding, TransformerBlock
from groundnlq.model.layers import Conv, LayerNorm, Linear


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: step t of it lies at `t * stride` on the clip's grid."""

    x: Tensor  # (Q, T / stride, D)
    mask: Tensor  # (Q, T / stride) bool


class VideoEmbedding(nn.Module):
    """Convolutions of width 3 with LayerNorm and ReLU, then the sinusoidal position table (zeros without it)."""

    position_table: Tensor  # (max_seq_len, D)

    def __init__(self, in_dim: int, width: int, num_layers: int, max_seq_len: int, has_positions: bool = True):
        super().__init__()
        dims = [in_dim] + [width] * num_layers
        self.convs = nn.ModuleList(Conv(i, o) for i, o in itertools.pairwise(dims))
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(num_layers))
        table = _sinusoidal_positions(max_seq_len, width) * has_positions
        self.register_buffer("position_table", table, persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, mask)).relu_()
        return x + self._positions(mask) * mask[..., None]

    def _positions(self, mask: Tensor) -> Tensor:
        """(V, T) -> (1 or V, T, D). A clip beyond `max_seq_len` gets the table stretched to its own length.

        The stretch depends on the clip's own number of steps, never on its neighbours in the batch. The published
        program has no answer for such clips.
        """
        num_rows, table = mask.shape[1], self.position_table.T[None]
        if num_rows <= table.shape[2]:
            return self.position_table[None, :num_rows]
        if self.training:  # its clips are not longer (see `QueryDataset`), and to read the mask would wait for a GPU
            return F.pad(self.position_table, (0, 0, 0, num_rows - table.shape[2]))[None]
        lengths = mask.sum(1).clamp(min=table.shape[2]).tolist()
        tables = [F.interpolate(table, n, mode="linear", align_corners=False)[0].T for n in lengths]
        return torch.stack([F.pad(t, (0, 0, 0, num_rows - len(t))) for t in tables])


def _sinusoidal_positions(num_steps: int, width: int) -> Tensor:
    """(num_steps, width): sine on even, cosine on odd channels, all divided by sqrt(width)."""
    # also where a network is laid out on "meta", on which torch would import its compiler for these (2 s)
    channel = torch.arange(width, device="cpu")
    rate = 10000.0 ** (-2 * (channel // 2) / width)
    angle = torch.arange(num_steps, dtype=torch.float64, device="cpu")[:, None] * rate
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    return (table / math.sqrt(width)).float()


class QueryEncoder(nn.Module):
    """Token embedding (linear, LayerNorm, ReLU; no position table), then blocks over the whole query."""

    def __init__(self, in_dim: int, width: int, num_embed_layers: int, blocks: list[TransformerBlock]):
        super().__init__()
        dims = [in_dim] + [width] * num_embed_layers
        self.linears = nn.ModuleList(Linear(i, o, bias=False) for i, o in itertools.pairwise(dims))
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(num_embed_layers))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(Q, L, in_dim), (Q, L) -> (Q, L, D)."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(linear(x) * mask[..., None]).relu_()
        for block in self.blocks:
            x, _ = block(x, mask)
        return x


class VideoEncoder(nn.Module):
    """Embedding, a stem of cross-modal blocks at full length, then one halving block per further level."""

    def __init__(self, embedding: VideoEmbedding, stem: list[TransformerBlock], branch: list[TransformerBlock]):
        super().__init__()
        self.embedding = embedding
        self.stem = nn.ModuleList(stem)
        self.branch = nn.ModuleList(branch)

    def embed(self, video: Tensor, mask: Tensor) -> ClipEncoding:
        """All that does not depend on the query: embedding and the first self-attention of the stem."""
        return cast(TransformerBlock, self.stem[0]).attend_self(self.embedding(video, mask), mask)

    def fuse(self, clips: ClipEncoding, clip_index: Tensor, text: Tensor, text_mask: Tensor) -> list[Level]:
        """Levels of the pyramid of each query with its clip, finest first."""
        first = cast(TransformerBlock, self.stem[0])
        # the copies for each query have no name here, so that they are freed behind the first block
        x, mask = first.finish(clips.for_queries(clip_index), text, text_mask)
        for block in self.stem[1:]:
            x, mask = block(x, mask, text, text_mask)
        levels = [Level(x, mask)]
        for block in self.branch:
            x, mask = block(x, mask, text, text_mask)
            levels.append(Level(x, mask))
        return levels
