"""What all tests share: no network, no windows, and one tiny sample world."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A prepared sample world of 20 short clips; read it, never write into it."""
    from groundnlq.data.sample import make_sample, prepare_sample

    folder = tmp_path_factory.mktemp("tiny") / "world"
    make_sample(folder, scale="tiny", progress=False)
    prepare_sample(folder, progress=False)
    return folder
