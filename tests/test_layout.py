"""The house: rooms import to their left only, nothing dangerous is called, nothing heavy is committed."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundnlq.notebook_runs import _notebook_parameters

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "groundnlq"
ROOMS = ("data", "model", "engine", "video", "analysis", "view")  # in the order in which data flows
CORE = ROOMS[:3]
BASE = {"errors", "files", "provenance", "__version__"}  # what every room may import
CONFIG = {"config", "config_published"}  # they stand on data.grid; what comes after data may import them
FOUNDATION = BASE | CONFIG
BEFORE = {room: {*ROOMS[: number + 1], *BASE, *(CONFIG if number else ())} for number, room in enumerate(ROOMS)}
BEFORE["sample"] = BEFORE["video"] | {"sample"}  # its films pass the same extraction as any video
SOURCES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def faults_of_rooms(path: Path) -> list[str]:
    """Imports of a room's file from rooms that do not come before it."""
    left = BEFORE[path.relative_to(PACKAGE).parts[0]]
    inner = [name.split(".")[1] for name in imports(parse(path)) if name.startswith("groundnlq.")]
    return [f"{path.name} imports {name}" for name in inner if name not in left]


def dangers(tree: ast.AST) -> list[str]:
    """Calls that could run what a file holds, or what a string says."""
    return [found for node in ast.walk(tree) if isinstance(node, ast.Call) for found in _danger(node)]


RUNNERS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle", "torch.hub.load", "torch.jit.load"),
}


def _danger(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in RUNNERS or name.split(".")[0] in ("marshal", "shelve", "dill", "joblib", "cloudpickle"):
        yield name
    if name == "np.load" and options.get("allow_pickle") != "False":
        yield "np.load without allow_pickle=False"
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("yaml.load", "yaml.load_all") and options.get("Loader") != "_PlainLoader":
        yield f"{name} with another loader than the plain one"
    if name in ("yaml.full_load", "yaml.unsafe_load", "yaml.safe_load"):
        yield name
    for option, value in (("allow_pickle", "True"), ("shell", "True"), ("trust_remote_code", "True")):
        if options.get(option) == value:
            yield f"{option}=True"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_dangerous_is_called(path):
    assert dangers(parse(path)) == []


def test_nothing_dangerous_is_called_in_notebooks_and_benchmarks():
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        assert [found for source in code for found in dangers(ast.parse(source))] == [], path.name
    beside = [path for name in ("benchmarks", "notebooks", "docs") for path in (ROOT / name).rglob("*.py")]
    assert len(beside) > 20
    assert [(path.name, found) for path in beside for found in dangers(parse(path))] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_could_run_code_has_its_usual_name_by_which_it_is_found(path):
    tree = parse(path)
    renamed = [a for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names if a.asname]
    assert {"pickle", "yaml", "os", "subprocess", "torch"}.isdisjoint(a.name for a in renamed)
    origins = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"pickle", "yaml", "os", "subprocess", "torch.serialization"}.isdisjoint(origins)


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.load(file)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.load(text)",
        "subprocess.run('ls', shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "np.load(path)",
        "pickle.Unpickler(file)",
        "pd.read_pickle(path)",
        "joblib.load(path)",
    ],
)
def test_the_search_for_dangers_finds_them(source):
    assert dangers(ast.parse(source))


@pytest.mark.parametrize("room", BEFORE)
def test_a_room_imports_only_from_its_left(room):
    assert [fault for path in (PACKAGE / room).rglob("*.py") for fault in faults_of_rooms(path)] == []


@pytest.mark.parametrize("room", [*CORE, "video", "analysis"])
def test_core_and_analysis_draw_nothing(room):
    drawing = ("matplotlib", "ipywidgets", "IPython")
    found = {
        (path.name, name)
        for path in (PACKAGE / room).rglob("*.py")
        for name in imports(parse(path))
        if name.split(".")[0] in drawing
    }
    assert found == set()


def test_the_package_imports_nothing_that_lies_beside_it():
    beside = ("notebooks", "benchmarks", "tests")
    found = {(path.name, name) for path in SOURCES for name in imports(parse(path)) if name.split(".")[0] in beside}
    assert found == set()


def test_the_foundation_imports_no_room_but_the_grid():
    for name in FOUNDATION - {"__version__"}:
        inner = {i for i in imports(parse(PACKAGE / f"{name}.py")) if i.startswith("groundnlq.")}
        assert {i.rpartition(".")[0] for i in inner if i.split(".")[1] in ROOMS} <= {"groundnlq.data.grid"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs_or_traces_of_a_machine(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code if cell["outputs"]] == []
    assert {cell["execution_count"] for cell in code} == {None}
    assert "papermill" not in notebook["metadata"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    assert re.findall(r"""["'`](?:/(?:home|Users|root|tmp|work|mnt|data)\b|[A-Z]:\\|~/)""", text) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_call_and_do_not_define(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 15 <= len(cells) <= 35
    assert max(source.count("\n") + 1 for source in sources) <= 12
    assert [s for s in sources if re.search(r"^\s*(def |class |!|%%bash)", s, re.MULTILINE)] == []
    assert 1 <= len(_notebook_parameters(path)) <= 10
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_sees_every_parameter_of_a_notebook(path):
    import papermill

    assert list(papermill.inspect_notebook(str(path))) == list(_notebook_parameters(path))


def test_no_committed_file_is_larger_than_a_megabyte_but_for_ready_made_weights():
    weights = set((PACKAGE / "sample" / "weights").glob("*.pt"))
    assert sum(path.stat().st_size for path in weights) <= 3_000_000
    assert [path.name for path in committed() if path.stat().st_size > 1_000_000 and path not in weights] == []


def test_committed_text_names_no_folder_of_a_home():
    texts = [path for path in committed() if path.suffix in (".py", ".md", ".ipynb", ".yaml", ".yml", ".toml")]
    pattern = re.compile(r"/(?:home|Users)/[a-z]")
    assert [p.name for p in texts if pattern.search(p.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(parse(path)) or path.name == "__main__.py"
