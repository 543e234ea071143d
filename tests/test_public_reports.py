"""Trouble that people publicly reported of programs of this kind; docs/reports.md says whose report it was."""

import multiprocessing
import os
import signal
import threading
from contextlib import chdir, contextmanager

import h5py
import pytest

from groundnlq.cli import main
from groundnlq.config import RunConfig
from groundnlq.data.annotations import Clip
from groundnlq.data.features import FeatureStore
from groundnlq.data.importers import import_features
from groundnlq.data.narrations import narration_records
from groundnlq.engine.distributed import WARNINGS, StopRequest
from groundnlq.errors import DataError, FeatureError
from groundnlq.files import refuse_stand_in
from tests.bad_input_makers import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    make_world(folder)
    return folder


# ---- a closed terminal, a warning of the queue


@contextmanager
def handled_by(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", WARNINGS)
def test_a_closed_terminal_and_a_queues_warning_are_requests_to_stop(number):
    received = []
    with handled_by(number, lambda *_: received.append(number)):
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
        assert (stop.signal_number, received) == (number, [])
        os.kill(os.getpid(), number)  # the handler of before is back
    assert received == [number]


def test_a_run_under_nohup_does_not_stop_when_the_terminal_closes():
    with handled_by(signal.SIGHUP, signal.SIG_IGN), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.signal_number == signal.SIGUSR1


# ---- a home directory that the shell did not expand


def test_a_tilde_that_the_shell_left_is_the_home_directory(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(world))
    assert main(["show", "~/best.pt"]) == 0
    assert f"file: {world}/best.pt" in capsys.readouterr().out
    config = RunConfig.parse({"name": "x", "data": {"folder": "~/data"}, "train": {"init_from": "~/best.pt"}}, "x")
    assert config.data.path("f.h5") == world / "data/f.h5"
    assert config.train.init_from == str(world / "best.pt")
    with chdir(tmp_path):
        assert main(["prepare", "nlq", "--output=~/new/val.jsonl", "~/nlq.json"]) == 0
    assert (world / "new/val.jsonl").exists()
    assert not list(tmp_path.iterdir())


# ---- a download that brought something else

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
PAGE = "\n<!DOCTYPE html><html><title>Quota exceeded</title></html>"
INPUTS = "--records val.jsonl --features features.h5 --text text.h5 --output out.json"


@pytest.mark.parametrize(
    "command",
    [
        f"predict FILE {INPUTS}",
        f"predict best.pt {INPUTS}".replace("features.h5", "FILE"),
        f"predict best.pt {INPUTS}".replace("text.h5", "FILE"),
        f"predict best.pt {INPUTS}".replace("val.jsonl", "FILE"),
        "prepare nlq FILE --output out.jsonl",
        "prepare narrations FILE --clips nlq.json --output out.jsonl",
        "evaluate FILE nlq.json",
        "show FILE",
    ],
)
def test_a_pointer_or_a_web_page_in_place_of_a_file_is_called_so(world, command, capsys):
    with chdir(world):
        for text, what in ((POINTER, "a pointer of Git LFS"), (PAGE, "a web page")):
            (world / "stand_in").write_text(text)
            assert main(command.replace("FILE", "stand_in").split()) == 2
            assert f"error: stand_in: {what}, not the file itself -- fetch it" in capsys.readouterr().err


def test_files_of_all_kinds_are_not_taken_for_stand_ins(world):
    for path in world.iterdir():
        if path.is_file() and path.name != "stand_in":
            refuse_stand_in(path)
    (world / "stand_in").write_text(PAGE)
    with pytest.raises(DataError):
        refuse_stand_in(world / "stand_in")


# ---- a folder of a model without its tokenizer


def test_a_folder_without_a_tokenizer_is_told_what_is_missing(world, tmp_path, capsys):
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPTextModel(CLIPTextConfig(vocab_size=100, projection_dim=8, **sizes)).save_pretrained(tmp_path)
    command = ["text", "encode", str(world / "val.jsonl"), "--output", str(tmp_path / "t.h5"), "--encoder"]
    assert main([*command, str(tmp_path)]) == 2
    assert "name a folder with config.json, weights as safetensors and tokenizer" in capsys.readouterr().err


# ---- texts that a CSV reader would take apart


def test_quotes_missing_values_and_lone_carriage_returns_are_text(tmp_path):
    texts = ['holds a 5" nail', '"NA', "None", "NaN", "cuts\ra rope", "'reads', \"writes\""]
    header = "video_uid\tnarration_source\tnarration_ind\tclip_start\tclip_end\tclip_text\n"
    rows = [f"v\tnarration_pass_1\t{i}\t{i + 1}\t{i + 2}\t#C C {text}\r\n" for i, text in enumerate(texts)]
    (tmp_path / "egoclip.csv").write_bytes((header + "".join(rows)).encode())
    records, counts = narration_records(tmp_path / "egoclip.csv", {"c": Clip("c", 0.0, 100.0, "v")})
    assert [record.query for record in records] == [f"C {text}".replace("\r", " ") for text in texts]
    assert (counts["rows"], counts.get("malformed rows", 0)) == (len(texts), 0)


# ---- reports that the kit already passed


def test_a_query_without_any_candidate_is_answered_all_the_same(world, tmp_path, capsys):
    with chdir(world):
        changes = ["train.epochs=1", "decode.min_score=0.99"]
        assert main(["train", "run.yaml", *changes, "--run", str(tmp_path / "run")]) == 0
        assert main(["predict", str(tmp_path / "run"), *INPUTS.replace("out.json", "none.json").split()]) == 0
        assert main(["evaluate", "none.json", "nlq.json"]) == 0
    assert "queries 6, unanswered 0, kept 1" in capsys.readouterr().out


def test_data_that_lies_in_files_out_of_reach_is_refused_and_not_filled_up(tmp_path):
    layout = h5py.VirtualLayout(shape=(3, 2), dtype="f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "gone.h5"), "x", shape=(3, 2))
    with h5py.File(tmp_path / "virtual.h5", "w") as root:
        root.create_virtual_dataset("c0", layout, fillvalue=0)
    with h5py.File(tmp_path / "virtual.h5") as root:
        assert root["c0"][:].tolist() == [[0.0, 0.0]] * 3  # what HDF5 makes of it
    with pytest.raises(FeatureError, match="'c0' lies in other files, which is refused -- copy the data in"):
        import_features([tmp_path / "virtual.h5"], tmp_path / "f.h5", progress=False)


def read_first(store):
    store.read(store.clip_uids[0])


def test_processes_forked_while_threads_read_do_not_hang(world):
    store, is_over = FeatureStore(world / "features.h5"), threading.Event()

    def read_on():
        while not is_over.is_set():
            read_first(store)

    threads = [threading.Thread(target=read_on, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    children = [multiprocessing.get_context("fork").Process(target=read_first, args=(store,)) for _ in range(8)]
    for child in children:
        child.start()
        child.join(30)
    is_over.set()
    assert [child.exitcode for child in children] == [0] * len(children)
