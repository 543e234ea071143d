"""The command line: help with examples, one clear line on bad input, and the whole way on a tiny world."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from groundnlq.cli import main, program
from groundnlq.data.features import FeatureStore
from groundnlq.errors import KitError, Preempted

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
HEAVY = ("torch", "pandas", "numpy", "pydantic", "h5py", "matplotlib", "transformers", "papermill")


def commands(group=program, name=()) -> dict[str, click.Command]:
    """All commands by their full name, such as `prepare nlq`."""
    found = {}
    for key, command in group.commands.items():
        found |= (
            commands(command, (*name, key)) if isinstance(command, click.Group) else {" ".join((*name, key)): command}
        )
    return found


def parse(arguments: list[str]) -> tuple[str, dict]:
    """The command that would run, and its values."""
    command, words = program, list(arguments)
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    name = " ".join(arguments[: len(arguments) - len(words)])
    return name, command.make_context(name, words).params


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "groundnlq", *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


# ---- help


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", commands())
def test_every_command_has_help_with_an_example_that_it_understands(name, flag, capsys):
    assert main([*name.split(), flag]) == 0
    *_, example = re.findall(r"example:\n +(groundnlq .*)", capsys.readouterr().out)
    _, *arguments = shlex.split(example)
    assert parse(arguments)[0] == name


def test_help_explains_every_argument_and_option(capsys):
    for name, command in commands().items():
        assert main([*name.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        for param in command.params:
            assert param.help or isinstance(param.type, click.Choice), (name, param.name)
            assert (param.opts[0] if isinstance(param, click.Option) else param.metavar) in shown


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        f"import sys, groundnlq\nfrom groundnlq.cli import main\nmain({arguments})\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("page", ["README.md", "data/README.md"])
def test_the_commands_of_the_readme_are_understood(page):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("groundnlq ")]
    assert len(found) > 3
    for _, *arguments in found:
        parse([word for word in arguments if word != "..."])


def test_the_make_targets_of_the_readme_exist():
    found = re.findall(r"(?:^|`)make ([a-z ]+?)(?:`| +#)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    named = set(" ".join(found).split())
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test", "lab", "lint"} <= named <= set(phony[1].split())


def test_presets_are_listed_with_what_they_are_for(capsys):
    assert main(["presets"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert "NLQ train" in lines["finetune"]


# ---- arguments


def test_overrides_may_stand_before_and_behind_options():
    _, values = parse(["train", "finetune", "a=1", "--run", "runs/x", "b=2"])
    assert (values["config"], values["overrides"]) == ("finetune", ("a=1", "b=2"))
    _, values = parse(["notebooks", "--run", "r", "01", "-p", "rate", "-1"])
    assert (values["parameter"], values["names"]) == ((("rate", "-1"),), ("01",))
    _, values = parse(["notebooks", "-p", "a", "1", "01", "-p", "b", "2", "02", "--run", "r"])
    assert (values["parameter"], values["names"]) == ((("a", "1"), ("b", "2")), ("01", "02"))


@pytest.mark.parametrize(
    "line",
    [
        "f.h5 --records a b",
        "f.h5 --records a --records b",
        "f.h5 --records=a b",
        "f.h5 --records=a --records=b",
        "--records a b --debug f.h5",
        "--text t.h5 f.h5 --records a b",
    ],
)
def test_an_option_takes_several_values_at_once_or_one_by_one(line):
    _, values = parse(["features", "check", *line.split()])
    assert values["records"] == (Path("a"), Path("b"))
    assert values["features"] == Path("f.h5")


WRONG = {
    "": "missing command",
    "trian": "did you mean train",
    "train": "PRESET|FILE.yaml",
    "train x": "'--run'",
    "features": "missing command",
    "features chek f.h5": "did you mean check",
    "presets x": "unexpected extra argument",
    "train x --run r --ru": "--run",
    "train x --run r --proceses 2": "--processes",
    "train x --run --processes 2": "'--run' requires an argument",
    "train x --run r --processes two": "'two' is not a valid integer",
    "train x --run r --processes 0": "0 is not above 0",
    "features import a --output o.h5 --fps nan": "nan is not above 0",
    "features import a --output o.h5 --dtype flaot16": "'float16'",
    "features check f.h5": "'--records'",
    "features check f.h5 --rec r.jsonl": "--rec",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_call_is_one_line_that_points_to_help(line, capsys):
    assert main(line.split()) == 2
    message = capsys.readouterr().err
    assert message.startswith("groundnlq")
    assert message.count("\n") == 1
    assert "--help" in message
    assert WRONG[line] in message


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
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (KitError("full"), 2),
        (OSError("full"), 2),
        (Preempted("later"), 75),
        (KeyError("x"), 3),
    ],
)
def test_what_ends_a_command_decides_the_exit_code(error, code, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(program.commands["presets"], "callback", fail)
    assert main(["presets"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error():
    command = f"{shlex.quote(sys.executable)} -u -m groundnlq presets | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- preparing


def test_official_files_become_records(tmp_path, capsys):
    raw = ["--raw-text", "--output", str(tmp_path / "r.jsonl")]
    assert main(["prepare", "nlq", str(GOLDEN / "annotations_dirty.json"), *raw]) == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    published = [{k: v for k, v in row.items() if k not in ("template", "raw_query", "video_uid")} for row in rows]
    expected = (GOLDEN / "annotations_records.jsonl").read_text().splitlines()
    assert published == [json.loads(line) for line in expected]
    printed = capsys.readouterr().out
    assert "queries" in printed
    assert "wrote" in printed


def test_a_file_named_twice_is_refused(tmp_path, capsys):
    path = str(GOLDEN / "annotations_dirty.json")
    assert main(["prepare", "nlq", path, path, "--output", str(tmp_path / "r.jsonl")]) == 2
    assert "name each file once" in capsys.readouterr().err


# ---- the whole way


@pytest.fixture(scope="module")
def run_folder(tiny_world, tmp_path_factory):
    """Two epochs on the tiny world, and its val split predicted with ten moments per query."""
    folder = tmp_path_factory.mktemp("runs")
    changes = [f"data.folder={tiny_world}", "train.epochs=2", "train.warmup_epochs=1", "model.width=32"]
    assert main(["train", "sample_scratch", *changes, "--run", str(folder / "run")]) == 0
    inputs = [f"--{name}={tiny_world / name}.h5" for name in ("features", "text")]
    records = f"--records={tiny_world / 'nlq_val.jsonl'}"
    output = ["--output", str(folder / "val.json"), "--top-k", "10"]
    assert main(["predict", str(folder / "run"), records, *inputs, *output]) == 0
    return folder


def test_evaluation_prints_what_it_writes(tiny_world, run_folder, capsys):
    truth, output = tiny_world / "official" / "nlq_val.json", run_folder / "metrics.json"
    raw = ["--raw-text", str(run_folder / "val.json")]
    assert main(["evaluate", str(run_folder / "val.json"), str(truth), *raw, "--output", str(output)]) == 0
    printed, written = capsys.readouterr().out, json.loads(output.read_text())
    keys = {f"R@{k} IoU={t}" for k in (1, 5, 10) for t in (0.3, 0.5)} | {"mean R@1", "mIoU"}
    for section in (written["official"], written["strict"], written["raw_text"]["strict"]):
        assert section.keys() == keys
    assert all(f"{key} " in printed for key in keys)
    assert f"{written['strict']['R@5 IoU=0.3']:.2f}" in printed
    assert written["strict"] == written["raw_text"]["strict"]


def test_missing_answers_cost_strictly_only(tiny_world, run_folder, capsys):
    content = json.loads((run_folder / "val.json").read_text())
    content["results"] = content["results"][::2]
    (run_folder / "half.json").write_text(json.dumps(content))
    output = run_folder / "half_metrics.json"
    truth = tiny_world / "nlq_val.jsonl"
    assert main(["evaluate", str(run_folder / "half.json"), str(truth), "--output", str(output)]) == 0
    scores = json.loads(output.read_text())
    share = len(content["results"]) / scores["num_queries"]
    for key, value in scores["strict"].items():
        assert value == pytest.approx(scores["official"][key] * share)


def test_an_ensemble_is_a_submission_again(tiny_world, run_folder, capsys):
    output = run_folder / "ensemble.json"
    assert main(["ensemble", *[str(run_folder / "val.json")] * 3, "--output", str(output)]) == 0
    assert main(["evaluate", str(output), str(tiny_world / "nlq_val.jsonl")]) == 0
    assert "predict with --top-k 10" in capsys.readouterr().out
    entries = json.loads(output.read_text())["results"]
    assert [e["clip_uid"] for e in entries] == [
        e["clip_uid"] for e in json.loads((run_folder / "val.json").read_text())["results"]
    ]


def test_a_finished_run_is_not_trained_again_nor_with_other_settings(tiny_world, run_folder, capsys):
    changes = [f"data.folder={tiny_world}", "train.warmup_epochs=1", "model.width=32"]
    before = (run_folder / "run" / "last.pt").read_bytes()
    command = ["train", "sample_scratch", *changes, "--run", str(run_folder / "run")]
    assert main([*command, "train.epochs=2"]) == 0
    assert (run_folder / "run" / "last.pt").read_bytes() == before
    assert main([*command, "train.epochs=3"]) == 2
    assert "train.epochs" in capsys.readouterr().err


def test_features_are_held_against_records(tiny_world, tmp_path, capsys):
    command = ["features", "check", str(tiny_world / "features.h5")]
    records = tiny_world / "nlq_val.jsonl"
    assert main([*command, "--records", str(records), "--text", str(tiny_world / "text.h5")]) == 0
    assert "configured 16.000" in capsys.readouterr().out
    row = json.loads(records.read_text().splitlines()[0]) | {"video_id": "elsewhere"}
    (tmp_path / "more.jsonl").write_text(json.dumps(row))
    assert main([*command, "--records", str(tmp_path / "more.jsonl")]) == 1
    assert "elsewhere" in capsys.readouterr().out


def test_the_sample_goes_the_way_of_real_data(tiny_world, tmp_path, capsys):
    """Each step by its own command gives the files that `groundnlq sample` prepares."""
    official = tiny_world / "official"
    features, narrations, text = (tmp_path / name for name in ("f.h5", "narrations.jsonl", "t.h5"))
    films = [str(official / "clips"), "--encoder", "sample", "--batch", "32"]
    assert main(["features", "extract", *films, "--output", str(features)]) == 0
    assert FeatureStore(features).sha256 == FeatureStore(tiny_world / "features.h5").sha256
    clips = [str(official / f"{task}_train.json") for task in ("nlq", "moments", "vq")]
    command = ["prepare", "narrations", str(official / "egoclip.csv"), "--clips", *clips]
    assert main([*command, "--features", str(features), "--output", str(narrations)]) == 0
    assert narrations.read_text() == (tiny_world / "narrations.jsonl").read_text()
    records = str(tiny_world / "nlq_test.jsonl")
    assert main(["text", "encode", records, "--encoder", "sample", "--output", str(text)]) == 0
    capsys.readouterr()
    assert main(["sample", str(tiny_world), "--scale", "tiny"]) == 0
    assert "ready" in capsys.readouterr().out
