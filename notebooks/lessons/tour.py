"""Figures of the network: its parts with real shapes, attention windows, receptive fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

from groundnlq.data.dataset import Batch
from groundnlq.data.grid import StepGrid
from groundnlq.model.attention import attend_window
from groundnlq.model.grounder import Grounder
from groundnlq.view.style import ABOVE, BLACK, BLUE, GREY, ORANGE, new_figure

KERNEL_REACH = 1  # steps that a convolution of width 3 reads to each side


@dataclass(frozen=True)
class Part:
    """Box of the model's figure: name, shape of its output for a batch, number of parameters."""

    name: str
    shape: tuple[int, ...]
    num_parameters: int


@torch.inference_mode()
def parts(model: Grounder, batch: Batch) -> dict[str, Part]:
    """Boxes of the network in the order of its `forward`, with the shapes of a batch."""
    video = model.video_encoder
    tokens, text = model.text_map(batch.text), model.encode_text(batch.text, batch.text_mask)
    clips = model.encode_video(batch.video, batch.video_mask)
    levels = model.fuse(clips, batch.clip_index, text, batch.text_mask)
    logits, offsets, _ = model.heads(*model.neck(levels))
    found = {
        "video": Part("video features", tuple(batch.video.shape), 0),
        "text": Part("query tokens" + "\nand text map" * (tokens.shape != batch.text.shape), tuple(tokens.shape), 0),
        "query encoder": Part("query encoder", tuple(text.shape), _count(model.query_encoder)),
        "embedding": Part("video embedding", tuple(clips.skip.shape), _count(video.embedding)),
        "stem": Part(f"stem: {len(video.stem)} cross-modal blocks", tuple(levels[0].x.shape), _count(video.stem)),
    }
    blocks = [None, *video.branch]
    for number, (level, block) in enumerate(zip(levels, blocks, strict=True)):
        name = f"level {number}, stride {2**number}"
        found[name] = Part(name, tuple(level.x.shape), 0 if block is None else _count(block))
    found["neck"] = Part("neck: a LayerNorm per level", tuple(levels[0].x.shape), _count(model.neck))
    found["scores"] = Part("scores", tuple(logits.shape), _count(model.heads.classification))
    found["offsets"] = Part("offsets", tuple(offsets.shape), _count(model.heads.regression))
    return found


def model_figure(found: Mapping[str, Part]) -> Figure:
    """Figure of the network: video from left to right, query from below; the finest level on top."""
    levels = [part for name, part in found.items() if name.startswith("level")]
    figure = new_figure(11, 1.6 + 0.42 * len(levels))
    axis = figure.subplots()
    axis.set(xlim=(0, 11), ylim=(-1.6, max(3, len(levels)) + 0.2))
    axis.set_axis_off()
    middle = len(levels) / 2
    _box(axis, (0.1, middle - 0.5, 1.6, 1.2), found["video"], "0.9")
    _box(axis, (2.0, middle - 0.5, 1.7, 1.2), found["embedding"], "#DCEBF7")
    _box(axis, (4.0, middle - 0.6, 2.0, 1.4), found["stem"], "#BFDDF2")
    _box(axis, (0.1, -1.5, 1.6, 1.2), found["text"], "0.9")
    _box(axis, (2.0, -1.5, 1.7, 1.2), found["query encoder"], "#FBE5BF")
    longest = levels[0].shape[1]
    for row, level in enumerate(reversed(levels)):  # the finest on top, as in all figures
        width = max(1.6, 2.2 * (1 + np.log2(level.shape[1])) / (1 + np.log2(longest)))
        _box(axis, (6.4, row + 0.05, width, 0.8), level, "#BFDDF2")
    _box(axis, (9.2, middle + 0.15, 1.7, 1.1), found["scores"], "#CBE9DF")
    _box(axis, (9.2, middle - 1.15, 1.7, 1.1), found["offsets"], "#CBE9DF")
    arrow = {"arrowstyle": "-|>", "color": BLACK}
    for left, right, height in ((1.7, 2, middle), (3.7, 4, middle), (6, 6.4, middle), (8.6, 9.2, middle),
                                (1.7, 2, -0.9)):  # fmt: skip
        axis.annotate("", (right, height), (left, height), arrowprops=arrow)
    axis.annotate("", (4.6, middle - 0.62), (3.72, -0.9), arrowprops=arrow)
    axis.text(4.5, -0.4, "cross-attention:\nevery step reads the words", fontsize=9, va="center")
    axis.text(6.4, len(levels) + 0.05, "feature pyramid: each level has half the steps", fontsize=9)
    axis.text(8.9, middle + 0.15, "neck", fontsize=9, ha="center")
    axis.text(9.2, middle - 1.6, "heads, the same on all levels", fontsize=9)
    return figure


def _box(axis: Axes, place: tuple[float, float, float, float], part: Part, color: str) -> None:
    x, y, width, height = place
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02", facecolor=color, edgecolor="0.3"))
    shape = " × ".join(map(str, part.shape[1:]))
    if part.name.startswith("level"):
        axis.text(x + 0.1, y + height / 2, f"{part.name.split(', ')[1]}: {shape}", fontsize=9, va="center")
        return
    count = f"{part.num_parameters:,} weights" if part.num_parameters else ""
    lines = "\n".join(filter(None, (part.name.replace(": ", ":\n"), shape, count)))
    axis.text(x + width / 2, y + height / 2, lines, fontsize=9, ha="center", va="center", linespacing=1.25)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- receptive fields


