import json

import numpy as np
import pytest

from groundnlq.analysis.ensemble import _fuse, ensemble
from groundnlq.errors import DataError
from tests.golden_inputs import GOLDEN


def test_the_golden_runs_give_the_golden_ensemble():
    golden = json.loads((GOLDEN / "ensemble.json").read_text())
    runs = [{str(i): np.array(answer) for i, answer in enumerate(run)} for run in golden["runs"]]
    fused = ensemble(runs)
    for i, expected in enumerate(golden["fused"]):
        np.testing.assert_allclose(fused[str(i)][:, :2], np.array(expected)[:, :2], atol=1e-9)


def slow_tiou(one, other):
    inter = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, inter) / (max(one[1], other[1]) - min(one[0], other[0]))


def slow_fuse(answers, keep=5):
    """The rules of the published ensemble, sentence by sentence, on plain lists."""
    firsts = []
    for answer in answers:
        center = (answer[0][0] + answer[0][1]) / 2
        firsts = [f for f in firsts if f[0] != center]  # of equal centres only the later run's stays
        firsts.append((center, answer[0]))
    firsts.sort(key=lambda f: f[0])
    groups = [[firsts[0]]]
    for first in firsts[1:]:
        if first[0] - groups[-1][-1][0] < 2:
            groups[-1].append(first)
        else:
            groups.append([first])
    pool = []
    for group in groups:
        members = [segment for _, segment in group]
        best = members[0]
        for member in members[1:]:
            best = member if member[2] > best[2] else best
        low, high = members[(len(members) - 1) // 2], members[len(members) // 2]
        middle = high if high[2] > low[2] else low
        pool.append([(a + b) / 2 for a, b in zip(best, middle, strict=True)])
    for answer in answers:
        pool += answer[:4]
    kept = []
    while pool and len(kept) < keep:
        top = pool[0]
        for segment in pool[1:]:
            top = segment if segment[2] > top[2] else top
        kept.append(top)
        pool = [segment for segment in pool if segment is not top and slow_tiou(segment, top) <= 0.5]
    return kept + [kept[-1]] * (keep - len(kept))


def crowded_runs(seed, num_runs, decimals):
    """Runs that agree more or less on one place; few decimals make ties of centres and scores."""
    random, answers = np.random.default_rng(seed), []
    for _ in range(num_runs):
        starts, lengths = 10 + random.normal(0, 2, 6), random.uniform(1, 3, 6)
        scores = np.sort(random.uniform(0.1, 1, 6))[::-1]
        answers.append(np.column_stack([starts, starts + lengths, scores]).round(decimals))
    return answers


@pytest.mark.parametrize("num_runs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_fusing_follows_the_published_rules_sentence_by_sentence(num_runs, decimals):
    survived = 0
    for seed in range(60):
        answers = crowded_runs(seed, num_runs, decimals)
        fused = _fuse(answers)
        np.testing.assert_allclose(fused, slow_fuse([a.tolist() for a in answers]), atol=1e-9)
        own = {tuple(row) for answer in answers for row in answer.tolist()}
        survived += any(tuple(row) not in own for row in fused.tolist())
    if num_runs == 3:
        assert survived > 5  # cases in which a fused segment is among the five


def test_one_run_alone_is_thinned_but_not_changed():
    answer = crowded_runs(0, 1, 9)[0]
    own = {tuple(row) for row in answer.tolist()}
    assert all(tuple(row) in own for row in _fuse([answer]).tolist())


def far(score):
    return [[100.0, 101.0, score], [110.0, 111.0, score / 2]]


def test_runs_that_agree_give_the_mean_of_the_best_and_the_middle_one():
    answers = [[[10.0, 14.0, 0.2]], [[11.0, 15.0, 0.4]], [[11.5, 16.5, 0.9]]]
    fused = _fuse([np.array(a) for a in answers])
    # centres 12, 13, 14: one group; the best is the third run's, the middle one the second's
    assert fused[0].tolist() == pytest.approx([11.5, 16.5, 0.9])
    # the mean of both scores 0.65; it overlaps the first one too much to stay beside it
    answers[2] = [[13.5, 14.5, 0.9]]
    fused = _fuse([np.array(a) for a in answers])
    assert fused[1].tolist() == pytest.approx([12.25, 14.75, 0.65])


def test_of_an_even_group_the_middle_is_the_higher_scored_and_the_earlier_at_a_tie():
    lone = [[50.0, 60.0, 0.01]]
    fused = _fuse([np.array(a) for a in ([[10.0, 14.0, 0.8]], [[11.0, 15.0, 0.8]], lone)])
    # both are middle and both are best: at a tie the earlier one, so the new segment is the earlier one
    assert fused[0].tolist() == pytest.approx([10.0, 14.0, 0.8])


def test_centres_two_seconds_apart_are_no_group_and_chains_are():
    apart = _fuse([np.array(a) for a in ([[10.0, 11.0, 0.5]], [[12.0, 13.0, 0.4]], [[14.0, 15.0, 0.3]])])
    assert apart[:3, 0].tolist() == [10.0, 12.0, 14.0]
    chained = _fuse([np.array(a) for a in ([[10.0, 11.0, 0.5]], [[11.9, 12.9, 0.4]], [[13.8, 14.8, 0.3]])])
    # one group of three: best is the first, middle the second, so their mean joins
    assert chained[1].tolist() == pytest.approx([10.95, 11.95, 0.45])


def test_of_equal_centres_the_later_run_stays():
    fused = _fuse([np.array(a) for a in ([[10.0, 14.0, 0.2]], [[11.0, 13.0, 0.3]], [[40.0, 41.0, 0.1]])])
    assert fused[0].tolist() == pytest.approx([11.0, 13.0, 0.3])


def test_the_last_is_repeated_to_fill_up():
    fused = _fuse([np.array([[10.0, 14.0, 0.2]])])
    assert fused.shape == (5, 3)
    assert (fused == fused[0]).all()


def test_runs_over_other_queries_are_refused():
    with pytest.raises(DataError, match=r"run 2 \(unnamed\) answers other queries"):
        ensemble([{"a_0": np.zeros((1, 3))}, {"a_1": np.zeros((1, 3))}])
