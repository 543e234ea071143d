"""What the notebooks need around them: the project folder, checked parameters, live progress."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

from groundnlq.errors import ConfigError, Findings, KitError, closest

if TYPE_CHECKING:
    pass

HOME_VARIABLE = "GROUNDNLQ_HOME"
INJECTED = "# Parameters"  # how papermill begins the cell that it adds


# ---- the project folder


def project_folder() -> Path:
    """`$GROUNDNLQ_HOME`, else the nearest folder upwards that has ``notebooks/`` and ``pyproject.toml``, else
    the checkout that the package was installed from.

    Raises:
        ConfigError: none of these is a project folder.
    """
    here, given = Path.cwd(), os.environ.get(HOME_VARIABLE)
    candidates = [Path(given)] if given else [here, *here.parents, Path(__file__).resolve().parents[1]]
    for folder in candidates:
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder.resolve()
    place = f"{HOME_VARIABLE}={given}" if given else f"{here} and above"
    raise ConfigError(f"{place}: no folder with notebooks/ and pyproject.toml -- set {HOME_VARIABLE} to it")


def workspace() -> Path:
    """Work in the project folder, so that a path means the same from JupyterLab, papermill and a shell.

    In a notebook, figures are shown as pictures from here on, whatever backend the shell names, and a
    dollar in a table is a dollar: a query is never typeset.
    """
    import pandas as pd
    from IPython import get_ipython
    from IPython.core.pylabtools import select_figure_formats

    pd.set_option("display.html.use_mathjax", False)
    folder = project_folder()
    os.chdir(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # the notebooks' own figures are in notebooks/lessons
    if (shell := get_ipython()) is not None:
        # "tight" would draw everything twice; more effort would make pictures a tenth smaller, for 8 ms each
        select_figure_formats(shell, {"png"}, bbox_inches=None, pil_kwargs={"compress_level": 3})
    return folder


def require(path: str | Path, remedy: str) -> None:
    """Refuse to begin a notebook without what an earlier one makes.

    Raises:
        KitError: the file is missing; the message says which notebook makes it.
    """
    if not Path(path).exists():
        raise KitError(f"{path} is missing -- {remedy}")


# ---- parameters


def check_parameters(variables: Mapping[str, Any], **types: Any) -> None:
    """Refuse unknown or mistyped parameters; a notebook calls it right behind its parameters cell.

    papermill itself only warns of an unknown name and runs on, but the name stands in the cell that it
    injected. Types are checked on the values, however they were set.

    >>> check_parameters({"run_dir": "runs/demo", "epochs": "3"}, run_dir=str, epochs=int)
    Traceback (most recent call last):
    groundnlq.errors.ConfigError: parameters: epochs='3' is of type str, expected int -- correct and run again

    Args:
        variables: the notebook's ``globals()``.
        types: type of each parameter, such as ``int``, ``float`` (whole numbers, too) or ``int | None``.
    """
    findings = Findings("parameters", ConfigError)
    injected = [cell for cell in variables.get("In", ()) if cell.lstrip().startswith(INJECTED)]
    for name in _assignments(injected[-1]) if injected else ():
        if name not in types:
            findings.add(f"unknown parameter {name!r}{closest(name, types)}")
    for name, kind in types.items():
        if not is_a(variables.get(name), kind):
            findings.add(mismatch(name, variables.get(name), kind))
    findings.raise_if_any("correct and run again")


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of a notebook's parameters: the literals of its cell tagged ``parameters``.

    Raises:
        ConfigError: a default that is no literal; it would not follow when another parameter is injected.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
    assignments = {name: value for source in sources for name, value in _assignments(source).items()}
    try:
        return {name: ast.literal_eval(value) for name, value in assignments.items()}
    except ValueError as error:
        raise ConfigError(f"{path}: parameters must be plain literals ({error})") from None


def _assignments(source: str) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: statement.value for target in targets if isinstance(target, ast.Name)}
    return found


def is_a(value: Any, kind: Any) -> bool:
    """Whether a parameter's value is of a type; a whole number will do for a float."""
    kinds = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def mismatch(name: str, value: Any, kind: Any) -> str:
    """What is wrong with a parameter's value."""
    expected = str(kind) if isinstance(kind, UnionType) else kind.__name__
    return f"{name}={value!r:.60} is of type {type(value).__name__}, expected {expected}"


# ---- live progress


class Live:
    """A line of Markdown, or a figure, that is replaced in place; the notebook's file keeps the last one."""

    def __init__(self, text: str):
        from IPython.display import Markdown, display

        self._handle = display(Markdown(text), display_id=True)

    def update(self, shown: Any) -> None:
        """Show Markdown text, or anything that Jupyter can show, instead."""
        from IPython.display import Markdown

        if self._handle is not None:  # None outside of Jupyter
            self._handle.update(Markdown(shown) if isinstance(shown, str) else shown)


def turn(make: Callable[..., Any], **choices: Sequence[Any]) -> None:
    """A slider for each argument of `make` and the figure that it gives; the last one stays in the file.

    >>> turn(lambda length_sec: draw(length_sec), length_sec=(1, 2, 4))  # doctest: +SKIP

    Args:
        choices: the values of each argument; the first figure is of the middle ones.
    """
    import ipywidgets as widgets
    from IPython.display import display

    wide = {"layout": widgets.Layout(width="60%"), "style": {"description_width": "9em"}}
    sliders = {
        name: widgets.SelectionSlider(
            description=name.replace("_", " "), options=[(f"{v:g}", v) for v in values],
            value=values[len(values) // 2], continuous_update=False, **wide,
        )
        for name, values in choices.items()
    }  # fmt: skip
    display(widgets.VBox(list(sliders.values())))
    handle = display(make(**{name: slider.value for name, slider in sliders.items()}), display_id=True)
    for slider in sliders.values():
        slider.observe(lambda _: handle.update(make(**{n: s.value for n, s in sliders.items()})), "value")


def live_training(epochs: int) -> dict[str, Callable[[Any], None]]:
    """Callbacks for ``train`` and ``launch``: a line on the step, one on the last epoch, the curves.

    >>> train(config, run_dir, **live_training(epochs=10))  # doctest: +SKIP
    """
    from groundnlq.view.timeline import loss_curve

    now, last, curve = Live("training ..."), Live(""), Live("")

    def on_status(status: dict[str, Any]) -> None:
        if status["state"] != "running":
            now.update(f"{status['state']} at step {status['step']} of {status['total_steps']}")
            return
        share = status["step"] / max(1, status["total_steps"])
        bar = "▰" * round(20 * share) + "▱" * (20 - round(20 * share))
        epoch, loss = f"epoch {status['epoch']} of {epochs}", f"loss {status['loss']:.3f}"
        now.update(f"{bar} step {status['step']} of {status['total_steps']}, {epoch}, {loss}")

    def on_epoch(history: list[dict[str, Any]]) -> None:
        row = history[-1]
        recall = f", mean R@1 {row['ema mean R@1']:.1f}" if "ema mean R@1" in row else ""
        waits = f"{100 * row['data_wait_share']:.1f} % of the time waiting for data"
        costs = f"{row['steps_per_second']:.1f} steps a second, {waits}, {row['peak_memory_mb']} MB"
        last.update(f"epoch {row['epoch']} of {epochs}: loss {row['loss total']:.3f}{recall}; {costs}")
        curve.update(loss_curve(history))

    return {"on_epoch": on_epoch, "on_status": on_status}
