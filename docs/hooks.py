"""Pages of the site that are not in docs/: from other folders, the reference, the executed notebooks."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COPIES = {  # a file of the site, and the file of the project that it shows
    "index.md": "README.md",
    "data.md": "data/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "length.png": "benchmarks/length.png",
}
INTERFACE = """# groundnlq

`groundnlq.load` is `Predictor.load`; `groundnlq.evaluate` compares predictions with ground truth.

::: groundnlq.engine.predictor.Predictor

::: groundnlq.engine.predictor.Moment

::: groundnlq.analysis.evaluation.evaluate

::: groundnlq.analysis.evaluation.Evaluation
"""
PARTS = ("data", "model", "engine", "analysis", "view", "sample")
NOT_EXECUTED = """!!! note "Not executed yet"
    This page shows the notebook without its tables and pictures. `groundnlq notebooks --run {run}` executes
    all notebooks (`make demo` does this); then run `make docs` again.

"""


def on_config(config: Any) -> Any:
    """Fill the two menus of pages that are made here."""
    menus = {"executed/": [f"executed/{path.stem}.md" for path in notebooks()], "api/": list(reference())}
    for section in config.nav:
        for title, value in section.items():
            section[title] = menus.get(value, value) if isinstance(value, str) else value
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of other folders, the reference and the notebooks."""
    from mkdocs.structure.files import File

    made: dict[str, str | bytes] = {name: (ROOT / path).read_bytes() for name, path in COPIES.items()}
    made |= reference()
    for path in notebooks():
        made |= notebook_page(path, Path(config.extra["run"]))
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of a page lead to pages of the site."""
    name = page.file.src_uri
    return site_links(markdown, COPIES.get(name, f"docs/{name}"), name)


def site_links(markdown: str, source: str, name: str) -> str:
    """Rewrite the links of a project file for its place in the site; a link to a file outside is plain text.

    Args:
        source: the file in the project, such as ``data/README.md``.
        name: its name in the site, such as ``data.md``.
    """
    pages = {path: page for page, path in COPIES.items()}

    def link(found: re.Match[str]) -> str:
        text, target, fragment = found["text"], found["target"], found["fragment"] or ""
        if not target or "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None:
            return text
        return f"{found['mark']}[{text}]({posixpath.relpath(place, posixpath.dirname(name) or '.')}{fragment})"

    return re.sub(r"(?P<mark>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)#\s]*)(?P<fragment>#[^)\s]*)?\)", link, markdown)


def reference() -> dict[str, str]:
    """A page of the reference for each part of the package, by its name in the site."""
    package = ROOT / "groundnlq"
    pages = {"api/groundnlq.md": INTERFACE, "api/root.md": _modules("the root", "groundnlq", package)}
    return pages | {f"api/{part}.md": _modules(part, f"groundnlq.{part}", package / part) for part in PARTS}


def _modules(title: str, package: str, folder: Path) -> str:
    names = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    return "\n".join([f"# {title}\n", *(f"::: {package}.{name}\n" for name in names)])


# ---- notebooks


def notebooks() -> list[Path]:
    """The committed notebooks, in order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebook_page(path: Path, run: Path) -> dict[str, str | bytes]:
    """The page of a notebook and its pictures, executed in the run directory if it was."""
    import nbformat
    from nbconvert import MarkdownExporter

    executed = ROOT / run / "notebooks" / path.name
    notebook = nbformat.read(executed if executed.exists() else path, as_version=4)
    _drop_widgets(notebook)
    page = f"executed/{path.stem}.md"
    resources = {"unique_key": path.stem, "output_files_dir": path.stem}
    body, resources = MarkdownExporter().from_notebook_node(notebook, resources)
    body = re.sub(r"<details>", '<details markdown="1">', body)
    title, _, rest = body.partition("\n")
    note = "" if executed.exists() else NOT_EXECUTED.format(run=os.fspath(run))
    pictures = {f"executed/{name}": data for name, data in resources.get("outputs", {}).items()}
    return {page: f"{title}\n\n{note}{rest}"} | pictures


def _drop_widgets(notebook: Any) -> None:
    """Leave out outputs that only a running kernel can show; each also has a picture."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_widget(output)]


def _is_widget(output: Any) -> bool:
    return any("widget-view" in kind for kind in output.get("data", {}))
