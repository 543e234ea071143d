"""Why a query was missed: every query falls into exactly one outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from groundnlq.analysis.timeline import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
    plain,
)
from groundnlq.data.annotations import Record
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import best_tiou
from groundnlq.data.submission import Ranked
from groundnlq.model.decode import find_candidates
from groundnlq.model.grounder import Predictions
from groundnlq.model.points import Points, assign_targets, make_points

OUTCOMES = {  # the first that applies
    "hit": "the first answer is right",
    "ranking": "a later answer is right",
    "localisation": "an answer overlaps the moment, too loosely",
    "suppressed": "a right candidate was lost in NMS",
    "scored out": "a right candidate was cut for its score",
    "unreachable": "no point of the pyramid could be positive",
    "missed": "no answer overlaps the moment",
}
_COLORS = dict(zip(OUTCOMES, (GREEN, BLUE, ORANGE, SKY, PURPLE, BLACK, VERMILION), strict=True))
Candidates = Callable[[Record], np.ndarray]


def diagnose(
    ranked: Ranked,
    records: Sequence[Record],
    grid: StepGrid,
    ranges_grid: Sequence[Sequence[float]],
    threshold: float = 0.3,
    candidates: Candidates | None = None,
) -> pd.DataFrame:
    """One row a query: its outcome, the tIoU of its first and of its best answer, and what was answered.

    ``answers_other`` says whether the first prediction of a missed query hits another query of its clip.

    Args:
        grid, ranges_grid: of the model; they tell which moments no point can reach.
        candidates: gives a record's segments before NMS, as `candidates_in_sec` does; without it
            ``suppressed`` and ``scored out`` cannot be told from ``missed``.
    """
    by_clip: dict[str, list[Record]] = {}
    for record in records:
        by_clip.setdefault(record.clip_uid, []).append(record)
    rows = []
    for record in (r for r in records if r.moments_sec):
        segments = ranked.get(record.query_id, np.zeros((0, 3)))
        overlaps = best_tiou(segments, record.moments_sec)
        outcome = _outcome(overlaps, threshold) or _outcome_of_candidates(record, threshold, candidates)
        if outcome is None:
            outcome = "missed" if levels_reached(record, grid, ranges_grid) else "unreachable"
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


def levels_reached(record: Record, grid: StepGrid, ranges_grid: Sequence[Sequence[float]]) -> set[int]:
    """Pyramid levels with a positive point for any of the record's moments, as training sees them."""
    num_steps = int(np.ceil(grid.to_grid(record.duration_sec))) + 1
    points = _points(num_steps, tuple((low, high) for low, high in ranges_grid))
    moments = torch.tensor(record.moments_sec, dtype=torch.float32).reshape(-1, 2)
    labels, _ = assign_targets(points, grid.to_grid(moments.clamp(0, record.duration_sec)))
    return set(points.level[labels > 0].tolist())


def candidates_in_sec(
    predictions: Predictions, grid: StepGrid, durations_sec: Sequence[float], **cuts: Any
) -> list[np.ndarray]:
    """For each query all segments before NMS: (N, 3) start_sec, end_sec, score, which is 0 for those cut.

    Args:
        cuts: ``min_score`` and ``pre_nms_topk`` of the decoding (see `find_candidates`).
    """
    found = find_candidates(predictions, **cuts)
    rows = zip(found.segments_grid, found.scores, predictions.mask, durations_sec, strict=True)
    return [
        torch.cat([grid.to_sec(segments[valid]).clamp(0, duration), scores[valid, None]], dim=1).cpu().numpy()
        for segments, scores, valid, duration in rows
    ]


def outcome_bars(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Shares of the outcomes, one bar for each run; those that never occur are left out."""
    figure = new_figure(9, 1.5 + 0.5 * len(tables))
    axis = figure.subplots()
    names, left = [plain(name, 40) for name in tables], np.zeros(len(tables))
    for outcome, meaning in OUTCOMES.items():
        shares = np.array([100 * (table["outcome"] == outcome).mean() for table in tables.values()])
        if not shares.any():
            continue
        bars = axis.barh(names, shares, left=left, color=_COLORS[outcome], edgecolor="white",
                         label=f"{outcome}: {meaning}")  # fmt: skip
        ink = "white" if _COLORS[outcome] in (BLACK, BLUE) else "black"
        texts = [f"{s:.0f}" if s >= 3 else "" for s in shares]
        axis.bar_label(bars, texts, label_type="center", color=ink, fontsize=9)
        left += shares
    axis.invert_yaxis()
    axis.set(xlabel="queries [%]", xlim=(0, 100))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def calibration(table: pd.DataFrame, num_bins: int = 8) -> Figure:
    """Score of the first answer against how often it is right, in bins of equally many queries."""
    ordered = table.sort_values("score")
    bins = np.array_split(np.arange(len(ordered)), max(1, min(num_bins, len(ordered))))
    scores = [ordered["score"].iloc[b].mean() for b in bins]
    rates = [100 * (ordered["outcome"].iloc[b] == "hit").mean() for b in bins]
    figure = new_figure(4.5, 3.2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 100], color=GREY, linestyle=":", label="score = hit rate")
    axis.plot(scores, rates, "o-", color=BLUE, label=f"{len(bins)} bins of queries")
    axis.set(xlabel="score of the first answer", ylabel="right at rank 1 [%]", xlim=(0, 1), ylim=(0, 100))
    axis.legend(fontsize=8)
    return figure


@lru_cache(maxsize=256)
def _points(num_steps: int, ranges_grid: tuple[tuple[float, float], ...]) -> Points:
    return make_points([-(-num_steps // 2**level) for level in range(len(ranges_grid))], ranges_grid)


def _outcome(overlaps: np.ndarray, threshold: float) -> str | None:
    """The outcome as far as the kept answers tell it."""
    if (overlaps[:1] > threshold).any():
        return "hit"
    if (overlaps > threshold).any():
        return "ranking"
    return "localisation" if (overlaps > 0).any() else None


def _outcome_of_candidates(record: Record, threshold: float, candidates: Candidates | None) -> str | None:
    if candidates is None:
        return None
    segments = candidates(record)
    is_right = best_tiou(segments, record.moments_sec) > threshold
    if not is_right.any():
        return None
    return "suppressed" if (segments[is_right, 2] > 0).any() else "scored out"
