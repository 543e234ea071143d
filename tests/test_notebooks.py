"""The notebooks, walked as a user walks them, on a tiny world."""

import json

import pytest


def pictures(notebook):
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_every_notebook_runs_and_keeps_its_pictures(walk):
    *_, notebooks = walk
    found = {name: pictures(notebook) for name, notebook in notebooks.items()}
    wanted = {
        "01_data_inspection": 6,
        "02_pretraining": 4,
        "03_finetuning": 3,
        "04_evaluation": 4,
        "05_error_analysis": 8,
        "06_model_tour": 8,
    }
    assert found == wanted


@pytest.mark.slow
def test_no_cell_complains(walk):
    *_, notebooks = walk
    for name, notebook in notebooks.items():
        for cell in notebook["cells"]:
            for output in cell.get("outputs", ()):
                assert output["output_type"] != "error", name
                assert output.get("name") != "stderr", (name, output.get("text"))


@pytest.mark.slow
def test_the_walk_leaves_metrics_of_every_run_and_a_submission(walk):
    run, *_ = walk
    names = {"constant", "random", "scratch", "pretrain", "finetune", "ensemble"}
    metrics = {path.stem: json.loads(path.read_text()) for path in (run / "metrics").glob("*.json")}
    assert metrics.keys() == names
    for content in metrics.values():
        assert 0 <= content["strict"]["R@1 IoU=0.3"] <= content["strict"]["R@5 IoU=0.3"] <= 100
        assert content["num_missing"] == 0
    assert {path.stem for path in (run / "submissions").glob("*.json")} == names
