"""What all tests share: no network, no windows, and one tiny sample world."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other

settings.register_profile("kit", deadline=None)  # a slow machine is no failure
settings.load_profile("kit")

QUICK = "train.epochs=2 train.warmup_epochs=1 train.validate_every_epochs=1"


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A prepared sample world of 20 short clips; read it, never write into it."""
    from groundnlq.sample.make import make_sample, prepare_sample

    folder = tmp_path_factory.mktemp("tiny") / "world"
    make_sample(folder, scale="tiny", progress=False)
    prepare_sample(folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def walk(tmp_path_factory):
    """Run folder, data folder and executed notebooks, by name, of a walk through all on a tiny world; with a
    space and an umlaut on the way."""
    from groundnlq.notebook import run_notebooks

    home = tmp_path_factory.mktemp("Räume und Wege")
    run, values = home / "run", {"data_folder": str(home / "data"), "scale": "tiny", "overrides": QUICK}
    executed = run_notebooks(run_dir=run, parameters=values, progress=False)
    return run, home / "data", {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in executed}
