"""Files never run code, ids never leave their folder, texts never become markup, nothing calls out."""

import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundnlq.analysis.evaluation import evaluate
from groundnlq.cli import main
from groundnlq.config import load_config
from groundnlq.data.annotations import read_nlq
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.importers import import_features, import_text
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import write_tokens
from groundnlq.engine.checkpoint import load_model
from groundnlq.errors import KitError
from groundnlq.files import check_id
from tests.bad_input_makers import lmdb_source, make_world

ROOT = Path(__file__).resolve().parents[1]


class Payload:
    """Unpickling it makes the folder `harm`."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


# ---- code in files


def saved(value) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


def write(name: str, data: bytes) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(data)
    return name


def features_from_folder(data: bytes) -> None:
    write("pt/c0.pt", data)
    import_features(["pt"], "f.h5", progress=False)


def features_from_lmdb(_: bytes) -> None:
    lmdb_source(features=np.array([Payload()], dtype=object))()
    import_features(["lmdb"], "f.h5", progress=False)


def tokens_from_lmdb(_: bytes) -> None:
    lmdb_source(token_features=np.array([Payload()], dtype=object))()
    import_text(["lmdb"], "t.h5", "clip")


CARRIERS = {
    "checkpoint": lambda data: load_model(write("best.pt", data)),
    "published checkpoint": lambda data: load_model(write("m.pth.tar", data)),
    "safetensors": lambda data: load_model(write("m.safetensors", data)),
    "tensor file": features_from_folder,
    "features in LMDB": features_from_lmdb,
    "tokens in LMDB": tokens_from_lmdb,
    "configuration": lambda _: load_config(write("r.yaml", b"name: !!python/object/apply:os.mkdir [harm]")),
    "override": lambda _: load_config("finetune", ["name=!!python/object/apply:os.mkdir [harm]"]),
}
SHAPES = {
    "zip": saved({"state_dict": {"a": torch.zeros(1)}, "extra": Payload()}),
    "bare": pickle.dumps(Payload()),
    "old": pickle.dumps(Payload(), protocol=0),
}


def test_the_payload_is_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(SHAPES["bare"])
    assert Path("harm").is_dir()


@pytest.mark.parametrize("override", ["0", "1"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_no_file_runs_code_whatever_the_environment_says(carrier, shape, override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", override)
    with pytest.raises(KitError) as refused:
        CARRIERS[carrier](SHAPES[shape])
    assert not Path("harm").exists()
    assert "weights_only" not in str(refused.value)  # torch's advice to load it unsafely is not passed on


def test_the_environment_variable_would_run_a_call_that_leaves_the_default(tmp_path, monkeypatch):
    """Why every call says weights_only=True."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.warns(UserWarning, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        torch.load(write("x.pt", SHAPES["zip"]))
    assert Path("harm").is_dir()


def test_encoders_are_loaded_without_their_code_and_without_the_network(monkeypatch):
    import transformers

    asked = []

    def refuse(name, **options):
        asked.append(options)
        raise OSError("not here")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    for download in (False, True):
        with pytest.raises(KitError, match="not here"):
            TextEncoder.load("some/encoder", download)
    assert [options["local_files_only"] for options in asked] == [True, False]
    assert [options["trust_remote_code"] for options in asked] == [False, False]


# ---- ids and links

