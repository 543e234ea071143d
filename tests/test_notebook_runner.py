"""The notebook runner, parameters and the project folder."""

import errno
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from groundnlq import notebook as nb
from groundnlq import notebook_runs as runs
from groundnlq.cli import main
from groundnlq.engine.run_dir import RunDirectory
from groundnlq.errors import ConfigError, KitError
from groundnlq.notebook_runs import run_notebooks
from notebooks.lessons.sliders import sliders

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = """\
run_dir = "runs/x"  # where = results go
epochs = 2
rate: float = 0.1
scale = "demo"
is_loud = False
limit = None
"""
START = "from groundnlq import notebook as nb\nfolder = nb.workspace()"
CHECK = """\
from groundnlq import notebook as nb
nb.check_parameters(
    globals(), run_dir=str, epochs=int, rate=float, scale=str, is_loud=bool, limit=int | None
)"""
REPORT = """\
import json, os, pathlib
shown = dict(epochs=epochs, rate=rate, scale=scale, is_loud=is_loud, limit=limit, cwd=os.getcwd())
pathlib.Path(run_dir).mkdir(parents=True, exist_ok=True)
_ = pathlib.Path(run_dir, "seen.json").write_text(json.dumps(shown))
assert epochs != 13, "thirteen is unlucky"
if epochs == 14: os._exit(1)
print("done")"""


def write_notebook(path: Path, *sources: str, parameters: str | None = None) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if parameters is not None:
        cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    spec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with two notebooks, from which and to which nothing else leads."""
    folder = tmp_path / "project"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    write_notebook(folder / "notebooks" / "01_first.ipynb", CHECK, REPORT, parameters=PARAMETERS)
    write_notebook(folder / "notebooks" / "02_second.ipynb", "print(depth)", parameters="depth = 1\n")
    monkeypatch.setenv(nb.HOME_VARIABLE, str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


CODE = {"cell_type": "code", "metadata": {}, "execution_count": 3}
OLD = {
    "no kernel": {"metadata": {}},
    "no minor version": {"nbformat_minor": None},
    "minor version of tomorrow": {"nbformat_minor": 9},
    "empty": {"cells": []},
    "kernel without a name": {"metadata": {"kernelspec": {"language": "python"}}},
    "kernel is null": {"metadata": {"kernelspec": None, "language_info": None}},
    "cell ids of no kind": {"cells": [CODE | {"source": "print(7)", "outputs": []}] * 2},
    "cell ids twice": {"cells": [CODE | {"id": "a", "source": "print(7)", "outputs": []}] * 2},
    "outputs of old": {"cells": [CODE | {"source": ["print", "(7)"], "outputs": [{"output_type": "pyout"}]}]},
    "no outputs": {"cells": [{"cell_type": "code", "source": "print(7)", "metadata": {}}]},
    "format 3": {
        "nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "cells": None,
        "worksheets": [{"cells": [{"cell_type": "code", "input": "print(7)", "language": "python", "outputs": []}]}],
    },
}  # fmt: skip


def write_raw(path: Path, **changes: object) -> None:
    cells = [CODE | {"id": "a", "source": "print(7)", "outputs": []}]
    whole = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells} | changes
    path.write_text(json.dumps({name: value for name, value in whole.items() if value is not None}))


def outputs(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", ()))


def test_text_from_the_shell_takes_the_type_of_the_default(project, tmp_path):
    values = {"epochs": "3", "rate": "1e-4", "scale": "7", "is_loud": "true", "limit": "5"}
    (executed,) = run_notebooks(["01"], tmp_path / "run", values, progress=False)
    assert executed == tmp_path / "run" / "notebooks" / "01_first.ipynb"
    seen = json.loads((tmp_path / "run" / "seen.json").read_text())
    assert seen == {"epochs": 3, "rate": 1e-4, "scale": "7", "is_loud": True, "limit": 5, "cwd": str(project.resolve())}
    assert outputs(executed) == "done\n"


def test_a_failing_cell_is_a_clear_error_and_its_traceback_is_kept(project, tmp_path):
    with pytest.raises(KitError, match=r"01_first: cell 4 failed, AssertionError: thirteen") as caught:
        run_notebooks([], tmp_path / "run", {"epochs": 13}, progress=False)
    kept = tmp_path / "run" / "notebooks" / "01_first.ipynb"
    assert str(kept) in str(caught.value)
    assert '"ename": "AssertionError"' in kept.read_text()
    assert not (tmp_path / "run" / "notebooks" / "02_second.ipynb").exists()


@pytest.mark.parametrize(
    "changes", [pytest.param(c, id=i, marks=() if i == "no kernel" else pytest.mark.slow) for i, c in OLD.items()]
)
def test_a_notebook_that_lacks_something_or_is_old_runs_with_this_kernel(project, tmp_path, changes):
    write_raw(project / "notebooks" / "03_raw.ipynb", **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (executed,) = run_notebooks(["03"], tmp_path / "run", progress=False)
    notebook = json.loads(executed.read_text())
    nbformat.validate(notebook)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(outputs(executed).split()) == ({"7"} if notebook["cells"] else set())


@pytest.mark.slow
def test_the_kernel_of_another_environment_is_replaced_by_this_one_and_named(project, tmp_path):
    write_raw(project / "notebooks" / "03_raw.ipynb", metadata={"kernelspec": {"name": "conda-env-x-py"}})
    with pytest.warns(UserWarning, match=f"run by the Python of {sys.prefix}, not by its kernel 'conda-env-x-py'"):
        run_notebooks(["03"], tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"cells": []}', '{"nbformat": 4, "cells": []}', "<html>", '{"nbformat": 4']
)
def test_what_is_not_a_notebook_is_named_and_does_not_hide_the_others(project, tmp_path, capsys, text):
    path = project / "notebooks" / "03_broken.ipynb"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{path}: not a notebook .* -- save it again"):
        run_notebooks([], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert main(["notebooks", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "01_first" in shown
    assert "not a notebook" in shown


def places(node, path=()):
    """Every place in a tree of lists and mappings, as keys from its root."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_a_notebook_with_anything_in_any_place_is_read_or_named(project):
    path, read, refused = project / "notebooks" / "01_first.ipynb", 0, []
    whole = json.loads(path.read_text())
    for *outer, key in places(whole):
        for value in (..., None, 1, "x", {}, [1]):
            changed = json.loads(path.read_text())
            node = changed
            for step in outer:
                node = node[step]
            if value is ...:
                del node[key]
            else:
                node[key] = value
            (project / "changed.ipynb").write_text(json.dumps(changed))
            try:
                runs._notebook_parameters(project / "changed.ipynb")
                read += 1
            except ConfigError as error:
                refused.append(str(error))
    assert all("changed.ipynb: " in message for message in refused)
    assert min(read, len(refused)) > 20


