"""Properties on random input: each rule against the same rule as slow loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundnlq.analysis.evaluation import evaluate
from groundnlq.data.dataset import _pad_length, clip_batches, shuffled_batches
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import best_tiou, recalls
from groundnlq.data.records import Record
from groundnlq.model.decode import hard_nms, soft_nms
from groundnlq.model.points import assign_targets, make_points
from tests.strategies import SEGMENT, quick, splits

# ---- the score


def slow_tiou(one, other):
    inter = min(one[1], other[1]) - max(one[0], other[0])
    return max(inter, 0.0) / (max(one[1], other[1]) - min(one[0], other[0]))


@quick
@given(st.lists(SEGMENT, min_size=1, max_size=8), st.lists(SEGMENT, min_size=1, max_size=4))
def test_the_best_tiou_is_the_largest_of_all_pairs(segments, moments):
    found = best_tiou(np.array([[*s, 0.0] for s in segments]), moments)
    slow = [max(slow_tiou(s, m) for m in moments) for s in segments]
    assert found.tolist() == slow


def official(ranked, records, ks=(1, 5, 10), thresholds=(0.3, 0.5)):
    """The challenge's arithmetic, sentence by sentence: a list of hits for each figure, then its mean."""
    hits = {(k, t): [] for k in ks for t in thresholds}
    firsts = []
    for record in records:
        if record.query_id not in ranked:
            continue
        overlaps = [slow_tiou(s, record.moments_sec[0]) for s in ranked[record.query_id]]
        for k, t in hits:
            hits[k, t].append(any(overlap > t for overlap in overlaps[:k]))
        firsts.append(overlaps[0])
    return {f"R@{k} IoU={t}": 100 * float(np.mean(found)) for (k, t), found in hits.items()}, firsts


@quick
@given(splits())
def test_evaluation_is_the_official_arithmetic_to_the_last_digit(split):
    records, ranked = split
    result = evaluate(ranked, records)
    expected, firsts = official(ranked, records)
    shown = {key: value for key, value in result.official.items() if key in expected}
    assert shown == {key: expected[key] for key in shown}
    kept = max(map(len, ranked.values()))
    assert set(shown) == {key for key in expected if int(key[2:].split()[0]) <= max(1, kept)}
    assert result.official["mIoU"] == pytest.approx(100 * math.fsum(firsts) / len(firsts), rel=1e-14)
    for k in (5, 10):
        short = sum(len(segments) < k for segments in ranked.values())
        assert result.num_short.get(f"R@{k}", 0) == (short if k <= kept else 0)


@quick
@given(splits())
def test_a_missing_answer_is_a_strict_miss_in_evaluation_and_validation_alike(split):
    records, ranked = split
    result = evaluate(ranked, records)
    for key, value in recalls(ranked, records).items():
        assert result.strict[key] == pytest.approx(value, abs=1e-12)
        assert result.strict[key] == pytest.approx(result.official[key] * len(ranked) / len(records))
    assert result.num_missing == len(records) - len(ranked)


@quick
@given(splits(), st.randoms(use_true_random=False))
def test_the_order_of_queries_does_not_matter(split, random):
    records, ranked = split
    shuffled = dict(random.sample(list(ranked.items()), len(ranked)))
    mixed = random.sample(records, len(records))
    assert evaluate(shuffled, mixed).strict == pytest.approx(evaluate(ranked, records).strict, abs=1e-12)


# ---- suppression


def slow_nms(segments, scores, keep, fade, floor, min_score=0.001):
    alive, picked = [p if p > min_score else 0.0 for p in scores], []
    for _ in range(keep):
        best = max(range(len(alive)), key=lambda i: alive[i])
        if alive[best] <= 0:
            break
        picked.append((best, alive[best]))
        s = segments[best]
        for i, other in enumerate(segments):
            inter = max(0.0, min(s[1], other[1]) - max(s[0], other[0]))
            union = s[1] - s[0] + other[1] - other[0] + 2 * floor - inter
            alive[i] *= fade(inter / max(union, 1e-12))
            if alive[i] < min_score:
                alive[i] = 0.0
        alive[best] = 0.0
    return picked


@st.composite
def candidates(draw):
    count = draw(st.integers(1, 12))
    segments = draw(st.lists(SEGMENT, min_size=count, max_size=count))
    scores = draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count, unique=True))
    return segments, scores


@quick
@given(candidates(), st.integers(1, 8))
def test_suppression_is_the_slow_loop(pair, keep):
    segments, scores = pair
    boxes, points = torch.tensor([segments], dtype=torch.float64), torch.tensor([scores], dtype=torch.float64)
    rules = (
        (soft_nms(boxes, points, keep, 0.75, 0.001), lambda iou: math.exp(-(iou**2) / 0.75), 1e-6),
        (hard_nms(boxes, points, keep, 0.1, 0.001), lambda iou: float(iou < 0.1), 0.0),
    )
    for (kept, kept_scores), fade, floor in rules:
        slow = slow_nms(segments, scores, keep, fade, floor)
        found = kept_scores[0][kept_scores[0] > 0]
        assert len(found) == len(slow)
        for i, (best, score) in enumerate(slow):
            assert found[i].item() == pytest.approx(score, rel=1e-9)
            assert kept[0, i].tolist() == list(segments[best]) or score in scores[:best] + scores[best + 1 :]
        assert (found.diff() <= 0).all()


