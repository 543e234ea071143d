"""What the tour shows is what the network does."""

from io import BytesIO

import numpy as np
import pytest
import torch

from groundnlq.data.dataset import Batch
from groundnlq.data.grid import StepGrid
from groundnlq.model.decode import soft_nms
from notebooks.lessons import targets as lesson
from notebooks.lessons import tour
from tests.stub_network import config_of
from tests.tiny_run import SMALL_RANGES, small_network

GRID = StepGrid(fps=1.0, snippet_stride_frames=1.0, half_window="consistent")
CONFIG = config_of(ranges=SMALL_RANGES)


@pytest.fixture(scope="module")
def model():
    return small_network(num_stem_layers=2)


@pytest.fixture(scope="module")
def batch():
    random = torch.Generator().manual_seed(1)
    video, text = torch.randn(100, 8, generator=random), torch.randn(5, 8, generator=random)
    return Batch.collate([video], [text], [0], [torch.zeros(0, 2)], ["q"], ["c"], [100.0], 4)


def drawn(figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def test_the_parts_have_the_networks_shapes_and_all_of_its_weights(model, batch):
    found = tour.parts(model, batch)
    num_rows = batch.video.shape[1]
    levels = [part.shape for name, part in found.items() if name.startswith("level")]
    assert levels == [(1, num_rows // 2**level, 16) for level in range(3)]
    logits = model(batch).logits
    assert found["scores"].shape == tuple(logits.shape)
    assert found["offsets"].shape == (*logits.shape, 2)
    count = sum(part.num_parameters for part in found.values())
    assert count + len(model.heads.level_scale) == sum(p.numel() for p in model.parameters())
    assert drawn(tour.model_figure(found))


def test_the_reach_of_a_point_is_where_its_gradient_ends(model, batch):
    """Held to the gradient of the true network: nothing outside of the reach, and something at its ends."""
    for level, steps in enumerate(tour.reach_steps(model)["whole network"]):
        seen = np.flatnonzero(tour.influence(model, batch, level))
        num_points = -(-100 // 2**level)
        point = (num_points // 2) * 2**level
        assert point - steps <= seen.min() <= point - steps + 2**level
        assert min(99, point + steps - 2**level) <= seen.max() <= point + steps


def test_windows_are_read_within_and_sum_to_one(model, batch):
    weights = tour.window_weights(model, batch)
    assert weights.shape == (100, 100)
    assert weights.sum(axis=1) == pytest.approx(1, abs=1e-5)
    distance = np.abs(np.subtract.outer(np.arange(100), np.arange(100)))
    assert (weights[distance > 2] == 0).all()
    assert (weights[distance <= 2] > 0).all()
    assert model.video_encoder.stem[0].self_attention.query._forward_hooks == {}


def lit(figure) -> list[tuple[float, float]]:
    return sorted(map(tuple, figure.axes[0].lines[1].get_xydata().tolist()))


def test_the_lit_points_lie_within_the_moment_and_climb_with_its_length():
    levels = []
    for length in (1.5, 6.0, 30.0):
        points = lit(lesson.assignment_figure(CONFIG, 100.0, length))
        assert all(50 - length / 2 < time < 50 + length / 2 for time, _ in points)
        levels.append(max(level for _, level in points))
    assert levels == sorted(levels)
    assert levels[0] < levels[-1]
    nothing = lesson.assignment_figure(CONFIG, 100.0, 0.3, center_sec=50.0)
    assert lit(nothing) == []
    assert "none" in nothing.axes[0].get_title(loc="left")


def test_the_picks_shown_are_those_of_the_decoder():
    random = np.random.default_rng(0)
    start = random.uniform(0, 50, 40)
    candidates = np.column_stack([start, start + random.uniform(1, 9, 40), random.uniform(0.01, 0.9, 40)])
    segments, scores = (torch.from_numpy(x)[None] for x in (candidates[:, :2], candidates[:, 2]))
    kept, kept_scores = soft_nms(segments, scores, 4, 0.5, 0.0)
    titles = [axis.get_title(loc="left") for axis in lesson.suppression_figure(candidates, 0.5).axes]
    assert titles == [
        f"pick {n}: {a:.1f} – {b:.1f} s, score {s:.3f}"
        for n, ((a, b), s) in enumerate(zip(kept[0].tolist(), kept_scores[0].tolist(), strict=True), 1)
    ]


def test_the_shortest_moment_that_is_always_learned_is_one_step():
    lengths = [part * GRID.step_sec for part in (0.9, 0.98, 1.02, 3)]
    assert [lesson.is_always_positive(CONFIG, length) for length in lengths] == [False, False, True, True]


def test_the_finest_level_is_on_top(model, batch):
    axis = tour.model_figure(tour.parts(model, batch)).axes[0]
    boxes = {text.get_text().split(":")[0]: text.get_position() for text in axis.texts}
    height = {name: y for name, (_, y) in boxes.items() if name.startswith("stride")}
    assert height["stride 1"] > height["stride 2"] > height["stride 4"]


def test_the_loss_is_nothing_where_the_prediction_is_right_and_grows_with_the_offset():
    line = lesson.loss_figure(0.1).axes[0].lines[0]
    shift, loss = line.get_xdata(), line.get_ydata()
    assert loss[np.abs(shift).argmin()] == pytest.approx(0, abs=1e-6)
    right = np.asarray(loss)[shift >= 0]
    assert (np.diff(right) > 0).all()


@pytest.mark.filterwarnings("error")
def test_every_figure_draws_without_a_warning_and_names_its_axes(model, batch):
    for figure in (
        tour.reach_figure(model, batch, GRID),
        tour.window_figure(tour.window_weights(model, batch), 5),
        lesson.assignment_figure(CONFIG, 100.0, 4.0),
        lesson.loss_figure(0.1),
        lesson.suppression_figure(np.array([[1.0, 2.0, 0.5], [3.0, 4.0, 0.4]]), 0.75, num_picks=2),
    ):
        assert drawn(figure)
        assert figure.axes[-1].get_xlabel() or figure.axes[0].get_xlabel()
