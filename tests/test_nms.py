import numpy as np
import pytest
import torch

from groundnlq.model.decode import hard_nms, soft_nms, vote
from tests.golden_inputs import GOLDEN

CASES = np.load(GOLDEN / "nms.npz")


def case(i):
    return torch.from_numpy(CASES[f"segments/{i}"])[None], torch.from_numpy(CASES[f"scores/{i}"])[None]


def as_rows(segments, scores):
    found = scores[0] > 0
    return torch.cat([segments[0][found], scores[0][found][:, None]], dim=1).numpy()


@pytest.mark.parametrize("i", range(5))
def test_soft_nms_equals_the_published_one(i):
    np.testing.assert_allclose(as_rows(*soft_nms(*case(i), 50, 0.75, 0.001)), CASES[f"soft/{i}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("i", range(5))
def test_hard_nms_equals_the_published_one(i):
    np.testing.assert_allclose(as_rows(*hard_nms(*case(i), 50, 0.1, 0.001)), CASES[f"hard/{i}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("i", range(5))
def test_voting_equals_the_published_one(i):
    segments, scores = case(i)
    kept, kept_scores = soft_nms(segments, scores, 50, 0.75, 0.001)
    voted = vote(kept, segments, scores, 0.9)
    np.testing.assert_allclose(as_rows(voted, kept_scores), CASES[f"voted/{i}"], rtol=1e-4, atol=1e-4)


def test_fewer_picks_are_the_first_of_many():
    segments, scores = case(3)
    few, many = soft_nms(segments, scores, 5, 0.75, 0.001), soft_nms(segments, scores, 50, 0.75, 0.001)
    assert torch.equal(few[0], many[0][:, :5])
    assert torch.equal(few[1], many[1][:, :5])


def test_queries_do_not_disturb_each_other():
    (s2, p2), (s3, p3) = case(2), case(3)
    padded = torch.nn.functional.pad(s2, (0, 0, 0, s3.shape[1] - s2.shape[1]))
    scores = torch.nn.functional.pad(p2, (0, p3.shape[1] - p2.shape[1]))
    both = soft_nms(torch.cat([padded, s3]), torch.cat([scores, p3]), 5, 0.75, 0.001)
    for row, alone in enumerate([soft_nms(s2, p2, 5, 0.75, 0.001), soft_nms(s3, p3, 5, 0.75, 0.001)]):
        assert torch.equal(both[0][row], alone[0][0])
        assert torch.equal(both[1][row], alone[1][0])


def test_soft_nms_equals_a_slow_loop_on_random_candidates():
    random = np.random.default_rng(3)
    for _ in range(20):
        start = random.uniform(0, 50, 30)
        segments = np.stack([start, start + random.uniform(0.1, 20, 30)], axis=1).astype(np.float32)
        scores = random.uniform(0.001, 1, 30).astype(np.float32)
        fast = as_rows(*soft_nms(torch.from_numpy(segments)[None], torch.from_numpy(scores)[None], 6, 0.75, 0.001))
        np.testing.assert_allclose(fast, slow_soft_nms(segments, scores, 6), rtol=1e-4)


def slow_soft_nms(segments, scores, keep, sigma=0.75, min_score=0.001):
    rest = [(float(p), float(a), float(b)) for (a, b), p in zip(segments, scores, strict=True)]
    picked = []
    while rest and len(picked) < keep:
        rest.sort(reverse=True)
        score, start, end = rest.pop(0)
        picked.append((start, end, score))
        faded = []
        for p, a, b in rest:
            inter = max(0.0, min(b, end) - max(a, start))
            iou = inter / (end - start + b - a + 2e-6 - inter)
            p *= np.exp(-(iou**2) / sigma)
            if p >= min_score:
                faded.append((p, a, b))
        rest = faded
    return np.array(picked)
