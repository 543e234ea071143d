"""Figures of targets and decoding: positive points, losses, soft-NMS."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from groundnlq.analysis.candidates import positive_points
from groundnlq.config import RunConfig
from groundnlq.data.recall import tiou
from groundnlq.model.losses import distance_iou_loss, sigmoid_focal_loss
from groundnlq.view.style import BLACK, BLUE, CURVES, GREEN, GREY, SKY, VERMILION, new_figure
from notebooks.lessons.parts import mark_moments, name_levels


def assignment_figure(config: RunConfig, clip_sec: float, length_sec: float, center_sec: float | None = None) -> Figure:
    """All points of a clip; the positive points of a moment of this length are green.

    Args:
        config: of the run, with pyramid, centre radius and frame rate.
    """
    center, grid = clip_sec / 2 if center_sec is None else center_sec, config.data.grid
    moment = torch.tensor([[center - length_sec / 2, center + length_sec / 2]])
    points, is_positive = positive_points(moment, int(clip_sec / grid.step_sec), config)
    time, level, is_positive = (grid.to_sec(points.time_grid).numpy(), points.level.numpy(), is_positive.numpy())
    num_levels = config.model.num_levels
    figure = new_figure(9.5, 1.2 + 0.3 * num_levels)
    axis = figure.subplots()
    mark_moments(axis, moment.tolist(), alpha=0.5)
    axis.plot(time[~is_positive], level[~is_positive], ".", color="0.75", markersize=2)
    axis.plot(time[is_positive], level[is_positive], "o", color=GREEN, markersize=7, markeredgecolor=BLACK)
    name_levels(axis, num_levels)
    margin = max(3.0, 1.5 * length_sec)  # so that a short moment and its points can be seen
    axis.set(xlabel="time in the clip [s]", xlim=(max(0, center - margin), min(clip_sec, center + margin)))
    counts = [f"{(is_positive & (level == n)).sum()} with stride {2**n}" for n in sorted(set(level[is_positive]))]
    title = ", ".join(counts) or "none, so this moment is never learned"
    axis.set_title(f"positive points of a moment of {length_sec:g} s: {title}", fontsize=10, loc="left")
    return figure


def is_always_positive(config: RunConfig, length_sec: float) -> bool:
    """Whether a moment of this length has a positive point wherever it lies; tried at 200 places within a step."""
    places = torch.linspace(0, config.data.grid.step_sec, 200)[:, None, None] + 2 * length_sec
    moments = places + length_sec * torch.tensor([[-0.5, 0.5]])
    num_steps = int(4 * length_sec / config.data.grid.step_sec) + 2
    return all(bool(positive_points(moment, num_steps, config)[1].any()) for moment in moments)


def loss_figure(label_smoothing: float) -> Figure:
    """Left, the regression loss at different distances from the moment; right, the classification loss.

    Args:
        label_smoothing: of the run; the target of a positive point is 1 minus half of it.
    """
    figure = new_figure(10, 3.2)
    left, right = figure.subplots(1, 2)
    shift = np.linspace(-1.5, 1.5, 301)
    for (color, dash), ratio in zip(CURVES, (1.0, 0.5, 2.0), strict=False):
        left.plot(shift, _regression_loss(shift, ratio), dash, color=color, label=f"length × {ratio:g}")
    inside = np.stack([shift - 0.5, shift + 0.5], axis=-1)
    left.plot(shift, 1 - tiou(inside, np.array([-0.5, 0.5])), color=GREY, linestyle=":", label="1 − tIoU, length × 1")
    left.set(xlabel="distance of the centres / length of the moment", ylabel="distance-IoU loss", ylim=(0, None))
    probability = torch.linspace(0.005, 0.995, 200)
    cases = (("positive", 1 - label_smoothing / 2, BLUE, "-"), ("negative", label_smoothing / 2, VERMILION, "--"))
    for name, target, color, dash in cases:
        loss = sigmoid_focal_loss(torch.logit(probability), torch.full_like(probability, target))
        right.plot(probability, loss, dash, color=color, label=f"focal, {name} point")
    right.plot(probability, -probability.log(), ":", color=GREY, label="cross-entropy, positive point")
    right.set(xlabel="score of the point", ylabel="classification loss", ylim=(0, 2))
    for axis in (left, right):
        axis.legend(fontsize=9)
    return figure


def _regression_loss(shift: np.ndarray, ratio: float) -> Tensor:
    """Loss of segments `ratio` times as long as the moment, with centres `shift` lengths away from its centre;
    distances are at least zero, like those of the network."""
    offset = torch.from_numpy(shift)
    predicted = torch.stack([ratio / 2 - offset, ratio / 2 + offset], dim=-1).clamp(min=0)
    return distance_iou_loss(predicted, torch.full_like(predicted, 0.5))


def suppression_figure(candidates: np.ndarray, sigma: float, num_picks: int = 4) -> Figure:
    """Soft-NMS (Bodla et al. 2017), pick by pick: each pick lowers the scores of all that overlap it.

    Args:
        candidates: (N, 3 or more) start_sec, end_sec, score.
    """
    segments, scores = candidates[:, :2], candidates[:, 2].astype(float)
    figure = new_figure(9.5, 1.35 * num_picks)
    axes = figure.subplots(num_picks, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    remaining, picks = scores.copy(), []
    for number, axis in enumerate(axes, 1):
        best = int(remaining.argmax())
        centers = segments.mean(axis=1)
        axis.vlines(centers, 0, scores, color="0.85", linewidth=1)
        axis.vlines(centers, 0, remaining, color=SKY, linewidth=1)
        axis.hlines(remaining[best], *segments[best], color=VERMILION, linewidth=4)
        start, end = segments[best]
        picks += [start, end]
        axis.set_title(f"pick {number}: {start:.1f} – {end:.1f} s, score {remaining[best]:.3f}", fontsize=9, loc="left")
        remaining = remaining * np.exp(-(tiou(segments[best], segments) ** 2) / sigma)
        remaining[best] = 0.0
    axes[-1].set(xlabel="time in the clip [s]", ylim=(0, None), xlim=(min(picks) - 5, max(picks) + 5))
    figure.supylabel("score (grey: original, blue: now)", fontsize=9)
    return figure
