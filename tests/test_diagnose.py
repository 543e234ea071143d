"""`groundnlq diagnose`: any submission, against any others, without a network."""

import json

import numpy as np
import pandas as pd
import pytest

from groundnlq.analysis.baselines import constant_segment, random_segments
from groundnlq.cli import main
from groundnlq.data.annotations import read_nlq
from groundnlq.data.records import write_records
from groundnlq.data.submission import write_submission


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_world):
    """A tiny world's official files, and submissions: right ones, constant and random ones."""
    folder = tmp_path_factory.mktemp("diagnose")
    (folder / "world").symlink_to(tiny_world)
    train, val = (read_nlq(folder / f"world/official/nlq_{split}.json").records for split in ("train", "val"))
    perfect = {r.query_id: np.array([[*r.moments_sec[0], 0.9]]) for r in val}
    answers = {"right": perfect, "constant": constant_segment(train, val), "random": random_segments(train, val)}
    for name, ranked in answers.items():
        write_submission(folder / f"{name}.json", ranked, val)
    write_records(folder / "train.jsonl", train)
    return folder


def diagnose(folder, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    return main(["diagnose", *arguments.split()])


def test_a_submission_is_diagnosed_against_others_by_the_official_file(folder, monkeypatch, capsys):
    arguments = "random.json world/official/nlq_val.json --against constant.json right.json --train train.jsonl"
    assert diagnose(folder, monkeypatch, f"{arguments} --narrations world/official/egoclip.csv --output reports") == 0
    printed = capsys.readouterr().out
    assert "chance gives" in printed
    assert "Against right: -" in printed
    report = folder / "reports" / "random-on-nlq_val"
    runs = pd.read_csv(report / "runs.csv", index_col=0)
    assert runs.loc["right", "R@1"] == runs.loc["any run", "R@1"] == 100
    assert runs.loc["right", "95 % low"] < 100
    assert runs.loc["every run", "R@1"] <= runs[:3]["R@1"].min()
    files = json.loads((report / "provenance.json").read_text())["provenance"]["inputs"]["files"]
    assert {"random.json", "right.json", "train.jsonl", "world/official/egoclip.csv"} <= set(files)


@pytest.mark.parametrize("threshold", ["3", "0", "1", "-0.3", "nan"])
def test_a_threshold_outside_of_0_to_1_is_an_error_before_any_file_is_read(folder, monkeypatch, capsys, threshold):
    assert diagnose(folder, monkeypatch, f"missing.json missing.json --threshold={threshold} --output none") == 2
    assert "--threshold" in capsys.readouterr().err
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("random.json world/official/nlq_train.json", "are these predictions of another split"),
        ("random.json world/official/nlq_val.json --against random.json", "the same name twice"),
        ("random.json world/official/nlq_val.json --events missing.csv", "no such file"),
        ("random.json world/official/nlq_val.json --events world/official/world.json", "world.json"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_clear_error(folder, monkeypatch, capsys, arguments, message):
    assert diagnose(folder, monkeypatch, f"{arguments} --output bad") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "bad").exists()
