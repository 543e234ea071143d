"""Whatever happens to a verb, no result stands half written under its name, and an older one stays."""

import os
import resource
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from groundnlq.cli import main
from tests.bad_input_makers import make_world

PACKAGE = str(Path(main.__code__.co_filename).parent)
INPUTS = "--records val.jsonl --features features.h5 --text text.h5"
VERBS = {
    "prepare nlq": "prepare nlq nlq.json --output OUT",
    "prepare narrations": "prepare narrations egoclip.csv --clips nlq.json --output OUT",
    "features import": "features import pt pt2 --output OUT",
    "text encode": "text encode val.jsonl --encoder sample --output OUT",
    "predict": f"predict best.pt {INPUTS} --output OUT",
    "evaluate": "evaluate p.json nlq.json --output OUT",
    "ensemble": "ensemble p.json p.json --output OUT",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half") / "world"
    make_world(folder)
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]


# ---- Ctrl-C


@contextmanager
def interrupted_at(line: int):
    """Ctrl-C arrives when the package has run that many lines; yields the count of lines so far."""
    count = [0]

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "main":
            return trace if event == "call" and frame.f_code.co_name == "main" else None
        if event == "line":
            count[0] += 1
            if count[0] == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()  # of a measurement of coverage
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_at_any_line_leaves_the_old_result_or_the_whole_new_one(verb, here, capsys):
    command = VERBS[verb].replace("OUT", "out").split()
    with interrupted_at(0) as lines:
        assert main(command) == 0
    whole = Path("out").stat().st_size
    codes = set()
    last = lines[0]
    places = {*range(1, last, max(1, last // 12)), *range(max(1, last - 40), last, 4)}
    for place in sorted(places):
        Path("out").write_text("old")
        with interrupted_at(place):
            code = main(command)
        codes.add(code)
        size = Path("out").stat().st_size
        assert code in (0, 130), (place, capsys.readouterr().err[-400:])
        assert size == 3 or abs(size - whole) < 64, place  # the new one may differ by its command's length
    assert 130 in codes
    assert len(leftovers(here)) <= 1  # where the removal itself was interrupted


# ---- no room, no right


@contextmanager
def no_room(num_bytes: int):
    """No file may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("verb", VERBS)
def test_without_room_the_old_result_stays(verb, here, capsys):
    Path("out").write_text("old")
    with no_room(64):
        assert main(VERBS[verb].replace("OUT", "out").split()) == 2
    message = capsys.readouterr().err
    assert "cannot write out" in message
    assert "nothing was replaced" in message
    assert Path("out").read_text() == "old"
    assert leftovers(here) == []


@contextmanager
def without_rights():
    """As a user who owns nothing here; files of root are open to root whatever their mode says."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def open_folder():
    """A world that every user can read, and nobody but its owner can write; pytest's folders are private."""
    folder = Path(tempfile.gettempdir()).resolve() / f"groundnlq-{os.getpid()}"
    make_world(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder)


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_that_cannot_be_written_is_said(verb, open_folder, monkeypatch, capsys):
    monkeypatch.chdir(open_folder)
    command = VERBS[verb].split()
    assert main([word.replace("OUT", "/dev/null/out") for word in command]) == 2  # all is imported by now
    with without_rights():
        assert main([word.replace("OUT", "out") for word in command]) == 2
        assert main([word.replace("OUT", "new/out") for word in command]) == 2
    messages = capsys.readouterr().err.splitlines()[-2:]
    for name, message in zip(("out", "new/out"), messages, strict=True):
        assert f"cannot write {name}: {open_folder} may not be written" in message


def test_a_run_folder_that_cannot_be_written_is_said_before_any_work(open_folder, monkeypatch, capsys):
    monkeypatch.chdir(open_folder)
    assert main(["train", "run.yaml", "--run", "/dev/null/run"]) == 2
    with without_rights():
        assert main(["train", "run.yaml", "--run", "new"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "new: cannot work here (Permission denied)" in message


# ---- any file in place of any other

FILES = ("nlq.json", "val.jsonl", "features.h5", "text.h5", "best.pt", "egoclip.csv", "p.json", "run.yaml")
READERS = (
    *VERBS.values(),
    f"predict model.pth.tar --preset run.yaml {INPUTS} --output OUT",
    "features check features.h5 --records val.jsonl --text text.h5",
    "features import features.h5 --output OUT",
    "train run.yaml --run r train.init_from=best.pt",
    "show nlq.json",
    "show best.pt",
)


@pytest.mark.parametrize("command", READERS, ids=lambda command: " ".join(command.split()[:2]))
def test_no_file_in_place_of_another_nor_half_of_it_is_a_fault_of_the_kit(command, world, here, capsys):
    words = command.replace("OUT", "out").replace("=", " ").split()
    for name in [word for word in words if (world / word).is_file()]:
        whole = (world / name).read_bytes()
        others = {other: (world / other).read_bytes() for other in FILES}
        for kind, data in {"empty": b"", "half": whole[: len(whole) // 2], "zeros": bytes(999), **others}.items():
            (here / name).write_bytes(data)
            code = main(command.replace("OUT", "out").split())
            printed = capsys.readouterr().err
            assert code in (0, 1, 2), (name, kind, printed)
            assert code != 2 or "groundnlq: error: " in printed
            for made in ("out", "r"):
                shutil.rmtree(here / made, ignore_errors=True)
                (here / made).unlink(missing_ok=True)
        (here / name).write_bytes(whole)


# ---- odd places


def test_read_only_data_and_odd_names_all_the_way(open_folder, tmp_path, monkeypatch, capsys):
    """Other working directory, spaces, non-ASCII letters, symbolic links, data that nobody may write."""
    place = tmp_path / "Ergebnisse für Zoë (2)"
    (tmp_path / "real").mkdir()
    place.symlink_to(tmp_path / "real")
    (tmp_path / "data link").symlink_to(open_folder)
    monkeypatch.chdir(tmp_path)
    data = [f"--{n}={tmp_path}/data link/{f}" for n, f in (("features", "features.h5"), ("text", "text.h5"))]
    records = f"--records={tmp_path}/data link/val.jsonl"
    run = ["--run", f"{place.name}/läuft"]
    assert main(["train", str(open_folder / "run.yaml"), "data.folder=data link", *run]) == 0
    assert main(["predict", run[1], records, *data, "--output", f"{place.name}/antworten é.json"]) == 0
    evaluate = ["evaluate", f"{place.name}/antworten é.json", str(open_folder / "nlq.json")]
    assert main([*evaluate, "--output", f"{place.name}/m.json"]) == 0
    assert main(["show", f"{place.name}/m.json"]) == 0
    assert "läuft" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "real").iterdir()} == {"läuft", "antworten é.json", "m.json"}
