"""Why a query was missed: every query falls into exactly one outcome."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from groundnlq.analysis.timeline import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, new_figure
from groundnlq.data.annotations import Record
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import best_tiou
from groundnlq.data.submission import Ranked
from groundnlq.model.points import assign_targets, make_points

OUTCOMES = {
    "hit": "the first answer is right",
    "ranking": "a later answer is right",
    "localisation": "an answer overlaps the moment, too loosely",
    "unreachable": "no point of the pyramid could be positive",
    "missed": "no answer overlaps the moment",
}
_COLORS = dict(zip(OUTCOMES, (GREEN, BLUE, ORANGE, BLACK, VERMILION), strict=True))


def diagnose(
    ranked: Ranked,
    records: Sequence[Record],
    grid: StepGrid,
    ranges_grid: Sequence[Sequence[float]],
    threshold: float = 0.3,
) -> pd.DataFrame:
    """One row a query: its outcome, the tIoU of its first and of its best answer, and what was answered.

    ``answers_other`` says whether the first prediction of a missed query hits another query of its clip.

    Args:
        grid, ranges_grid: of the model; they tell which moments no point can reach.
    """
    by_clip: dict[str, list[Record]] = {}
    for record in records:
        by_clip.setdefault(record.clip_uid, []).append(record)
    rows = []
    for record in (r for r in records if r.moments_sec):
        segments = ranked.get(record.query_id, np.zeros((0, 3)))
        overlaps = best_tiou(segments, record.moments_sec)
        outcome = _outcome(overlaps, record, grid, ranges_grid, threshold)
        others = [m for r in by_clip[record.clip_uid] if r is not record for m in r.moments_sec]
        answers_other = outcome != "hit" and bool((best_tiou(segments[:1], others) > threshold).any())
        rows.append(
            {
                "query_id": record.query_id,
                "clip_uid": record.clip_uid,
                "query": record.query,
                "template": record.template or "(none)",
                "outcome": outcome,
                "first tIoU": overlaps[0] if len(overlaps) else 0.0,
                "best tIoU": overlaps.max(initial=0.0),
                "score": segments[0, 2] if len(segments) else 0.0,
                "moment_sec": record.moments_sec[0][1] - record.moments_sec[0][0],
                "answers_other": answers_other,
            }
        )
    table = pd.DataFrame(rows)
    table["outcome"] = pd.Categorical(table["outcome"], categories=list(OUTCOMES), ordered=True)
    return table


def is_reachable(record: Record, grid: StepGrid, ranges_grid: Sequence[Sequence[float]]) -> bool:
    """Whether any point of the pyramid is positive for any of the record's moments."""
    num_steps = int(np.ceil(grid.to_grid(record.duration_sec))) + 1
    points = make_points([-(-num_steps // 2**level) for level in range(len(ranges_grid))], ranges_grid)
    moments = torch.tensor(record.moments_sec, dtype=torch.float32).reshape(-1, 2)
    return bool(assign_targets(points, grid.to_grid(moments))[0].any())


def outcome_bars(tables: dict[str, pd.DataFrame]) -> Figure:
    """Shares of the outcomes, one bar for each run."""
    figure = new_figure(9, 1.3 + 0.5 * len(tables))
    axis = figure.subplots()
    left = np.zeros(len(tables))
    for outcome, meaning in OUTCOMES.items():
        shares = np.array([100 * (table["outcome"] == outcome).mean() for table in tables.values()])
        dark = outcome in ("unreachable", "ranking")
        bars = axis.barh(list(tables), shares, left=left, color=_COLORS[outcome], edgecolor="white",
                         label=f"{outcome}: {meaning}")  # fmt: skip
        axis.bar_label(bars, [f"{s:.0f}" if s >= 3 else "" for s in shares], label_type="center",
                       color="white" if dark else "black", fontsize=9)  # fmt: skip
        left += shares
    axis.invert_yaxis()
    axis.set(xlabel="queries [%]", xlim=(0, 100))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def calibration(table: pd.DataFrame, num_bins: int = 8) -> Figure:
    """Score of the first answer against how often it is right, in bins of equally many queries."""
    ordered = table.sort_values("score")
    bins = np.array_split(np.arange(len(ordered)), num_bins)
    scores = [ordered["score"].iloc[b].mean() for b in bins]
    rates = [100 * (ordered["outcome"].iloc[b] == "hit").mean() for b in bins]
    figure = new_figure(4.5, 3.2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 100], color=GREY, linestyle=":", label="score = hit rate")
    axis.plot(scores, rates, "o-", color=BLUE, label=f"{num_bins} bins of queries")
    axis.set(xlabel="score of the first answer", ylabel="right at rank 1 [%]", xlim=(0, 1), ylim=(0, 100))
    axis.legend(fontsize=8)
    return figure


def _outcome(overlaps: np.ndarray, record: Record, grid: StepGrid, ranges_grid, threshold: float) -> str:
    if len(overlaps) and overlaps[0] > threshold:
        return "hit"
    if (overlaps > threshold).any():
        return "ranking"
    if not is_reachable(record, grid, ranges_grid):
        return "unreachable"
    return "localisation" if (overlaps > 0).any() else "missed"