HOSTILE = ["../x", "/etc/passwd", "a/b", "..", ".", ".x", "", "a\0b", "a\nb", "x" * 300, "C:\\x", "é", "a b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_id_is_refused(name, tmp_path):
    with pytest.raises(KitError):
        check_id(name, "test")
    with pytest.raises(KitError):
        write_features(tmp_path / "f.h5", [(name, np.ones((2, 3)))])
    with pytest.raises(KitError):
        write_tokens(tmp_path / "t.h5", [(name, torch.ones(2, 3))], encoder="x")
    assert list(tmp_path.iterdir()) == []


@given(name=st.text(max_size=20) | st.text("./\\ab", max_size=12))
def test_an_id_is_refused_or_stays_in_its_folder(name, tmp_path_factory):
    outer = tmp_path_factory.getbasetemp() / "ids"
    folder = outer / "inner"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_features(folder / "f.h5", [(name, np.ones((2, 3)))])
    except KitError:
        return
    assert FeatureStore(folder / "f.h5").clip_uids == [name]
    assert (folder / name).resolve().parent == folder.resolve()
    assert {path.name for path in outer.iterdir()} == {"inner"}


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "elsewhere"])
def test_data_that_lies_elsewhere_is_refused(kind, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(24))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones((2, 3), "f4")
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (2, 3))
    write_features(tmp_path / "f.h5", [("c0", np.ones((2, 3)))])
    for name, parent in (("f.h5", "clips/"), ("source.h5", "")):
        with h5py.File(tmp_path / name, "a") as root:
            if kind == "soft":
                root[f"{parent}c1"] = h5py.SoftLink("/clips/c0")
            elif kind == "external":
                root[f"{parent}c1"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
            elif kind == "virtual":
                root.create_virtual_dataset(f"{parent}c1", layout)
            else:
                files = [(str(tmp_path / "secret"), 0, 24)]
                root.create_dataset(f"{parent}c1", (2, 3), "f4", external=files)
    with pytest.raises(KitError, match="c1"):
        FeatureStore(tmp_path / "f.h5")
    with pytest.raises(KitError, match="c1"):
        import_features([tmp_path / "source.h5"], tmp_path / "out.h5", progress=False)
    assert not (tmp_path / "out.h5").exists()


# ---- texts

NASTY = '<img src=x onerror="alert(1)"><script>alert(2)</script> $\\frac{1}{0}$ \x1b[31m&amp;'


class Elements(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [tag, *(name for name, _ in attrs)]


def nasty_evaluation():
    records = [Record(f"a_{i}", f"c{i}", NASTY, 10.0, ((1.0, 2.0),), template=NASTY, raw_query=NASTY) for i in (0, 1)]
    return evaluate({r.query_id: np.array([[1.0, 2.0, 1.0]]) for r in records}, records)


def test_the_search_for_elements_finds_them():
    assert {"img", "onerror", "script"} <= set(Elements(NASTY).found)


def test_a_query_is_text_in_every_table_of_the_evaluation():
    result = nasty_evaluation()
    for table in (result.hits, result.by("template"), result.by("query"), result.table()):
        found = Elements(table._repr_html_()).found
        assert {"img", "script", "onerror"}.isdisjoint(found)


def test_tables_in_notebooks_leave_dollars_alone():
    code = (
        "from groundnlq.notebook import workspace\nworkspace()\nimport pandas as pd\n"
        "print(pd.DataFrame({'a': ['$x$']})._repr_html_())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "tex2jax_ignore" in done.stdout  # what keeps MathJax out of a table
    with pd.option_context("display.html.use_mathjax", True):
        assert "tex2jax_ignore" not in pd.DataFrame({"a": ["$x$"]})._repr_html_()


def test_names_from_foreign_files_do_not_steer_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("nlq.json").write_text(json.dumps({"videos": [], "\x1b[31m": 1, "version": "\x1b[2J"}))
    Path("p.json").write_text('{"\\u001b[31mred": 1, "\\u001b[31mred": 2}')
    lmdb_source(**{"\x1b[31m": np.ones(3)})()
    for command in (
        ["prepare", "nlq", "nlq.json", "--output", "o"],
        ["evaluate", "p.json", "nlq.json"],
        ["features", "import", "lmdb", "--output", "f.h5"],
        ["show", "\x1b[31m.json"],
    ):
        assert main(command) == 2
    printed = capsys.readouterr()
    assert "\x1b" not in printed.err + printed.out


# ---- the network


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach another machine, or to ask for its address, is an error and is noted."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # what the tests' environment sets
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise AssertionError(f"network asked for: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_the_fixture_notices_the_network(no_network):
    with pytest.raises(AssertionError, match="network"):
        socket.create_connection(("localhost", 80))
    assert no_network


def test_no_verb_asks_for_the_network(no_network, tmp_path, monkeypatch, capsys):
    make_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    inputs = "--records val.jsonl --features features.h5 --text text.h5"
    for command in (
        "prepare nlq nlq.json --output r.jsonl",
        "prepare narrations egoclip.csv --clips nlq.json --output n.jsonl",
        "features import pt pt2 --output f.h5",
        "features check features.h5 --records val.jsonl --text text.h5",
        "text encode val.jsonl --encoder sample --output t.h5",
        "train run.yaml --run run",
        f"predict run {inputs} --output p.json",
        "evaluate p.json nlq.json --output m.json",
        "ensemble p.json p.json --output e.json",
        "show run",
        "presets",
    ):
        assert main(command.split()) == 0, capsys.readouterr().err
    assert no_network == []


def test_an_encoder_by_hub_name_is_asked_for_only_when_download_is_allowed(no_network, monkeypatch):
    with pytest.raises(KitError, match="--download"):
        TextEncoder.load("some-owner/some-encoder")
    assert no_network == []


# ---- the notebook server

FLAGS = re.compile(
    r"--ip[= ]|0\.0\.0\.0|allow-root|allow_root|token=''|token=\"\"|IdentityProvider.token|disable_check_xsrf"
    r"|allow_origin|password=''"
)


def test_nothing_that_is_documented_opens_the_notebook_server():
    pages = [p for pattern in ("*.md", "*/*.md", ".ci/*", "notebooks/*.ipynb") for p in ROOT.glob(pattern)]
    texts = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in [ROOT / "Makefile", *pages]}
    assert len(texts) > 8
    assert {name: FLAGS.findall(text) for name, text in texts.items() if FLAGS.search(text)} == {}


def test_jupyter_as_documented_keeps_its_token_and_listens_on_loopback():
    from jupyter_server.serverapp import ServerApp

    app = ServerApp()
    assert app.ip in ("localhost", "127.0.0.1", "::1")
    assert app.identity_provider_class(parent=app).token
    assert not app.disable_check_xsrf


def test_an_annotation_with_markup_is_kept_as_text(tmp_path):
    make_world(tmp_path)
    tree = json.loads((tmp_path / "nlq.json").read_text())
    tree["videos"][0]["clips"][0]["annotations"][0]["language_queries"][0]["query"] = NASTY
    (tmp_path / "nlq.json").write_text(json.dumps(tree))
    assert read_nlq(tmp_path / "nlq.json", clean_text=False).records[0].query == NASTY
