"""What the cells of a notebook call first: project folder, parameters, live progress of training."""

import ast
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from groundnlq import provenance
from groundnlq.engine.reporter import Reporter
from groundnlq.errors import ConfigError, Findings, KitError, closest

HOME_VARIABLE = "GROUNDNLQ_HOME"
NAME_VARIABLE = "JPY_SESSION_NAME"  # path of the notebook that a kernel runs; JupyterLab sets it, too
INJECTED = "# Parameters"  # first line of the cell that papermill adds
RANGES = {  # of parameters, both ends included
    **dict.fromkeys(("processes", "epochs", "num_videos"), (1, math.inf)),
    **dict.fromkeys(("seed", "film", "query_number"), (0, math.inf)),
    "tiou_threshold": (0.01, 0.99),
}


def project_folder() -> Path:
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
    folder = project_folder()
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
    """Refuse unknown, mistyped or impossible parameters among a notebook's ``globals()``, right after its parameters
    cell. A type is such as ``int``, ``float`` (whole numbers, too) or ``int | None``; `RANGES` are those of the values.

    papermill only warns about an unknown name, but the name is in the cell that it injected. From here on, provenance
    names the notebook and its parameters.

    >>> check_parameters({"run_dir": "runs/demo", "epochs": "3"}, run_dir=str, epochs=int)
    Traceback (most recent call last):
    groundnlq.errors.ConfigError: parameters: epochs='3' is of type str, expected int -- correct and run again
    """
    findings = Findings("parameters", ConfigError)
    injected = [cell for cell in variables.get("In", ()) if cell.lstrip().startswith(INJECTED)]
    for name in assignments(injected[-1]) if injected else ():
        if name not in types:
            findings.add(f"unknown parameter {name!r}{closest(name, types)}")
    for name, kind in types.items():
        check_value(findings, name, variables.get(name), kind)
    findings.raise_if_any("correct and run again")
    if provenance.command_line[:1] != ["groundnlq"]:  # a command's own line is of more use
        notebook = Path(os.environ.get(NAME_VARIABLE) or "of unknown name").name
        provenance.command_line[:] = ["notebook", notebook, *(f"{name}={variables[name]}" for name in types)]


def check_value(findings: Findings, name: str, value: Any, kind: Any) -> None:
    """Add what is wrong with the type or the range of a parameter's value."""
    kinds = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        expected = str(kind) if isinstance(kind, UnionType) else kind.__name__
        findings.add(f"{name}={value!r:.60} is of type {type(value).__name__}, expected {expected}")
    elif name in RANGES and not low <= value <= high:
        findings.add(f"{name}={value} is not {f'at least {low}' if high == math.inf else f'between {low} and {high}'}")


def assignments(source: str) -> dict[str, ast.expr]:
    """The values, as syntax, that the statements of a cell assign to names."""
    found: dict[str, ast.expr] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: statement.value for target in targets if isinstance(target, ast.Name)}
    return found


def about(notebook: Any) -> dict[str, str]:
    """Title of a notebook, and what its first cell says after words in bold, such as ``**Time.**``."""
    title, _, text = "".join(cell.source for cell in notebook.cells[:1]).partition("\n")
    said = re.findall(r"\*\*(\w+)\.\*\*\s+(.+?)(?=\s+\*\*|\n\n|$)", text, re.DOTALL)
    return {"title": title.removeprefix("# ")} | {word: " ".join(words.split()) for word, words in said}


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
            loss = f", loss {status['loss']:.3f}" if status["loss"] else ""  # none yet in this epoch
            line = f"{'▰' * done}{'▱' * (20 - done)} {line}, epoch {status['epoch']} of {self.epochs}{loss}"
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
