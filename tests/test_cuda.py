"""What must be right on a GPU: checks of `benchmarks/gpu.py`, which says more of them, as tests."""

import os
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICE = torch.device("cuda", 0)
NAMES = ["tiny", "tiny_star", "champion"]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at cuBLAS's first use, in whatever test


@pytest.fixture
def checks(monkeypatch):
    """The modules with the checks; what they change for child processes is changed back."""
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import gpu_right
    import gpu_runs

    return gpu_right, gpu_runs


def require(found):
    assert found["passed"], found


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_moments_equal_the_published_ones(checks, name):
    require(checks[0].outputs(name, DEVICE))


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_equal_the_published_ones(checks, name):
    require(checks[0].losses(name, DEVICE))


@pytest.mark.parametrize("name", NAMES)
def test_steps_replayed_as_graphs_equal_steps_without(checks, name):
    require(checks[0].graphs(name, DEVICE))


def test_replays_drop_the_paths_of_their_seed(checks):
    require(checks[0].graphs_drop(DEVICE))


def test_a_run_with_graphs_repeats_itself_and_comes_near_one_without(checks, tmp_path):
    require(checks[1].with_graphs(tmp_path, DEVICE))


def test_several_clips_at_once_and_pinned_copies_change_nothing(checks):
    require(checks[0].together(DEVICE))


def test_decoding_equals_the_published_one_and_the_cpus(checks):
    require(checks[0].suppression(DEVICE))
    require(checks[0].decoding(DEVICE))


def test_a_resumed_run_equals_an_uninterrupted_one_with_deterministic_kernels(checks, tmp_path):
    require(checks[1].resume(tmp_path, DEVICE, deterministic=True))


def test_prediction_equals_the_cpus(checks):
    require(checks[0].prediction("champion", DEVICE))
