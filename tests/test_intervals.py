"""Intervals that hold at the edges and know of clips, p values that never claim too much, power."""

import numpy as np
import pytest

from groundnlq.analysis.evaluation import Evaluation, compare, evaluate
from groundnlq.analysis.intervals import ClipBootstrap, detectable, p_text, share_summary, sign_flip_p
from groundnlq.data.records import Record


def interval(clips, hits):
    row = share_summary("share", clips, hits)
    return row["95 % low"], row["95 % high"]


@pytest.mark.parametrize("num_clips", [1, 2, 10, 60])
@pytest.mark.parametrize("hit", [False, True])
def test_no_and_all_hits_have_an_interval_that_shrinks_with_clips_not_with_queries(num_clips, hit):
    few, many = (interval(np.arange(num_clips * n) % num_clips, [hit] * num_clips * n) for n in (1, 50))
    assert few == many
    assert few[1] - few[0] == pytest.approx(100 * 1.96**2 / (num_clips + 1.96**2))
    assert (few[1] if hit else few[0]) == pytest.approx(100 * hit)


def clustered(random, num_clips, size, share, agreement):
    """Hits of which those of a clip agree, in so many of the clips."""
    alone = random.random((num_clips, size)) < share
    together = np.repeat(random.random((num_clips, 1)) < share, size, axis=1)
    return np.where(random.random((num_clips, 1)) < agreement, together, alone).ravel()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("agreement", [0.0, 0.8])
def test_intervals_cover_the_truth_whether_or_not_queries_of_a_clip_agree(share, agreement):
    random, clips = np.random.default_rng(0), np.repeat(np.arange(40), 9)
    found = [interval(clips, clustered(random, 40, 9, share, agreement)) for _ in range(300)]
    covered = np.mean([low <= 100 * share <= high for low, high in found])
    assert covered >= 0.9  # the worst is 2 % of which four fifths come in whole clips: one clip of 40
    if agreement == 0 and 0.1 < share < 0.9:  # and they are not idle
        usual = 2 * 196 * np.sqrt(share * (1 - share) / 360)
        assert np.mean([high - low for low, high in found]) < 1.15 * usual


def test_the_bootstrap_alone_would_be_empty_there():
    assert ClipBootstrap(np.arange(40)).interval(np.zeros(40)).tolist() == [0, 0]


def test_recalls_of_nothing_and_everything_have_intervals():
    records = [Record(f"a_{i}", f"c{i}", "?", 60.0, ((10.0, 14.0),)) for i in range(12)]
    result: Evaluation = evaluate({r.query_id: np.array([[10.0, 13.0, 0.9], [30, 40, 0.1]]) for r in records}, records)
    low, high = result.intervals()["R@1 IoU=0.3"]
    assert low < 99 < high == pytest.approx(100)
    part = result.by("template")
    assert (part["95 % low"] < part["95 % high"]).all()


@pytest.mark.parametrize("num", [99, 5000])
def test_p_is_never_printed_below_its_floor(num):
    p = sign_flip_p(np.arange(60), np.ones(60), num=num)
    assert p == pytest.approx(1 / (num + 1))
    assert p_text(p, num) == f"p ≤ {1 / (num + 1):.1g}"
    shown = [float(p_text(p, num).split()[-1]) for p in np.linspace(1 / (num + 1), 0.2, 50)]
    assert min(shown) >= 0.95 / (num + 1)
    assert "0.000" not in {text.split()[-1] for text in map(p_text, np.linspace(1 / 5001, 0.01, 99))}


def test_the_detectable_difference_is_found_in_four_of_five_repetitions():
    random, clips = np.random.default_rng(1), np.arange(80)
    spread = 40.0
    size = detectable(clips, random.normal(0, spread, 80))
    assert size == pytest.approx(2.8 * spread / np.sqrt(80), rel=0.2)
    true, found = 2.8 * spread / np.sqrt(80), 0
    for _ in range(200):
        low, _ = ClipBootstrap(clips, num=200).interval(random.normal(true, spread, 80))
        found += low > 0
    assert found / 200 == pytest.approx(0.8, abs=0.09)


def test_a_comparison_says_what_it_could_have_shown():
    records = [Record(f"a_{i}", f"c{i // 4}", "?", 60.0, ((10.0, 14.0),)) for i in range(40)]
    right, wrong = np.array([[10.0, 14.0, 0.9]]), np.array([[30.0, 34.0, 0.9]])
    one = evaluate({r.query_id: right if i % 2 else wrong for i, r in enumerate(records)}, records)
    other = evaluate({r.query_id: right if i % 3 else wrong for i, r in enumerate(records)}, records)
    assert compare(one, one)["detectable"] == 0  # equal in every query
    assert 5 < compare(one, other)["detectable"] < 60
