import pytest
import torch

from groundnlq.config import DecodeConfig
from groundnlq.data.grid import FPS, SNIPPET_STRIDE_FRAMES, StepGrid
from groundnlq.model.decode import decode, find_candidates
from groundnlq.model.grounder import Outputs
from groundnlq.model.points import make_points

GRID = StepGrid(fps=30.0, snippet_stride_frames=30.0, half_window="consistent")  # one step a second
RANGES = ((0, 4), (2, 10000))


def predictions(scores_at, num_queries=1, num_steps=8, offset=1.0):
    """All points silent but those given as {point: score}; each spans `offset` strides to both sides."""
    points = make_points((num_steps, num_steps // 2), RANGES)
    scores = torch.full((num_queries, len(points)), 1e-6)
    for point, score in scores_at.items():
        scores[0, point] = score
    return Outputs(
        scores.logit(), torch.full((*scores.shape, 2), offset), torch.ones_like(scores, dtype=torch.bool), points
    )


def test_a_point_becomes_its_segment_in_seconds():
    (moments,) = decode(predictions({3: 0.9}), GRID, [8.0], DecodeConfig())
    torch.testing.assert_close(moments, torch.tensor([[2.5, 4.5, 0.9]]))
    (coarse,) = decode(predictions({8 + 2: 0.9}), GRID, [8.0], DecodeConfig())  # second level: time 4, stride 2
    torch.testing.assert_close(coarse, torch.tensor([[2.5, 6.5, 0.9]]))


def test_moments_stay_within_the_clip():
    (moments,) = decode(predictions({0: 0.9, 7: 0.8}, offset=3.0), GRID, [7.5], DecodeConfig())
    assert moments[:, :2].min() >= 0
    assert moments[:, :2].max() <= 7.5


def test_a_query_of_which_nothing_survives_is_still_answered_by_its_best_point():
    answers = decode(predictions({5: 1e-4}, num_queries=2), GRID, [8.0, 8.0], DecodeConfig())
    assert [len(a) for a in answers] == [1, 1]
    torch.testing.assert_close(answers[0], torch.tensor([[4.5, 6.5, 1e-4]]))


def test_points_off_the_clip_never_answer():
    p = predictions({6: 0.9, 2: 0.2})
    p.mask[0, 4:] = False
    (moments,) = decode(p, GRID, [8.0], DecodeConfig())
    torch.testing.assert_close(moments, torch.tensor([[1.5, 3.5, 0.2]]))


def test_the_cut_before_suppression_is_per_level():
    p = predictions({0: 0.9, 1: 0.8, 2: 0.7, 8: 0.6, 9: 0.5, 10: 0.4})
    _, scores = find_candidates(p, DecodeConfig(pre_nms_topk=2))
    assert scores[0].nonzero()[:, 0].tolist() == [0, 1, 8, 9]


def test_segments_without_duration_are_dropped():
    p = predictions({3: 0.9}, offset=0.0)
    assert find_candidates(p, DecodeConfig())[1].sum() == 0
    (moments,) = decode(p, GRID, [8.0], DecodeConfig())
    assert len(moments) == 1


@pytest.mark.parametrize("nms", ["soft", "hard", "none"])
def test_every_manner_of_suppression_ranks_by_score_and_keeps_at_most_k(nms):
    torch.manual_seed(0)
    p = predictions({i: 0.1 + 0.05 * i for i in range(12)})
    (moments,) = decode(p, GRID, [8.0], DecodeConfig(nms=nms, top_k=4))
    assert 1 <= len(moments) <= 4
    assert moments[0, 2] == pytest.approx(0.65)
    assert (moments[:-1, 2] >= moments[1:, 2]).all()


def test_half_window_manners_differ_by_half_a_step_on_the_way_back():
    legacy, consistent = (StepGrid(FPS, SNIPPET_STRIDE_FRAMES, half) for half in ("legacy", "consistent"))
    assert legacy.to_sec(10.0) == consistent.to_sec(10.0) == pytest.approx(10.5 * 16.043 / 30)
    assert consistent.to_grid(consistent.to_sec(10.0)) == pytest.approx(10.0)
    assert legacy.to_grid(legacy.to_sec(10.0)) == pytest.approx(10.5)
