"""Runs of the notebooks through papermill: parameters, progress in the terminal; and copies of them to work on."""

import ast
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import product
from pathlib import Path
from threading import Event, Thread
from typing import Any

from groundnlq.config import load_config
from groundnlq.engine.run_dir import RunDirectory, read_status
from groundnlq.errors import ConfigError, Findings, KitError, closest
from groundnlq.files import write_json
from groundnlq.notebook import NAME_VARIABLE, about, assignments, check_value, project_folder

KERNEL = {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}  # of this environment
START_SEC = 600  # that a kernel may take on a busy machine
EVERY_SEC = 10.0  # between lines of progress
COPIES = "my_notebooks"  # in the project folder, ignored by git
QUICK = {  # parameters for a look at everything in two minutes ...
    "scale": "tiny", "data_folder": "data/quick", "epochs": 2, "num_videos": 2,
    "overrides": "train.epochs=2 train.warmup_epochs=1 train.validate_every_epochs=1",
}  # fmt: skip
NOT_SHOWN = "This is a tiny world and two epochs: everything can be looked at, but no network has learned anything."


def _notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of a notebook's parameters: the literals in its cell tagged ``parameters``; anything
    else would not follow when another parameter is injected."""
    try:
        return {name: ast.literal_eval(value) for name, value in assignments(_parameters_cell(_read(path))).items()}
    except (ValueError, SyntaxError) as error:
        raise ConfigError(f"{path}: parameters must be plain literals ({error})") from None


def list_notebooks() -> str:
    """Title and parameters cell of each notebook in the project folder, as text."""
    lines = []
    for path in sorted((project_folder() / "notebooks").glob("*.ipynb")):
        try:
            notebook = _read(path)
            title, parameters = about(notebook)["title"], _parameters_cell(notebook)
        except ConfigError as error:
            title, parameters = str(error), ""
        lines += ["", f"{path.stem}   {title}", *(f"    {line}" for line in parameters.splitlines())]
    return "\n".join(lines)


def _parameters_cell(notebook: Any) -> str:
    return "\n".join(cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))


def _read(path: Path) -> Any:
    """A notebook of any format in the newest one, without outputs; a ConfigError where it is none."""
    import nbformat

    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        whole = {"nbformat_minor": 0, **given, "nbformat": int(given["nbformat"])}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cells without an id get one
            notebook = nbformat.v4.upgrade(nbformat.reads(json.dumps(whole), as_version=4))
            for cell in notebook.cells:
                cell |= {"outputs": [], "execution_count": None} if cell.cell_type == "code" else {}
            named = (notebook.metadata.get("kernelspec") or {}).get("name") or KERNEL["name"]
            notebook.metadata |= {"kernelspec": KERNEL | {"name": named}, "language_info": {"name": "python"}}
            nbformat.validate(notebook, relax_add_props=True)
            return notebook
    except Exception as error:  # of many kinds
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConfigError(f"{path}: not a notebook ({reason:.100}) -- save it again in JupyterLab") from None


def run_notebooks(
    names: Sequence[str] = (), run_dir: str | Path = "runs/demo", parameters: Mapping[str, Any] | None = None,
    progress: bool = True, quick: bool = False,
) -> list[Path]:  # fmt: skip
    """The executed notebooks, run in order through papermill, each in a new kernel, after all parameters are checked.

    Args:
        names: such as ``04_finetuning``, ``04`` or ``4``; all when empty.
        run_dir: the notebooks' ``run_dir``; the executed ones go to ``run_dir/notebooks``.
        parameters: values by name; text, as a shell passes it, is read as the type of the default.
        progress: print how far it is; make a page of each executed notebook, and an index with what they show.
        quick: with the parameters of `QUICK`, where no others are given.

    A KitError about a cell that failed names the executed notebook, which holds the traceback.
    """
    from groundnlq.notebook_results import write_index, write_page

    run_dir = Path(run_dir).resolve()  # notebooks change to the project folder
    values = _check(names, run_dir, parameters or {}, quick)
    outputs = {path: run_dir / "notebooks" / path.name for path in values}
    if progress:
        times = [] if quick else [f"{path.stem:20} {about(_read(path)).get('Time', '')}" for path in values]
        print(*times, NOT_SHOWN * quick, sep="\n", flush=True)
    with RunDirectory(run_dir / "notebooks").locked():
        for number, (path, output) in enumerate(outputs.items(), 1):
            began = time.monotonic()
            with _progress(run_dir, output) if progress else nullcontext():
                _execute(path, output, values[path])
            if progress:
                took, page = time.monotonic() - began, write_page(output).as_uri()
                print(f"[{number}/{len(values)}] {path.stem}: {took:.0f} s, {page}", flush=True)
    if progress:
        print(write_index(run_dir, NOT_SHOWN * quick))
    return list(outputs.values())


def run_sweep(
    names: Sequence[str], run_dir: Path, parameters: Mapping[str, Any], sweeps: Sequence[str], quick: bool = False
) -> str:
    """Run notebooks with every combination of values, each in a folder of ``RUN``; returns `sweep_table` as text.

    The same call goes on where one was stopped. `sweeps` are such as ``train.seed=1,2,3``: a key with a dot is a
    setting of the runs, another one is a parameter.
    """
    from groundnlq.notebook_results import sweep_table

    runs, settings = dict[Path, dict[str, Any]](), dict[Path, str]()
    axes = [[(key, value) for value in values.split(",")] for key, _, values in (s.partition("=") for s in sweeps)]
    for chosen in product(*axes):
        folder = run_dir / re.sub(r"[^\w.,=-]", "-", ",".join(map("=".join, chosen)))
        settings[folder] = " ".join("=".join(pair) for pair in chosen if not pair[0].endswith("seed"))
        runs[folder] = {**parameters, **{key: value for key, value in chosen if "." not in key}}
        if overrides := ["=".join(pair) for pair in chosen if "." in pair[0]]:
            runs[folder]["overrides"] = " ".join([parameters.get("overrides", ""), *overrides]).strip()
        if not names or any(path.stem < "03" for path in _check(names, folder, runs[folder], quick)):
            raise ConfigError("the runs of a sweep share the features of notebook 02 -- name later ones, such as 03 04")
    for number, (folder, given) in enumerate(runs.items(), 1):
        print(f"({number} of {len(runs)}) {folder.name}")
        mark, made_of = folder / "done.json", {"notebooks": sorted(names), "parameters": given}
        if not mark.exists() or json.loads(mark.read_text("utf-8")) != made_of:
            run_notebooks(names, folder, given, quick=quick)
            write_json(mark, made_of)
    table = sweep_table(run_dir, settings).to_string(float_format="{:.1f}".format, line_width=110)
    return f"{table}\nwrote {run_dir / 'sweep.csv'} and sweep.png"


def _check(
    names: Sequence[str], run_dir: Path, parameters: Mapping[str, Any], quick: bool = False
) -> dict[Path, dict[str, Any]]:
    """The notebooks, and the parameters that each of them gets; a ConfigError with all that is wrong in them."""
    paths = _select(project_folder() / "notebooks", names)
    defaults = {path: _notebook_parameters(path) for path in paths}
    known = {name: value for one in defaults.values() for name, value in one.items()}
    given = {name: value for name, value in QUICK.items() if quick and name in known} | dict(parameters)
    findings = Findings("parameters", ConfigError)
    for name, value in given.items():
        if name not in known:
            findings.add(f"no notebook has a parameter {name!r}{closest(name, known)}")
            continue
        given[name] = _literal(value) if isinstance(value, str) and not isinstance(known[name], str) else value
        if known[name] is not None:
            check_value(findings, name, given[name], type(known[name]))
    findings.raise_if_any("correct and run again")
    known |= given
    for preset in {known[name] for name in known if name.endswith("preset")}:
        if not preset.endswith((".yaml", ".yml")):  # a path may be relative to the project folder
            load_config(preset, known.get("overrides", "").split())
    given = {"run_dir": str(run_dir)} | given
    return {path: {name: given[name] for name in one if name in given} for path, one in defaults.items()}


def _select(folder: Path, names: Sequence[str]) -> list[Path]:
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    wanted = {name.zfill(2) if name.isdigit() else name for name in names}
    for name in wanted:
        if not any(name in (stem, stem.split("_")[0]) for stem in known):
            raise ConfigError(f"no notebook {name!r}{closest(name, known)} -- there are {', '.join(known)}")
    return [path for stem, path in known.items() if not names or {stem, stem.split("_")[0]} & wanted]


def _literal(text: str) -> Any:
    """The value that a text from the shell spells; ``true``, ``false`` and ``none`` in any case."""
    try:
        return ast.literal_eval(text.title() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        return text


def _execute(path: Path, output: Path, values: Mapping[str, Any]) -> None:
    import nbformat
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel

    notebook = _read(path)
    if (named := notebook.metadata.kernelspec["name"]) != KERNEL["name"]:
        warnings.warn(f"{path.stem}: run by the Python of {sys.prefix}, not by its kernel {named!r}", stacklevel=3)
    notebook.metadata.kernelspec = KERNEL
    output.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output)  # papermill reads what lacks nothing
    os.environ[NAME_VARIABLE] = str(path)
    options: dict[str, Any] = {"progress_bar": False, "start_timeout": START_SEC, "cwd": str(project_folder())}
    try:
        with _kernel_settings() as config:
            papermill.execute_notebook(output, output, dict(values), config=config, **options)
    except papermill.PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
        raise KitError(f"{path.stem}: cell {error.exec_count} failed, {reason} -- see {output}") from error
    except NoSuchKernel as error:
        remedy = f"{sys.executable} -m pip install ipykernel"
        raise KitError(f"{path.stem}: Jupyter has no kernel {error.name!r} -- {remedy}") from None
    except RuntimeError as error:  # of nbclient
        reason = f"its kernel died (out of memory?) or did not start, {error}"
        raise KitError(f"{path.stem}: {reason} -- see {output}") from error


@contextmanager
def _kernel_settings() -> Iterator[Any]:
    """A kernel is silent about being interrupted at its end, and listens at Unix sockets in a folder of its own; where
    none can be bound, at ports of this machine."""
    from traitlets.config import Config

    config = Config()
    config.NotebookClient.extra_arguments = ["--IPKernelApp.log_level=CRITICAL"]
    with tempfile.TemporaryDirectory(prefix="groundnlq-", ignore_cleanup_errors=True) as folder:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:  # an OSError for a long path, too
            probe.bind(f"{folder}/kernel-0")
            config.KernelManager.update(transport="ipc", ip=f"{folder}/kernel")
        yield config


@contextmanager
def _progress(run_dir: Path, output: Path) -> Iterator[None]:
    """Meanwhile a line every ten seconds: how a training stands, else which cell of the notebook runs."""
    ended, began, seen = Event(), time.monotonic(), dict[Path, tuple[int, float]]()

    def show() -> None:
        while not ended.wait(EVERY_SEC):
            with suppress(OSError, ValueError, KeyError, StopIteration):  # a file is being written; between two cells
                text = _training(run_dir, seen) or _cell(output)
                print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _training(run_dir: Path, seen: dict[Path, tuple[int, float]]) -> str:
    """How a training in this folder stands; `seen` has the step and the time at which it was first met."""
    for path in run_dir.rglob("status.json"):
        status, now = read_status(path.parent), time.time()
        if status.get("state") == "running":
            step, total = status["step"], status["total_steps"]
            first_step, first_time = seen.setdefault(path, (step, now))
            minutes = (total - step) * (now - first_time) / max(1, step - first_step) / 60
            left = f", {minutes:.1f} minutes left" if first_step < step < total else ""
            loss = f", loss {status['loss']:.3f}" if status["loss"] else ""  # none yet in this epoch
            return f"{path.parent.name}: step {step} of {total}{loss}{left}"
    return ""


def _cell(output: Path) -> str:
    cells = json.loads(output.read_text(encoding="utf-8"))["cells"]
    number = next(i for i, c in enumerate(cells, 1) if c["metadata"].get("papermill", {}).get("status") == "running")
    sources = ["".join(cell["source"]) for cell in cells[:number]]
    headings = [source.partition("\n")[0].lstrip("# ") for source in sources if source.startswith("## ")]
    return f"cell {number} of {len(cells)}: {['parameters', *headings][-1]}"


def open_lab() -> None:
    """Start JupyterLab in the project folder, in place of this process, on copies that no later call overwrites."""
    project = project_folder()
    (project / COPIES).mkdir(exist_ok=True)
    for path in sorted((project / "notebooks").glob("*.ipynb")):
        copy = project / COPIES / path.name
        if not copy.exists():
            shutil.copyfile(path, copy)
        elif path.stat().st_mtime > copy.stat().st_mtime:
            print(f"{path} is newer than your copy {copy}, which stays -- delete it to get the new one")
    place = [f"--ServerApp.root_dir={project}", f"--LabApp.default_url=/lab/tree/{COPIES}/00_ask.ipynb"]
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *place])
