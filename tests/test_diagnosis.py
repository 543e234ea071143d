"""Every query has one outcome, the first that applies; each is made here on purpose."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.analysis.diagnosis import AS_IT_IS, Diagnosis
from groundnlq.analysis.evaluation import evaluate
from groundnlq.analysis.intervals import holm, sign_flip_p
from groundnlq.analysis.outcomes import OUTCOMES, diagnose
from groundnlq.analysis.sensitivity import kinds_of_query, paired_difference, sensitivity
from groundnlq.data.annotations import read_scenarios
from groundnlq.data.records import Record
from groundnlq.errors import DataError
from notebooks.lessons.levels import level_table
from tests.stub_network import live_predictions

AWAY, LOOSE, RIGHT = (40, 50, 0.5), (8, 30, 0.4), (10, 15, 0.3)


def record(index=0, moment=(10.0, 14.0), clip="clip", duration=64.0, **more):
    return Record(f"a_{index}", clip, "Where?", duration, (moment,), template="Where", **more)


def fixed(records, *segments):
    return FixedPredictions(records, {r.query_id: np.array(segments, float).reshape(-1, 3) for r in records})


def outcome(*candidates, moment=(10.0, 14.0), top_k=2, **decode):
    run = live_predictions([record(moment=moment)], {"a_0": candidates}, top_k=top_k, **decode)
    return diagnose(run)["outcome"][0]


def test_each_outcome_is_recognised():
    assert outcome((10, 15, 0.6), AWAY) == "hit"
    assert outcome(AWAY, RIGHT) == "ranking within k"
    assert outcome(AWAY, LOOSE, RIGHT) == "localisation"
    assert outcome(AWAY, (52, 60, 0.45), RIGHT) == "ranking beyond k"
    assert outcome(AWAY, (52, 60, 0.45), RIGHT, min_score=0.35) == "below threshold"
    assert outcome(LOOSE, RIGHT, (52, 60, 0.25), nms="hard") == "suppressed"  # by the loose one, which overlaps it
    assert outcome(AWAY, (41, 50, 0.45), RIGHT, nms="none") == "duplicate"  # of the first answer
    assert outcome(AWAY, moment=(10.2, 10.3)) == "unreachable"  # between two steps
    assert outcome(AWAY) == "missed"


def test_of_a_file_only_the_outcomes_that_its_predictions_show_are_given():
    for segments, expected in (
        ((RIGHT, AWAY), "hit"),
        ((AWAY, RIGHT), "ranking within k"),
        ((AWAY, LOOSE), "localisation"),
        ((AWAY, (52, 60, 0.4), (20, 24, 0.4), (30, 33, 0.4), (0, 4, 0.3), RIGHT), "ranking beyond k"),
        ((AWAY, AWAY, AWAY, AWAY, AWAY, RIGHT), "duplicate"),
        ((AWAY,), "missed"),
        ((), "missed"),
    ):
        assert diagnose(fixed([record()], *segments))["outcome"].tolist() == [expected]


@pytest.fixture(scope="module")
def split():
    """Two runs over 200 queries of 40 clips: the better one is right more often, by its first answer."""
    random = np.random.default_rng(0)
    records, weak, good = [], {}, {}
    for i in range(200):
        start = float(random.uniform(0, 50))
        records.append(record(i, (start, start + 6.0), clip=f"c{i // 5}"))
        starts = start + random.normal(0, 5, 5)
        scores = np.linspace(1, 0.1, 5) * random.uniform(0.2, 1)
        weak[f"a_{i}"] = np.column_stack([starts, starts + random.uniform(3, 9, 5), scores])
        good[f"a_{i}"] = weak[f"a_{i}"].copy()
        if i % 4 == 0:
            good[f"a_{i}"][0, :2] = start, start + 6.0
    return records, weak, good


@pytest.fixture(scope="module")
def diagnosis(split):
    records, weak, good = (split[0], *(FixedPredictions(split[0], ranked) for ranked in split[1:]))
    return Diagnosis("good", good, {"weak": weak}, records[:5], threshold=0.5)


@pytest.fixture(scope="module")
def tables(diagnosis):
    return [diagnosis.tables["weak"], diagnosis.tables["good"]]


def test_the_hits_and_rankings_are_those_of_the_recall(split, tables):
    records, weak, _ = split
    strict = evaluate(weak, records).strict
    counts = Counter(tables[0]["outcome"])
    assert len(tables[0]) == sum(counts.values()) == 200
    assert set(counts) <= set(OUTCOMES)
    assert 100 * counts["hit"] / 200 == pytest.approx(strict["R@1 IoU=0.5"])
    assert 100 * (counts["hit"] + counts["ranking within k"]) / 200 == pytest.approx(strict["R@5 IoU=0.5"])


def test_the_gains_of_all_outcomes_are_what_is_missing_to_perfection(split):
    one = Diagnosis("weak", FixedPredictions(*split[:2]), threshold=0.5)
    gains, table = one.oracle_gains, one.table
    now = gains.loc[AS_IT_IS]
    outcomes = gains.loc[[name for name in OUTCOMES if name != "hit"]]
    assert now["R@1"] + outcomes["gain"].sum() == pytest.approx(100)
    shares = [100 * (table["outcome"] == name).mean() for name in outcomes.index]
    assert outcomes["gain"].to_numpy() == pytest.approx(np.array(shares))
    assert gains.loc["oracle: order", "R@1"] == pytest.approx(now["R@k"])
    assert gains.loc["ranking within k", "R@1"] == pytest.approx(now["R@k"])
    assert gains.loc["oracle: boundaries", "R@1"] == pytest.approx(100 * table["first on moment"].mean())
    assert ((gains["95 % low"] <= gains["gain"]) & (gains["gain"] <= gains["95 % high"])).all()


def test_queries_without_moments_are_left_out_and_missing_answers_are_misses():
    table = diagnose(FixedPredictions([record(0), Record("a_1", "clip", "Who?", 64.0)], {}))
    assert table["query_id"].tolist() == ["a_0"]
    assert table["outcome"].tolist() == ["missed"]


def test_calibration_puts_the_hit_rate_of_each_bin_at_its_mean_score(monkeypatch):
    records, right, wrong = [record(i) for i in range(8)], (10.0, 14.0), (40.0, 44.0)
    ranked = {f"a_{i}": np.array([[*(right if i >= 4 else wrong), i / 10]]) for i in range(8)}
    monkeypatch.setattr("groundnlq.analysis.diagnosis.NUM_BINS", 2)
    bins = Diagnosis("run", FixedPredictions(records, ranked)).calibration
    assert bins[["score", "hit rate"]].to_numpy() == pytest.approx(np.array([[0.15, 0.0], [0.55, 100.0]]))
    assert bins.attrs["error"] == pytest.approx((15 + 45) / 2)
    monkeypatch.undo()
    assert len(Diagnosis("run", FixedPredictions(records[:3], ranked)).calibration) == 3


def test_levels_are_counted_where_answers_come_from():
    run = live_predictions([record(0), record(1)], {"a_0": [(10, 14, 0.9)], "a_1": [AWAY, RIGHT]})
    levels = level_table(Diagnosis("run", run))
    assert levels["first predictions"].tolist() == [100, 0, 0, 0]  # all from points of the finest level
    assert levels["first hits"].tolist() == [100, 0, 0, 0]
    assert levels.loc["stride 1", "of these correct"] == 50
    assert levels.loc["stride 2", "moments"] == 100  # where training would have had it


def test_groups_of_a_kind_hold_every_query_once_and_their_recalls_add_up(split, tables):
    kinds = kinds_of_query(split[0], split[0][:5])
    table = sensitivity(tables[0], kinds)
    overall = 100 * (tables[0]["outcome"] == "hit").mean()
    assert set(table.index.get_level_values("kind")) == {kind for kind in kinds if kinds[kind].nunique() > 1}
    for _, part in table.groupby(level="kind"):
        assert part["queries"].sum() == 200
        assert np.average(part["R@1"], weights=part["queries"]) == pytest.approx(overall)
        assert ((part["95 % low"] <= part["R@1"] + 1e-9) & (part["R@1"] <= part["95 % high"] + 1e-9)).all()
        assert (part["95 % high"] > part["95 % low"]).all()
    assert (table["p (Holm)"] >= table["p"]).all()


def test_a_query_is_of_the_kinds_that_it_is_of():
    texts = ["Query Text: where is the cup?", "where is the cup?", "who is  there?", "where is the zebra now?"]
    moments = [(1.0, 1.5), (5.0, 8.0), (90.0, 100.0), (40.0, 60.0)]
    records = [
        Record(f"a_{i}", "c", clean, 100.0, (moment,), raw_query=raw)
        for i, (raw, clean, moment) in enumerate(
            zip(texts, ["where is the cup?", *texts[1:2], "who is there?", texts[3]], moments, strict=True)
        )
    ]
    kinds = kinds_of_query(records, records[:3])
    assert kinds["text as annotated"].tolist() == ["with a stray prefix", *["without prefix"] * 3]
    assert kinds["same question in the clip"].tolist() == ["asked twice or more"] * 2 + ["asked once"] * 2
    assert kinds["words"].tolist() == ["all known"] * 3 + ["one unseen in training"]
    assert kinds["moment length"].tolist() == ["under 1 s", "2 – 4 s", "8 – 16 s", "16 s or more"]
    assert kinds["position in the clip"].tolist() == ["under 20 %"] * 2 + ["80 % or more", "40 – 60 %"]
    assert kinds["share of the clip"].tolist() == ["0.5 – 1 %", "2 – 4 %", "8 % or more", "8 % or more"]
    assert kinds["query length"].tolist() == ["4 words", "4 words", "under 4 words", "5 words or more"]
    assert "words" not in kinds_of_query(records)


def test_videos_annotators_and_scenarios_are_kinds_where_they_have_enough_queries():
    records = [
        replace(record(i, clip=f"c{i // 4}"), query_id=f"{'ab'[i % 2]}{i // 20}_{i}", video_uid=f"v{min(i // 12, 3)}")
        for i in range(60)
    ]
    kinds = kinds_of_query(records, scenarios={"v0": "Cooking", "v1": "Cleaning", "v3": "Cooking"})
    assert kinds["video"].value_counts().to_dict() == {"v0": 12, "v1": 12, "v2": 12, "v3": 24, "(other)": 0}
    assert kinds["annotator"].value_counts()["a0"] == 10
    assert kinds["scenario"].value_counts().to_dict() == {"Cooking": 36, "Cleaning": 12, "(other)": 12}
    assert kinds["scenario"].tolist()[24] == "(other)"  # its video is not in the file
    one_each = [replace(r, query_id=f"{r.video_uid}_{i}") for i, r in enumerate(records)]
    assert "annotator" not in kinds_of_query(one_each)  # it would be the videos again
    assert "scenario" not in kinds_of_query(records)
    few = kinds_of_query(records[:24:3])
    assert set(few["video"]) == {"(other)"}


def test_scenarios_are_read_from_a_file_with_dirt_in_it(tmp_path):
    videos = [
        {"video_uid": "a", "scenarios": ["Cooking", "Cleaning"], "duration_sec": 3}, {"video_uid": "b"},
        {"video_uid": "c", "scenarios": [None, "", 7, "Walking"]}, {"video_uid": None, "scenarios": ["Lost"]},
        {"video_uid": "d", "scenarios": "Cooking"}, "not an object", {"video_uid": "e", "scenarios": []},
    ]  # fmt: skip
    (tmp_path / "ego4d.json").write_text(json.dumps({"version": "2.0", "videos": videos}))
    assert read_scenarios(tmp_path / "ego4d.json") == {"a": "Cooking", "c": "Walking"}
    (tmp_path / "other.json").write_text('{"results": []}')
    with pytest.raises(DataError, match=r"no list 'videos'.*ego4d\.json"):
        read_scenarios(tmp_path / "other.json")


def test_a_real_difference_is_significant_and_none_is_not(split, tables):
    kinds = kinds_of_query(split[0])[["position in the clip"]]
    row = paired_difference(*tables, kinds).loc[("all", "all queries")]
    assert row["difference"] == pytest.approx(100 * (row["won"] - row["lost"]) / 200)
    assert row["lost"] == 0 < row["won"]
    assert row["95 % low"] > 0
    assert row["p"] < 0.001 <= paired_difference(tables[0], tables[0], kinds)["p"].min() == 1


def test_runs_over_other_queries_are_not_compared(split, tables):
    with pytest.raises(DataError, match="not about the same queries"):
        paired_difference(tables[0], tables[1].iloc[1:], kinds_of_query(split[0]))


def test_random_signs_give_the_exact_p_where_all_can_be_counted():
    clips = np.array(["a", "b", "c", "d"])
    assert sign_flip_p(clips, np.array([1.0, 1.0, 1.0, 1.0]), num=20000) == pytest.approx(2 / 16, abs=0.01)
    together = sign_flip_p(np.array(["a"] * 4), np.ones(4))
    assert together == 1  # one clip is one draw, whatever the number of its queries


def test_correction_never_lowers_a_p_and_keeps_their_order():
    p = np.array([0.2, 0.001, 0.04, 0.9, 0.03])
    assert (holm(p) >= p).all()
    assert (np.diff(holm(p)[np.argsort(p)]) >= 0).all()
    assert holm(p).max() <= 1
