"""The notebooks, walked as a user walks them, on a tiny world."""

import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest

from groundnlq.notebook_runs import run_notebooks
from tests.conftest import walk_parameters

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source_of(cell):
    return "".join(cell["source"])


def solutions_of(path):
    """Code of each exercise's solution, and the sources of the cells for the answers."""
    cells = cells_of(path)
    (exercises,) = [source_of(cell) for cell in cells if source_of(cell).startswith("## Exercises")]
    _, hidden = exercises.split("<details><summary>Solutions</summary>\n\n")
    assert hidden.rstrip().endswith("</details>")
    codes = [textwrap.dedent(code) for code in re.findall(r"   ```python\n(.*?)   ```", hidden, re.DOTALL)]
    return codes, [source_of(cell) for cell in cells if "exercise" in cell["metadata"].get("tags", ())]


def write_solved(path, target):
    """The notebook with its own solutions in the cells for the answers."""
    notebook, (codes, empty) = json.loads(path.read_text(encoding="utf-8")), solutions_of(path)
    for cell in notebook["cells"]:
        if source_of(cell) in empty:
            numbers = re.findall(r"answer_(\d)", source_of(cell))
            cell["source"] = "\n".join(codes[int(number) - 1] for number in numbers)
    target.write_text(json.dumps(notebook), encoding="utf-8")


def solved_project(folder, paths=NOTEBOOKS):
    """A project folder whose notebooks are solved."""
    shutil.copytree(paths[0].parent / "lessons", folder / "notebooks" / "lessons")
    shutil.copy(paths[0].parents[1] / "pyproject.toml", folder)
    for path in paths:
        write_solved(path, folder / "notebooks" / path.name)
    return folder


def verdicts(notebook):
    """What the checks of the exercises said, in order."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return re.findall(r"exercise \d: .*", "".join("".join(o["text"]) for o in outputs if o.get("name") == "stdout"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_says_what_its_parameters_are_and_has_exercises_with_checks_and_solutions(path):
    cells = cells_of(path)
    (parameters,) = [source_of(c) for c in cells if "parameters" in c["metadata"].get("tags", ())]
    assert [line for line in parameters.splitlines() if "  # " not in line] == []
    title = source_of(cells[0])
    assert all(f"**{part}.**" in title for part in ("Question", "Goals", "You need", "Time"))
    codes, empty = solutions_of(path)
    expected = [f"answer_{number} = ...  # exercise {number}" for number in range(1, len(codes) + 1)]
    assert "\n".join(empty).splitlines() == expected
    assert len(codes) >= 2
    assert all(f"answer_{number} = " in code for number, code in enumerate(codes, 1))
    checks = "\n".join(source_of(cell) for cell in cells if cell["cell_type"] == "code")
    assert all(checks.count(f"check({number}, answer_{number}, ") == 1 for number in range(1, len(codes) + 1))


def pictures(notebook):
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_first_notebook_runs_on_a_prepared_world_and_its_solutions_pass(tiny_world, tmp_path, monkeypatch):
    """The one walk that `make test` takes."""
    shutil.copytree(tiny_world, tmp_path / "data")
    values = {"data_folder": str(tmp_path / "data"), "scale": "tiny"}
    monkeypatch.setenv("GROUNDNLQ_HOME", str(solved_project(tmp_path)))
    (executed,) = run_notebooks(["01"], tmp_path / "run", values, progress=False)
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    assert pictures(notebook) == 9
    assert verdicts(notebook) == ["exercise 1: solved", "exercise 2: solved"]


@pytest.mark.slow
def test_every_notebook_runs_and_keeps_its_pictures(walk):
    *_, notebooks = walk
    found = {name: pictures(notebook) for name, notebook in notebooks.items()}
    wanted = {
        "00_ask": 1,
        "01_data_inspection": 9,
        "02_video_encoder": 14,
        "03_pretraining": 9,
        "04_finetuning": 9,
        "05_evaluation": 6,
        "06_error_analysis": 8,
        "07_model_tour": 6,
        "08_own_video": 3,
    }
    assert found == wanted


@pytest.mark.slow
def test_unsolved_exercises_do_not_stop_a_notebook_and_their_solutions_pass(walk, tmp_path, monkeypatch):
    run, data, notebooks = walk
    for name, notebook in notebooks.items():
        assert verdicts(notebook) == [f"exercise {n}: not solved yet" for n in (1, 2)], name
    monkeypatch.setenv("GROUNDNLQ_HOME", str(solved_project(tmp_path)))
    executed = run_notebooks(run_dir=run, parameters=walk_parameters(data.parent), progress=False)  # all is trained
    for path in executed:
        found = verdicts(json.loads(path.read_text(encoding="utf-8")))
        assert found == ["exercise 1: solved", "exercise 2: solved"], path.stem


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
