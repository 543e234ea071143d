"""The study of the sample world: oracles against slow loops, claims on a tiny world, resumption."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks.study import study as studies
from benchmarks.study.__main__ import main, parse
from benchmarks.study.claims import KEY, amounts_curve, claims, comparisons, run_study
from benchmarks.study.study import AMOUNTS, ARMS, COMPARED, MOST, Study
from groundnlq.config import load_config
from groundnlq.data.annotations import read_nlq
from groundnlq.data.records import read_records
from groundnlq.sample.make import read_events, read_world
from groundnlq.sample.vocabulary import ALL_OBJECTS, plural
from groundnlq.video.encoders import LITE
from notebooks.lessons.word_oracles import WordOracles
from tests.processes import is_alive, wait_for
from tests.tiny_encoders import Colours


@pytest.fixture(scope="module")
def oracles(tiny_world):
    return WordOracles(tiny_world, read_nlq(tiny_world / "official" / "nlq_val.json").records)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Networks that learn next to nothing: what they are held to must be able to fail."""
    overrides = ["train.epochs=2", "train.warmup_epochs=1", "train.validate_every_epochs=2", "model.width=32"]
    return Study(tmp_path_factory.mktemp("study"), "tiny", overrides, progress=False)


@pytest.fixture(scope="module")
def amounts(tmp_path_factory):
    """A study whose world has four times as many narrated clips as usual, and no films: narrations are read only."""
    made = Study(tmp_path_factory.mktemp("amounts"), "tiny", progress=False, most=MOST, num_narrated_clips=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groundnlq.sample.make._film", lambda *_: None)
        made.world(0)
    return made


def overlap(event, moment):
    inter = min(event["end_sec"], moment[1]) - max(event["start_sec"], moment[0])
    return max(0, inter) / (max(event["end_sec"], moment[1]) - min(event["start_sec"], moment[0]))


def test_a_guesser_is_right_as_often_as_a_slow_count_says(oracles, tiny_world):
    logs = {log["clip_uid"]: log["events"] for log in read_events(tiny_world)}
    verb, nothing = oracles.hit_rate("verb"), oracles.hit_rate("nothing")
    for record in oracles.records:
        events, asked = logs[record.clip_uid], oracles.meaning[record.query_id]
        hits = {e["start_sec"]: overlap(e, record.moments_sec[0]) > 0.3 for e in events}
        of_verb = [e for e in events if e["verb"] == asked["verb"]]
        assert verb[record.query_id] == pytest.approx(sum(hits[e["start_sec"]] for e in of_verb) / len(of_verb))
        assert nothing[record.query_id] == pytest.approx(sum(hits.values()) / len(events))
    assert nothing.mean() < verb.mean() < 0.8
    assert oracles.ceiling().mean() > 0.97


def test_a_swapped_question_names_another_object_of_its_clip_and_nothing_else_changes(oracles, tiny_world):
    logs = {log["clip_uid"]: log["events"] for log in read_events(tiny_world)}
    before = {record.query_id: record for record in oracles.records}
    swapped = oracles.with_swapped_objects()
    assert len(swapped) > 20
    words = {form for name in ALL_OBJECTS for form in (name, plural(name))}
    names = re.compile(rf"\b({'|'.join(sorted(words))})\b")
    for record in swapped:
        old = before[record.query_id]
        named = oracles.meaning[record.query_id]["asked"]["object"]
        assert record.query != old.query
        assert record.moments_sec == old.moments_sec
        others = {e["object"] for e in logs[record.clip_uid]} - {named, None}
        assert set(names.findall(record.query)) & {form for name in others for form in (name, plural(name))}
        assert names.sub("X", record.query) == names.sub("X", old.query)


def test_a_statement_tells_the_event_that_answers_its_question(oracles, tiny_world):
    logs = {log["clip_uid"]: log["events"] for log in read_events(tiny_world)}
    told = {record.query_id: record for record in oracles.as_statements()}
    assert len(told) > 0.97 * len(oracles.records)
    for record in oracles.records:
        if record.query_id in told:
            one = told[record.query_id]
            event = max(logs[record.clip_uid], key=lambda e, r=record: overlap(e, r.moments_sec[0]))
            assert one.query.startswith("C ")
            assert (event["object"] or event["container"] or event["person"]) in one.query
            assert (one.clip_uid, one.moments_sec) == (record.clip_uid, record.moments_sec)


def test_unseen_objects_are_those_that_no_training_clip_has(oracles, tiny_world):
    unseen = set(read_world(tiny_world)["unseen_objects"])
    seen = {e["object"] for log in read_events(tiny_world) if log["split"] == "train" for e in log["events"]}
    assert not unseen & seen
    assert 0 < oracles.is_unseen().mean() < 1


@pytest.mark.slow
def test_the_claims_are_measured_and_can_fail(study):
    table = claims(study, seed=0)
    holds, asked = table.set_index("claim")["holds"], table.set_index("claim")["asked"]
    assert {"seed", "measured", "asked", "bound"} <= set(table.columns)
    assert holds["not saturated: recall"]
    assert not holds["points above a guesser that knows the verb"]
    assert np.isfinite(table["measured"]).all()
    assert asked["scratch: recall"] == "reported"
    assert (holds.isna() == (asked == "reported")).all()


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(study):
    first = run_study(study, [0])
    trained = sorted(study.folder.rglob("*.pt"))
    before = [path.stat().st_mtime_ns for path in trained]
    again = run_study(study, [0])
    pd.testing.assert_frame_equal(first, again)
    assert [path.stat().st_mtime_ns for path in sorted(study.folder.rglob("*.pt"))] == before
    assert (study.folder / "claims.csv").read_text().startswith("seed,claim,measured")


def test_less_narrations_are_part_of_more(amounts):
    world = amounts.world(0)
    ids = [{r.query_id for r in read_records(world / f"narrations-{share:g}.jsonl")} for share in (0.25, 1, 4)]
    assert ids[0] < ids[1] < ids[2]
    clips = [{i.split("_")[0] for i in part} for part in ids]
    assert len(clips[1]) == 4 * len(clips[0])
    assert {arm.narrations for arm in ARMS.values()} == {0.25, 1.0, 4.0}


def test_the_curve_of_amounts_has_a_point_for_each(study):
    top = {"steps": 45.0, "passes": 75.0}
    table = pd.DataFrame(
        {"equal": e, "seed": s, "narrations": a, KEY: 20 + 5 * a, "95 % low": 15.0, "95 % high": top[e]}
        for e in ("steps", "passes") for s in (1, 2) for a in (0.0, 0.25, 1.0, 4.0)
    )  # fmt: skip
    left, right = amounts_curve(table).axes
    for axis, title in ((left, "as many steps"), (right, "as many passes")):
        assert axis.get_title() == title
        assert [text.get_text() for text in axis.get_xticklabels()] == ["0 ×", "0.25 ×", "1 ×", "4 ×"]
        assert len(axis.containers) == 2
        assert axis.get_ylim()[0] == 0
        assert axis.get_ylim()[1] > table["95 % high"].max()


def test_what_can_be_compared_on_the_command_line_is_what_a_study_knows():
    def parsed(*words):
        return parse(["DIR", "--seeds", "1", *words])

    assert (parsed().curves, parsed().compared) == ((), ())
    assert parsed("--curves", "--compared").curves == tuple(AMOUNTS)
    assert parsed("--compared").compared == tuple(COMPARED)
    assert parsed("--compared", "raw", "star").compared == ("raw", "star")
    assert parsed("--jobs", "2", "train.epochs=2").overrides == ["train.epochs=2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: --seeds"),
        (["--seeds", "one"], "argument --seeds: invalid int value: 'one'"),
        (["--seeds", "1", "--jobs", "0"], "argument --jobs: 0 is not above 0"),
        (["--seeds", "1", "--compared", "stars"], "argument --compared: invalid choice: 'stars'"),
    ],
)
def test_wrong_options_end_with_code_2_and_say_why(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse(["DIR", *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_bad_input_is_one_line_and_code_2(tmp_path, capsys):
    assert main([str(tmp_path), "--seeds", "1", "--scale", "huge"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m benchmarks.study: error: ")
    assert "huge" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_setting_is_held_against_the_usual_one_question_by_question(study):
    table = comparisons(study, [0], ["raw"])
    (row,) = table.to_dict("records")
    usual, raw = (study.evaluation(0, "finetune").strict[KEY], study.evaluation(0, "finetune", "raw").strict[KEY])
    assert (row["setting"], row[KEY]) == ("raw", raw)
    assert row["difference"] == pytest.approx(raw - usual)


@pytest.mark.slow
def test_networks_trained_side_by_side_are_those_trained_in_turn(study, tmp_path):
    beside = Study(tmp_path, study.scale, study.overrides, progress=False)
    pd.testing.assert_frame_equal(run_study(beside, [0], jobs=os.cpu_count()), run_study(study, [0]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_nothing_of_a_killed_study_goes_on(tmp_path):
    command = [
        str(tmp_path),
        "--scale",
        "tiny",
        "--val-clips",
        "4",
        "--seeds",
        "0",
        "1",
        "--jobs",
        "2",
        "train.epochs=500",
    ]
    killed = subprocess.Popen([sys.executable, "-m", "benchmarks.study", *command], start_new_session=True)
    try:
        wait_for(lambda: len(list(tmp_path.glob("run-*/*/status.json"))) == 2, "both train", killed, 180)
    finally:
        killed.kill()
        killed.wait()
    wait_for(lambda: not is_alive(killed.pid), "its workers have ended", seconds=180)
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("run-*/*/status.json")]
    assert states == ["preempted"] * 2


@pytest.fixture
def pretrainings(amounts, monkeypatch):
    """What each arm's pretraining is configured to be, and how many narrations it reads in all."""
    seen = {}
    monkeypatch.setattr(amounts, "features", lambda seed, encoder: amounts.world(seed) / "features.h5")
    monkeypatch.setattr(
        "benchmarks.study.study.train", lambda config, folder, reporter: seen.update({folder.name: config})
    )
    for arms in AMOUNTS.values():
        for name in arms.values():
            amounts.train(0, name)
    runs = {name.removesuffix("_pretrain"): c for name, c in seen.items() if name.endswith("pretrain")}
    return {name: (c.train, len(read_records(c.data.path(c.data.train_records[0])))) for name, c in runs.items()}


def test_every_amount_of_narrations_is_trained_in_about_as_many_steps(pretrainings):
    runs = [pretrainings[name.replace(" ", "_")] for name in list(AMOUNTS["steps"].values())[1:]]
    samples = [train.epochs * narrations for train, narrations in runs]
    assert max(samples) < 1.25 * min(samples)
    assert len({train.warmup_epochs / train.epochs for train, _ in runs}) == 1


def test_every_amount_of_narrations_is_read_as_often_where_passes_are_equal(pretrainings):
    runs = [pretrainings[name.replace(" ", "_")] for name in list(AMOUNTS["passes"].values())[1:]]
    assert len({(train.epochs, train.warmup_epochs) for train, _ in runs}) == 1
    (quarter, once, four) = [narrations for _, narrations in runs]
    assert 3 < once / quarter < 5
    assert 3 < four / once < 5


def test_every_encoder_makes_the_steps_of_the_preset_from_the_frames_that_it_was_trained_to_see(tmp_path, monkeypatch):
    seen, encoder = [], Colours(window_frames=5.0, stride_frames=7.0)
    monkeypatch.setattr(Study, "world", lambda self, seed: tmp_path)
    monkeypatch.setattr(studies, "load_encoder", lambda spec: encoder)
    monkeypatch.setattr(studies, "extract_features", lambda videos, encoders, output, **_: seen.extend(encoders))
    Study(tmp_path).features(0, LITE)
    stride = load_config("sample_finetune").data.snippet_stride_frames
    assert [(one.window_frames, one.stride_frames) for one in seen] == [(5.0, stride)]
