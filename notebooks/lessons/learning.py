"""Figures of training: jittered moments, positive points, losses, learning rates, averaged weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.candidates import positive_points
from groundnlq.config import RunConfig, TrainConfig, load_config
from groundnlq.data.dataset import Batch
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import tiou
from groundnlq.data.records import Record
from groundnlq.engine.step import learning_rate_at
from groundnlq.model.decode import to_segments
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion, distance_iou_loss, sigmoid_focal_loss
from groundnlq.model.points import Points, assign_targets
from groundnlq.view.style import ABOVE, BLACK, BLUE, GREEN, SKY, VERMILION, YELLOW, new_figure, plain
from groundnlq.view.timeline import at_finest_steps
from notebooks.lessons.parts import draw_spans, heat_map, mark_moments, name_levels


def grounding_config(preset: str, run: Path, changes: Sequence[str]) -> RunConfig:
    """A preset with changes; where its network has a text map, it is that of stage one in ``RUN/align``."""
    stage_one = f"train.init_from={run / 'align' / 'best.pt'}"
    has_map = load_config(preset, changes).model.text_map_width > 0
    return load_config(preset, [stage_one, *changes] if has_map else changes)


def jitter_timeline(narrations: Sequence[Record], jittered_sec: Sequence[np.ndarray]) -> Figure:
    """Annotated segments of narrations, and several random moments of temporal jittering for each.

    Args:
        jittered_sec: for each narration (draws, 2) start and end.
    """
    figure = new_figure(9.5, 0.8 + 0.5 * len(narrations))
    axis = figure.subplots()
    for row, (record, draws) in enumerate(zip(narrations, jittered_sec, strict=True)):
        label = None if row else "jittered"
        draw_spans(axis, row + np.linspace(-0.3, 0.3, len(draws)), draws, label, color=SKY, linewidth=2)
        for start, end in record.moments_sec:
            label = None if row else "annotated"
            axis.barh(row, end - start, left=start, height=0.85, color=BLACK, label=label)
    axis.set_yticks(range(len(narrations)), [plain(r.query, 44) for r in narrations], fontsize=9)
    axis.invert_yaxis()
    axis.set(xlabel="time in the clip [s]", xlim=(0, None))
    figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return figure


def positive_shares(draws_sec: np.ndarray, num_steps: int, config: RunConfig) -> tuple[Points, np.ndarray]:
    """Points of a clip, and the share (N,) of the random moments (D, 2) for which each is positive."""
    found = [positive_points(moment[None], num_steps, config) for moment in draws_sec]
    return found[0][0], torch.stack([is_positive for _, is_positive in found]).float().mean(dim=0).numpy()


def jitter_figure(
    record: Record, draws_sec: np.ndarray, config: RunConfig, true_sec: tuple[float, float] | None = None
) -> Figure:
    """Random moments of one narration and, below, how often each point of the pyramid is positive.

    Args:
        draws_sec: (D, 2) random moments; the first few are shown, all are counted.
        config: of the run, with pyramid, centre radius and frame rate.
        true_sec: start and end of the true action, if known.
    """
    grid, num_levels = config.data.grid, config.model.num_levels
    num_steps = int(np.ceil(record.duration_sec / grid.step_sec))
    points, shares = positive_shares(draws_sec, num_steps, config)
    figure = new_figure(10, 2.6 + 0.28 * num_levels)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.8, 0.3 + 0.28 * num_levels))
    shown, style = draws_sec[:10], {"color": SKY, "linewidth": 4, "solid_capstyle": "butt"}
    draw_spans(above, range(len(shown)), shown, "jittered, one per epoch", **style)
    (start, end), *_ = record.moments_sec
    above.axvspan(start, end, fill=False, edgecolor=BLACK, linewidth=1.5, label="annotated")
    if true_sec is not None:
        for axis in (above, below):
            mark_moments(axis, [true_sec])
        above.plot([], [], color=YELLOW, alpha=0.4, linewidth=8, label="true action")
    above.set(ylabel="random moments", ylim=(9.8, -0.8), yticks=[])
    above.legend(fontsize=9, ncols=3, **ABOVE)
    above.set_title(plain(record.query, 60), fontsize=10, loc="left", pad=20)
    time, level = grid.to_sec(points.time_grid).numpy(), points.level.numpy()
    below.plot(time, level, ".", color="0.8", markersize=2)
    chosen = shares > 0
    image = below.scatter(time[chosen], level[chosen], s=90, c=100 * shares[chosen], cmap="Greens", vmin=0,
                          edgecolor=BLACK, linewidth=0.6)  # fmt: skip
    figure.colorbar(image, ax=below, label="positive [%]", pad=0.01)
    name_levels(below, num_levels)
    margin = 2 * float(np.abs(draws_sec - (start + end) / 2).max())
    below.set(xlabel="time in the clip [s]", xlim=(max(0, start - margin), min(record.duration_sec, end + margin)))
    return figure


@torch.inference_mode()
def point_losses(model: Grounder, batch: Batch, criterion: Criterion, query: int = 0) -> pd.DataFrame:
    """Outputs, targets and losses of every valid point of one query.

    Returns:
        ``time_grid``, ``level``, ``score``, ``is_positive``, ``focal`` (its term of the classification
        loss, before division), the segment that it predicts on the step grid (``start``, ``end``); ``tiou`` and
        ``diou`` (its term of the regression loss) are NaN where the point is not positive.
    """
    outputs = model(batch)
    points, valid = outputs.points, outputs.mask[query]
    labels, distances = assign_targets(points, batch.moments_grid[query], criterion.center_radius)
    smoothed = labels * (1 - criterion.label_smoothing) + criterion.label_smoothing / 2
    segments = to_segments(outputs)[query]
    true = torch.stack([points.time_grid - distances[:, 0] * points.stride,
                        points.time_grid + distances[:, 1] * points.stride], dim=-1)  # fmt: skip
    frame = pd.DataFrame(
        {
            "time_grid": points.time_grid,
            "level": points.level,
            "score": outputs.logits[query].sigmoid(),
            "is_positive": labels > 0,
            "focal": sigmoid_focal_loss(outputs.logits[query].float(), smoothed),
            "start": segments[:, 0],
            "end": segments[:, 1],
            "tiou": tiou(segments.numpy(), true.numpy()),
            "diou": distance_iou_loss(outputs.offsets[query].float(), distances),
        }
    )
    frame.loc[~frame["is_positive"], ["tiou", "diou"]] = np.nan
    return frame[valid.numpy()].reset_index(drop=True)


def loss_table(models: Mapping[str, Grounder], batch: Batch, criterion: Criterion) -> pd.DataFrame:
    """Parts of the loss of a batch for several networks.

    The sum of the first three rows is the total. They are divided by the number of positive points (in training
    by the loss normaliser); regression has the weight of training.
    """
    columns = {}
    for name, model in models.items():
        losses = [point_losses(model, batch, criterion, query) for query in range(len(batch.query_ids))]
        table = pd.concat(losses)
        positive, negative = table[table["is_positive"]], table[~table["is_positive"]]
        count = max(1, len(positive))
        columns[name] = {
            "classification: positive points": positive["focal"].sum() / count,
            "classification: negative points": negative["focal"].sum() / count,
            "regression: positive points": criterion.weights["regression"] * positive["diou"].sum() / count,
            "mean score of positive points": positive["score"].mean(),
            "mean score of negative points": negative["score"].mean(),
            "mean tIoU of positive points": positive["tiou"].mean(),
            "negative points per positive point": len(negative) / count,
        }
    return pd.DataFrame(columns)


def losses_figure(tables: Mapping[str, pd.DataFrame], record: Record, moment_grid: Any, grid: StepGrid) -> Figure:
    """Scores and losses of all points, and the segments of the positive ones; one column per network.

    Args:
        tables: of `point_losses`; moment_grid: (1, 2) the moment that was the target.
    """
    levels = int(next(iter(tables.values()))["level"].max()) + 1
    figure = new_figure(5.4 * len(tables), 5.6)
    rows = figure.subplots(3, len(tables), squeeze=False, sharex=True, sharey="row", height_ratios=(1, 1, 0.9))
    figure.suptitle(plain(record.query), fontsize=11)
    start, end = grid.to_sec(np.asarray(moment_grid, dtype=float).reshape(-1, 2)[0])
    highest = {name: max(float(t[name].max()) for t in tables.values()) for name in ("score", "focal")}
    for column, (name, table) in enumerate(tables.items()):
        scores, costs, segments = rows[:, column]
        positive = table[table["is_positive"]]
        for axis, value, cmap in ((scores, "score", "cividis"), (costs, "focal", "Greys")):
            cells = at_finest_steps([table.loc[table["level"] == n, value].to_numpy() for n in range(levels)])
            image = heat_map(axis, cells, cells.shape[1] * grid.step_sec, highest[value], cmap)
            name_levels(axis, levels)
            if column == len(tables) - 1:
                label = "score" if value == "score" else "focal loss"
                figure.colorbar(image, ax=rows[0 if value == "score" else 1, :], label=label, pad=0.01)
            axis.plot(grid.to_sec(positive["time_grid"]), positive["level"], "o", markersize=6,
                      markerfacecolor="none", markeredgecolor=VERMILION, label="positive points")  # fmt: skip
        of_positive = positive["focal"].sum()
        of_negative = table["focal"].sum() - of_positive
        title = f"classification loss: {of_positive:.2f} of positive, {of_negative:.2f} of negative points"
        costs.set_title(title, fontsize=9)
        scores.set_title(plain(name), fontsize=10)
        _segments(segments, positive, start, end, grid)
    rows[0, 0].legend(fontsize=9, loc="upper right")
    rows[-1, 0].set_ylabel("segments of\npositive points", fontsize=9)
    middle, margin = (start + end) / 2, max(15.0, 3 * (end - start))
    rows[-1, 0].set_xlim(max(0, middle - margin), min(record.duration_sec, middle + margin))
    return figure


def schedule_figure(config: TrainConfig, steps_per_epoch: int, history: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """The learning rate over the run.

    Args:
        history: of the run; its learning rates at the ends of epochs are dots.
    """
    figure = new_figure(7, 2.4)
    axis = figure.subplots()
    total, warmup = config.epochs * steps_per_epoch, config.warmup_steps(steps_per_epoch)
    steps = np.arange(total)
    rates = [learning_rate_at(int(step), config.learning_rate, warmup, total) for step in steps]
    axis.plot(steps, rates, color=BLUE, label="warm-up and cosine")
    if history:
        axis.plot([row["step"] - 1 for row in history], [row["learning_rate"] for row in history], "o",
                  color=VERMILION, markersize=4, label="this run, ends of epochs")  # fmt: skip
    axis.set(xlabel="training step", ylabel="learning rate", ylim=(0, None))
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axis.legend(fontsize=9)
    return figure


def _segments(axis: Axes, positive: pd.DataFrame, start: float, end: float, grid: StepGrid) -> None:
    """Segments of the positive points with the highest scores, each with its tIoU and loss."""
    mark_moments(axis, [(start, end)])
    for row, (_, point) in enumerate(positive.nlargest(6, "score").iterrows()):
        first, last = grid.to_sec(point["start"]), grid.to_sec(point["end"])
        axis.barh(row, last - first, left=first, height=0.7, color=GREEN, edgecolor=BLACK, linewidth=0.6)
        axis.text(0.99, row, f"tIoU {point['tiou']:.2f}, loss {point['diou']:.2f}", fontsize=9.5, va="center",
                  ha="right", transform=axis.get_yaxis_transform())  # fmt: skip
    axis.set(xlabel="time in the clip [s]", ylim=(5.6, -0.6), yticks=[])
    axis.set_title(f"regression loss: {positive['diou'].sum():.2f} of {len(positive)} positive points", fontsize=9)
