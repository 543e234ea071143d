"""The README and the pages of docs/: short, true of the code, no broken links, one version."""

import ast
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import groundnlq

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data/README.md", ROOT / "benchmarks/README.md"]
)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: str) -> set[str]:
    """Fragments of a page's headings, as GitHub and mkdocs both make them of plain words."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert 110 <= len(README.splitlines()) <= 130
    assert len(README.split()) <= 1300


def python_of_the_readme() -> ast.Module:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert 5 <= sum(bool(line.strip()) and not line.startswith("#") for line in block.splitlines()) <= 7
    return ast.parse(block)


def test_the_python_of_the_readme_names_what_exists():
    from groundnlq.analysis.evaluation import Evaluation
    from groundnlq.engine.predictor import Moment, Predictor

    owners = {"groundnlq": groundnlq, "model": Predictor, "moment": Moment}
    used = [node for node in ast.walk(python_of_the_readme()) if isinstance(node, ast.Attribute)]
    named = [(node.value.id, node.attr) for node in used if isinstance(node.value, ast.Name)]
    assert {("groundnlq", "load"), ("model", "ask"), ("model", "predict"), ("groundnlq", "evaluate")} <= {*named}
    assert [pair for pair in named if not hasattr(owners[pair[0]], pair[1])] == []
    assert hasattr(Evaluation, "table")


def test_the_files_in_the_python_of_the_readme_are_those_of_the_demo():
    texts = {n.value for n in ast.walk(python_of_the_readme()) if isinstance(n, ast.Constant)}
    assert {"runs/demo/finetune", "data/sample/nlq_val.jsonl"} <= texts
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "RUN ?= runs/demo" in makefile
    source = (ROOT / "notebooks/04_finetuning.ipynb").read_text(encoding="utf-8")
    assert '"finetune"' in "".join(line for cell in json.loads(source)["cells"] for line in cell["source"])


def test_the_clip_of_the_readme_is_in_the_sample_of_the_demo():
    from groundnlq.sample.world import WorldConfig, simulate_clip

    config = WorldConfig.of_scale("demo")
    (uid,) = re.findall(r'ask\("([0-9a-f-]+)"', README)
    assert uid in {simulate_clip(config, "val", index).clip_uid for index in range(config.num_val_clips)}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(path):
    text = path.read_text(encoding="utf-8")
    for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in link:
            continue
        target, _, fragment = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert not fragment or fragment in anchors(file.read_text(encoding="utf-8")), link


def test_every_page_of_docs_is_reached_from_the_site_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}" not in menu] == []


def test_the_tests_that_the_docs_name_exist():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 15
    assert sorted(name for name in named if f"def {name}(" not in tests) == []


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "groundnlq.__version__"}
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    first = re.search(r"^## (\d\S*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first[1] == groundnlq.__version__


def test_the_version_is_read_without_importing_torch():
    tree = ast.parse((ROOT / "groundnlq/__init__.py").read_text(encoding="utf-8"))
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"]
    assert [ast.literal_eval(value) for value in values] == [groundnlq.__version__]
    code = "import sys, groundnlq; groundnlq.__version__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("source", "name", "text", "expected"),
    [
        ("README.md", "index.md", "[a](docs/results.md#speed)", "[a](results.md#speed)"),
        ("README.md", "index.md", "![a](docs/report.png)", "![a](report.png)"),
        ("README.md", "index.md", "[a](LICENSE)", "a"),
        ("README.md", "index.md", "[a](https://arxiv.org)", "[a](https://arxiv.org)"),
        ("data/README.md", "data.md", "[a](../README.md#start)", "[a](index.md#start)"),
        ("docs/performance.md", "performance.md", "[a](../benchmarks/length.png)", "[a](length.png)"),
        ("docs/results.md", "results.md", "[a](#here)", "[a](#here)"),
    ],
)
def test_links_of_the_project_become_links_of_the_site(source, name, text, expected):
    site_links = runpy.run_path(str(ROOT / "docs/hooks.py"))["site_links"]
    assert site_links(text, source, name) == expected


def test_the_constraints_are_installed_by_make_conda_and_the_readme():
    for name in ("Makefile", "environment.yml", "README.md", "CONTRIBUTING.md"):
        assert "-c constraints.txt" in (ROOT / name).read_text(encoding="utf-8"), name
    accepted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert "torch>=2.11,<2.14" in accepted
    assert "torch==2.13.*" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
