"""The pre-norm block that query encoder, stem and pyramid are built of."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundnlq.model.attention import CrossAttention, SelfAttention
from groundnlq.model.layers import MLP, LayerNorm, halve


@dataclass(frozen=True)
class ClipEncoding:
    """Result of a self-attention, before the query is read; that of the stem's first is shared by a clip's queries."""

    skip: Tensor  # (V, T, D)
    attention: Tensor  # (V, T, D)
    mask: Tensor  # (V, T) bool

    def for_queries(self, clip_index: Tensor) -> "ClipEncoding":
        """The encoding of each query's clip: (V, ...) -> (Q, ...)."""
        # the gradient of index_select is summed in order; that of [clip_index] is not, with several threads
        parts = (self.skip, self.attention, self.mask)
        return ClipEncoding(*(part.index_select(0, clip_index) for part in parts))


class _ScaledPath(nn.Module):
    """Residual connection with a learned scale per channel and stochastic depth per sample.

    In training a branch is left out with probability `drop_rate`, else divided by ``1 - drop_rate``.
    """

    def __init__(self, width: int, drop_rate: float, scale_init: float):
        super().__init__()
        self.drop_rate = drop_rate
        self.scale = nn.Parameter(torch.full((width,), scale_init))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        scale: Tensor = self.scale
        if self.training and self.drop_rate > 0:
            keep = 1 - self.drop_rate
            scale = scale * scale.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep)
        return torch.addcmul(x, branch, scale)


class TransformerBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention to the query where `cross`, then an MLP.

    Behind the self-attention every row is computed by itself, so one product with the mask at the end does what the
    published program's products behind every part do.

    Args:
        stride: 2 halves the length (the skip is then a max-pooling of width 3).
    """

    def __init__(
        self, width: int, num_heads: int, *, drop_path: float, scale_init: float,
        window: int = 0, stride: int = 1, cross: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.stride = stride
        self.self_norm = LayerNorm(width)
        self.self_attention = SelfAttention(width, num_heads, window, stride)
        self.cross_norm = LayerNorm(width) if cross else None
        self.cross_attention = CrossAttention(width, num_heads) if cross else None
        self.attention_path = _ScaledPath(width, drop_path, scale_init)
        self.mlp_norm = LayerNorm(width)
        self.mlp = MLP(width)
        self.mlp_path = _ScaledPath(width, drop_path, scale_init)

    def attend_self(self, x: Tensor, mask: Tensor) -> ClipEncoding:
        """Skip and attention, both (B, T / stride, D), and the new mask; independent of the query."""
        if x.shape[1] % self.stride:  # the last step that is kept reads a row behind the valid ones
            x, mask = F.pad(x, (0, 0, 0, 1)), F.pad(mask, (0, 1))
        skip = x if self.stride == 1 else halve(x)
        mask = mask[:, :: self.stride]
        return ClipEncoding(skip, self.self_attention(self.self_norm(x), mask), mask)

    def finish(self, clips: ClipEncoding, text: Tensor | None, text_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Everything behind the self-attention."""
        x = self.attention_path(clips.skip, clips.attention)
        if self.cross_attention is not None and self.cross_norm is not None:
            # one LayerNorm and one scale serve both sides and both attentions, as published
            answer = self.cross_attention(self.cross_norm(x), self.cross_norm(text), text_mask)
            x = self.attention_path(x, answer)
        return self.mlp_path(x, self.mlp(self.mlp_norm(x))).mul_(clips.mask[..., None]), clips.mask

    def forward(
        self, x: Tensor, mask: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.finish(self.attend_self(x, mask), text, text_mask)