@pytest.mark.filterwarnings("ignore:02_second. run by the Python")
def test_without_a_python_kernel_the_remedy_is_named(project, tmp_path, monkeypatch):
    monkeypatch.setitem(runs.KERNEL, "name", "nowhere")
    with pytest.raises(KitError, match=r"no kernel 'nowhere' -- .* -m pip install ipykernel"):
        run_notebooks(["02"], tmp_path / "run", progress=False)


def without_unix_sockets(monkeypatch):
    class Refused(socket.socket):
        def bind(self, address):
            raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr("groundnlq.notebook_runs.socket.socket", Refused)


def test_kernels_that_run_at_once_have_sockets_of_their_own_outside_of_the_project(project, monkeypatch):
    with runs._kernel_settings() as one, runs._kernel_settings() as other:
        names = {config.KernelManager.ip for config in (one, other)}
        assert len(names) == 2
        for name in names:
            assert project not in Path(name).parents
            assert Path(name).parent.stat().st_mode & 0o077 == 0
    assert not any(Path(name).parent.exists() for name in names)


def test_where_no_unix_socket_can_be_bound_a_kernel_listens_on_this_machine_s_ports(project, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        without_unix_sockets(patch)
        with runs._kernel_settings() as config:
            assert "KernelManager" not in config
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))  # a path of more than 107 bytes
    with runs._kernel_settings() as config:
        assert "KernelManager" not in config
    (executed,) = run_notebooks(["02"], tmp_path / "run", progress=False)
    assert outputs(executed) == "1\n"


