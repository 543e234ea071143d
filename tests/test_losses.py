import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundnlq.config import TrainConfig
from groundnlq.model.losses import Criterion, distance_iou_loss, sigmoid_focal_loss
from groundnlq.model.points import assign_targets, make_points
from tests.golden_inputs import golden_batch, golden_model
from tests.learner import new_learner

RANGES = ((0, 4), (2, 8), (4, 16), (8, 10000))


def slow_targets(points, moments, radius):
    """The rule of the paper, point by point and moment by moment."""
    found = []
    for p, s, low, high in zip(
        points.time_grid.tolist(), points.stride.tolist(), points.low.tolist(), points.high.tolist(), strict=True
    ):
        best = None
        for a, b in moments:
            center = (a + b) / 2
            inside = max(a, center - radius * s) < p < min(b, center + radius * s)
            if inside and low <= max(p - a, b - p) <= high and (best is None or b - a < best[0]):
                best = (b - a, (p - a) / s, (b - p) / s)
        found.append(best and best[1:])
    return found


# multiples of 1/8 are exact in float32, so the strict comparisons mean the same on both sides
eighths = st.integers(0, 8 * 64).map(lambda n: n / 8)
moments = st.lists(st.tuples(eighths, eighths).filter(lambda m: m[0] < m[1]), max_size=4)


@settings(max_examples=3 * settings.default.max_examples // 2)
@given(moments=moments)
def test_targets_equal_a_slow_loop(moments):
    points = make_points((64, 32, 16, 8), RANGES)
    labels, distances = assign_targets(points, torch.tensor(moments).reshape(-1, 2), 1.5)
    for label, distance, expected in zip(
        labels.tolist(), distances.tolist(), slow_targets(points, moments, 1.5), strict=True
    ):
        assert label == (expected is not None)
        if expected:
            assert distance == pytest.approx(expected)


def test_focal_loss_equals_its_definition():
    logits, targets = torch.tensor([-2.0, 0.3, 4.0]), torch.tensor([0.05, 0.95, 0.05])
    p = logits.sigmoid()
    entropy = -(targets * p.log() + (1 - targets) * (1 - p).log())
    p_target = p * targets + (1 - p) * (1 - targets)
    expected = (0.25 * targets + 0.75 * (1 - targets)) * (1 - p_target) ** 2 * entropy
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets), expected)


def test_distance_iou_is_zero_at_the_truth_and_grows_with_the_distance_of_centres():
    true = torch.tensor([[2.0, 2.0]] * 3)
    loss = distance_iou_loss(torch.tensor([[2.0, 2.0], [1.0, 3.0], [0.0, 4.0]]), true)
    assert loss[0] == 0
    # shifted by 1 of length 4: IoU 3/5, enclosing 5, centres 1 apart
    torch.testing.assert_close(loss[1], torch.tensor(1 - 3 / 5 + (1 / 5) ** 2))
    assert loss[2] > loss[1]


def test_a_batch_without_positives_has_finite_gradients_and_counts_as_one_positive():
    model, batch = golden_model("tiny").train(), golden_batch("tiny", [2])
    criterion = Criterion(TrainConfig(initial_loss_normaliser=100))
    terms, num_positives = criterion(model(batch), batch)
    criterion.update(num_positives)
    (sum(terms.values()) / criterion.normaliser).backward()
    assert num_positives == 0
    assert terms["regression"] == 0
    assert criterion.normaliser.item() == pytest.approx(0.9 * 100 + 0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_running_count_moves_in_training_only_and_is_part_of_the_state():
    model, batch = golden_model("tiny").eval(), golden_batch("tiny")
    learner = new_learner(model, TrainConfig())
    learner.task.loss(model(batch), batch)
    assert learner.task.normaliser.value == 200
    learner.step([batch], rate=0.0, seed=0)
    assert learner.task.normaliser.value == pytest.approx(0.9 * 200 + 0.1 * 10)
    assert learner.state()["loss_normaliser"] == [learner.task.normaliser.value]
