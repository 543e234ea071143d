"""Clips of one step and a few more, far fewer than the pyramid halves: checked, trained, answered, shown."""

import json

import numpy as np
import pytest
import torch

from groundnlq.analysis.candidates import LivePredictions
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.evaluation import evaluate
from groundnlq.cli import main
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.records import Record, write_records
from groundnlq.data.tokens import write_tokens
from groundnlq.engine.launch import train
from groundnlq.engine.predictor import Predictor, open_dataset
from groundnlq.view.explorer import Explorer
from notebooks.lessons.levels import level_table
from tests.tiny_run import WIDTH, tiny_config

NUM_STEPS = {"c1": 1, "c2": 2, "c3": 3, "c5": 5, "c17": 17, "c64": 64}
SHORTER = Record("c0_0", "c1", "Where?", 0.3, ((0.1, 0.2),))  # than one step
RECORDS = [
    Record(f"{uid}_{i}", uid, "Where?", float(steps), ((0.1 * steps, (0.2 + 0.3 * i) * steps),))
    for uid, steps in NUM_STEPS.items()
    for i in range(3)
]
LEVELS = {
    "three levels": {"num_self_levels": 2},
    "seven levels": {
        "num_self_levels": 6,
        "regression_ranges_grid": ((0, 4), (2, 8), (4, 16), (8, 32), (16, 64), (32, 128), (64, 10000)),
    },
}


@pytest.fixture(scope="module", params=LEVELS)
def run(request, tmp_path_factory):
    """A folder with data of short clips, and a run that was trained on them."""
    folder, random = tmp_path_factory.mktemp("short"), np.random.default_rng(0)
    for name in ("train", "val"):
        write_records(folder / f"{name}.jsonl", RECORDS)
    features = {uid: random.standard_normal((n, WIDTH)) for uid, n in NUM_STEPS.items()}
    rate = {"fps": 1.0, "snippet_stride_frames": 1.0}
    write_features(folder / "features.h5", features.items(), attributes=rate, dtype="float32")
    tokens = {r.query_id: torch.randn(1 + i % 4, WIDTH) for i, r in enumerate([*RECORDS, SHORTER])}
    write_tokens(folder / "text.h5", tokens.items(), encoder="directions")
    config = tiny_config(folder, epochs=1, warmup_epochs=0)
    config = config.model_copy(update={"model": config.model.model_copy(update=LEVELS[request.param])})
    result = train(config, folder / "run")
    assert np.isfinite([row["loss total"] for row in result.history]).all()
    return folder


def test_a_clip_of_one_step_is_not_constant(run, capsys):
    command = ["features", "check", str(run / "features.h5"), "--records", str(run / "val.jsonl")]
    assert main(command) == 0, capsys.readouterr().out
    store = FeatureStore(run / "features.h5")
    constant = {uid: np.ones_like(store.read(uid)) for uid in NUM_STEPS}
    write_features(run / "constant.h5", constant.items(), attributes=store.attributes)
    command[2] = str(run / "constant.h5")
    assert main(command) == 1
    assert "5 clips hold the same vector at every step: c2, c3, c5, c17, c64" in capsys.readouterr().out


@pytest.mark.parametrize(("nms", "voting_iou"), [("soft", 0.0), ("soft", 0.9), ("hard", 0.9), ("none", 0.0)])
def test_every_query_is_answered_within_its_clip_alone_as_among_others(run, nms, voting_iou):
    predictor = Predictor.load(run / "run", top_k=10)
    decode = predictor.config.decode.model_copy(update={"nms": nms, "voting_iou": voting_iou})
    predictor.config = predictor.config.model_copy(update={"decode": decode})
    ranked = predictor.predict([*RECORDS, SHORTER])
    for record in (*RECORDS, SHORTER):
        start, end, score = ranked[record.query_id].T
        assert 1 <= len(start) <= 10
        assert ((start >= 0) & (start <= end) & (end <= record.duration_sec + 1e-6) & (score > 0)).all()
    for record in (SHORTER, RECORDS[-1]):
        assert predictor.predict([record])[record.query_id] == pytest.approx(ranked[record.query_id], abs=1e-4)


def test_short_clips_are_evaluated_diagnosed_and_drawn(run):
    predictor = Predictor.load(run / "run")
    split = open_dataset(predictor.config, RECORDS)
    live = LivePredictions(predictor, split)
    diagnosis = Diagnosis("run", live)
    recall = evaluate(predictor.predict_dataset(split), RECORDS).strict["R@1 IoU=0.3"]
    assert diagnosis.oracle_gains.loc["as it is", "R@1"] == pytest.approx(recall)
    assert json.loads(level_table(diagnosis).to_json())
    explorer = Explorer({"run": live})
    explorer.attention.value = True
    assert explorer.record.clip_uid == "c1"
    explorer.prediction.value = 1
    assert explorer.figure().axes