def reach_steps(model: Grounder) -> pd.DataFrame:
    """Receptive field of a point on each level, in steps to each side, from the widths of the layers.

    A convolution of width 3 adds one step of its stride, a window of 9 adds four. The query adds none, because
    every step reads all of it.
    """
    video, heads = model.video_encoder, model.heads.classification
    steps = KERNEL_REACH * len(video.embedding.convs)
    half = [block.self_attention.window // 2 for block in (*video.stem, *video.branch)]
    steps += sum(KERNEL_REACH + window for window in half[: len(video.stem)])
    of_head, rows = KERNEL_REACH * (len(heads.convs) + 1), []
    for level, window in enumerate([half[len(video.stem) - 1], *half[len(video.stem) :]]):
        stride = 2**level
        steps += (KERNEL_REACH * stride // 2 + window * stride) if level else 0
        rows.append({"window": window * stride, "whole network": steps + of_head * stride})
    return pd.DataFrame(rows, index=[f"stride {2**level}" for level in range(len(rows))])


def influence(model: Grounder, batch: Batch, level: int) -> np.ndarray:
    """(T,) influence of each step on the score of a level's middle point (norm of the gradient)."""
    video = batch.video.clone().requires_grad_()
    predictions = model(Batch(**{**vars(batch), "video": video}))
    places = (predictions.points.level == level).nonzero()[:, 0]
    valid = places[predictions.mask[0, places]]
    (gradient,) = torch.autograd.grad(predictions.logits[0, valid[len(valid) // 2]], video)
    return gradient[0, batch.video_mask[0]].norm(dim=-1).numpy()


def reach_figure(model: Grounder, batch: Batch, grid: StepGrid) -> Figure:
    """Left, receptive fields and lengths of the moments of each level; right, the influence of each step."""
    reach, ranges = reach_steps(model) * grid.step_sec, np.array(model.ranges_grid) * grid.step_sec
    figure = new_figure(10, 1 + 0.5 * len(reach))
    left, right = figure.subplots(1, 2)
    clip_sec = float(batch.video_mask[0].sum()) * grid.step_sec
    places = np.arange(len(reach))
    for shift, marker, name in ((-0.2, "o", "window"), (0, "D", "whole network")):
        label = "one attention window" if name == "window" else "receptive field"
        left.plot(2 * reach[name], places + shift, marker, color=BLUE, label=label)
    low, high = 2 * ranges[:, 0].clip(min=grid.step_sec / 2), 2 * ranges[:, 1].clip(max=clip_sec / 2)
    left.barh(places + 0.22, high - low, 0.2, left=low, color=ORANGE, label="moments of the level")
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:g}")
    left.set(xlabel="length [s]", ylim=(len(reach) - 0.5, -0.5))
    left.set_yticks(places, reach.index)
    left.legend(fontsize=9.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    for level in places:
        strength = influence(model, batch, int(level))
        time = (np.arange(len(strength)) + 0.5) * grid.step_sec
        right.fill_between(time, level + 0.45, level + 0.45 - 0.85 * np.sqrt(strength / max(strength.max(), 1e-30)),
                           step="mid", color=BLUE, alpha=0.8, linewidth=0)  # fmt: skip
        middle = time[int(strength.argmax())]
        right.hlines(level + 0.47, middle - reach["whole network"].iloc[level],
                     middle + reach["whole network"].iloc[level], color=GREY, linewidth=3)  # fmt: skip
    right.set(xlabel="time in the clip [s]", xlim=(0, clip_sec), ylim=(len(reach) - 0.4, -0.6))
    right.set_yticks(places, reach.index)
    right.set_title("influence on the middle point (square root)\ngrey: its receptive field", fontsize=9.5)
    return figure


@torch.inference_mode()
def window_weights(model: Grounder, batch: Batch, head: int = 0) -> np.ndarray:
    """(T, T) attention weights of each step of the first block of the stem; zero outside of the window."""
    attention, found = model.video_encoder.stem[0].self_attention, {}
    hooks = [
        getattr(attention, role).register_forward_hook(lambda _m, _a, out, role=role: found.update({role: out}))
        for role in ("query", "key")
    ]
    model.encode_video(batch.video, batch.video_mask)
    for hook in hooks:
        hook.remove()
    query, key = (found[role].unflatten(-1, (attention.num_heads, -1))[:, :, head] for role in ("query", "key"))
    every = torch.eye(query.shape[1])[None]  # with one-hot values, the output is the weights
    weights = attend_window(query, key, every, batch.video_mask, 1, attention.window)
    num_steps = int(batch.video_mask[0].sum())
    return weights[0, :num_steps, :num_steps].numpy()


def window_figure(weights: np.ndarray, window: int, num_steps: int = 48) -> Figure:
    """The first steps of `window_weights`, and the mean over all steps by distance."""
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    image = left.imshow(weights[:num_steps, :num_steps], cmap="Blues")
    left.set(xlabel="step that is read", ylabel="step that reads")
    figure.colorbar(image, ax=left, label="weight")
    distances = np.arange(-window // 2 - 1, window // 2 + 3)
    means = [np.diagonal(weights, d).mean() if abs(d) < len(weights) else 0 for d in distances]
    right.bar(distances, means, color=BLUE)
    right.axhline(1 / window, color=GREY, linestyle=":", label=f"1 / {window}: uniform")
    right.set(xlabel="distance [steps]", ylabel="mean weight")
    right.legend(fontsize=9, **ABOVE)
    return figure
