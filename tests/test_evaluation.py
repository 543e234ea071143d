import json
from dataclasses import replace

import numpy as np
import pytest

from groundnlq.analysis.evaluation import compare, evaluate
from groundnlq.analysis.intervals import ClipBootstrap
from groundnlq.analysis.sensitivity import kinds_of_query
from groundnlq.cli import main
from groundnlq.data.annotations import read_truth
from groundnlq.data.recall import recall_key, recalls, tiou
from groundnlq.data.records import Record, odd_moments, write_records
from groundnlq.data.submission import read_submission, write_submission
from groundnlq.errors import DataError
from tests.golden_inputs import GOLDEN, META

CLIP_STARTS = (("c0", 10.0), ("c1", 60.0))
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


def test_files_are_evaluated_as_what_is_in_them():
    paths = GOLDEN / "metrics_predictions.json", GOLDEN / "metrics_ground_truth.json"
    assert evaluate(*map(str, paths)).strict == evaluate(RANKED, RECORDS).strict


def test_an_interval_of_several_columns_is_that_of_each():
    clips, values = np.array(["b", "a", "b", "c"]), np.random.default_rng(0).random((4, 2))
    bootstrap = ClipBootstrap(clips)
    assert bootstrap.interval(values).T.tolist() == [bootstrap.interval(column).tolist() for column in values.T]
    low, high = np.percentile(bootstrap.means(values[:, 0]), [2.5, 97.5])
    summary = bootstrap.summary("x", values[:, 0])
    assert summary == {"x": values[:, 0].mean(), "95 % low": low, "95 % high": high}


def test_predictions_of_another_split_are_refused():
    with pytest.raises(DataError, match="another split"):
        evaluate(RANKED | {"foreign_0": np.zeros((1, 3))}, RECORDS)


def test_intervals_contain_the_figure_and_narrow_with_more_clips():
    result = evaluate(RANKED, RECORDS)
    for key, (low, high) in result.intervals().items():
        assert low <= result.strict[key] <= high
    random = np.random.default_rng(0)
    few, many = (ClipBootstrap(np.arange(n)).means(random.random(n)).std() for n in (20, 2000))
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
    table = result.by(result.hits["moment_sec"] > result.hits["moment_sec"].median())
    total = (table["R@1 IoU=0.3"] * table["queries"]).sum() / table["queries"].sum()
    assert total == pytest.approx(result.strict["R@1 IoU=0.3"])


def test_questions_that_cleaning_changed_are_told_apart():
    records = [
        Record("a_0", "c", "Where?", 10.0, ((1.0, 2.0),), raw_query="Query Text: Where?"),
        Record("a_1", "c", "Who?", 10.0, ((1.0, 2.0),), raw_query="Who?"),
    ]
    result = evaluate({"a_0": np.array([[1.0, 2.0, 1.0]]), "a_1": np.array([[5.0, 6.0, 1.0]])}, records)
    groups = result.to_json()["text changed by cleaning"]
    assert groups["changed"] == {
        "R@1 IoU=0.3": 100.0, "R@1 IoU=0.5": 100.0, "mean R@1": 100.0, "mIoU": 100.0, "queries": 1
    }  # fmt: skip
    assert groups["unchanged"]["R@1 IoU=0.3"] == 0
    assert groups["unchanged"]["queries"] == 1


def test_where_no_text_was_changed_there_is_nothing_to_tell_apart():
    assert evaluate(RANKED, RECORDS).to_json()["text changed by cleaning"] == {}


def test_the_report_is_plain_json_in_percent_and_unrounded():
    report = json.loads(json.dumps(evaluate(RANKED, RECORDS).to_json(), allow_nan=False))
    assert report["num_queries"] == len(RECORDS)
    assert report["num_missing"] == 0
    assert report["strict"]["R@1 IoU=0.3"] == pytest.approx(100 * 0.38333333333333336, abs=1e-12)
    assert set(report["intervals"]) == set(report["strict"]) == set(report["official"])
    keys = {f"R@{k} IoU={t}" for k in (1, 5, 10) for t in (0.3, 0.5)} | {"mean R@1", "mIoU"}
    assert set(report["strict"]) == keys


def test_miou_is_the_mean_overlap_of_first_answers():
    overlaps = [float(tiou(RANKED[r.query_id][0, :2], np.array(r.moments_sec[0]))) for r in RECORDS]
    assert evaluate(RANKED, RECORDS).strict["mIoU"] == pytest.approx(100 * np.mean(overlaps))


