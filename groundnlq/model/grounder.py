"""The grounding network: scores and offsets at every point of a feature pyramid, for a query and a clip."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundnlq.config import ModelConfig
from groundnlq.data.dataset import Batch
from groundnlq.model.blocks import ClipEncoding, TransformerBlock
from groundnlq.model.encoders import Level, QueryEncoder, VideoEmbedding, VideoEncoder
from groundnlq.model.heads import Heads, Neck
from groundnlq.model.points import Points, make_points


@dataclass(frozen=True)
class Outputs:
    """Raw network outputs for Q queries at the N points of their pyramid, finest level first."""

    logits: Tensor  # (Q, N)
    offsets: Tensor  # (Q, N, 2) distances to start and end, >= 0, in strides
    mask: Tensor  # (Q, N) bool, True = the point lies on the clip
    points: Points


class _TextMap(nn.Module):
    """Query tokens, and beside them stage one's linear map of each, which lies in the space of the video features.

    GroundNLQ has none. The map is not trained further, and all its outputs are zero before it is loaded.
    """

    weight: Tensor  # (mapped, text_dim)
    bias: Tensor  # (mapped,)

    def __init__(self, text_dim: int, mapped: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(mapped, text_dim))
        self.register_buffer("bias", torch.zeros(mapped))

    def forward(self, text: Tensor) -> Tensor:
        """(Q, L, text_dim) -> (Q, L, text_dim + mapped)."""
        mapped = functional.linear(text, self.weight, self.bias)
        return torch.cat([text, functional.layer_norm(mapped, mapped.shape[-1:])], dim=-1)


class Grounder(nn.Module):
    """GroundNLQ (arXiv 2306.15255); with `num_cross_levels` > 0 its starred variant.

    Clips that are longer than the position table (`max_seq_len`) work at inference.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, window, num_embed_layers = config.width, config.window, config.num_embed_layers
        rates: Any = {"drop_path": config.drop_path, "scale_init": config.scale_init}
        block = partial(TransformerBlock, width, config.num_heads, **rates)
        self.ranges_grid = config.regression_ranges_grid
        text_blocks = [block() for _ in range(config.num_text_layers)]
        stem = [block(window=window, cross=True) for _ in range(config.num_stem_layers)]
        branch = [block(window=window, stride=2, cross=True) for _ in range(config.num_cross_levels)]
        branch += [block(window=window, stride=2) for _ in range(config.num_self_levels)]
        positions = config.max_seq_len, config.position_table
        embedding = VideoEmbedding(config.video_dim, width, num_embed_layers, *positions)
        mapped = config.text_map_width
        self.text_map = _TextMap(config.text_dim, mapped) if mapped else nn.Identity()
        self.query_encoder = QueryEncoder(config.text_dim + mapped, width, num_embed_layers, text_blocks)
        self.video_encoder = VideoEncoder(embedding, stem, branch)
        self.neck = Neck(width, config.num_levels)
        self.heads = Heads(width, config.num_levels)

    def forward(self, batch: Batch) -> Outputs:
        text = self.encode_text(batch.text, batch.text_mask)  # (Q, L, D)
        clips = self.encode_video(batch.video, batch.video_mask)  # of V clips, (V, T, D)
        return self.ground(clips, batch.clip_index, text, batch.text_mask)

    def encode_text(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """Query tokens (Q, L, text_dim) and their mask (Q, L) -> (Q, L, D)."""
        return self.query_encoder(self.text_map(text), text_mask)

    def encode_video(self, video: Tensor, video_mask: Tensor) -> ClipEncoding:
        """Clip features (V, T, video_dim) and their mask (V, T): all that does not depend on a query."""
        return self.video_encoder.embed(video, video_mask)

    def fuse(self, clips: ClipEncoding, clip_index: Tensor, text: Tensor, text_mask: Tensor) -> list[Level]:
        """Pyramid of Q queries, finest level first.

        Args:
            clip_index: (Q,) the index of each query's clip among the V encoded ones.
            text: (Q, L, D) encoded queries.
        """
        return self.video_encoder.fuse(clips, clip_index, text, text_mask)

    def ground(self, clips: ClipEncoding, clip_index: Tensor, text: Tensor, text_mask: Tensor) -> Outputs:
        """Scores and offsets of encoded queries in encoded clips; arguments as in `fuse`."""
        # what has no name here is freed before the heads begin, where memory peaks
        x, mask, lengths = self.neck(self.fuse(clips, clip_index, text, text_mask))
        logits, offsets, point_mask = self.heads(x, mask, lengths)
        return Outputs(logits, offsets, point_mask, make_points(lengths, self.ranges_grid, logits.device))
