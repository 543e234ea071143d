"""Run the notebooks headlessly, from a shell or a program, through papermill."""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundnlq.errors import ConfigError, Findings, KitError, closest
from groundnlq.notebook import is_a, mismatch, notebook_parameters, project_folder

if TYPE_CHECKING:
    import pandas as pd

WORDS = {"true": True, "false": False, "none": None}


def run_notebooks(
    names: Sequence[str] = (),
    run_dir: str | Path = "runs/demo",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Path]:
    """Execute notebooks in order, each from its own fresh kernel; nothing runs before all is checked.

    Args:
        names: such as ``03_finetuning`` or ``03``; all when empty.
        run_dir: handed to the notebooks as ``run_dir``; the executed ones go to ``run_dir/notebooks``.
        parameters: values by name; text, as the shell has it, is read as the type of the default.

    Returns:
        the executed notebooks.

    Raises:
        ConfigError: unknown notebook or parameter, or a value of the wrong type.
        KitError: a cell failed; the executed notebook that keeps its traceback is named.
    """
    project, run_dir = project_folder(), Path(run_dir).resolve()
    paths = _select(project / "notebooks", names)
    plan = _plan(paths, dict(parameters or {}), run_dir)
    executed = []
    for number, (path, values) in enumerate(zip(paths, plan, strict=True), 1):
        began, output = time.monotonic(), run_dir / "notebooks" / path.name
        _execute(path, output, values, project, progress)
        if progress:
            print(f"[{number}/{len(paths)}] {path.stem}: {time.monotonic() - began:.0f} s", flush=True)
        executed.append(output)
    return executed


def describe_notebooks() -> str:
    """Each notebook's title and its parameters cell, as they stand in the project folder."""
    lines = []
    for path in sorted((project_folder() / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).partition("\n")[0].removeprefix("# ")
        sources = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
        lines += ["", f"{path.stem}   {title}", *(f"    {line}" for s in sources for line in s.splitlines())]
    return "\n".join(lines)


def recall_table(run_dir: str | Path) -> pd.DataFrame | None:
    """Strict recalls of all evaluations of a run folder (``metrics/*.json``), the weakest first."""
    import pandas as pd

    paths = sorted((Path(run_dir) / "metrics").glob("*.json"))
    rows = {path.stem: json.loads(path.read_text(encoding="utf-8"))["strict"] for path in paths}
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("mean R@1") if rows else None


def _select(folder: Path, names: Sequence[str]) -> list[Path]:
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    wanted = {name: [stem for stem in known if stem == name or stem.split("_")[0] == name] for name in names}
    for name, found in wanted.items():
        if not found:
            raise ConfigError(f"no notebook {name!r}{closest(name, known)} -- there are {', '.join(known)}")
    chosen = {stem for found in wanted.values() for stem in found} or known
    return [path for stem, path in known.items() if stem in chosen]


def _plan(paths: Sequence[Path], parameters: dict[str, Any], run_dir: Path) -> list[dict[str, Any]]:
    defaults = [notebook_parameters(path) for path in paths]
    known = {name: value for one in defaults for name, value in one.items()}
    findings = Findings("parameters", ConfigError)
    for name, value in parameters.items():
        if name not in known:
            findings.add(f"no notebook has a parameter {name!r}{closest(name, known)}")
            continue
        parameters[name] = value = _read(value, known[name])
        if known[name] is not None and not is_a(value, type(known[name])):
            findings.add(mismatch(name, value, type(known[name])))
    findings.raise_if_any("correct and run again")
    given = {"run_dir": str(run_dir)} | parameters
    return [{name: given[name] for name in one if name in given} for one in defaults]


def _read(value: Any, default: Any) -> Any:
    """Text from the shell as the literal it spells, unless text is what the parameter holds."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    try:
        return WORDS[value.lower()] if value.lower() in WORDS else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _execute(path: Path, output: Path, values: Mapping[str, Any], project: Path, progress: bool) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    options = Config()
    if os.name == "posix":
        options.KernelManager.transport = "ipc"  # files instead of open ports, and no warning about them
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            *(str(path), str(output)),
            parameters=dict(values),
            kernel_name="python3",
            cwd=str(project),
            progress_bar=progress and sys.stderr.isatty(),
            config=options,
        )
    except papermill.PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
        raise KitError(f"{path.stem}: cell {error.exec_count} failed, {reason} -- see {output}") from error
    except DeadKernelError as error:
        raise KitError(f"{path.stem}: its kernel died (out of memory?) -- see {output}") from error