def test_the_bootstrap_draws_clips_with_all_their_queries():
    clips = np.array(["b", "a", "b", "c", "a", "b"])
    values = np.random.default_rng(0).random((6, 2))
    draws = ClipBootstrap(clips, seed=3, num=50).means(values)
    weights = np.random.default_rng(3).multinomial(3, [1 / 3] * 3, size=50)
    for draw, weight in zip(draws, weights, strict=True):
        rows = [v for c, w in zip("abc", weight, strict=True) for _ in range(w) for v in values[clips == c]]
        assert draw == pytest.approx(np.mean(rows, axis=0))


def test_intervals_follow_the_seed_and_are_wider_where_queries_of_a_clip_hang_together():
    result = evaluate(RANKED, RECORDS)
    assert result.intervals() == result.intervals()
    assert result.intervals() != result.intervals(seed=1)
    random = np.random.default_rng(0)
    by_clip, alone = np.repeat(np.arange(40), 10), np.arange(400)
    values = np.repeat(random.random(40), 10)  # a clip is either easy or hard
    assert ClipBootstrap(by_clip).means(values).std() > 2 * ClipBootstrap(alone).means(values).std()


def test_groups_come_with_intervals_and_counts():
    table = evaluate(RANKED, RECORDS).by("template")
    assert table["queries"].sum() == len(RECORDS)
    assert (table["95 % low"] <= table["R@1 IoU=0.3"]).all()
    assert (table["R@1 IoU=0.3"] <= table["95 % high"]).all()


def test_queries_with_words_unseen_in_training_are_a_group_of_their_own():
    train = [Record("t_0", "c", "Where is the cup?", 10.0, ((1.0, 2.0),))]
    val = [
        Record("v_0", "c", "where is THE cup", 10.0, ((1.0, 2.0),)),
        Record("v_1", "c", "Where is the zither?", 10.0, ((1.0, 2.0),)),
    ]
    hit = np.array([[1.0, 2.0, 1.0]])
    evaluation = evaluate({"v_0": hit, "v_1": hit + 5}, val)
    table = evaluation.by(evaluation.hits["query_id"].map(kinds_of_query(val, train)["words"]))
    assert table["R@1 IoU=0.3"].to_dict() == {"all known": 100, "one unseen in training": 0}


def test_comparing_runs_over_other_queries_is_refused():
    one = evaluate(RANKED, RECORDS)
    with pytest.raises(DataError, match="not about the same queries"):
        compare(one, evaluate(RANKED, [*RECORDS[:-1], replace(RECORDS[-1], moments_sec=())]))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(DataError, match="no records with moments"):
        evaluate(RANKED, [replace(r, moments_sec=()) for r in RECORDS])
    with pytest.raises(DataError, match="no predictions"):
        evaluate({}, RECORDS)


def official_recalls(submission, truth):
    """The challenge's own arithmetic, entry by entry: an annotation is found by its clip and its uid."""
    assert (submission["version"], submission["challenge"]) == ("1.0", "ego4d_nlq_challenge")
    annotations = {}
    for clip in (clip for video in truth["videos"] for clip in video["clips"]):
        for annotation in clip["annotations"]:
            annotations[clip["clip_uid"], annotation["annotation_uid"]] = annotation["language_queries"]
    hits, first = {}, []
    for answer in submission["results"]:
        query = annotations[answer["clip_uid"], answer["annotation_uid"]][answer["query_idx"]]
        start, end = query["clip_start_sec"], query["clip_end_sec"]
        overlaps = []
        for low, high, *_ in answer["predicted_times"]:
            inter, hull = max(0, min(high, end) - max(low, start)), max(0, max(high, end) - min(low, start))
            overlaps.append(inter / hull if hull else 0)  # there 0 / 0, which is above no threshold
        first.append(overlaps[0])
        for k, t in ((k, t) for k in (1, 5, 10) for t in (0.3, 0.5)):
            hits.setdefault(recall_key(k, t), []).append(any(overlap > t for overlap in overlaps[:k]))
    return {key: 100 * sum(values) / len(values) for key, values in (hits | {"mIoU": first}).items()}


def odd_truth(random):
    """The golden ground truth with moments of 0 s, reversed ones, some outside the clip, and a uid in two clips."""
    tree = json.loads((GOLDEN / "metrics_ground_truth.json").read_text())
    clips = [clip for video in tree["videos"] for clip in video["clips"]]
    clips[3]["annotations"][0]["annotation_uid"] = clips[0]["annotations"][0]["annotation_uid"]
    changes = [lambda s, e: (s, s), lambda s, e: (e, s), lambda s, e: (s + 900, e + 900), lambda s, e: (-e, -s),
               lambda s, e: (-0.02, e), lambda s, e: (s, 484.6)]  # fmt: skip
    for query in (q for clip in clips for a in clip["annotations"] for q in a["language_queries"]):
        if random.random() < 0.5:
            change = changes[random.integers(len(changes))]
            query["clip_start_sec"], query["clip_end_sec"] = change(query["clip_start_sec"], query["clip_end_sec"])
    return tree


