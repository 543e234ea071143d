"""Any number of runs as equals: pairs, seeds as trainings of one setting, who found what."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groundnlq.analysis.diagnosis import _names_of
from groundnlq.analysis.intervals import ClipBootstrap, holm, replicate_summary, sign_flip_p
from groundnlq.analysis.runs import all_pairs, found_by, recalls_of_runs, trainings
from groundnlq.errors import DataError

CLIPS = np.repeat(np.arange(30), 5)


def tables(random, **shares):
    hits = {name: random.random(150) < share for name, share in shares.items()}
    ids = [f"q{number}" for number in range(150)]
    return {
        name: pd.DataFrame({"query_id": ids, "clip_uid": CLIPS, "query": ids,
                            "outcome": pd.Categorical(np.where(hit, "hit", "missed"))})
        for name, hit in hits.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def four():
    return tables(np.random.default_rng(0), first=0.5, second=0.45, third=0.2, fourth=0.5)


def hit_ids(table):
    return {row.query_id for row in table.itertuples() if row.outcome == "hit"}


def test_every_pair_is_compared_and_p_is_corrected_for_all_of_them(four):
    found, ps = all_pairs(four), []
    assert [*found.index] == [*combinations(four, 2)]
    for one, other in combinations(four, 2):
        left, right, row = hit_ids(four[one]), hit_ids(four[other]), found.loc[(one, other)]
        assert (row["won"], row["lost"]) == (len(left - right), len(right - left))
        assert row["difference"] == pytest.approx(100 * (len(left) - len(right)) / 150)
        change = [float((q in left) - (q in right)) for q in four[one]["query_id"]]
        ps.append(sign_flip_p(CLIPS, np.array(change)))
    assert found["p"].tolist() == pytest.approx(ps)
    assert found["p (Holm)"].tolist() == pytest.approx(holm(np.array(ps)).tolist())


def test_who_found_what_is_that_of_sets(four):
    lists, hits = found_by(four), {name: hit_ids(table) for name, table in four.items()}
    for other in ("second", "third", "fourth"):
        assert set(lists[f"won against {other}"]["query_id"]) == hits["first"] - hits[other]
        assert set(lists[f"lost against {other}"]["query_id"]) == hits[other] - hits["first"]
    assert set(lists["found by no run"]["query_id"]) == {f"q{n}" for n in range(150)} - set.union(*hits.values())
    runs = recalls_of_runs(four)
    assert runs.loc["any run", "R@1"] == pytest.approx(100 * len(set.union(*hits.values())) / 150)
    assert runs.loc["every run", "R@1"] == pytest.approx(100 * len(set.intersection(*hits.values())) / 150)
    alone = hits["third"] - hits["first"] - hits["second"] - hits["fourth"]
    assert runs.loc["third", "only this run"] == pytest.approx(100 * len(alone) / 150)


def test_names_that_differ_in_their_seed_only_are_trainings_of_one_setting():
    made = tables(np.random.default_rng(1), **{"tuned-seed1": 0.5, "tuned-seed2": 0.6, "tuned-seed3": 0.4,
                                               "seed=1-plain": 0.3, "seed=2-plain": 0.2, "lr-0.1": 0.5})  # fmt: skip
    found = trainings(made)
    assert [*found.index] == ["tuned", "plain", "tuned minus plain", "tuned minus lr-0.1", "plain minus lr-0.1"]
    names = ["tuned-seed1", "tuned-seed2", "tuned-seed3"]
    shares = [100 * len(hit_ids(made[name])) / 150 for name in names]
    row = found.loc["tuned"]
    assert row[["R@1", "between trainings", "trainings"]].tolist() == pytest.approx(
        [np.mean(shares), np.std(shares, ddof=1), 3]
    )
    assert row["every"] == pytest.approx(100 * len(set.intersection(*(hit_ids(made[name]) for name in names))) / 150)
    mean = [np.mean([100.0 * (q in hit_ids(made[name])) for name in names]) for q in made["lr-0.1"]["query_id"]]
    half = np.hypot(1.96 * ClipBootstrap(CLIPS).means(mean).std(), 4.30 * np.std(shares, ddof=1) / np.sqrt(3))
    assert row["95 % high"] - row["R@1"] == pytest.approx(half)
    others = [100 * len(hit_ids(made[name])) / 150 for name in ("seed=1-plain", "seed=2-plain")]
    assert found.loc["tuned minus plain", "R@1"] == pytest.approx(np.mean(shares) - np.mean(others))
    assert trainings(tables(np.random.default_rng(1), **{"v1": 0.5, "v2": 0.5, "tuned-seed1": 0.5})).empty


def test_intervals_of_trainings_cover_the_truth_and_those_of_clips_alone_do_not():
    random, covered = np.random.default_rng(2), {"both": [], "clips": []}
    for _ in range(120):
        ability = random.normal(50, 8, 30)[:, None] + np.zeros(5)  # of the clips, the same for all trainings
        values = np.stack([ability.ravel() + random.normal(0, 6) + random.normal(0, 10, 150) for _ in range(3)])
        row = replicate_summary("R@1", CLIPS, values)
        low, high = ClipBootstrap(CLIPS, num=200).interval(values[0])
        covered["both"].append(row["95 % low"] <= 50 <= row["95 % high"])
        covered["clips"].append(low <= 50 <= high)
    assert np.mean(covered["both"]) > 0.93
    assert np.mean(covered["clips"]) < 0.75


def test_intervals_end_where_percentages_do():
    few, none = np.array([[100.0] * 30 + [0.0] * 120, [0.0] * 150]), np.zeros((2, 150))
    assert replicate_summary("R@1", CLIPS, few)["95 % low"] == 0
    assert replicate_summary("R@1", CLIPS, 100 - few)["95 % high"] == 100
    assert replicate_summary("R@1", CLIPS, few, none)["95 % low"] < 0


def test_a_run_is_called_by_as_much_of_its_path_as_tells_it_apart():
    assert _names_of([Path("a/x.json"), Path("a/y.json")]) == ["x", "y"]
    assert _names_of([Path("a/val.json"), Path("b/val.json")]) == ["a-val", "b-val"]
    assert _names_of([Path("1/a/val.json"), Path("2/a/val.json"), Path("2/b/val.json")])[0] == "1-a-val"
    with pytest.raises(DataError, match="the same name twice"):
        _names_of([Path("a.json"), Path("a.json")])
