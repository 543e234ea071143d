"""EgoVLP's space-time transformer (Frozen in Time): attention over time, then over space, in every block."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

# (prefix of the video encoder, prefix of its output map): as EgoVLP publishes them, as LaViLa converted them
LAYOUTS = (("video_model.", "vid_proj.0."), ("visual.", "image_projection.0."))


class SpaceTimeTransformer(nn.Module):
    """Features of EgoVLP: (B, T, 3, H, W) normalised frames to (B, output_width), not L2-normalised.

    A frame of `grid` x `grid` patches gives as many tokens; before those of all frames stands one CLS token. T is at
    most `max_frames`. Parameters have the names of the published file.
    """

    def __init__(
        self, width: int, depth: int, num_heads: int, grid: int, patch: int, max_frames: int, output_width: int
    ):
        super().__init__()
        self.size = grid * patch  # H = W of the frames
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.temporal_embed = nn.Parameter(torch.zeros(1, max_frames, width))
        self.blocks = nn.ModuleList(_Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.vid_proj = nn.Linear(width, output_width)

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor], num_heads: int | None = None) -> Self:
        """With the weights of a published file, in either layout; heads of 64 channels unless their number is given.

        A KeyError names what the file lacks, a RuntimeError what does not fit.
        """
        ours = {key.removeprefix("module."): value.float() for key, value in weights.items()}
        video, output = next((layout for layout in LAYOUTS if f"{layout[0]}cls_token" in ours), LAYOUTS[0])
        state = {key.removeprefix(video): value for key, value in ours.items() if key.startswith(video)}
        state |= {f"vid_proj.{kind}": ours[output + kind] for kind in ("weight", "bias")}
        width, patch = state["patch_embed.proj.weight"].shape[::3]
        depth = sum(key.endswith("attn.proj.bias") for key in state) // 2  # over time and over space
        grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
        lengths = state["temporal_embed"].shape[1], len(state["vid_proj.bias"])
        with torch.device("meta"):
            model = cls(width, depth, num_heads or max(1, width // 64), grid, patch, *lengths)
        model.load_state_dict(state, assign=True)
        return model

    def forward(self, frames: Tensor) -> Tensor:
        return self.vid_proj(self.cls(frames))

    def cls(self, frames: Tensor) -> Tensor:
        """(B, width): the CLS token after the last norm."""
        num_frames = frames.shape[1]
        patches = self.patch_embed["proj"](frames.flatten(0, 1)).flatten(2).transpose(1, 2)  # (B T, N, D)
        patches = patches.unflatten(0, (-1, num_frames)) + self.pos_embed[:, None, 1:]
        patches = patches + self.temporal_embed[:, :num_frames, None]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        x = torch.cat([cls, patches.flatten(1, 2)], dim=1)  # (B, 1 + T N, D), frame after frame
        for block in self.blocks:
            x = block(x, num_frames)
        return self.norm(x[:, 0])


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attn, self.timeattn = _Attention(width, num_heads), _Attention(width, num_heads)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        after_time = x + self.timeattn(self.norm3(x), num_frames, over_time=True)
        y = x + self.attn(self.norm1(after_time), num_frames, over_time=False)  # the residual is x, not after_time
        return y + self.mlp(self.norm2(y))


class _Attention(nn.Module):
    """CLS attends to all tokens; a patch to CLS and to its own place in every frame, or to its own frame."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, num_frames: int, over_time: bool) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, 1 + T N, d)
        cls = scaled_dot_product_attention(q[:, :, :1], k, v)

        def groups(tokens: Tensor) -> Tensor:
            """Over time (B N, heads, T, d), over space (B T, heads, N, d)."""
            patches = tokens[:, :, 1:].unflatten(2, (num_frames, -1))
            return (patches.transpose(2, 3) if over_time else patches).transpose(1, 2).flatten(0, 1)

        def with_cls(tokens: Tensor) -> Tensor:
            each = groups(tokens)
            return torch.cat([tokens[:, :, :1].repeat_interleave(len(each) // len(x), dim=0), each], dim=2)

        patches = scaled_dot_product_attention(groups(q), with_cls(k), with_cls(v)).unflatten(0, (len(x), -1))
        patches = patches.permute(0, 2, 3, 1, 4) if over_time else patches.transpose(1, 2)  # (B, heads, T, N, d)
        return self.proj(torch.cat([cls, patches.flatten(2, 3)], dim=2).transpose(1, 2).flatten(2))
