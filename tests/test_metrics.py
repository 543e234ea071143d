import numpy as np
import pytest

from groundnlq.analysis.baselines import constant_segment, random_segments
from groundnlq.analysis.metrics import bootstrap_means, compare, evaluate
from groundnlq.data.annotations import Record, read_truth
from groundnlq.data.recall import recall_key, recalls
from groundnlq.data.submission import read_submission
from groundnlq.errors import DataError
from tests.golden_inputs import GOLDEN, META

RECORDS = read_truth(GOLDEN / "metrics_ground_truth.json")
RANKED = read_submission(GOLDEN / "metrics_predictions.json")


def test_recalls_are_the_official_ones():
    golden = META["metrics"]
    result = evaluate(RANKED, RECORDS)
    for t, row in zip(golden["thresholds"], golden["recall"], strict=True):
        for k, expected in zip(golden["topk"], row, strict=True):
            assert result.official[recall_key(k, t)] == pytest.approx(100 * expected, abs=1e-9)
    mean = np.mean([row[0] for row in golden["recall"]])
    assert result.strict["mean R@1"] == pytest.approx(100 * mean)


def test_a_missing_query_costs_nothing_officially_and_is_a_strict_miss():
    full = evaluate(RANKED, RECORDS)
    hits = full.hits.set_index("query_id")["R@1 IoU=0.3"]
    missed = next(query_id for query_id, hit in hits.items() if hit == 0)
    partial = evaluate({k: v for k, v in RANKED.items() if k != missed}, RECORDS)
    n = len(RECORDS)
    assert partial.num_missing == 1
    assert partial.official["R@1 IoU=0.3"] == pytest.approx(full.strict["R@1 IoU=0.3"] * n / (n - 1))
    assert partial.strict["R@1 IoU=0.3"] == full.strict["R@1 IoU=0.3"]


def test_the_engines_recall_is_the_strict_one():
    some = dict(list(RANKED.items())[:40])
    mine, strict = recalls(some, RECORDS), evaluate(some, RECORDS).strict
    assert {key: strict[key] for key in mine} == pytest.approx(mine)


def test_a_run_that_keeps_five_has_no_recall_at_ten():
    five = evaluate({k: v[:5] for k, v in RANKED.items()}, RECORDS)
    assert "R@5 IoU=0.3" in five.strict
    assert "R@10 IoU=0.3" not in five.strict


def test_predictions_of_another_split_are_refused():
    with pytest.raises(DataError, match="another split"):
        evaluate(RANKED | {"foreign_0": np.zeros((1, 3))}, RECORDS)


def test_intervals_contain_the_figure_and_narrow_with_more_clips():
    result = evaluate(RANKED, RECORDS)
    for key, (low, high) in result.intervals().items():
        assert low <= result.strict[key] <= high
    random = np.random.default_rng(0)
    few, many = (bootstrap_means(np.arange(n), random.random((n, 1)), 0).std() for n in (20, 2000))
    assert many < few / 5


def test_a_run_compared_with_itself_differs_by_nothing_and_with_a_worse_one_clearly():
    result = evaluate(RANKED, RECORDS)
    same = compare(result, result)
    assert same["difference"] == same["95 % low"] == same["95 % high"] == 0
    perfect = {r.query_id: np.array([[*r.moments_sec[0], 1.0]]) for r in RECORDS}
    better = compare(result, evaluate(perfect, RECORDS))
    assert better["difference"] == pytest.approx(100 - result.strict["R@1 IoU=0.3"])
    assert better["95 % low"] > 0


def test_groups_add_up_to_the_whole():
    result = evaluate(RANKED, RECORDS)
    table = result.by(lambda hits: hits["moment_sec"] > hits["moment_sec"].median())
    total = (table["R@1 IoU=0.3"] * table["queries"]).sum() / table["queries"].sum()
    assert total == pytest.approx(result.strict["R@1 IoU=0.3"])


def test_questions_that_cleaning_changed_are_told_apart():
    records = [
        Record("a_0", "c", "Where?", 10.0, ((1.0, 2.0),), raw_query="Query Text: Where?"),
        Record("a_1", "c", "Who?", 10.0, ((1.0, 2.0),), raw_query="Who?"),
    ]
    result = evaluate({"a_0": np.array([[1.0, 2.0, 1.0]]), "a_1": np.array([[5.0, 6.0, 1.0]])}, records)
    groups = result.to_json()["text changed by cleaning"]
    assert groups["changed"] == {"R@1 IoU=0.3": 100.0, "queries": 1.0}
    assert groups["unchanged"] == {"R@1 IoU=0.3": 0.0, "queries": 1.0}


def test_the_best_constant_segment_finds_where_moments_crowd():
    train = [Record(f"t_{i}", f"c{i}", "q", 100.0, ((40.0, 50.0),)) for i in range(8)]
    train += [Record(f"t_{i}", f"c{i}", "q", 100.0, ((5.0, 9.0),)) for i in range(8, 11)]
    ranked = constant_segment(train, [Record("v_0", "v", "q", 200.0, ((80.0, 100.0),))], keep=2)
    overlap = evaluate(ranked, [Record("v_0", "v", "q", 200.0, ((80.0, 100.0),))])
    assert overlap.strict["R@1 IoU=0.3"] == 100
    assert ranked["v_0"][1, 1] < 30


def test_random_segments_lie_in_their_clips_and_follow_the_seed():
    one = random_segments(RECORDS, RECORDS, seed=1)
    assert all((s[:, 0] >= 0).all() and (s[:, 1] <= 480.0 + 1e-9).all() for s in one.values())
    again, other = random_segments(RECORDS, RECORDS, seed=1), random_segments(RECORDS, RECORDS, seed=2)
    assert all(np.array_equal(one[k], again[k]) for k in one)
    assert not all(np.array_equal(one[k], other[k]) for k in one)
