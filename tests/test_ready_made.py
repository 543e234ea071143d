"""The weights that come with the package: they load, belong together, and are as good as they state."""

import pytest

import groundnlq
from groundnlq.analysis.baselines import random_segments
from groundnlq.analysis.evaluation import KEY
from groundnlq.data.records import read_records
from groundnlq.engine.checkpoint import trained_state
from groundnlq.video.alignment import evaluate_run
from groundnlq.video.encoders import READY, load_encoder


@pytest.fixture(scope="module")
def model():
    return groundnlq.load("sample", top_k=5)


def test_network_and_encoder_belong_together(model):
    assert model.info["video_encoder"] == load_encoder("sample").name


def test_the_ready_made_network_is_as_good_as_stated_on_films_it_has_not_seen(model, tiny_world):
    truth, train = (read_records(tiny_world / f"nlq_{split}.jsonl") for split in ("val", "train"))
    found = groundnlq.evaluate(model.predict(truth, tiny_world / "features.h5", tiny_world / "text.h5"), truth)
    low, high = found.intervals()[KEY]
    chance = groundnlq.evaluate(random_segments(train, truth), truth).strict[KEY]
    assert low > chance + 10
    assert high > model.info["recalls"][KEY]


def test_what_is_stated_names_the_runs_and_no_folder_of_a_machine(model):
    for name in ("encoder", "network"):
        config, _, info = trained_state(READY.with_name(f"{name}.pt"))
        assert config.data.folder == "data/sample"
        assert "runs/demo" in info["provenance"]["command"]
        assert info["from"]["path"].startswith("runs/demo")
    assert model.info["recalls"][KEY] > 50


def test_a_ready_made_encoder_is_measured_like_any_run_of_stage_one(tiny_world, tmp_path, monkeypatch):
    info = trained_state(READY)[2]
    assert min(info["EgoMCQ"].values()) > 90
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample").symlink_to(tiny_world)  # where its configuration looks
    monkeypatch.chdir(tmp_path)
    found = evaluate_run(READY)
    assert {kind: right.mean() > 0.6 for kind, (_, right) in found.items()} == dict.fromkeys(found, True)
