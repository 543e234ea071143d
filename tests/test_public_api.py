"""`import groundnlq` is light, and what it offers is there at the first use."""

import subprocess
import sys

import pytest

import groundnlq
from groundnlq.analysis.evaluation import evaluate
from groundnlq.engine.predictor import Predictor
from tests.test_cli import HEAVY


def test_importing_the_package_imports_nothing_heavy():
    code = (
        f"import sys, groundnlq\nprint([name for name in (*{HEAVY}, 'click', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_listed_and_there():
    assert set(groundnlq.__all__) == {"__version__", "evaluate", "load"}
    assert set(groundnlq.__all__) <= set(dir(groundnlq))
    assert groundnlq.load == Predictor.load
    assert groundnlq.evaluate is evaluate
    assert groundnlq.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'groundnlq' has no attribute 'lode'"):
        groundnlq.lode  # noqa: B018
    with pytest.raises(ImportError):
        from groundnlq import lode  # noqa: F401