def test_a_second_run_into_the_same_folder_is_refused_before_it_writes(project, tmp_path):
    folder = tmp_path / "run" / "notebooks"
    with RunDirectory(folder).locked(), pytest.raises(KitError, match=f"in use by process {os.getpid()} -- wait"):
        run_notebooks(["02"], tmp_path / "run", progress=False)
    assert not list(folder.glob("*.ipynb"))


@pytest.mark.slow
def test_runs_that_begin_at_once_all_end_well(project, tmp_path):
    cells = ["import time", "time.sleep(1)", "import os, pathlib\nprint(os.getpid())"]
    write_notebook(project / "notebooks" / "03_long.ipynb", *cells)
    command = [sys.executable, "-m", "groundnlq", "notebooks", "03", "--run"]
    runs = [tmp_path / f"run{number}" for number in range(3)]
    started = [subprocess.Popen([*command, str(run)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for run in runs]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors
    assert len({outputs(run / "notebooks" / "03_long.ipynb") for run in runs}) == 3
    assert [path.name for path in project.iterdir() if "ipc" in path.name] == []


def test_a_dead_kernel_is_a_clear_error(project, tmp_path):
    with pytest.raises(KitError, match="kernel died"):
        run_notebooks(["01"], tmp_path / "run", {"epochs": 14}, progress=False)


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        ([], {"epoch": 3}, "no notebook has a parameter 'epoch'; did you mean epochs"),
        ([], {"is": True}, "no notebook has a parameter 'is'; did you mean is_loud"),
        ([], {"epochs": 0}, "epochs=0 is not at least 1"),
        ([], {"epochs": 0, "rate": "fast"}, "2 faults"),
        (["02"], {"epochs": 3}, "no notebook has a parameter 'epochs'"),
        ([], {"epochs": "three"}, "epochs='three' is of type str, expected int"),
        ([], {"epochs": 1.5}, "epochs=1.5 is of type float, expected int"),
        ([], {"epochs": True}, "epochs=True is of type bool, expected int"),
        ([], {"is_loud": "1"}, "is_loud=1 is of type int, expected bool"),
        ([], {"scale": 3}, "scale=3 is of type int, expected str"),
        (["03"], {}, "no notebook '03'"),
        (["02_secnod"], {}, "did you mean 02_second"),
    ],
)
def test_what_no_notebook_takes_is_refused_before_anything_runs(project, tmp_path, names, values, message):
    with pytest.raises(ConfigError, match=message):
        run_notebooks(names, tmp_path / "run", values, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tiou_threshold": 3}, "tiou_threshold=3 is not between 0.01 and 0.99"),
        ({"tiou_threshold": "nan"}, "tiou_threshold='nan' is of type str, expected float"),
        ({"tiou_threshold": math.nan}, "tiou_threshold=nan is not between"),
        ({"tiou": 0.5}, "no notebook has a parameter 'tiou'; did you mean tiou_threshold"),
        ({"overrides": "train.epoch=3"}, r"unknown key train.epoch; did you mean train.epochs"),
        ({"preset": "pretrian"}, "unknown preset 'pretrian'; did you mean"),
        ({"query_number": -1, "processes": 0, "seed": -2, "film": -1, "num_videos": 0}, "5 faults"),
    ],
)
def test_values_that_no_run_can_have_are_refused_before_hours_of_work(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        run_notebooks([], tmp_path / "run", values, progress=False)
    assert not (tmp_path / "run").exists()


def test_what_is_at_the_end_of_a_range_is_taken():
    nb.check_parameters({"tiou_threshold": 0.99, "seed": 0, "epochs": 1}, tiou_threshold=float, seed=int, epochs=int)


def test_each_notebook_gets_only_the_parameters_it_has(project, tmp_path):
    executed = run_notebooks(["2", "01"], tmp_path / "run", {"depth": 5}, progress=False)
    assert [path.stem for path in executed] == ["01_first", "02_second"]
    assert outputs(executed[1]) == "5\n"


@pytest.mark.parametrize("backend", [None, "agg"])
def test_live_lines_and_figures_stay_in_the_file_whatever_the_shell_says(project, tmp_path, monkeypatch, backend):
    monkeypatch.delenv("MPLBACKEND")
    if backend:
        monkeypatch.setenv("MPLBACKEND", backend)
    status = {"state": "finished", "step": 2, "total_steps": 2}
    live = f"{START}\nshown = nb.NotebookReporter(1)\nshown.status({status})"
    figure = "from matplotlib.figure import Figure\nfigure = Figure()\naxis = figure.subplots()\nfigure"
    write_notebook(project / "notebooks" / "03_live.ipynb", live, figure)
    (executed,) = run_notebooks(["03"], tmp_path / "run", progress=False)
    first, second = nbformat.read(executed, as_version=4).cells
    assert [o["data"].get("text/markdown") for o in first["outputs"]] == ["finished at step 2 of 2", "", ""]
    assert ["image/png" in o["data"] for o in second["outputs"]] == [True]


def test_the_reporter_leaves_two_lines_and_one_picture_in_the_file(project, tmp_path):
    rows = [
        {
            "epoch": i,
            "loss total": 1 / i,
            "loss classification": 1,
            "loss regression": 1,
            "steps_per_second": 2,
            "data_wait_share": 0.01,
            "peak_memory_mb": 300,
        }
        | ({"raw mean R@1": 3.0, "ema mean R@1": 4.0} if i == 3 else {})
        for i in (1, 2, 3)
    ]
    status = {"state": "running", "step": 5, "total_steps": 10, "epoch": 2, "loss": 0.5}
    calls = (
        f"{START}\nshow, rows, status = nb.NotebookReporter(3), {rows}, {status}\n"
        "show.status(status)\nfor i in (1, 2, 3):\n    show.epoch(rows[:i])"
    )
    write_notebook(project / "notebooks" / "03_live.ipynb", calls)
    (executed,) = run_notebooks(["03"], tmp_path / "run", progress=False)
    now, line, curve = nbformat.read(executed, as_version=4).cells[0]["outputs"]
    bar = "▰" * 10 + "▱" * 10
    assert now["data"]["text/markdown"] == f"{bar} step 5 of 10, epoch 2 of 3, loss 0.500"
    assert line["data"]["text/markdown"] == (
        "epoch 3 of 3: loss 0.333, mean R@1 4.0; 2.0 steps a second, 1.0 % of the time waiting for data, 300 MB"
    )
    assert "image/png" in curve["data"]


def test_help_lists_the_notebooks_with_their_parameters(project, capsys):
    assert main(["notebooks", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "01_first" in shown
    assert '    run_dir = "runs/x"  # where = results go' in shown
    assert "    depth = 1" in shown
    assert main(["--help"]) == 0
    assert "depth" not in capsys.readouterr().out


def test_every_move_of_a_slider_draws_the_figure_of_its_values(monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(figure)

    def display(thing, display_id=False):
        shown.append(thing)
        return Handle() if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    sliders(lambda **values: values, length_sec=(1, 2, 4), sigma=(0.5, 0.75))
    box, first = shown
    assert first == {"length_sec": 2, "sigma": 0.75}
    box.children[0].value = 4
    assert shown[-1] == {"length_sec": 4, "sigma": 0.75}
    assert [slider.description for slider in box.children] == ["length sec", "sigma"]


def test_parameters_that_are_no_literals_are_refused(project):
    path = project / "notebooks" / "03_bad.ipynb"
    write_notebook(path, parameters="a = 1\nb = a + 1\n")
    with pytest.raises(ConfigError, match="plain literals"):
        runs._notebook_parameters(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "epoch", "1"], "unknown parameter 'epoch'; did you mean epochs"),
        (["-p", "epochs", "many"], "epochs='many' is of type str, expected int"),
        (["-p", "rate", "True"], "rate=True is of type bool, expected float"),
    ],
)
def test_plain_papermill_with_a_wrong_parameter_fails_in_the_first_cell(project, tmp_path, arguments, message):
    source, output = project / "notebooks" / "01_first.ipynb", tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(source), str(output), "-k", "python3", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert message in done.stderr
    assert outputs(output) == ""


def test_an_injected_cell_that_was_corrected_by_hand_no_longer_fails():
    history = ["", "epochs = 1", "# Parameters\nepoch = 2", "check", "# Parameters\nepochs = 2", "check"]
    nb.check_parameters({"In": history, "epochs": 2}, epochs=int)
    with pytest.raises(ConfigError, match="unknown parameter 'epoch'"):
        nb.check_parameters({"In": history[:4], "epochs": 2}, epochs=int)


def test_every_wrong_parameter_is_in_one_message():
    with pytest.raises(ConfigError, match="2 faults"):
        nb.check_parameters({"epochs": "3", "rate": "1e-4"}, epochs=int, rate=float)


def test_the_project_folder_is_found_from_anywhere(project, monkeypatch, tmp_path):
    monkeypatch.delenv(nb.HOME_VARIABLE)
    monkeypatch.chdir(project / "notebooks")
    assert nb.workspace() == project.resolve() == Path(os.getcwd()).resolve()
    monkeypatch.chdir(tmp_path)
    assert nb.workspace() == Path(__file__).resolve().parents[1]
    monkeypatch.setenv(nb.HOME_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match="no folder with notebooks/"):
        nb.workspace()


def test_what_an_earlier_notebook_makes_is_asked_for_by_name(tmp_path):
    nb.require(tmp_path, "never seen")
    with pytest.raises(KitError, match=r"best\.pt is missing -- run 02 first"):
        nb.require(tmp_path / "best.pt", "run 02 first")


def test_the_command_runs_notebooks_and_prints_table_and_place(project, tmp_path, capsys):
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    scores = {"strict": {"R@1 IoU=0.3": 12.5, "mean R@1": 12.5}, "intervals": {"R@1 IoU=0.3": [10, 20]}}
    (tmp_path / "run" / "metrics" / "scratch.json").write_text(json.dumps(scores))
    assert main(["notebooks", "02", "--run", "run", "-p", "depth", "2"]) == 0
    printed = capsys.readouterr().out
    assert "12.50" in printed
    addresses = [line.split()[-1] for line in printed.splitlines() if "file://" in line]
    assert addresses == [(tmp_path / "run" / name).as_uri() for name in ("pages/02_second.html", "index.html")]


def test_quick_takes_the_tiny_parameters_that_a_notebook_has_where_none_are_given(project, tmp_path):
    run_notebooks(["01"], tmp_path / "run", {"epochs": 3}, progress=False, quick=True)
    seen = json.loads((tmp_path / "run" / "seen.json").read_text())
    assert (seen["scale"], seen["epochs"], seen["rate"]) == ("tiny", 3, 0.1)


def test_what_a_notebook_writes_names_it_and_its_parameters(project, tmp_path):
    shown = "from groundnlq.provenance import made_by\nprint(made_by()['command'])"
    write_notebook(project / "notebooks" / "03_made.ipynb", CHECK, shown, parameters=PARAMETERS)
    (executed,) = run_notebooks(["03"], tmp_path / "run", {"epochs": 7}, progress=False)
    command = outputs(executed)
    assert command.startswith(f"notebook 03_made.ipynb run_dir={tmp_path / 'run'} epochs=7 rate=0.1 scale=demo")


def test_a_failing_cell_leaves_no_line_of_the_kernel_in_the_terminal(project, tmp_path, capfd):
    with pytest.raises(KitError):
        run_notebooks(["01"], tmp_path / "run", {"epochs": 13}, progress=False)
    assert capfd.readouterr().err == ""


def test_a_training_is_shown_with_loss_and_the_minutes_that_its_own_pace_leaves(tmp_path, monkeypatch):
    folder, seen = RunDirectory(tmp_path / "pretrain"), {}
    monkeypatch.setattr("time.time", lambda: 1000.0)
    with folder.locked():
        folder.write_status("running", 10, 100, loss=1.5)
        assert runs._training(tmp_path, seen) == "pretrain: step 10 of 100, loss 1.500"
        folder.write_status("running", 10, 100, loss=0.0)  # the first step of an epoch, or its validation
        assert runs._training(tmp_path, {}) == "pretrain: step 10 of 100"
        folder.write_status("running", 40, 100, loss=1.25)
        monkeypatch.setattr("time.time", lambda: 1060.0)
        assert runs._training(tmp_path, seen) == "pretrain: step 40 of 100, loss 1.250, 2.0 minutes left"


def test_a_training_that_has_ended_or_died_is_not_shown(tmp_path):
    folder = RunDirectory(tmp_path / "pretrain")
    with folder.locked():
        folder.write_status("running", 10, 100, loss=1.5)
    assert runs._training(tmp_path, {}) == ""  # nobody holds it
    with folder.locked():
        folder.write_status("finished", 100, 100, loss=1.5)
        assert runs._training(tmp_path, {}) == ""


def test_where_nothing_trains_the_cell_that_runs_is_shown_with_its_heading(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "EVERY_SEC", 0.1)
    write_notebook(project / "notebooks" / "03_slow.ipynb", "import time", "time.sleep(1)")
    notebook = nbformat.read(project / "notebooks" / "03_slow.ipynb", as_version=4)
    head = "# 3 · Slow\n\n**Question.** Who?\n**Time.** A second, at most."
    for place, text in ((0, head), (2, "## Sleep\n\nIt sleeps.")):
        notebook.cells.insert(place, nbformat.v4.new_markdown_cell(text))
    nbformat.write(notebook, project / "notebooks" / "03_slow.ipynb")
    run_notebooks(["03"], tmp_path / "run")
    first, *lines = capsys.readouterr().out.split("[1/1] 03_slow: ")[0].splitlines()
    assert first.split() == ["03_slow", "A", "second,", "at", "most."]
    assert "cell 4 of 4: Sleep" in {line.partition("s  ")[2] for line in lines}


def test_jupyterlab_opens_the_project_with_copies_that_no_later_call_overwrites(project, monkeypatch, capsys):
    started = []
    monkeypatch.setattr("os.execv", lambda *command: started.append(command))
    assert main(["notebooks", "--lab"]) == 0
    copy, original = project / "my_notebooks" / "01_first.ipynb", project / "notebooks" / "01_first.ipynb"
    assert copy.read_bytes() == original.read_bytes()
    copy.write_text("mine")
    os.utime(original, (2e9, 2e9))
    assert main(["notebooks", "--lab"]) == 0
    assert copy.read_text() == "mine"
    assert f"{original.resolve()} is newer than your copy {copy.resolve()}, which stays" in capsys.readouterr().out
    assert [command[1][2:4] for command in started] == [["jupyterlab", f"--ServerApp.root_dir={project.resolve()}"]] * 2


def test_every_combination_of_a_sweep_has_a_folder_and_is_run_once(tmp_path, monkeypatch, capsys):
    calls, tables = [], []
    monkeypatch.setattr(runs, "run_notebooks", lambda names, folder, given, **_: calls.append((folder.name, given)))
    table = pd.DataFrame({f"column {number}": [12.345] for number in range(11)})
    monkeypatch.setattr(
        "groundnlq.notebook_results.sweep_table", lambda folder, settings: tables.append(settings) or table
    )
    arguments = ["notebooks", "3", "4", "--run", str(tmp_path), "-p", "overrides", "train.epochs=3"]
    arguments += ["--sweep", "train.seed=1,2", "pretrained=best.pt,last.pt"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("12.3") == 11  # no column of the table is left out
    assert calls[1] == (
        "train.seed=1,pretrained=last.pt",
        {"overrides": "train.epochs=3 train.seed=1", "pretrained": "last.pt"},
    )
    assert len({name for name, _ in calls}) == len(calls) == 4
    assert set(tables[0].values()) == {"pretrained=best.pt", "pretrained=last.pt"}  # seeds are trainings of a setting
    assert main(arguments) == 0
    assert len(calls) == 4
    assert main([*arguments, "train.batch_size=8"]) == 0
    assert len(calls) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3", "--sweep", "train.sead=1,2"], "unknown key train.sead; did you mean train.seed"),
        (["4", "--sweep", "pretraind=a,b"], "no notebook has a parameter 'pretraind'; did you mean pretrained"),
        (["2", "3", "--sweep", "train.seed=1,2"], "share the features of notebook 02 -- name later ones"),
        (["--sweep", "train.seed=1,2"], "share the features of notebook 02 -- name later ones"),
        (["3", "--sweep", "train.seed"], "train.seed"),
    ],
)
def test_a_sweep_that_cannot_run_to_its_end_is_refused_before_it_begins(tmp_path, capsys, arguments, message):
    assert main(["notebooks", *arguments, "--run", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
