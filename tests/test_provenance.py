"""Every result names what it was made of, and `groundnlq show` prints it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from groundnlq import __version__
from groundnlq.analysis.baselines import constant_segment
from groundnlq.analysis.evaluation import evaluate
from groundnlq.cli import main
from groundnlq.data.annotations import read_truth
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.records import identity_of, read_records
from groundnlq.data.submission import read_submission, write_submission
from groundnlq.data.tokens import TokenStore, write_tokens
from groundnlq.files import sha256_of
from tests.bad_input_makers import make_world

INPUTS = "--records val.jsonl --features features.h5 --text text.h5"
COMMANDS = {
    "f.h5": "features import pt pt2 --output f.h5",
    "t.h5": "text encode val.jsonl --encoder sample --output t.h5",
    "run": "train run.yaml --run run",
    "p.json": f"predict run {INPUTS} --output p.json --top-k 3",
    "e.json": "ensemble p.json p.json --output e.json",
    "m.json": "evaluate p.json nlq.json --output m.json",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder in which every command that writes a result has written one."""
    folder = tmp_path_factory.mktemp("provenance")
    make_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS.values():
            assert main(command.split()) == 0
    return folder


def show(name, folder, monkeypatch, capsys) -> dict:
    monkeypatch.chdir(folder)
    assert main(["show", name]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def find(tree, key):
    """The first value of a key, wherever it is."""
    if isinstance(tree, dict):
        if key in tree:
            return tree[key]
        tree = list(tree.values())
    found = [find(part, key) for part in tree] if isinstance(tree, list) else []
    return next((value for value in found if value is not None), None)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_result_shows_kit_and_command(name, results, monkeypatch, capsys):
    shown = show(name, results, monkeypatch, capsys)
    assert find(shown, "kit") == __version__
    assert find(shown, "command") == f"groundnlq {COMMANDS[name]}"


@pytest.mark.parametrize("name", ["p.json", "m.json", "e.json"])
def test_predictions_and_what_is_made_of_them_name_all_that_went_in(name, results, monkeypatch, capsys):
    shown = show(name, results, monkeypatch, capsys)
    inputs = find(shown, "configuration") and find(shown, "checkpoint")
    assert inputs == {"path": "run/best.pt", "sha256": sha256_of(results / "run" / "best.pt")}
    assert find(shown, "features")["sha256"] == FeatureStore(results / "features.h5").sha256
    tokens = TokenStore(results / "text.h5")
    assert find(shown, "text") == {"path": "text.h5", "sha256": tokens.sha256, "encoder": "directions"}
    assert find(shown, "records") == identity_of(read_records(results / "val.jsonl"))
    assert find(shown, "configuration")["decode"]["top_k"] == 3
    assert find(shown, "precision") == "float32"


def test_metrics_and_ensembles_name_the_files_they_are_made_of(results, monkeypatch, capsys):
    predictions = sha256_of(results / "p.json")
    metrics = show("m.json", results, monkeypatch, capsys)["provenance"]["inputs"]
    assert metrics["predictions"]["sha256"] == predictions
    assert metrics["truth"] == identity_of(read_truth(results / "nlq.json"))
    runs = show("e.json", results, monkeypatch, capsys)["provenance"]["inputs"]["runs"]
    assert [run["sha256"] for run in runs] == [predictions] * 2


def test_weights_name_their_data_encoder_and_configuration(results, monkeypatch, capsys):
    shown = show("run", results, monkeypatch, capsys)
    assert shown["status"]["state"] == "finished"
    best = shown["best weights"]
    assert best["info"]["encoder"] == "directions"
    assert best["info"]["provenance"]["inputs"]["records"] == identity_of(read_records(results / "train.jsonl"))
    assert best["config"]["name"] == "tiny"
    state = max((results / "run" / "checkpoints").glob("*.pt"))
    assert "training state" in show(str(state), results, monkeypatch, capsys)["kind"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("features.h5", "video features"),
        ("text.h5", "query tokens"),
        ("val.jsonl", "records"),
        ("nlq.json", "official annotations, version 2.0"),
        ("model.pth.tar", "checkpoint (published)"),
    ],
)
def test_inputs_are_shown_with_their_hash(name, kind, results, monkeypatch, capsys):
    shown = show(name, results, monkeypatch, capsys)
    assert shown["kind"] == kind
    assert shown["sha256"] == sha256_of(results / name)


def test_records_hash_the_same_from_either_layout_and_differ_by_any_moment(results):
    lines, official = read_records(results / "val.jsonl"), read_truth(results / "nlq.json")
    assert identity_of(lines) == identity_of(official)
    assert identity_of(lines[1:]) != identity_of(lines)


def test_content_hashes_follow_values_and_ids_alone(tmp_path):
    clips = {"a": np.ones((3, 2)), "b": np.zeros((2, 2))}

    def hash_of(pairs, **options):
        write_features(tmp_path / "f.h5", pairs, **options)
        return FeatureStore(tmp_path / "f.h5").sha256

    first = hash_of(clips.items())
    assert hash_of(clips.items(), attributes={"sources": ["elsewhere"]}) == first
    assert hash_of(list(clips.items())[::-1]) == first
    swapped, reshaped = {"b": clips["a"], "a": clips["b"]}, {"a": np.ones((2, 3)), "b": np.zeros((1, 3))}
    others = [swapped, reshaped, clips | {"a": np.ones((3, 2)) * 2}, {"a": clips["a"]}]
    assert len({first, *(hash_of(other.items()) for other in others)}) == 5

    def token_hash(lengths):
        write_tokens(tmp_path / "t.h5", ((f"q_{i}", torch.ones(n, 2)) for i, n in enumerate(lengths)), encoder="x")
        return TokenStore(tmp_path / "t.h5").sha256

    assert token_hash([1, 2]) == token_hash([1, 2])
    assert token_hash([1, 2]) != token_hash([2, 1])  # the same rows, cut elsewhere


def test_answers_without_a_known_origin_are_written_with_the_kit_at_least(results, tmp_path):
    records = read_records(results / "val.jsonl")
    write_submission(tmp_path / "c.json", constant_segment(records, records), records)
    again = read_submission(tmp_path / "c.json")
    assert again.made_by["kit"] == __version__
    assert again.made_by["sha256"] == sha256_of(tmp_path / "c.json")
    assert evaluate(again, records).to_json()["provenance"]["inputs"]["predictions"] == again.made_by


def test_a_foreign_submission_has_no_provenance_and_is_read_all_the_same(results, tmp_path):
    tree = json.loads((results / "p.json").read_text())
    del tree["provenance"]
    (tmp_path / "p.json").write_text(json.dumps(tree))
    assert read_submission(tmp_path / "p.json").made_by.keys() == {"path", "sha256"}


def test_predictions_of_another_split_are_refused_by_file_and_query(results, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(results)
    assert main(["evaluate", "p.json", "train.jsonl"]) == 2
    message = capsys.readouterr().err
    assert "p.json: 6 answers" in message
    assert "another split" in message


def test_weights_know_what_they_started_from(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(results, "w")
    monkeypatch.chdir("w")
    assert main(["train", "run.yaml", "train.init_from=run", "--run", "again"]) == 0
    info = torch.load(Path("again/best.pt"), weights_only=True)["info"]
    assert info["provenance"]["inputs"]["init_from"]["sha256"] == sha256_of("run/best.pt")
