"""The command line: help with examples, one clear line on bad input, and the whole way on a tiny world."""

import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from groundnlq.cli import VERBS, main, parse
from groundnlq.errors import KitError

GOLDEN = Path(__file__).parent / "golden"
HEAVY = ("torch", "pandas", "numpy", "pydantic", "h5py", "matplotlib", "transformers", "papermill")


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "groundnlq", *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


# ---- help


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_help_with_an_example_that_it_understands(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*verb.name.split(), "--help"])
    assert ended.value.code == 0
    assert verb.example in capsys.readouterr().out
    program, *arguments = shlex.split(verb.example)
    assert program == "groundnlq"
    assert parse(arguments).verb is verb.run


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, groundnlq\nfrom groundnlq.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_presets_are_listed_with_what_they_are_for(capsys):
    assert main(["presets"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert "NLQ train" in lines["finetune"]


# ---- arguments


def test_overrides_may_stand_before_and_behind_options():
    arguments = parse(["train", "finetune", "a=1", "--run", "runs/x", "b=2"])
    assert (arguments.config, arguments.overrides) == ("finetune", ["a=1", "b=2"])
    assert parse(["notebooks", "--run", "r", "01", "-p", "rate", "-1"]).parameter == [["rate", "-1"]]


@pytest.mark.parametrize(
    "arguments",
    [[], ["trian"], ["train"], ["features"], ["presets", "x"], ["train", "x", "--run", "r", "--ru"]],
)
def test_a_wrong_call_is_one_line_that_points_to_help(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    message = capsys.readouterr().err
    assert ended.value.code == 2
    assert message.count("\n") == 1
    assert "--help" in message


# ---- bad input

BAD = {
    "train finetun --run r": "did you mean finetune",
    "train finetune train.epoch=1 --run r": "did you mean train.epochs",
    "train none.yaml --run r": "none.yaml: No such file",
    "train finetune --run r": "nlq_train.jsonl",
    "prepare nlq none.json --output o.jsonl": "none.json",
    "prepare nlq notes.txt --output o.jsonl": "notes.txt: not valid JSON",
    "prepare narrations none.csv --clips none.json --output o.jsonl": "none.json",
    "features import none --output f.h5": "none: does not exist",
    "features check notes.txt --records r.jsonl": "notes.txt: not a readable HDF5 file",
    "text encode none.jsonl --encoder sample --output t.h5": "none.jsonl",
    "text import none --output t.h5": "none",
    "predict none.pt --records none.jsonl --features f --text t --output p.json": "none",
    "evaluate none.json none.json": "none.json",
    "ensemble none.json --output p.json": "none.json",
    "sample world --scale huge": "unknown scale 'huge'",
    "notebooks 99 --run r": "no notebook '99'",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line_and_nothing_is_written(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("not what is expected")
    assert main(line.split()) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("groundnlq: error: ")
    assert BAD[line] in message
    assert {path.suffix for path in tmp_path.rglob("*")} <= {".txt", ".yaml", ".json", ".lock", ""}


def test_the_traceback_of_an_error_is_shown_on_request_only():
    quiet, loud = (run("train", "finetun", "--run", "r", *more) for more in ([], ["--debug"]))
    assert quiet.returncode == loud.returncode == 2
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (KitError("full"), 2), (OSError("full"), 2)]
)
def test_what_ends_a_verb_decides_the_exit_code(error, code, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("groundnlq.cli.parse", lambda _: Namespace(verb=fail))
    assert main([]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error():
    command = f"{shlex.quote(sys.executable)} -u -m groundnlq presets | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- preparing


def test_official_files_become_records(tmp_path, capsys):
    raw = ["--raw-text", "--output", str(tmp_path / "r.jsonl")]
    assert main(["prepare", "nlq", str(GOLDEN / "annotations_dirty.json"), *raw]) == 0
    expected = (GOLDEN / "annotations_records.jsonl").read_text().split()
    assert (tmp_path / "r.jsonl").read_text().split() == expected
    printed = capsys.readouterr().out
    assert "queries" in printed
    assert "wrote" in printed


def test_a_file_named_twice_is_refused(tmp_path, capsys):
    path = str(GOLDEN / "annotations_dirty.json")
    assert main(["prepare", "nlq", path, path, "--output", str(tmp_path / "r.jsonl")]) == 2
    assert "name each file once" in capsys.readouterr().err