@quick
@given(candidates())
def test_hard_suppression_of_what_it_kept_changes_nothing(pair):
    segments, scores = (torch.tensor([x], dtype=torch.float64) for x in pair)
    kept, kept_scores = hard_nms(segments, scores, 12, 0.1, 0.001)
    again, again_scores = hard_nms(kept, kept_scores, 12, 0.1, 0.001)
    assert torch.equal(again_scores, kept_scores)
    assert torch.equal(again[again_scores > 0], kept[kept_scores > 0])


# ---- targets and time


@st.composite
def pyramids(draw):
    levels = draw(st.integers(1, 4))
    length = 2 ** (levels - 1) * draw(st.integers(1, 6))
    ranges = [(0 if i == 0 else 2**i, 2 ** (i + 2)) for i in range(levels)]
    ranges[-1] = (ranges[-1][0], 10000)
    # sixteenths are exact in float32, so that the very edges of ranges and moments are asked for, too
    moments = st.tuples(st.integers(-64, 16 * length + 64), st.integers(1, 16 * length))
    found = draw(st.lists(moments.map(lambda m: (m[0] / 16, (m[0] + m[1]) / 16)), max_size=4))
    return [length >> i for i in range(levels)], ranges, found


@quick
@given(pyramids(), st.sampled_from([0.5, 1.5, 3.0]))
def test_targets_are_the_slow_loop(pyramid, radius):
    lengths, ranges, moments = pyramid
    points = make_points(tuple(lengths), tuple(ranges))
    grid = torch.tensor(moments, dtype=torch.float32).reshape(-1, 2)
    labels, distances = assign_targets(points, grid, radius)
    index = 0
    for level, length in enumerate(lengths):
        stride = 2**level
        for step in range(length):
            time, best = step * stride, None
            for start, end in grid.tolist():
                center = (start + end) / 2
                left, right = max(start, center - radius * stride), min(end, center + radius * stride)
                inside = min(time - left, right - time)
                reach = max(time - start, end - time)
                fits = inside > 0 and ranges[level][0] <= reach <= ranges[level][1]
                if fits and (best is None or end - start < best[1] - best[0]):
                    best = (start, end)
            assert bool(labels[index]) == (best is not None)
            if best is not None and len({end - start for start, end in moments}) == len(moments):
                expected = [(time - best[0]) / stride, (best[1] - time) / stride]
                assert distances[index].tolist() == pytest.approx(expected, abs=1e-4)
            index += 1
    assert index == len(points)


@quick
@given(st.floats(0, 3000), st.floats(1, 240), st.floats(0.5, 64), st.sampled_from(["consistent", "legacy"]))
def test_seconds_and_steps_are_there_and_back(step, fps, stride, half_window):
    grid = StepGrid(fps, stride, half_window)
    back = grid.to_grid(grid.to_sec(step))
    assert back == pytest.approx(step + (0.5 if half_window == "legacy" else 0.0), abs=1e-7, rel=1e-9)
    assert grid.to_sec(step) == pytest.approx((step + 0.5) * grid.step_sec, rel=1e-9)
    assert grid.to_sec(step + 1) - grid.to_sec(step) == pytest.approx(grid.step_sec, rel=1e-6)


# ---- batches


@quick
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_shows_every_sample_at_most_once_and_leaves_less_than_a_batch(lengths, size, epoch):
    batches = shuffled_batches(lengths, size, seed=3, epoch=epoch)
    shown = [i for batch in batches for i in batch]
    assert len(shown) == len(set(shown))
    assert set(shown) <= set(range(len(lengths)))
    assert len(lengths) - len(shown) < size
    assert all(len(batch) == min(size, len(lengths)) for batch in batches)


@quick
@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(1, 7))
def test_batches_by_clip_hold_every_query_once_and_one_clip_each(uids, size):
    records = [Record(f"q_{i}", uid, "?", 1.0) for i, uid in enumerate(uids)]
    batches = clip_batches(records, size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(uids)))
    for batch in batches:
        assert len({uids[i] for i in batch}) == 1
        assert len(batch) <= size
        assert batch == sorted(batch)


@quick
@given(st.integers(1, 10_000), st.sampled_from([1, 2, 8, 64]))
def test_padding_is_the_least_multiple_that_leaves_a_row(num_steps, stride):
    padded = _pad_length(num_steps, stride)
    assert padded == min(n for n in range(num_steps + 1, num_steps + 1 + stride) if n % stride == 0)
