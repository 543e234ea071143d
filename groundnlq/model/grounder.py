"""The grounding network: scores and offsets at every point of a feature pyramid, for a query and a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from groundnlq.config import ModelConfig
from groundnlq.data.dataset import Batch
from groundnlq.model.blocks import TransformerBlock
from groundnlq.model.encoders import ClipEncoding, Level, QueryEncoder, VideoEmbedding, VideoEncoder
from groundnlq.model.heads import Heads, Neck, Rows
from groundnlq.model.points import Points, make_points


@dataclass(frozen=True)
class Outputs:
    """Raw network outputs for Q queries at the N points of their pyramid, finest level first."""

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
        *,
        video_dim: int,
        text_dim: int,
        width: int,
        num_heads: int,
        window: int,
        num_embed_layers: int,
        num_text_layers: int,
        num_stem_layers: int,
        num_cross_levels: int,
        num_self_levels: int,
        max_seq_len: int,
        regression_ranges_grid: Sequence[Sequence[float]],
        drop_path: float,
        scale_init: float,
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

    def forward(self, batch: Batch) -> Outputs:
        text = self.encode_text(batch.text, batch.text_mask)  # (Q, L, D)
        clips = self.encode_video(batch.video, batch.video_mask)  # of V clips, (V, T, D)
        return self.ground(clips, batch.clip_index, text, batch.text_mask)

    def encode_text(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """Query tokens (Q, L, text_dim) and their mask (Q, L) -> (Q, L, D)."""
        return self.query_encoder(text, text_mask)

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
        rows = Rows.join(self.neck(self.fuse(clips, clip_index, text, text_mask)))
        logits, offsets, mask = self.heads(rows)
        return Outputs(logits, offsets, mask, make_points(rows.lengths, self.ranges_grid, logits.device))
