"""Features of another rate, and clips whose extraction stopped, are found before anything is learned from them."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from groundnlq.config import RunConfig
from groundnlq.data.check import check_features, check_rate
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record, read_records
from groundnlq.engine.distributed import World
from groundnlq.engine.grounding import load_dataset, task
from groundnlq.engine.predictor import Predictor, open_dataset
from groundnlq.errors import FeatureError
from groundnlq.model.grounder import Grounder
from tests.tiny_run import NUM_STEPS, make_tiny_data, tiny_config

GRID = StepGrid(30.0, 16.0)


def world(path, lengths: dict[str, tuple[int, float]], **attributes) -> tuple[FeatureStore, list[Record]]:
    """A store and a record of each clip, from its steps and its seconds."""
    clips = [(uid, torch.randn(n, 3)) for uid, (n, _) in lengths.items()]
    write_features(path / "f.h5", clips, attributes=attributes)
    records = [Record(f"{uid}_0", uid, "where?", sec, ((0.0, 1.0),)) for uid, (_, sec) in lengths.items()]
    return FeatureStore(path / "f.h5"), records


def steps_of(seconds: float, stride: float = 16.0) -> int:
    return round(seconds * 30 / stride)


DURATIONS = dict(zip("abcdefg", (207.0, 480.0, 480.3, 522.7, 480.0, 600.0, 1200.0), strict=True))
WHOLE = {uid: (steps_of(sec), sec) for uid, sec in DURATIONS.items()}


# ---- the rate


def test_features_of_the_configured_rate_are_taken_without_a_word(tmp_path):
    store, records = world(tmp_path, WHOLE, fps=30.0, snippet_stride_frames=16.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(check_rate(store, records, GRID)) == records
    assert check_features(store, records, GRID).ok


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"snippet_stride_frames": 6.0}, r"data\.snippet_stride_frames=6, but data\.snippet_stride_frames=16 is"),
        ({"fps": 25.0, "snippet_stride_frames": 16.0}, r"data\.fps=25, but data\.fps=30 is configured"),
        ({"window_frames": 32.0}, r"data\.window_frames=32, but data\.window_frames=16 is configured"),
        ({"snippet_stride_frames": 16.043}, r"16\.043, but data\.snippet_stride_frames=16 is"),
    ],
)
def test_a_rate_that_the_store_knows_and_the_run_does_not_have_is_an_error(tmp_path, attributes, words):
    store, records = world(tmp_path, WHOLE, **attributes)
    with pytest.raises(
        FeatureError, match=words + r".* -- import \(--stride\) and train with the former; a trained network needs"
    ):
        check_rate(store, records, GRID)
    with pytest.raises(FeatureError, match=words):
        check_rate(store, [], GRID)  # a question has no record
    report = check_features(store, records, GRID)
    assert not report.ok
    assert any("were imported with" in line for line in report.lines())


def test_a_store_of_an_older_version_is_judged_by_its_clips(tmp_path):
    store, records = world(tmp_path, WHOLE)
    assert store.rate == {}
    assert list(check_rate(store, records, GRID)) == records
    with pytest.raises(
        FeatureError,
        match=r"steps off at the longest .* data\.snippet_stride_frames=16, but data\.snippet_stride_frames=6 is",
    ):
        check_rate(store, records, replace(GRID, snippet_stride_frames=6.0))


def test_a_rate_that_only_drifts_is_a_warning_and_a_finding_of_the_check(tmp_path):
    store, records = world(tmp_path, WHOLE, snippet_stride_frames=16.043)  # imported with the default; they have 16
    grid = replace(GRID, snippet_stride_frames=16.043)
    with pytest.warns(
        UserWarning, match=r"are \+6\.0 steps off .*frames=16, but data\.snippet_stride_frames=16\.043 is .*"
    ):
        assert list(check_rate(store, records, grid)) == records
    assert not check_features(store, records, grid).ok


def test_a_wider_window_costs_steps_at_the_end_and_is_no_drift(tmp_path):
    lengths = {uid: (int((sec * 30 - 128) / 16) + 1, sec) for uid, sec in DURATIONS.items()}
    store, records = world(tmp_path, lengths, snippet_stride_frames=16.0, window_frames=128.0)
    assert check_features(store, records, replace(GRID, window_frames=128.0)).ok
    store, records = world(tmp_path, lengths, snippet_stride_frames=16.0)
    assert not check_features(store, records, GRID).ok


def test_a_window_moves_the_middle_of_a_step_and_an_equal_one_does_not():
    seconds = np.linspace(0, 480, 77)
    for half_window in ("consistent", "legacy"):
        plain, wide = StepGrid(30.0, 16.043, half_window), StepGrid(30.0, 16.043, half_window, 32.0)
        equal = replace(plain, window_frames=16.043)
        assert np.array_equal(equal.to_grid(seconds), plain.to_grid(seconds))
        assert np.array_equal(equal.to_sec(seconds), plain.to_sec(seconds))
        assert np.allclose(wide.to_sec(seconds) - plain.to_sec(seconds), 0.5 * (32 - 16.043) / 30)
    wide = StepGrid(30.0, 16.0, "consistent", 32.0)
    assert wide.to_sec(0) == 16 / 30
    assert np.allclose(wide.to_grid(wide.to_sec(seconds)), seconds)


# ---- incomplete clips


@pytest.mark.parametrize("share", [1 / 3, 0.9, 1.5])
def test_a_clip_whose_steps_miss_its_duration_is_named(tmp_path, share):
    lengths = WHOLE | {"b": (round(900 * share), 480.0)}
    store, records = world(tmp_path, lengths, snippet_stride_frames=16.0)
    report = check_features(store, records, GRID)
    assert not report.ok
    assert report.lines()[-1].endswith(f"1 clips are incomplete, their steps miss their duration: b ({900 * share:.0f} "
                                       "steps for 480 s)")  # fmt: skip
    assert report.fitted_stride_frames == pytest.approx(16.0, abs=0.01)  # as the others say


def test_a_few_steps_and_short_clips_are_within_what_extractors_differ_by(tmp_path):
    lengths = WHOLE | {"b": (897, 480.0), "one step": (1, 0.9), "short": (8, 6.0)}
    lengths = {uid.replace(" ", ""): value for uid, value in lengths.items()}
    store, records = world(tmp_path, lengths, snippet_stride_frames=16.0)
    assert check_features(store, records, GRID).is_incomplete.sum() == 0


def test_one_of_two_clips_is_incomplete_and_two_of_two_are_of_another_rate(tmp_path):
    store, records = world(tmp_path, {"a": (300, 480.0), "b": (900, 480.0)}, snippet_stride_frames=16.0)
    with pytest.warns(UserWarning, match=r"1 clips are incomplete, .*: a \(300 steps for 480 s\)"):
        check_rate(store, records, GRID)
    store, records = world(tmp_path, {"a": (300, 480.0), "b": (301, 480.0)}, snippet_stride_frames=16.0)
    with pytest.raises(FeatureError, match=r"they fit data\.snippet_stride_frames=4[78]"):
        check_rate(store, records, GRID)


# ---- training, prediction, questions


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run of which one training clip has a third of its steps, and one to validate on a half."""
    folder = make_tiny_data(tmp_path_factory.mktemp("check"))
    store = FeatureStore(folder / "features.h5")
    parts = {"c2": NUM_STEPS // 3, "c9": NUM_STEPS // 2}
    clips = [(uid, store.read(uid)[: parts.get(uid)]) for uid in store.clip_uids]
    del store
    write_features(folder / "broken.h5", clips, dtype="float32")
    write_features(folder / "other.h5", clips, dtype="float32", attributes={"snippet_stride_frames": 2.0})
    return folder


def config_of(folder, **data) -> RunConfig:
    config = tiny_config(folder)
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def test_training_refuses_incomplete_clips_of_either_split_by_name(tiny):
    with pytest.raises(FeatureError, match=r"c2 \(13 steps for 40 s\) -- .*data\.leave_out_incomplete=true"):
        task(config_of(tiny, features="broken.h5"), World())
    config = config_of(tiny, features="broken.h5", train_records=("val.jsonl",), val_records=("train.jsonl",))
    with pytest.raises(FeatureError, match=r"c9 \(20 steps"):
        task(config, World())


def test_training_leaves_incomplete_clips_out_when_asked_and_validation_never_does(tiny):
    config = config_of(tiny, features="broken.h5", leave_out_incomplete=True)
    with pytest.warns(UserWarning, match=r"c2 \(13 .* -- left out with 3 of 24 queries"):
        train = load_dataset(config, config.data.train_records, is_training=True)
    assert {record.clip_uid for record in train.records} == {f"c{i}" for i in range(8)} - {"c2"}
    with pytest.warns(UserWarning, match=r"c9 \(20 steps for 40 s\)$"):
        val = load_dataset(config, config.data.val_records, is_training=False)
    assert len(val.records) == 12


def test_whole_clips_need_no_such_choice(tiny):
    config = config_of(tiny)
    assert len(load_dataset(config, config.data.train_records, is_training=True).records) == 24


def test_prediction_answers_all_and_names_incomplete_clips(tiny):
    predictor = Predictor(Grounder(config_of(tiny).model), config_of(tiny))
    records = read_records(tiny / "val.jsonl")
    with pytest.warns(UserWarning, match=r"c9 \(20 steps"):
        assert len(predictor.predict(records, tiny / "broken.h5")) == len(records)


def test_prediction_and_questions_refuse_features_of_another_rate(tiny):
    config = config_of(tiny, features="other.h5")
    predictor = Predictor(Grounder(config.model), config)
    with pytest.raises(FeatureError, match=r"other\.h5: features were imported with data\.snippet_stride_frames=2"):
        predictor.predict(read_records(tiny / "val.jsonl"))
    with pytest.raises(FeatureError, match=r"other\.h5: features were imported with data\.snippet_stride_frames=2"):
        predictor.ask("c0", "where?")
    with pytest.raises(FeatureError, match="snippet_stride_frames=1 is configured"):
        task(config, World())


# ---- whole videos


@pytest.mark.parametrize(("video_uid", "words"), [("v", "the store has"), (None, "if it has")])
def test_features_of_whole_videos_are_called_so(tiny, tmp_path, video_uid, words):
    write_features(tmp_path / "videos.h5", [("v", torch.randn(40, 8)), ("w", torch.randn(40, 8))])
    records = [replace(record, video_uid=video_uid) for record in read_records(tiny / "val.jsonl")]
    with pytest.raises(FeatureError, match=rf"4 of 4 clips have no features .*; {words} their whole videos, cut them"):
        open_dataset(config_of(tiny), records, tmp_path / "videos.h5")
    lines = check_features(FeatureStore(tmp_path / "videos.h5"), records, GRID).lines()
    assert any(f"; {words} their whole videos, cut them (features import --clips" in line for line in lines)


def test_a_lacking_clip_is_not_taken_for_a_video(tiny, tmp_path):
    write_features(tmp_path / "some.h5", [("c8", torch.randn(40, 8))], attributes={"fps": 1.0})
    records = [replace(record, video_uid="v") for record in read_records(tiny / "val.jsonl")]
    with pytest.raises(FeatureError, match=r"3 of 4 clips have no features .* -- import the features") as caught:
        open_dataset(config_of(tiny), records, tmp_path / "some.h5")
    assert "whole videos" not in str(caught.value)
