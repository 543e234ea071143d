"""The networks of stage one: two towers, for the frames and the text of a narration; EgoVLP's and a small encoder."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from groundnlq.config import AlignConfig

IMAGENET: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}
MAX_FRAMES = 16  # of the published table of times
# (prefix of the video encoder, prefix of its output map): as EgoVLP publishes them, as LaViLa converted them
LAYOUTS = (("video_model.", "vid_proj.0."), ("visual.", "image_projection.0."))


class Towers(nn.Module):
    """Features of narrated frames and of their texts, each (B, width) and not normalised. The text model is one of
    `transformers`, trained too (CLS → ReLU → linear, as EgoVLP), or the width of frozen tokens, whose mean passes one
    linear map."""

    def __init__(self, config: AlignConfig, text_model: Any):
        super().__init__()
        self.video = video_tower(config)
        self.text_model: Any = None if isinstance(text_model, int) else text_model
        text_width = text_model if isinstance(text_model, int) else text_model.config.hidden_size
        self.text_map = nn.Linear(text_width, config.width)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.video(normalised(batch.frames, **IMAGENET)), self.text(batch.text, batch.text_mask)

    def text(self, text: Tensor, mask: Tensor) -> Tensor:
        """Of (B, L, D) tokens, or of (B, L) token numbers where the text model is trained, too."""
        if self.text_model is None:
            return self.text_map((text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        hidden = self.text_model(input_ids=text, attention_mask=mask.long()).last_hidden_state
        return self.text_map(functional.relu(hidden[:, 0]))


def video_tower(config: AlignConfig) -> nn.Module:
    """The network that makes a feature of frames, from random weights: (B, num_frames, 3, size, size) normalised pixels
    to (B, width)."""
    if config.encoder == "small":
        return SmallEncoder(config.channels, config.num_frames, config.width)
    grid, frames = config.size // config.patch, max(MAX_FRAMES, config.num_frames)
    model = SpaceTimeTransformer(
        config.hidden, config.depth, config.num_heads, grid, config.patch, frames, config.width
    )
    for table in (model.cls_token, model.pos_embed, model.temporal_embed):
        nn.init.trunc_normal_(table, std=0.02)
    return model


def normalised(frames: Tensor, mean: list[float], deviation: list[float]) -> Tensor:
    """(..., H, W, 3) uint8 frames to (..., 3, H, W) pixels; where they lie in memory stays, which convolutions like."""
    shift, scale = (255 * torch.tensor(values, device=frames.device) for values in (mean, deviation))
    return (frames - shift).div_(scale).movedim(-1, -3)


class SmallEncoder(nn.Module):
    """A small video encoder for small films: (B, T, 3, H, W) to (B, width).

    Convolutions pass over each frame, and one over all frames at once, so that their order counts. The maximum finds
    small things, the mean is about the place; both of space and time.
    """

    def __init__(self, channels: tuple[int, ...], num_frames: int, width: int):
        super().__init__()
        inputs, last = (3, *channels[:-1]), channels[-1]
        strides = [2] * 3 + [1] * len(channels)
        self.of_frames = nn.ModuleList(map(_Convolution, inputs, channels, strides))
        self.over_time = _Convolution(num_frames * last, last, 1)
        self.hidden, self.output = nn.Linear(4 * last, 2 * width), nn.Linear(2 * width, width)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        layout: Any = {"memory_format": torch.channels_last}  # 1.4 times as fast on a CPU
        self.to(**layout)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.flatten(0, 1)
        for convolution in self.of_frames:
            x = convolution(x)
        each = x.movedim(1, -1).unflatten(0, frames.shape[:2])  # (B, T, h, w, C)
        over_time = self.over_time(each.movedim(1, -2).flatten(-2).movedim(-1, 1))  # (B, C, h, w)
        pooled = [each.amax((1, 2, 3)), each.mean((1, 2, 3)), over_time.amax((2, 3)), over_time.mean((2, 3))]
        return self.output(functional.relu(self.hidden(torch.cat(pooled, dim=1))))

    def features(self, frames: Tensor) -> Tensor:
        """What `forward` makes, with every channel of mean 0 and variance 1 as `standardise` found them."""
        return (self(frames) - self.shift) * self.scale

    @torch.no_grad()
    def standardise(self, outputs: Tensor) -> None:
        """Note mean and deviation of every channel, of (N, width) outputs of `forward`; training does not see them."""
        self.shift.copy_(outputs.mean(0))
        self.scale.copy_(1 / outputs.std(0).clamp(min=1e-6))


class _Convolution(nn.Conv2d):
    """3 x 3, then ReLU. Its weights are standardised (Qiao et al. 2019) in place of its outputs, so that a feature does
    not depend on its batch; `gain` keeps the variance that ReLU halves."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__(channels, out_channels, 3, stride, padding=1)
        self.gain = nn.Parameter(torch.full((out_channels,), (2 / (9 * channels)) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.layer_norm(self.weight, self.weight.shape[1:]) * self.gain[:, None, None, None]
        return functional.relu(functional.conv2d(x, weight, self.bias, self.stride, self.padding), inplace=True)


class SpaceTimeTransformer(nn.Module):
    """EgoVLP's encoder (Frozen in Time), with attention over time, then over space in every block: (B, T, 3, H, W)
    normalised frames to (B, output_width), not L2-normalised.

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
