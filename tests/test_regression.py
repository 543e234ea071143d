"""One regression over all kinds of query: by a slow program, on made causes, without any cause."""

import numpy as np
import pandas as pd
import pytest

from groundnlq.analysis.regression import RIDGE, held_recalls


def made(random, num_clips, size, chance, **kinds):
    """A table of hits, and kinds of query; `chance` of a hit is a function of the row's groups."""
    num = num_clips * size
    frame = pd.DataFrame({name: groups(num) for name, groups in kinds.items()})
    hits = random.random(num) < np.array([chance(row) for row in frame.itertuples()])
    ids = [f"q{number}" for number in range(num)]
    table = pd.DataFrame({"query_id": ids, "clip_uid": np.repeat(np.arange(num_clips), size),
                          "outcome": np.where(hits, "hit", "missed")})  # fmt: skip
    return table, frame.set_axis(ids).astype("category")


def slow_weights(rows, hits):
    """The weights of the lowest penalised loss, by many small steps down; the first one is of the mean."""
    weights = np.zeros(len(rows[0]))
    for _ in range(30000):
        gradient = np.array([1e-6, *[RIDGE] * (len(weights) - 1)]) * weights
        for row, hit in zip(rows, hits, strict=True):
            gradient = gradient - (hit - 1 / (1 + np.exp(-(row @ weights)))) * row
        weights = weights - 0.05 * gradient
        if np.abs(gradient).max() < 1e-9:
            break
    return weights


def test_recalls_and_intervals_are_those_of_a_slow_program():
    random = np.random.default_rng(0)
    table, kinds = made(random, 6, 5, lambda row: 0.8 if row.a == "x" else 0.3,
                        a=lambda n: random.choice(["x", "y"], n),
                        b=lambda n: random.choice(["u", "v", "w"], n))  # fmt: skip
    names = [("a", "x"), ("a", "y"), ("b", "u"), ("b", "v"), ("b", "w")]
    rows = [
        np.array([1.0, *(float(getattr(row, kind) == group) for kind, group in names)]) for row in kinds.itertuples()
    ]
    hits, clips = [float(o == "hit") for o in table["outcome"]], table["clip_uid"].tolist()
    weights = slow_weights(rows, hits)
    rate = [1 / (1 + np.exp(-(row @ weights))) for row in rows]
    penalty = np.diag([1e-6, *[RIDGE] * 5])
    curvature = penalty + sum(p * (1 - p) * np.outer(row, row) for p, row in zip(rate, rows, strict=True))
    middle = penalty.copy()
    for clip in set(clips):
        total = sum((h - p) * row for h, p, row, c in zip(hits, rate, rows, clips, strict=True) if c == clip)
        middle += np.outer(total, total) * 6 / 5
    covariance = np.linalg.inv(curvature) @ middle @ np.linalg.inv(curvature)
    found = held_recalls(table, kinds)
    assert [*found.index] == names
    for kind, group in names:
        moved = []
        for row in rows:  # every query as if it were of this group
            other = row.copy()
            for place, name in enumerate(names, 1):
                other[place] = float(name == (kind, group)) if name[0] == kind else row[place]
            moved.append(other)
        rates = [1 / (1 + np.exp(-(row @ weights))) for row in moved]
        mean, slope = np.mean(rates), np.mean([p * (1 - p) * row for p, row in zip(rates, moved, strict=True)], axis=0)
        half = 1.96 * np.sqrt(slope @ covariance @ slope) / (mean * (1 - mean))
        ends = [100 / (1 + np.exp(-(np.log(mean / (1 - mean)) + sign * half))) for sign in (-1, 1)]
        assert found.loc[(kind, group), ["R@1", "95 % low", "95 % high"]].tolist() == pytest.approx(
            [100 * mean, *ends], abs=1e-4
        )


def test_what_only_goes_along_with_a_cause_differs_alone_and_not_when_the_cause_is_held():
    random, gaps, small, covered = np.random.default_rng(1), [], [], []
    for _ in range(12):
        cause = random.choice(["x", "y"], 800)
        alike = np.where(random.random(800) < 0.8, np.where(cause == "x", "s", "t"), random.choice(["s", "t"], 800))
        table, kinds = made(random, 80, 10, lambda row: 0.7 if row.cause == "x" else 0.3,
                            cause=lambda n, own=cause: own, alike=lambda n, own=alike: own)  # fmt: skip
        alone, held = held_recalls(table, kinds[["alike"]]), held_recalls(table, kinds)
        assert alone.loc[("alike", "s"), "p (Holm)"] < 0.001
        assert held.loc[("cause", "x"), "p (Holm)"] < 0.001
        small.append(held.loc[("alike", "s"), "p"] < 0.05)
        gaps.append([t.loc[("alike", "s"), "R@1"] - t.loc[("alike", "t"), "R@1"] for t in (alone, held)])
        rows = held.loc["cause"]
        covered += ((rows["95 % low"] < [70, 30]) & (rows["95 % high"] > [70, 30])).tolist()
    assert sum(small) <= 2
    assert np.mean(gaps, axis=0) == pytest.approx([30, 0], abs=5)
    assert np.mean(covered) > 0.8  # 92 % in a hundred repetitions


def test_without_any_effect_p_is_small_as_seldom_as_it_says_though_queries_of_a_clip_agree():
    random, small = np.random.default_rng(2), []
    for _ in range(12):
        of_clip = np.repeat(random.random(40) < 0.5, 6)  # all queries of a clip agree
        table, kinds = made(random, 40, 6, lambda row: 0.5, a=lambda n: np.repeat(random.choice(["x", "y"], n // 6), 6),
                            b=lambda n: random.choice(["u", "v"], n))  # fmt: skip
        table["outcome"] = np.where(of_clip, "hit", "missed")
        small += (held_recalls(table, kinds)["p"] < 0.05).tolist()
    assert np.mean(small) < 0.2  # a test that takes queries for independent finds four in ten


def test_a_group_that_others_name_completely_is_explained_by_them_and_never_differs():
    random = np.random.default_rng(3)
    groups = random.choice(["x", "y", "z"], 200)
    table, kinds = made(random, 40, 5, lambda row: {"x": 0.9, "y": 0.5, "z": 0.1}[row.a], a=lambda n: groups,
                        copy=lambda n: groups, alone=lambda n: random.choice(["u", "v"], n))  # fmt: skip
    found = held_recalls(table, kinds)
    assert found.loc["copy", "explained"].tolist() == pytest.approx([100] * 3)
    assert found.loc["copy", "p"].tolist() == [1, 1, 1]
    assert found.loc["alone", "explained"].max() < 20


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.filterwarnings("error")
def test_no_and_all_hits_are_no_error_and_no_difference(share):
    random = np.random.default_rng(4)
    table, kinds = made(random, 5, 4, lambda row: share, a=lambda n: random.choice(["x", "y"], n),
                        same=lambda n: ["k"] * n)  # fmt: skip
    found = held_recalls(table, kinds)
    assert [*found.index] == [("a", "x"), ("a", "y")]  # one group is no kind
    assert found["R@1"].tolist() == pytest.approx([100 * share] * 2, abs=0.1)
    assert found["p"].min() > 0.05
    assert held_recalls(table, kinds[["same"]]).empty
