"""Every query has one outcome, the first that applies; each is made here on purpose."""

from collections import Counter
from io import BytesIO

import numpy as np
import pytest
import torch

from groundnlq.analysis.diagnosis import (
    OUTCOMES,
    calibration,
    candidates_in_sec,
    diagnose,
    levels_reached,
    outcome_bars,
)
from groundnlq.analysis.metrics import evaluate
from groundnlq.data.annotations import Record
from groundnlq.data.grid import StepGrid
from groundnlq.model.decode import decode
from groundnlq.model.grounder import Predictions
from groundnlq.model.points import assign_targets, make_points

GRID = StepGrid(fps=30.0, snippet_stride_frames=30.0)  # a second a step
RANGES = [[0, 4], [2, 8], [4, 16], [8, 10000]]


def record(index=0, moment=(10.0, 14.0), clip="clip", duration=64.0):
    return Record(f"a_{index}", clip, "Where?", duration, (moment,), template="Where")


def outcome(*segments, moment=(10.0, 14.0), candidates=None):
    one = record(moment=moment)
    ranked = {"a_0": np.array(segments, dtype=float).reshape(-1, 3)}
    return diagnose(ranked, [one], GRID, RANGES, candidates=candidates)["outcome"].iloc[0]


def test_each_outcome_is_recognised():
    away, loose, right = (40, 50, 0.5), (8, 30, 0.4), (10, 15, 0.3)
    assert outcome(right, away) == "hit"
    assert outcome(away, loose, right) == "ranking"
    assert outcome(away, loose) == "localisation"
    assert outcome(away) == "missed"
    assert outcome() == "missed"
    assert outcome(away, moment=(10.2, 10.3)) == "unreachable"  # between two steps


def test_candidates_tell_what_suppression_and_the_cut_have_lost():
    away = (40, 50, 0.5)
    alive, cut, wrong = (10, 15, 0.2), (10, 15, 0.0), (30, 35, 0.9)
    for candidates, expected in (
        ([alive, wrong], "suppressed"),
        ([cut, wrong], "scored out"),
        ([cut, alive], "suppressed"),
        ([wrong], "missed"),
        ([], "missed"),
    ):
        before_nms = np.array(candidates, dtype=float).reshape(-1, 3)
        assert outcome(away, candidates=lambda _, c=before_nms: c) == expected
    # a kept answer that overlaps tells more than a candidate that was lost
    assert outcome((8, 30, 0.4), candidates=lambda _: np.array([alive])) == "localisation"


def test_the_hits_and_rankings_are_those_of_the_recall():
    random = np.random.default_rng(0)
    records, ranked = [], {}
    for i in range(200):
        start = float(random.uniform(0, 50))
        records.append(record(i, (start, start + 6.0), clip=f"c{i // 5}"))
        starts = start + random.normal(0, 5, 5)
        ranked[f"a_{i}"] = np.column_stack([starts, starts + random.uniform(3, 9, 5), np.linspace(1, 0.1, 5)])
    table = diagnose(ranked, records, GRID, RANGES, threshold=0.5)
    strict = evaluate(ranked, records).strict
    counts = Counter(table["outcome"])
    assert len(table) == sum(counts.values()) == 200
    assert set(counts) <= set(OUTCOMES)
    assert 100 * counts["hit"] / 200 == pytest.approx(strict["R@1 IoU=0.5"])
    assert 100 * (counts["hit"] + counts["ranking"]) / 200 == pytest.approx(strict["R@5 IoU=0.5"])


def test_an_answer_to_another_query_of_the_clip_is_noticed():
    records = [record(0, (10.0, 14.0)), record(1, (40.0, 44.0)), record(2, (40.0, 44.0), clip="other")]
    there = np.array([[40.0, 44.0, 0.9]])
    table = diagnose({r.query_id: there for r in records}, records, GRID, RANGES).set_index("query_id")
    assert table["answers_other"].to_dict() == {"a_0": True, "a_1": False, "a_2": False}


def test_queries_without_moments_are_left_out_and_missing_answers_are_misses():
    records = [record(0), Record("a_1", "clip", "Who?", 64.0)]
    table = diagnose({}, records, GRID, RANGES)
    assert table["query_id"].tolist() == ["a_0"]
    assert table["outcome"].tolist() == ["missed"]


@pytest.mark.parametrize("half_window", ["consistent", "legacy"])
def test_levels_reached_are_those_that_training_gives_positive_points(half_window):
    grid = StepGrid(half_window=half_window)
    random = np.random.default_rng(1)
    for _ in range(40):
        start, length = random.uniform(0, 60), np.exp(random.normal(1, 1.3))
        one = record(moment=(start, start + length))
        num_steps = int(64 / grid.step_sec)
        points = make_points([-(-num_steps // 2**level) for level in range(4)], RANGES)
        seen = torch.tensor([[start, min(64.0, start + length)]], dtype=torch.float32)
        labels, _ = assign_targets(points, grid.to_grid(seen))
        assert set(points.level[labels > 0].tolist()) <= levels_reached(one, grid, RANGES)


def test_candidates_are_the_valid_points_segments_in_seconds_and_the_answers_are_among_them():
    generator = torch.Generator().manual_seed(0)
    points = make_points([32, 16, 8, 4], RANGES)
    mask = torch.ones(2, len(points), dtype=torch.bool)
    mask[1] = points.time_grid < 20
    predictions = Predictions(
        logits=torch.randn(2, len(points), generator=generator) - 3,
        offsets=torch.rand(2, len(points), 2, generator=generator) * 3,
        mask=mask,
        points=points,
    )
    first, second = candidates_in_sec(predictions, GRID, [32.0, 20.0], min_score=0.02)
    assert len(first) == len(points)
    assert len(second) == int(mask[1].sum())
    assert second[:, 1].max() <= 20
    assert ((first[:, 2] == 0) | (first[:, 2] > 0.02)).all()
    for answers, candidates in zip(decode(predictions, GRID, [32.0, 20.0]), (first, second), strict=True):
        assert np.abs(candidates[:, :2] - answers[0, :2].numpy()).sum(axis=1).min() < 1e-5


def test_bars_show_the_share_of_each_outcome_and_leave_out_what_never_occurs():
    table = diagnose({"a_0": np.array([[10.0, 14.0, 0.5]])}, [record(0), record(1)], GRID, RANGES)
    figure = outcome_bars({"run $": table, "again": table})
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [50.0] * 4  # hit and missed, of two runs
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.split(":")[0] for label in labels] == ["hit", "missed"]
    assert figure.axes[0].get_xlabel() == "queries [%]"
    figure.savefig(BytesIO(), format="png")


def test_calibration_puts_the_hit_rate_of_each_bin_at_its_mean_score():
    records = [record(i) for i in range(8)]
    right, wrong = (10.0, 14.0), (40.0, 44.0)
    ranked = {f"a_{i}": np.array([[*(right if i >= 4 else wrong), i / 10]]) for i in range(8)}
    axis = calibration(diagnose(ranked, records, GRID, RANGES), num_bins=2).axes[0]
    assert axis.lines[1].get_xydata().tolist() == pytest.approx(np.array([[0.15, 0.0], [0.55, 100.0]]))
    few = calibration(diagnose(ranked, records[:3], GRID, RANGES)).axes[0]
    assert len(few.lines[1].get_xydata()) == 3