@pytest.mark.parametrize("seed", range(3))
def test_both_columns_are_the_official_arithmetic_with_odd_moments_from_either_layout(tmp_path, seed):
    random = np.random.default_rng(seed)
    tree = odd_truth(random)
    (tmp_path / "nlq.json").write_text(json.dumps(tree))
    records = read_truth(tmp_path / "nlq.json")
    write_records(tmp_path / "nlq.jsonl", records)
    ranked = {}
    for record in records:
        (start, end), segments = record.moments_sec[0], np.add(random.uniform(-20, 500, (12, 1)), (0, 9))
        near = np.sort(random.normal([start, end], 2, (6, 2)), axis=1)
        ranked[record.query_id] = random.permutation([*segments, *near, sorted((start, end)), (start, start)])
    write_submission(tmp_path / "p.json", ranked, random.permutation(np.array(records, dtype=object)))
    expected = official_recalls(json.loads((tmp_path / "p.json").read_text()), tree)
    for truth in ("nlq.json", "nlq.jsonl"):
        result = evaluate(tmp_path / "p.json", tmp_path / truth)
        assert {key: result.official[key] for key in expected} == pytest.approx(expected, abs=1e-9)
        assert {key: result.strict[key] for key in expected} == pytest.approx(expected, abs=1e-9)
        assert result.odd == odd_moments(records) != ""
        assert f"no segment of the clip hits {result.odd}" in result.report()
    odd = [record.query_id for record in records if record.oddity]
    perfect = {r.query_id: np.clip([[*sorted(r.moments_sec[0]), 1.0]], 0, r.duration_sec) for r in records}
    hits = evaluate(perfect, records).hits.set_index("query_id")["R@1 IoU=0.5"]
    assert sorted(hits[hits == 0].index) == sorted(odd)  # within the clip nothing hits these, and all others can be hit


SUBMISSION_CHANGES = {
    "challenge": (lambda t: t.update(challenge="ego4d_goal_step_challenge"), r"\('ego4d_goal_step_challenge', '1.0'\)"),
    "version": (lambda t: t.update(version=1.0), r"\('ego4d_nlq_challenge', 1.0\)"),
    "neither": (lambda t: (t.pop("version"), t.pop("challenge")), r"\(None, None\)"),
    "clip": (lambda t: t["results"][7].update(clip_uid="other"), "have: .* in clip other, expected c"),
    "annotation": (lambda t: t["results"][7].update(annotation_uid="other"), "1 answers .* have: other_"),
}


@pytest.mark.parametrize("name", SUBMISSION_CHANGES)
@pytest.mark.parametrize("layout", ["official", "records"])
def test_a_submission_that_the_official_script_refuses_is_refused_with_what_was_expected(tmp_path, name, layout):
    change, message = SUBMISSION_CHANGES[name]
    truth = GOLDEN / "metrics_ground_truth.json"
    if layout == "records":
        truth = tmp_path / "truth.jsonl"
        write_records(truth, RECORDS)
    tree = json.loads((GOLDEN / "metrics_predictions.json").read_text())
    change(tree)
    (tmp_path / "p.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=rf"p\.json: .*{message}") as error:
        evaluate(tmp_path / "p.json", truth)
    if name in ("challenge", "version", "neither"):
        assert "expected ('ego4d_nlq_challenge', '1.0')" in str(error.value)


def test_an_ensemble_keeps_queries_of_two_clips_with_the_same_id_apart(tmp_path, capsys):
    records = [Record(f"{clip}--a_0", clip, "Where?", 90.0, ((start, start + 5),)) for clip, start in CLIP_STARTS]
    ranked = {r.query_id: np.array([[*r.moments_sec[0], 0.9]]) for r in records}
    write_submission(tmp_path / "p.json", ranked, records)
    assert main(["ensemble", *[str(tmp_path / "p.json")] * 2, "--output", str(tmp_path / "e.json")]) == 0
    answers = json.loads((tmp_path / "e.json").read_text())["results"]
    assert [(a["clip_uid"], a["annotation_uid"], a["query_idx"]) for a in answers] == [("c0", "a", 0), ("c1", "a", 0)]
    assert evaluate(tmp_path / "e.json", records).strict["R@1 IoU=0.5"] == 100
