"""Around the notebooks: project folder, parameters, live progress of training, headless runs."""

from __future__ import annotations

import ast
import json
import os
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import Any

from groundnlq.engine.reporter import Reporter
from groundnlq.errors import ConfigError, Findings, KitError, closest

HOME_VARIABLE = "GROUNDNLQ_HOME"
INJECTED = "# Parameters"  # first line of the cell that papermill adds
KERNEL = {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}  # of this environment
START_SEC = 600  # that a kernel may take on a busy machine


def _project_folder() -> Path:
    """`$GROUNDNLQ_HOME`, else the nearest folder upwards that has ``notebooks/`` and ``pyproject.toml``, else the
    checkout that the package was installed from."""
    here, given = Path.cwd(), os.environ.get(HOME_VARIABLE)
    candidates = [Path(given)] if given else [here, *here.parents, Path(__file__).resolve().parents[1]]
    for folder in candidates:
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder.resolve()
    place = f"{HOME_VARIABLE}={given}" if given else f"{here} and above"
    raise ConfigError(f"{place}: no folder with notebooks/ and pyproject.toml -- set {HOME_VARIABLE} to it")


def workspace() -> Path:
    """Change to the project folder, so that a path means the same in JupyterLab, papermill and a shell.

    Figures are shown as sharp PNGs with a text in words from here on, and a dollar sign in a table stays one: no query
    is typeset as a formula.
    """
    import pandas as pd
    from IPython import get_ipython

    pd.set_option("display.html.use_mathjax", False)
    folder = _project_folder()
    os.chdir(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # for notebooks/lessons
    if (shell := get_ipython()) is not None:
        from matplotlib.figure import Figure

        from groundnlq.view.style import figure_png

        display: Any = shell.display_formatter
        display.formatters["image/png"].for_type(Figure, figure_png)
    return folder


def require(path: str | Path, remedy: str) -> None:
    """Check that a file exists which an earlier notebook makes; a KitError with the remedy where it is missing."""
    if not Path(path).exists():
        raise KitError(f"{path} is missing -- {remedy}")


def check_parameters(variables: Mapping[str, Any], **types: Any) -> None:
    """Refuse unknown or mistyped parameters among a notebook's ``globals()``, right after its parameters cell. A type
    is such as ``int``, ``float`` (whole numbers, too) or ``int | None``.

    papermill only warns about an unknown name, but the name is in the cell that it injected.

    >>> check_parameters({"run_dir": "runs/demo", "epochs": "3"}, run_dir=str, epochs=int)
    Traceback (most recent call last):
    groundnlq.errors.ConfigError: parameters: epochs='3' is of type str, expected int -- correct and run again
    """
    findings = Findings("parameters", ConfigError)
    injected = [cell for cell in variables.get("In", ()) if cell.lstrip().startswith(INJECTED)]
    for name in _assignments(injected[-1]) if injected else ():
        if name not in types:
            findings.add(f"unknown parameter {name!r}{closest(name, types)}")
    for name, kind in types.items():
        _check_type(findings, name, variables.get(name), kind)
    findings.raise_if_any("correct and run again")


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of a notebook's parameters: the literals in its cell tagged ``parameters``; anything
    else would not follow when another parameter is injected."""
    _, source = _title_and_parameters(path)
    try:
        return {name: ast.literal_eval(value) for name, value in _assignments(source).items()}
    except (ValueError, SyntaxError) as error:
        raise ConfigError(f"{path}: parameters must be plain literals ({error})") from None


def list_notebooks() -> str:
    """Title and parameters cell of each notebook in the project folder, as text."""
    lines = []
    for path in sorted((_project_folder() / "notebooks").glob("*.ipynb")):
        try:
            title, parameters = _title_and_parameters(path)
        except ConfigError as error:
            title, parameters = str(error), ""
        lines += ["", f"{path.stem}   {title}", *(f"    {line}" for line in parameters.splitlines())]
    return "\n".join(lines)


def _title_and_parameters(path: Path) -> tuple[str, str]:
    cells = _read(path).cells
    parameters = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    return "".join(cell.source for cell in cells[:1]).partition("\n")[0].removeprefix("# "), "\n".join(parameters)


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


def _assignments(source: str) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: statement.value for target in targets if isinstance(target, ast.Name)}
    return found


def _check_type(findings: Findings, name: str, value: Any, kind: Any) -> None:
    kinds = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        expected = str(kind) if isinstance(kind, UnionType) else kind.__name__
        findings.add(f"{name}={value!r:.60} is of type {type(value).__name__}, expected {expected}")


class NotebookReporter(Reporter):
    """Training progress in a notebook: a line for the step, one for the last epoch, and the loss curves; each is
    replaced in place, so that the notebook's file keeps the last state."""

    def __init__(self, epochs: int):
        from IPython.display import DisplayHandle, Markdown

        self.epochs, self._markdown = epochs, Markdown
        self._step, self._epoch, self._curve = handles = DisplayHandle(), DisplayHandle(), DisplayHandle()
        for handle, text in zip(handles, ("training ...", "", ""), strict=True):
            handle.display(Markdown(text))

    def status(self, status: Mapping[str, Any]) -> None:
        line = f"step {status['step']} of {status['total_steps']}"
        if status["state"] == "running":
            done = round(20 * status["step"] / max(1, status["total_steps"]))
            epoch, loss = f"epoch {status['epoch']} of {self.epochs}", f"loss {status['loss']:.3f}"
            line = f"{'▰' * done}{'▱' * (20 - done)} {line}, {epoch}, {loss}"
        elif status["state"] in ("predicting", "decoding"):
            words = {"predicting": "validating, query", "decoding": "reading videos:"}[status["state"]]
            line = f"{words} {status['step']} of {status['total_steps']}"
        else:
            line = f"{status['state']} at {line}"
        self._step.update(self._markdown(line))

    def epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        from groundnlq.view.plots import loss_curve

        row = history[-1]
        found = [f", {name} {row[f'ema {name}']:.1f}" for name in ("mean R@1", "EgoMCQ mean") if f"ema {name}" in row]
        scores = f"epoch {row['epoch']} of {self.epochs}: loss {row['loss total']:.3f}{''.join(found)}"
        waits = f"{100 * row['data_wait_share']:.1f} % of the time waiting for data"
        costs = f"{row['steps_per_second']:.1f} steps a second, {waits}, {row['peak_memory_mb']} MB"
        self._epoch.update(self._markdown(f"{scores}; {costs}"))
        self._curve.update(loss_curve(history))

    def message(self, text: str) -> None:
        print(text)


def run_notebooks(
    names: Sequence[str] = (),
    run_dir: str | Path = "runs/demo",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Path]:
    """The executed notebooks, run in order through papermill, each in a new kernel, after all parameters are checked.

    Args:
        names: such as ``04_finetuning`` or ``04``; all when empty.
        run_dir: the notebooks' ``run_dir``; the executed ones go to ``run_dir/notebooks``.
        parameters: values by name; text, as a shell passes it, is read as the type of the default.

    A KitError about a cell that failed names the executed notebook, which holds the traceback.
    """
    from groundnlq.engine.run_dir import RunDirectory

    project, run_dir = _project_folder(), Path(run_dir).resolve()
    paths = _select(project / "notebooks", names)
    values = _values(paths, dict(parameters or {}), run_dir)
    outputs = [run_dir / "notebooks" / path.name for path in paths]
    with RunDirectory(run_dir / "notebooks").locked():
        for number, (path, output) in enumerate(zip(paths, outputs, strict=True), 1):
            began = time.monotonic()
            _execute(path, output, values[path], project, progress)
            if progress:
                print(f"[{number}/{len(paths)}] {path.stem}: {time.monotonic() - began:.0f} s, {output}", flush=True)
    return outputs


def _select(folder: Path, names: Sequence[str]) -> list[Path]:
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    for name in names:
        if not any(name in (stem, stem.split("_")[0]) for stem in known):
            raise ConfigError(f"no notebook {name!r}{closest(name, known)} -- there are {', '.join(known)}")
    return [path for stem, path in known.items() if not names or {stem, stem.split("_")[0]} & set(names)]


def _values(paths: Sequence[Path], given: dict[str, Any], run_dir: Path) -> dict[Path, dict[str, Any]]:
    """The given parameters that each notebook has."""
    defaults = {path: notebook_parameters(path) for path in paths}
    known = {name: value for one in defaults.values() for name, value in one.items()}
    findings = Findings("parameters", ConfigError)
    for name, value in given.items():
        if name not in known:
            findings.add(f"no notebook has a parameter {name!r}{closest(name, known)}")
            continue
        given[name] = _literal(value) if isinstance(value, str) and not isinstance(known[name], str) else value
        if known[name] is not None:
            _check_type(findings, name, given[name], type(known[name]))
    findings.raise_if_any("correct and run again")
    given = {"run_dir": str(run_dir)} | given
    return {path: {name: given[name] for name in one if name in given} for path, one in defaults.items()}


def _literal(text: str) -> Any:
    """The value that a text from the shell spells; ``true``, ``false`` and ``none`` in any case."""
    try:
        return ast.literal_eval(text.title() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        return text


def _execute(path: Path, output: Path, values: Mapping[str, Any], project: Path, progress: bool) -> None:
    import nbformat
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel

    notebook = _read(path)
    if (named := notebook.metadata.kernelspec["name"]) != KERNEL["name"]:
        warnings.warn(f"{path.stem}: run by the Python of {sys.prefix}, not by its kernel {named!r}", stacklevel=3)
    notebook.metadata.kernelspec = KERNEL
    output.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output)  # papermill reads what lacks nothing
    options: dict[str, Any] = {"progress_bar": progress and sys.stderr.isatty(), "start_timeout": START_SEC}
    try:
        with _kernel_address() as config:
            papermill.execute_notebook(output, output, dict(values), cwd=str(project), config=config, **options)
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
def _kernel_address() -> Iterator[Any]:
    """Where a kernel listens: Unix sockets in a folder of its own; where none can be bound, ports of this machine."""
    from traitlets.config import Config

    config = Config()
    with tempfile.TemporaryDirectory(prefix="groundnlq-", ignore_cleanup_errors=True) as folder:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:  # an OSError for a long path, too
            probe.bind(f"{folder}/kernel-0")
            config.KernelManager.update(transport="ipc", ip=f"{folder}/kernel")
        yield config
