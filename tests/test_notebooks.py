"""The notebooks, walked as a user walks them, on a tiny world."""

import json
import shutil
from pathlib import Path

import pytest

from groundnlq.notebook_runs import run_notebooks

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_says_what_its_parameters_are_and_ends_in_exercises_with_hidden_solutions(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (parameters,) = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
    assert [line for line in parameters.splitlines() if "  # " not in line] == []
    (exercises,) = ["".join(c["source"]) for c in cells if "".join(c["source"]).startswith("## Exercises")]
    questions, hidden = exercises.split("<details><summary>Solutions</summary>\n\n")
    assert hidden.rstrip().endswith("</details>")
    numbered = [sum(line[:3] == f"{n}. " for n in range(1, 9) for line in t.splitlines()) for t in (questions, hidden)]
    assert numbered[0] == numbered[1] >= 2


def pictures(notebook):
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_first_notebook_runs_on_a_prepared_world(tiny_world, tmp_path):
    """The one walk that `make test` takes."""
    shutil.copytree(tiny_world, tmp_path / "data")
    values = {"data_folder": str(tmp_path / "data"), "scale": "tiny"}
    (executed,) = run_notebooks(["01"], tmp_path / "run", values, progress=False)
    assert pictures(json.loads(executed.read_text(encoding="utf-8"))) == 10


@pytest.mark.slow
def test_every_notebook_runs_and_keeps_its_pictures(walk):
    *_, notebooks = walk
    found = {name: pictures(notebook) for name, notebook in notebooks.items()}
    wanted = {
        "00_ask": 1,
        "01_data_inspection": 10,
        "02_video_encoder": 15,
        "03_pretraining": 8,
        "04_finetuning": 9,
        "05_evaluation": 8,
        "06_error_analysis": 8,
        "07_model_tour": 8,
        "08_own_video": 3,
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
    names = {"constant", "random", "linear", "scratch", "pretrain", "finetune", "ensemble"}
    metrics = {path.stem: json.loads(path.read_text()) for path in (run / "metrics").glob("*.json")}
    assert metrics.keys() == names
    for content in metrics.values():
        assert 0 <= content["strict"]["R@1 IoU=0.3"] <= content["strict"]["R@5 IoU=0.3"] <= 100
        assert content["num_missing"] == 0
    assert {path.stem for path in (run / "submissions").glob("*.json")} == names
