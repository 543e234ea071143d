"""Two trainings beside each other on one processor: each ends as it does alone, and none is lost."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groundnlq.engine.launch import beside, train
from groundnlq.engine.reporter import Reporter
from groundnlq.engine.run_dir import RunDirectory, read_status
from tests.processes import processes_of, wait_for
from tests.tiny_run import make_tiny_data, same_weights, tiny_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def threads():
    """Torch has two, whatever the machine has; afterwards what it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_two_trainings_beside_each_other_end_as_each_alone(data, threads, tmp_path):
    one, other = tiny_config(data, epochs=2), tiny_config(data, epochs=3, seed=5)
    with beside(one, tmp_path / "one") as rest:
        assert torch.get_num_threads() == 1
        assert train(other, tmp_path / "other", reporter=Reporter()).history[-1]["epoch"] == 3
    assert torch.get_num_threads() == 2
    result = rest(reporter=Reporter())
    assert [row["epoch"] for row in result.history] == [1, 2]
    torch.set_num_threads(1)  # as each had
    for config, name in ((one, "one"), (other, "other")):
        alone = train(config, tmp_path / f"{name} alone", reporter=Reporter())
        assert same_weights(tmp_path / name / "last.pt", alone.last)
    torch.set_num_threads(2)
    with beside(one, tmp_path / "one") as rest:
        pass
    again = rest(reporter=Reporter())  # it was finished
    assert (again.resumed_from_step, len(again.history)) == (result.history[-1]["step"], 2)


@pytest.mark.slow
def test_where_the_work_beside_it_fails_a_training_is_stopped_and_can_be_continued(data, threads, tmp_path):
    config, folder = tiny_config(data, epochs=500, checkpoint_every_steps=1), tmp_path / "run"
    stopped = 0

    def fail_after_some_steps():
        with beside(config, folder):
            wait_for(lambda: read_status(folder).get("step", 0) > stopped + 2, "it trains")
            assert read_status(folder)["resumed_from_step"] == stopped
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail_after_some_steps()
        wait_for(lambda: not RunDirectory(folder).is_held() and processes_of(folder) == [], "it has stopped")
        assert read_status(folder)["state"] == "preempted"
        stopped = read_status(folder)["step"]


@pytest.mark.slow
def test_a_training_that_outlived_its_notebook_is_followed(data, threads, tmp_path):
    config, folder = tiny_config(data, epochs=60, checkpoint_every_steps=1), tmp_path / "run"
    config.save(tmp_path / "config.yaml")
    code = (
        "import time, torch\nfrom groundnlq.config import load_config\nfrom groundnlq.engine.launch import beside\n"
        f"torch.set_num_threads(2)\nwith beside(load_config({str(tmp_path / 'config.yaml')!r}), {str(folder)!r}):\n"
        "    time.sleep(600)"
    )
    notebook = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(lambda: read_status(folder).get("step", 0) > 2, "it trains", notebook)
    notebook.kill()
    notebook.wait()
    assert RunDirectory(folder).is_held()
    with beside(config, folder) as rest:
        assert torch.get_num_threads() == 1
    assert [row["epoch"] for row in rest(reporter=Reporter()).history] == list(range(1, 61))
    assert read_status(folder)["resumed_from_step"] == 0  # nobody began it anew


def test_with_one_thread_a_training_begins_when_it_is_waited_for(data, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with beside(tiny_config(data, epochs=2), tmp_path / "run") as rest:
        assert not (tmp_path / "run").exists()
    assert rest(reporter=Reporter()).history[-1]["epoch"] == 2
