"""What one gets without looking at the clip."""

import numpy as np
import pytest

from groundnlq.analysis.baselines import constant_by_template, constant_segment, random_segments
from groundnlq.analysis.evaluation import evaluate
from groundnlq.data.records import Record
from groundnlq.errors import DataError


def record(name, moment, duration=100.0):
    return Record(f"{name}_0", name, "q", duration, (moment,))


def crowded(random, num):
    """Clips of several lengths whose moments crowd around three quarters of the clip."""
    records = []
    for i in range(num):
        duration = float(random.choice([60.0, 100.0, 240.0]))
        center, length = duration * random.normal(0.75, 0.03), duration * random.uniform(0.06, 0.1)
        records.append(record(f"c{i}", (center - length / 2, center + length / 2), duration))
    return records


def test_the_best_constant_segment_finds_where_moments_crowd():
    train = [record(f"t{i}", (40.0, 50.0)) for i in range(8)]
    train += [record(f"u{i}", (5.0, 9.0)) for i in range(3)]
    val = [record("v", (80.0, 100.0), duration=200.0)]
    ranked = constant_segment(train, val, top_k=2)
    assert evaluate(ranked, val).strict["R@1 IoU=0.3"] == 100
    assert ranked["v_0"][1, 1] < 30  # the second one goes to the other crowd, not beside the first


def test_odd_moments_of_the_training_split_move_no_baseline():
    train, val = crowded(np.random.default_rng(0), 30), [record("v", (80.0, 100.0), duration=200.0)]
    odd = [record(f"o{i}", moment) for i, moment in enumerate([(5.0, 5.0), (9.0, 4.0), (190.0, 199.0), (-9.0, -4.0)])]
    for baseline in (constant_segment, constant_by_template, random_segments):
        assert baseline(odd + train, val)["v_0"].tolist() == baseline(train, val)["v_0"].tolist()
        with pytest.raises(DataError, match="no moments to fit"):
            baseline(odd, val)


def test_no_other_segment_of_a_fine_grid_is_much_better_than_the_constant_one():
    train = crowded(np.random.default_rng(0), 60)

    def recall(start, length):
        hits = 0
        for r in train:
            (a, b), d = r.moments_sec[0], r.duration_sec
            s, e = start * d, (start + length) * d
            hits += max(0.0, min(b, e) - max(a, s)) / (max(b, e) - min(a, s)) > 0.3
        return 100 * hits / len(train)

    best = max(recall(s, w) for s in np.linspace(0, 0.95, 60) for w in np.linspace(0.01, 0.3, 30))
    mine = evaluate(constant_segment(train, train), train).strict["R@1 IoU=0.3"]
    assert mine >= 0.9 * best


def test_the_constant_segment_is_the_same_share_of_every_clip_and_lies_in_it():
    train = crowded(np.random.default_rng(1), 40)
    ranked = constant_segment(train, train)
    shares = np.stack([ranked[r.query_id][:, :2] / r.duration_sec for r in train])
    assert np.ptp(shares, axis=0).max() < 1e-12
    assert ((shares >= 0) & (shares <= 1 + 1e-12)).all()


def test_random_segments_lie_in_their_clips_and_follow_the_seed():
    train, val = crowded(np.random.default_rng(2), 30), [record("v", (1.0, 2.0), duration=12.0)]
    one, again, other = (random_segments(train, val, seed=seed)["v_0"] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert ((one[:, 0] >= 0) & (one[:, 1] <= 12.0) & (one[:, 0] < one[:, 1])).all()


def test_random_segments_are_distributed_as_training_moments_are():
    train = crowded(np.random.default_rng(3), 300)
    val = [record(f"v{i}", (1.0, 2.0)) for i in range(400)]
    drawn = np.concatenate(list(random_segments(train, val).values()))
    assert drawn[:, :2].mean() == pytest.approx(75, abs=2)
    lengths = [end - start for r in train for start, end in r.moments_sec]
    assert np.median(drawn[:, 1] - drawn[:, 0]) == pytest.approx(np.median(lengths), rel=0.1)


def test_records_without_moments_can_fit_nothing():
    test = [Record("a_0", "c", "q", 10.0)]
    for baseline in (constant_segment, random_segments):
        with pytest.raises(DataError, match="no moments"):
            baseline(test, test)


def test_a_template_that_lies_elsewhere_is_answered_elsewhere():
    kinds = {"early": (10.0, 16.0), "late": (80.0, 86.0)}
    train = [
        Record(f"{kind}_{i}", f"c{i}", "q", 100.0, ((start + i % 3, end + i % 3),), template=kind)
        for kind, (start, end) in kinds.items()
        for i in range(20)
    ]
    asked = [Record(f"x_{i}", "x", "q", 100.0, template=kind) for i, kind in enumerate(("late", "early", "new"))]
    ranked = constant_by_template(train, asked)
    assert list(ranked) == ["x_0", "x_1", "x_2"]
    assert ranked["x_0"][0, 0] > 70
    assert ranked["x_1"][0, 1] < 30
    assert ranked["x_2"].tolist() == constant_segment(train, asked)["x_2"].tolist()
    of_train = evaluate(constant_by_template(train, train), train).strict["R@1 IoU=0.3"]
    assert of_train == 100
    assert evaluate(constant_segment(train, train), train).strict["R@1 IoU=0.3"] == 50
