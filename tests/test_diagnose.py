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
    answers |= {f"blind-seed{seed}": random_segments(train, val, seed=seed) for seed in (1, 2, 3)}
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


def test_files_as_ego4d_has_them_are_enough_for_all_groups_frames_and_seeds(folder, monkeypatch, capsys):
    """Slots of the official file, EgoClip with its classes, `ego4d.json`, videos of the clips; no event log."""
    videos = json.loads((folder / "world/official/nlq_val.json").read_text())["videos"]
    told = [{"video_uid": v["video_uid"], "scenarios": [("Cooking", "Cleaning")[n % 2]]} for n, v in enumerate(videos)]
    (folder / "ego4d.json").write_text(json.dumps({"videos": [*told, {"video_uid": None}, {"scenarios": 3}]}))
    runs = "blind-seed1.json world/official/nlq_val.json --against blind-seed2.json blind-seed3.json right.json"
    files = "--narrations world/official/egoclip.csv --ego4d ego4d.json --train world/official/nlq_train.json"
    assert diagnose(folder, monkeypatch, f"{runs} {files} --videos world/official/clips --output ego4d") == 0
    assert "chance gives" in capsys.readouterr().out
    report = folder / "ego4d" / "blind-seed1-on-nlq_val"
    queries = pd.read_csv(report / "queries.csv")
    assert set(queries["scenario"]) == {"Cooking", "Cleaning"}
    assert {"verb", "noun", "verb in training", "noun in training", "other events of this noun", "relation",
            "question word", "video", "template"} <= set(queries)  # fmt: skip
    assert queries["shows"].notna().mean() > 0.8
    held = pd.read_csv(report / "kinds-of-query-others-held.csv")
    assert {"scenario", "template", "question word"} <= set(held["kind"])
    trainings = pd.read_csv(report / "trainings.csv", index_col=0)
    assert [*trainings.index] == ["blind", "blind minus right"]
    assert trainings.loc["blind minus right", "95 % high"] < -50
    assert len(pd.read_csv(report / "pairs-of-runs.csv")) == 6
    page = (report / "report.html").read_text()
    assert page.count('src="data:image/jpeg') == 36  # two strips of each wrong answer
    assert main(["show", str(report)]) == 0
    assert "ego4d.json" in capsys.readouterr().out


def test_withheld_answers_are_a_truth_like_any_other(folder, monkeypatch, capsys):
    test = read_nlq(folder / "world/official/nlq_test_answers.json").records
    write_submission(folder / "test.json", {r.query_id: np.array([[*r.moments_sec[0], 0.9]]) for r in test}, test)
    truth = "world/official/nlq_test_answers.json"
    assert (
        diagnose(folder, monkeypatch, f"test.json {truth} --events world/official/events.jsonl --output reports") == 0
    )
    assert f"R@1 IoU=0.3 is 100.0 %, R@5 100.0 %, over {len(test)} queries" in capsys.readouterr().out
    assert (folder / "reports/test-on-nlq_test_answers/report.html").exists()
    assert main(["evaluate", "test.json", truth]) == 0
    assert f"queries {len(test)}, unanswered 0" in capsys.readouterr().out


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
        ("random.json world/official/nlq_val.json --ego4d world/official/world.json", "has no list 'videos'"),
        ("random.json world/official/nlq_val.json --videos nowhere", "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_clear_error(folder, monkeypatch, capsys, arguments, message):
    assert diagnose(folder, monkeypatch, f"{arguments} --output bad") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "bad").exists()
