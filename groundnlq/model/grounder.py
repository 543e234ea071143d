"""The network: a question and a clip become scores and distances at every point of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from groundnlq.config import PUBLISHED_RANGES, ModelConfig
from groundnlq.data.dataset import Batch
from groundnlq.model.blocks import TransformerBlock
from groundnlq.model.encoders import ClipEncoding, QueryEncoder, VideoEmbedding, VideoEncoder
from groundnlq.model.heads import Heads, Neck, Rows
from groundnlq.model.points import Points, make_points


@dataclass(frozen=True)
class Predictions:
    """What the network says of Q queries at the N points of their pyramid, finest level first."""

    logits: Tensor  # (Q, N)
    offsets: Tensor  # (Q, N, 2) distances to start and end, >= 0, in strides
    mask: Tensor  # (Q, N) bool, True = the point lies on the clip
    points: Points


class Grounder(nn.Module):
    """GroundNLQ (arXiv 2306.15255); with `num_cross_levels` > 0 its starred variant.

    Args:
        video_dim, text_dim: widths of the features; `width` of the embedding.
        window: odd number of steps that video self-attention sees.
        num_cross_levels, num_self_levels: pyramid levels above the stem with and without the query.
        max_seq_len: steps of the position table; longer clips work at inference.
        regression_ranges_grid: for each level the distances in steps that it is responsible for.
        drop_path: rate of stochastic depth; `scale_init`: first value of the per-channel scales.
    """

    def __init__(
        self,
        video_dim: int = 2304,
        text_dim: int = 512,
        width: int = 384,
        num_heads: int = 4,
        window: int = 9,
        num_embed_layers: int = 2,
        num_text_layers: int = 4,
        num_stem_layers: int = 4,
        num_cross_levels: int = 0,
        num_self_levels: int = 6,
        max_seq_len: int = 2560,
        regression_ranges_grid: Sequence[Sequence[float]] = PUBLISHED_RANGES,
        drop_path: float = 0.1,
        scale_init: float = 1e-4,
    ):
        super().__init__()

        def block(**kind) -> TransformerBlock:
            return TransformerBlock(width, num_heads, drop_path=drop_path, scale_init=scale_init, **kind)

        self.ranges_grid = regression_ranges_grid
        text_blocks = [block() for _ in range(num_text_layers)]
        stem = [block(window=window, cross=True) for _ in range(num_stem_layers)]
        branch = [block(window=window, stride=2, cross=True) for _ in range(num_cross_levels)]
        branch += [block(window=window, stride=2) for _ in range(num_self_levels)]
        embedding = VideoEmbedding(video_dim, width, num_embed_layers, max_seq_len)
        self.query_encoder = QueryEncoder(text_dim, width, num_embed_layers, text_blocks)
        self.video_encoder = VideoEncoder(embedding, stem, branch)
        self.neck = Neck(width, 1 + len(branch))
        self.heads = Heads(width, 1 + len(branch))

    @classmethod
    def from_config(cls, config: ModelConfig) -> Grounder:
        return cls(**config.model_dump())

    def forward(self, batch: Batch) -> Predictions:
        text = self.query_encoder(batch.text, batch.text_mask)
        clips = self.video_encoder.embed(batch.video, batch.video_mask)
        return self.ground(clips, batch.clip_index, text, batch.text_mask)

    def ground(self, clips: ClipEncoding, clip_index: Tensor, text: Tensor, text_mask: Tensor) -> Predictions:
        """Encoded clips, Q queries with the index (Q,) of each one's clip and their words (Q, L, D)."""
        # what is not named here is free before the heads begin, where most memory was in use
        rows = Rows.join(self.neck(self.video_encoder.fuse(clips, clip_index, text, text_mask)))
        logits, offsets, mask = self.heads(rows)
        return Predictions(logits, offsets, mask, make_points(rows.lengths, self.ranges_grid, logits.device))
