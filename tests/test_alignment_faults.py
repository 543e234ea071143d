"""Stage one in real processes: killed, damaged, and two of them as one; what tests/test_faults.py does for grounding.

Two processes under torchrun (gloo) with scene negatives, crops and flips; every test ends as a calm run ends.
"""

import shutil

import pytest
import torch

from groundnlq.engine.checkpoint import States, read_checkpoint
from groundnlq.engine.run_dir import read_status
from tests.processes import wait_for
from tests.test_faults import damage, ending, is_left, run, torchrun
from tests.tiny_films import films_config, make_tiny_films

ALIGN = {"scene_negatives": True, "crop": [0.5, 1], "flip": True}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return make_tiny_films(tmp_path_factory.mktemp("films"), num_clips=9, num_val=3)


def write_config(films, path, align=ALIGN, **train):
    films_config(films, align, **{"batch_size": 4, "checkpoint_every_steps": 2, "timeout_sec": 60.0, **train}).save(
        path
    )
    return path


@pytest.fixture(scope="module")
def config(films, tmp_path_factory):
    """Three epochs of six steps; a state every second step."""
    return write_config(films, tmp_path_factory.mktemp("config") / "run.yaml")


@pytest.fixture(scope="module")
def calm_folder(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    assert run(torchrun(config, folder)).returncode == 0
    return folder


@pytest.fixture(scope="module")
def calm(calm_folder):
    return ending(calm_folder)


@pytest.mark.slow
def test_processes_of_stage_one_that_are_killed_are_restarted_and_end_bitwise_as_a_calm_run(config, calm, tmp_path):
    """Before the first state, in the middle of an epoch, and the main process while it writes a state."""
    faults = [["kill", 1, 1, 0], ["kill", 1, 9, 1], ["kill_before_manifest", 0, 11, 2]]
    assert run(torchrun(config, tmp_path, restarts=3), *faults).returncode == 0
    status = read_status(tmp_path)
    assert (status["state"], status["resumed_from_step"]) == ("finished", 10)
    assert not list(tmp_path.rglob("*.tmp"))
    assert ending(tmp_path) == calm


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "another checksum", "gone"])
def test_a_damaged_newest_state_of_stage_one_costs_one_interval(config, calm, killed, tmp_path, how):
    folder = shutil.copytree(killed, tmp_path / "run")
    damage(folder / "checkpoints" / "step-00000010.pt", how)
    done = run(torchrun(config, folder))
    assert done.returncode == 0
    assert "step-00000010.pt is not usable" in done.stderr
    assert read_status(folder)["resumed_from_step"] == 8
    assert ending(folder) == calm


@pytest.fixture(scope="module")
def killed(config, tmp_path_factory):
    """A run that was killed at step 11; its newest states are of steps 10 and 8."""
    folder = tmp_path_factory.mktemp("killed")
    run(torchrun(config, folder), ["kill_all", -1, 11, 0])
    wait_for(lambda: is_left(folder), "its processes are gone", seconds=10)
    return folder


@pytest.mark.slow
def test_without_a_whole_state_stage_one_begins_nothing(config, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    for state in States(folder / "checkpoints").committed():
        damage(state, "truncated")
    assert run(torchrun(config, folder)).returncode != 0
    assert "no usable checkpoint" in read_status(folder)["reason"]


@pytest.mark.slow
def test_a_full_disk_is_reported_and_stage_one_goes_on_later(config, calm, tmp_path):
    done = run(torchrun(config, tmp_path, restarts=3), ["write_nothing", 0, 9, 0])
    assert done.returncode != 0
    assert "File too large" in read_status(tmp_path)["reason"]
    assert run(torchrun(config, tmp_path)).returncode == 0
    assert ending(tmp_path) == calm


def test_two_processes_of_stage_one_train_as_one_with_both_batches(films, tmp_path):
    """Equal but for the rounding of sums: features of both are compared, with gradients."""
    common = {"scale_rate_with_processes": False, "checkpoint_every_steps": 1, "keep_checkpoints": 20, "epochs": 2}
    first, last = {}, {}
    for name, processes, batch_size in (("one", 1, 8), ("two", 2, 4), ("apart", 1, 4)):
        config, folder = (
            write_config(films, tmp_path / f"{name}.yaml", **common, batch_size=batch_size),
            tmp_path / name,
        )
        assert run(torchrun(config, folder, processes=processes)).returncode == 0
        first[name] = name != "apart" and read_checkpoint(folder / "checkpoints" / "step-00000001.pt")
        last[name] = read_checkpoint(States(folder / "checkpoints").latest())
    for index, moments in first["one"]["optimizer"]["state"].items():  # a tenth of the clipped gradient
        together = first["two"]["optimizer"]["state"][index]["exp_avg"]
        torch.testing.assert_close(together, moments["exp_avg"], rtol=1e-3, atol=1e-6)
    for alone, together in zip(last["one"]["history"], last["two"]["history"], strict=True):
        assert together["loss total"] == pytest.approx(alone["loss total"], rel=1e-3)
        assert together["raw EgoMCQ mean"] == pytest.approx(alone["raw EgoMCQ mean"], abs=10)
    for name, value in last["one"]["model"].items():
        torch.testing.assert_close(last["two"]["model"][name], value, rtol=1e-2, atol=3e-3)
    assert last["two"]["loss_normaliser"] == [16.0, 16.0]
    losses = [last[name]["history"][0]["loss total"] for name in ("apart", "one")]
    assert losses[0] < losses[1] - 0.5  # fewer videos to choose from
