"""`import groundnlq` is light, and what it offers is there at the first use."""

import subprocess
import sys

import pytest

import groundnlq
from groundnlq.analysis.evaluation import evaluate
from groundnlq.cli import main
from groundnlq.data.annotations import read_truth
from groundnlq.data.submission import read_submission
from groundnlq.video.answer import load
from tests.bad_input_makers import make_world
from tests.test_cli import HEAVY


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, groundnlq\nprint([name for name in (*{HEAVY}, 'click', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_listed_and_there():
    assert set(groundnlq.__all__) == {"__version__", "evaluate", "load"}
    assert set(groundnlq.__all__) <= set(dir(groundnlq))
    assert groundnlq.load is load
    assert groundnlq.evaluate is evaluate
    assert groundnlq.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'groundnlq' has no attribute 'lode'"):
        groundnlq.lode  # noqa: B018
    with pytest.raises(ImportError):
        from groundnlq import lode  # noqa: F401


def test_what_is_loaded_predicts_what_the_command_line_writes(tmp_path, monkeypatch):
    make_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    inputs = "--records val.jsonl --features features.h5 --text text.h5 --output p.json --top-k 3"
    assert main(f"predict best.pt {inputs}".split()) == 0
    model = groundnlq.load("best.pt", top_k=3)
    predictions, written = model.predict("val.jsonl", "features.h5", "text.h5"), read_submission("p.json")
    assert predictions.keys() == written.keys()
    for query_id, moments in predictions.items():
        assert moments.tolist() == written[query_id].tolist()
    truth = read_truth("nlq.json")
    assert groundnlq.evaluate(predictions, truth).strict == groundnlq.evaluate(written, truth).strict
