import json

import numpy as np
import pytest

from groundnlq.analysis.ensemble import ensemble, fuse
from groundnlq.errors import DataError
from tests.golden_inputs import GOLDEN


def test_the_golden_runs_give_the_golden_ensemble():
    golden = json.loads((GOLDEN / "ensemble.json").read_text())
    runs = [{str(i): np.array(answer) for i, answer in enumerate(run)} for run in golden["runs"]]
    fused = ensemble(runs)
    for i, expected in enumerate(golden["fused"]):
        np.testing.assert_allclose(fused[str(i)][:, :2], np.array(expected)[:, :2], atol=1e-9)


def far(score):
    return [[100.0, 101.0, score], [110.0, 111.0, score / 2]]


def test_runs_that_agree_give_the_mean_of_the_best_and_the_middle_one():
    answers = [[[10.0, 14.0, 0.2]], [[11.0, 15.0, 0.4]], [[11.5, 16.5, 0.9]]]
    fused = fuse([np.array(a) for a in answers])
    # centres 12, 13, 14: one group; the best is the third run's, the middle one the second's
    assert fused[0].tolist() == pytest.approx([11.5, 16.5, 0.9])
    # the mean of both scores 0.65; it overlaps the first one too much to stay beside it
    answers[2] = [[13.5, 14.5, 0.9]]
    fused = fuse([np.array(a) for a in answers])
    assert fused[1].tolist() == pytest.approx([12.25, 14.75, 0.65])


def test_of_an_even_group_the_middle_is_the_higher_scored_and_the_earlier_at_a_tie():
    lone = [[50.0, 60.0, 0.01]]
    fused = fuse([np.array(a) for a in ([[10.0, 14.0, 0.8]], [[11.0, 15.0, 0.8]], lone)])
    # both are middle and both are best: at a tie the earlier one, so the new segment is the earlier one
    assert fused[0].tolist() == pytest.approx([10.0, 14.0, 0.8])


def test_centres_two_seconds_apart_are_no_group_and_chains_are():
    apart = fuse([np.array(a) for a in ([[10.0, 11.0, 0.5]], [[12.0, 13.0, 0.4]], [[14.0, 15.0, 0.3]])])
    assert apart[:3, 0].tolist() == [10.0, 12.0, 14.0]
    chained = fuse([np.array(a) for a in ([[10.0, 11.0, 0.5]], [[11.9, 12.9, 0.4]], [[13.8, 14.8, 0.3]])])
    # one group of three: best is the first, middle the second, so their mean joins
    assert chained[1].tolist() == pytest.approx([10.95, 11.95, 0.45])


def test_of_equal_centres_the_later_run_stays():
    fused = fuse([np.array(a) for a in ([[10.0, 14.0, 0.2]], [[11.0, 13.0, 0.3]], [[40.0, 41.0, 0.1]])])
    assert fused[0].tolist() == pytest.approx([11.0, 13.0, 0.3])


def test_the_last_is_repeated_to_fill_up():
    fused = fuse([np.array([[10.0, 14.0, 0.2]])])
    assert fused.shape == (5, 3)
    assert (fused == fused[0]).all()


def test_runs_over_other_queries_are_refused():
    with pytest.raises(DataError, match="run 2 answers other queries"):
        ensemble([{"a_0": np.zeros((1, 3))}, {"a_1": np.zeros((1, 3))}])
