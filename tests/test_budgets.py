"""The package stays small: lines and public names of its rooms have limits."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "groundnlq"
ADAPTER = "checkpoint_published.py"  # of the published program's checkpoints; not counted with the model
CORE = ("root", "data", "model", "engine")
NAMES_PER_1000_LINES = 22


def lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def public_names(path: Path) -> list[str]:
    """Classes and functions of a module that other modules may use."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    defined = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return [node.name for node in defined if not node.name.startswith("_")]


def files_of(*rooms: str) -> list[Path]:
    """Modules of the rooms, `root` being the package's own folder; of all rooms if none is named."""
    every = sorted(PACKAGE.rglob("*.py"))
    return [path for path in every if not rooms or room_of(path) in rooms]


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "root"


@pytest.mark.parametrize(
    ("rooms", "limit"),
    [(("model",), 1100), (CORE, 7444), (("video",), 1756), (("analysis",), 1780), (("view",), 1910), ((), 14113)],
    ids=["model", "core", "video", "analysis", "view", "package"],
)
def test_rooms_have_no_more_lines_than_their_budget(rooms, limit):
    counted = files_of(*rooms)
    if rooms == ("model",):
        counted = [path for path in counted if path.name != ADAPTER]
    assert sum(map(lines, counted)) <= limit


def test_the_package_has_few_public_names_for_its_length():
    every = files_of()
    names = [name for path in every for name in public_names(path)]
    assert 1000 * len(names) / sum(map(lines, every)) <= NAMES_PER_1000_LINES


@pytest.mark.parametrize("room", ["data", "model", "engine", "video", "analysis", "view", "sample"])
def test_no_file_of_a_room_is_longer_than_300_lines(room):
    assert {path.name: lines(path) for path in files_of(room) if lines(path) > 300} == {}


def test_names_and_lines_are_counted_as_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("class A:\n    def method(self): ...\n\n\ndef b(): ...\n\n\ndef _c(): ...\n", encoding="utf-8")
    assert public_names(path) == ["A", "b"]
    assert lines(path) == 8
