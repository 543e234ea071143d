"""The arithmetic of the score, against the definition written as slow loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundnlq.data.recall import best_tiou, kept_ks, recalls, tiou
from groundnlq.data.records import Record

SECONDS = st.floats(0, 1000, width=32)
SEGMENT = st.tuples(SECONDS, st.floats(0.125, 100, width=32)).map(lambda s: (s[0], s[0] + s[1]))


def slow_tiou(one, other):
    """Intersection over (latest end - earliest start), as the challenge defines it."""
    inter = min(one[1], other[1]) - max(one[0], other[0])
    return max(inter, 0.0) / (max(one[1], other[1]) - min(one[0], other[0]))


@given(SEGMENT, SEGMENT)
def test_tiou_is_the_definition(one, other):
    value = float(tiou(np.array(one), np.array(other)))
    assert value == pytest.approx(slow_tiou(one, other), abs=1e-12)
    assert value == pytest.approx(float(tiou(np.array(other), np.array(one))), abs=1e-12)
    assert 0 <= value <= 1


@given(SEGMENT, st.floats(-500, 500, width=32), st.floats(0.25, 4, width=32))
def test_tiou_knows_neither_origin_nor_unit(segment, shift, scale):
    one, other = np.array(segment), np.array([segment[0] + 0.5, segment[1] + 1.0])
    moved = tiou((one + shift) * scale, (other + shift) * scale)
    assert moved == pytest.approx(tiou(one, other), abs=1e-6)


def test_of_disjoint_segments_the_gap_belongs_to_the_hull_and_the_tiou_is_zero():
    assert tiou(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0
    assert tiou(np.array([0.0, 1.0]), np.array([1.0, 3.0])) == 0  # touching is not overlapping


def test_a_segment_without_length_overlaps_nothing_and_divides_nothing_by_zero():
    point = np.array([5.0, 5.0])
    assert tiou(point, point) == 0
    assert tiou(point, np.array([4.0, 6.0])) == 0


def test_tiou_broadcasts():
    segments, moments = np.random.default_rng(0).uniform(0, 9, (2, 6, 2)).cumsum(axis=-1)
    table = tiou(segments[:, None], moments[None])
    assert table.shape == (6, 6)
    assert table == pytest.approx(np.array([[slow_tiou(s, m) for m in moments] for s in segments]))


def test_of_several_moments_the_best_one_counts_and_without_any_nothing_does():
    segments = np.array([[0.0, 2.0, 0.9], [10.0, 12.0, 0.8]])
    assert best_tiou(segments, [(10.0, 12.0), (0.0, 1.0)]).tolist() == [0.5, 1.0]
    assert best_tiou(segments, ()).tolist() == [0.0, 0.0]
    assert best_tiou(np.zeros((0, 3)), [(0.0, 1.0)]).shape == (0,)


def world(num_queries, keep, seed=0):
    random = np.random.default_rng(seed)
    records, ranked = [], {}
    for i in range(num_queries):
        start = random.uniform(0, 50)
        records.append(Record(f"a_{i}", f"c{i % 4}", "q", 100.0, ((start, start + 10.0),)))
        starts = start + random.normal(0, 8, keep)
        lengths = random.uniform(4, 16, keep)
        ranked[f"a_{i}"] = np.column_stack([starts, starts + lengths, np.linspace(1, 0.1, keep)])
    return records, ranked


@pytest.mark.parametrize("seed", range(5))
def test_recalls_are_the_share_of_queries_with_a_hit_among_the_first_k(seed):
    records, ranked = world(40, 10, seed)
    del ranked["a_3"]  # a query without an answer is a miss
    table = recalls(ranked, records)
    for k in (1, 5, 10):
        for threshold in (0.3, 0.5):
            hits = 0
            for record in records:
                answers = ranked.get(record.query_id, [])
                hits += any(slow_tiou(a, record.moments_sec[0]) > threshold for a in answers[:k])
            assert table[f"R@{k} IoU={threshold}"] == pytest.approx(100 * hits / 40)
    mean = (table["R@1 IoU=0.3"] + table["R@1 IoU=0.5"]) / 2
    assert table["mean R@1"] == pytest.approx(mean)


def test_a_hit_is_strictly_above_the_threshold():
    record = Record("a_0", "c", "q", 100.0, ((0.0, 1.0),))
    half = {"a_0": np.array([[0.0, 2.0, 1.0]])}  # tIoU 0.5 exactly
    assert recalls(half, [record])["R@1 IoU=0.5"] == 0
    assert recalls(half, [record])["R@1 IoU=0.3"] == 100


def test_recalls_rise_with_k_and_fall_with_the_threshold():
    records, ranked = world(60, 10)
    table = recalls(ranked, records)
    for threshold in (0.3, 0.5):
        assert table[f"R@1 IoU={threshold}"] <= table[f"R@5 IoU={threshold}"] <= table[f"R@10 IoU={threshold}"]
    for k in (1, 5, 10):
        assert table[f"R@{k} IoU=0.5"] <= table[f"R@{k} IoU=0.3"]


def test_a_recall_beyond_what_was_kept_is_left_out_not_repeated():
    records, ranked = world(8, 5)
    assert kept_ks(ranked) == [1, 5]
    assert not any(key.startswith("R@10") for key in recalls(ranked, records))
    assert recalls({}, records)["mean R@1"] == 0  # nothing answered: R@1 stands, as a miss
