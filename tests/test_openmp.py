"""How OpenMP's threads wait beside other programs, which changes no bit of a result."""

import os
import subprocess
import sys
import time

import pytest
import torch

from groundnlq.engine import processor
from tests.processes import wait_for

GOMP = processor._libgomp()
pytestmark = pytest.mark.skipif(GOMP is None, reason="PyTorch uses another OpenMP here")
NUM_CORES = GOMP.omp_get_num_procs() if GOMP else 0


def num_threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.fixture
def two_threads(monkeypatch):
    for name in processor.OWN_CHOICE:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(100_000).exp()  # its team is there from now on
    yield
    torch.set_num_threads(before)


@pytest.fixture
def queued(monkeypatch):
    """Makes the threads queue for the cores, or not: `queued.share` of the time."""

    class Queued:
        share = 0.0

    def queued_sec():
        return time.monotonic() * Queued.share

    monkeypatch.setattr(processor, "LOOK_EVERY_SEC", 0.02)
    monkeypatch.setattr(processor, "_queued_sec", queued_sec)
    return Queued


def test_a_further_team_lasts_as_long_as_threads_queue_for_cores(two_threads, queued):
    before = num_threads()
    with processor.short_waits_when_busy():
        time.sleep(0.1)
        assert num_threads() == before + 1  # that watches
        queued.share = 0.6
        wait_for(lambda: num_threads() == before + 2 + NUM_CORES - 1, "the team is there")
        queued.share = 0.2
        wait_for(lambda: num_threads() == before + 1, "it has gone")
        queued.share = 0.6
        wait_for(lambda: num_threads() > before + 1, "it is there again")
    wait_for(lambda: num_threads() == before, "all have gone")


@pytest.mark.parametrize("why", ["one thread", *processor.OWN_CHOICE])
def test_nothing_watches_one_thread_or_where_a_user_has_decided(two_threads, queued, monkeypatch, why):
    if why == "one thread":
        torch.set_num_threads(1)
    else:
        monkeypatch.setenv(why, "10000")
    before, queued.share = num_threads(), 1.0
    with processor.short_waits_when_busy():
        time.sleep(0.1)
        assert num_threads() == before


def gradients() -> list[torch.Tensor]:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.LayerNorm(256))
    layers(torch.randn(4096, 64)).square().sum().backward()
    return [parameter.grad for parameter in layers.parameters()]


def test_a_further_team_changes_no_bit_but_another_number_of_threads_does(two_threads):
    calm = gradients()
    with processor._idle_team(GOMP):
        assert all(map(torch.equal, gradients(), calm))
    torch.set_num_threads(1)
    assert not all(map(torch.equal, gradients(), calm))


def test_time_in_the_queue_is_counted_while_another_process_has_the_core():
    cores = os.sched_getaffinity(0)
    before = processor._queued_sec()
    try:
        os.sched_setaffinity(0, {min(cores)})
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
        wait_for(lambda: _computes_for(0.1) and processor._queued_sec() - before > 0.1, "it had to wait")
    finally:
        os.sched_setaffinity(0, cores)
        other.kill()
        other.wait()


def _computes_for(seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return True
