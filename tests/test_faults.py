"""Real processes that are killed, stopped, starved and hung: what the run would have been, it is, bitwise.

Two processes under torchrun (gloo), faults from tests/faulty. Every test ends with the weights, the averages,
the optimizer, the counts and the log of a calm run. Processes are forked from one that has imported torch
(tests/forkserver.py); where starting them is what is tested, `real=True` starts interpreters, as users do.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from groundnlq.config import load_config
from groundnlq.engine.checkpoint import States, read_checkpoint
from groundnlq.engine.run_dir import RunDirectory, read_history, read_status
from groundnlq.engine.step import learning_rate_at
from tests.forkserver import Forked
from tests.processes import processes_of, wait_for
from tests.tiny_run import make_tiny_data, tiny_config

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    """Three epochs of six steps; a state every second step; jitter and dropped paths on."""
    return write_config(data, tmp_path_factory.mktemp("config") / "run.yaml")


def write_config(data, path, **train):
    config = tiny_config(data, **{"batch_size": 2, "checkpoint_every_steps": 2, "timeout_sec": 60.0, **train})
    config.model_copy(update={"data": config.data.model_copy(update={"jitter_max_scale": 3})}).save(path)
    return path


@pytest.fixture(scope="module")
def calm_folder(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    assert run(torchrun(config, folder)).returncode == 0
    return folder


@pytest.fixture(scope="module")
def calm(calm_folder):
    """What an uninterrupted run ends with."""
    return ending(calm_folder)


def torchrun(config, folder, *changes, processes=2, restarts=0):
    options = ("--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}")
    verb = ("-m", "groundnlq", "train", str(config), *changes, "--run-dir", str(folder))
    return [*TORCHRUN, *options, *verb]


def kit(config, folder, *changes):
    """The command line's own way to several processes."""
    return [sys.executable, "-m", "groundnlq", "train", str(config), "--processes", "2", "--run", str(folder), *changes]


def environment(*faults):
    path = os.pathsep.join([str(ROOT / "tests" / "faulty"), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "FAULTS": json.dumps(faults), "OMP_NUM_THREADS": "1"}


def run(command, *faults, real=False, **more):
    process = start(command, *faults, real=real, **more)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def start(command, *faults, real=False, **more):
    if not real:
        return Forked(command, env=environment(*faults) | more)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(*faults), text=True, **quiet)


def ending(folder):
    """A digest of all that a run leaves behind, but for what tells time, memory or the way it was reached."""
    state = read_checkpoint(States(folder / "checkpoints").latest())
    parts = {key: state[key] for key in ("model", "ema", "optimizer", "loss_normaliser", "best", "step", "rate_factor")}
    rows = [{k: v for k, v in row.items() if not k.endswith(("second", "seconds", "share", "mb"))}
            for row in state["history"]]  # fmt: skip
    assert [row["step"] for row in rows] == [row["step"] for row in read_history(folder)]
    digest = hashlib.sha256()
    for path, value in flat({**parts, "history": rows, "last": read_checkpoint(folder / "last.pt")["weights"]}):
        is_tensor = isinstance(value, torch.Tensor)
        digest.update(path.encode() + (value.numpy().tobytes() if is_tensor else repr(value).encode()))
    return digest.hexdigest()


def flat(value, path=""):
    if isinstance(value, dict):
        for key in value:
            yield from flat(value[key], f"{path}/{key}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from flat(entry, f"{path}/{index}")
    else:
        yield path, value


def is_left(folder):
    """Whether nobody works in a run folder any more; a process that ends loses its name before its lock."""
    return not processes_of(folder) and not RunDirectory(folder).is_held()


# ---- killed


@pytest.mark.slow
def test_two_calm_runs_are_equal_and_their_ending_tells_runs_apart(config, calm, tmp_path):
    assert run(torchrun(config, tmp_path / "same"), real=True).returncode == 0
    assert ending(tmp_path / "same") == calm
    state = States(tmp_path / "same" / "checkpoints").latest()
    content = torch.load(state, weights_only=True)
    content["loss_normaliser"][0] += 1e-9
    torch.save(content, state)
    manifest = {"bytes": state.stat().st_size, "sha256": hashlib.sha256(state.read_bytes()).hexdigest()}
    state.with_suffix(".json").write_text(json.dumps(manifest))
    assert ending(tmp_path / "same") != calm


@pytest.mark.slow
def test_processes_that_are_killed_three_times_are_restarted_by_torchrun(config, calm, tmp_path):
    """Before the first state, in the middle of an epoch, and the main process."""
    faults = [["kill", 1, 1, 0], ["kill", 1, 9, 1], ["kill", 0, 13, 2]]
    assert run(torchrun(config, tmp_path, restarts=3), *faults, real=True).returncode == 0
    status = read_status(tmp_path)
    assert (status["state"], status["resumed_from_step"]) == ("finished", 12)
    assert ending(tmp_path) == calm


@pytest.mark.slow
def test_a_process_killed_while_it_writes_a_state_leaves_the_one_before(config, calm, tmp_path):
    """Before the state gets its name, and before its manifest commits it."""
    faults = [["kill_before_replace", 0, 4, 0], ["kill_before_manifest", 0, 8, 1]]
    assert run(torchrun(config, tmp_path, restarts=2), *faults).returncode == 0
    assert read_status(tmp_path)["resumed_from_step"] == 6
    assert not list(tmp_path.rglob("*.tmp"))
    assert ending(tmp_path) == calm


@pytest.mark.slow
def test_when_restarts_are_used_up_the_run_says_why_and_goes_on_another_day(config, calm, tmp_path):
    assert run(torchrun(config, tmp_path), ["kill", 1, 9, 0], real=True).returncode != 0
    status = read_status(tmp_path)
    assert status["state"] == "failed"
    assert "process 1 hangs, or was killed" in status["reason"]
    assert run(torchrun(config, tmp_path)).returncode == 0
    assert ending(tmp_path) == calm


@pytest.mark.slow
def test_when_torchrun_is_killed_no_process_trains_on(config, calm, tmp_path):
    killed = start(torchrun(config, tmp_path, restarts=3), ["sleep", -1, -1, 0, 0.3], real=True)
    wait_for(lambda: read_status(tmp_path).get("step", 0) >= 3, "it trains")
    killed.kill()
    killed.wait()
    wait_for(lambda: is_left(tmp_path), "its processes are gone", seconds=10)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    status = read_status(tmp_path)
    assert (status["state"], status["reason"]) == ("failed", "its processes were killed; the same command continues")
    time.sleep(1)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before
    assert run(torchrun(config, tmp_path)).returncode == 0
    assert read_status(tmp_path)["resumed_from_step"] >= 2
    assert ending(tmp_path) == calm


def test_all_processes_killed_at_once(config, calm, tmp_path):
    assert run(torchrun(config, tmp_path, restarts=3), ["kill_all", -1, 11, 0]).returncode == -signal.SIGKILL
    wait_for(lambda: is_left(tmp_path), "its processes are gone", seconds=10)
    assert run(torchrun(config, tmp_path)).returncode == 0
    assert read_status(tmp_path)["resumed_from_step"] == 10
    assert ending(tmp_path) == calm


# ---- damaged


@pytest.fixture(scope="module")
def killed(config, tmp_path_factory):
    """A run that was killed at step 11; its newest states are of steps 10 and 8."""
    folder = tmp_path_factory.mktemp("killed")
    run(torchrun(config, folder), ["kill_all", -1, 11, 0])
    wait_for(lambda: is_left(folder), "its processes are gone", seconds=10)
    return folder


def damage(state, how):
    content = state.read_bytes()
    if how == "truncated":
        state.write_bytes(content[: len(content) // 2])
    elif how == "another checksum":
        state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        state.unlink()


@pytest.mark.parametrize("how", ["truncated", "another checksum", "gone"])
def test_a_damaged_newest_state_costs_one_interval_and_a_warning(config, calm, killed, tmp_path, how):
    folder = shutil.copytree(killed, tmp_path / "run")
    damage(folder / "checkpoints" / "step-00000010.pt", how)
    done = run(torchrun(config, folder))
    assert done.returncode == 0
    assert "step-00000010.pt is not usable" in done.stderr
    assert read_status(folder)["resumed_from_step"] == 8
    assert ending(folder) == calm


def test_without_a_whole_state_nothing_is_begun_or_overwritten(config, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    for state in States(folder / "checkpoints").committed():
        damage(state, "truncated")
    before = {path: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    done = run(torchrun(config, folder))
    assert done.returncode != 0
    assert "no usable checkpoint" in read_status(folder)["reason"]
    assert {path: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before


# ---- asked to stop


def trains_beyond(folder, step):
    status = read_status(folder)
    return status.get("state") == "running" and status["step"] > step


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_and_is_continued_by_the_same_command(config, calm, tmp_path):
    stopped_at = 0
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        running = start(kit(config, tmp_path), ["sleep", -1, -1, -1, 2], real=number == signal.SIGTERM)
        wait_for(partial(trains_beyond, tmp_path, stopped_at), "it trains on")
        if number == signal.SIGTERM:  # meanwhile, nobody else may work there
            second = run(kit(config, tmp_path))
            assert second.returncode == 2
            assert "in use by process" in second.stderr
        running.send_signal(number)
        assert running.wait(timeout=60) == code
        assert processes_of(tmp_path) == []
        status = read_status(tmp_path)
        assert status["state"] == "preempted"
        stopped_at = read_checkpoint(States(tmp_path / "checkpoints").latest())["step"]
        assert stopped_at == status["step"] < 18
    finished = run(kit(config, tmp_path))
    assert finished.returncode == 0
    assert ending(tmp_path) == calm
    assert "nothing to do" in run(kit(config, tmp_path)).stdout


def test_an_impatient_second_interrupt_stops_the_processes_as_well(config, tmp_path):
    running = start(kit(config, tmp_path), ["sleep", -1, -1, -1, 2])
    wait_for(lambda: read_status(tmp_path).get("step", 0) >= 1, "it trains", running)
    running.send_signal(signal.SIGINT)
    time.sleep(0.02)  # less than the call takes to look again: it has not handed on the first
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) == 130
    wait_for(lambda: is_left(tmp_path), "its processes are gone")
    assert read_status(tmp_path)["state"] == "preempted"


@pytest.mark.slow
def test_sigterm_to_torchrun_itself_saves_as_well(config, calm, tmp_path):
    running = start(torchrun(config, tmp_path, restarts=3), ["sleep", -1, -1, 0, 0.3], real=True)
    wait_for(lambda: read_status(tmp_path).get("step", 0) >= 3, "it trains")
    running.terminate()
    running.wait(timeout=60)
    assert read_status(tmp_path)["state"] == "preempted"
    assert run(torchrun(config, tmp_path)).returncode == 0
    assert ending(tmp_path) == calm


# ---- starved and hung


@pytest.mark.slow
def test_a_process_that_hangs_is_named_within_the_timeout(data, config, calm, tmp_path):
    impatient = write_config(data, tmp_path / "impatient.yaml", timeout_sec=4.0)
    began = time.monotonic()
    environ = {"FORKED_TORCHRUN_PATIENCE_SEC": "2"}  # for a process that heeds no SIGTERM; usually 30
    assert run(torchrun(impatient, tmp_path / "run"), ["hang", 1, 9, 0], **environ).returncode != 0
    assert time.monotonic() - began < 120  # and not gloo's half an hour
    status = read_status(tmp_path / "run")
    assert status["state"] == "failed"
    assert "process 1 hangs, or was killed" in status["reason"]
    assert run(torchrun(config, tmp_path / "run")).returncode == 0
    assert ending(tmp_path / "run") == calm


def test_a_full_disk_is_reported_once_and_keeps_what_is_there(config, calm, tmp_path):
    done = run(torchrun(config, tmp_path, restarts=3), ["write_nothing", 0, 9, 0])
    assert done.returncode != 0
    assert f"cannot write {tmp_path}" in done.stderr
    assert "File too large" in done.stderr
    status = read_status(tmp_path)
    assert status["state"] == "failed"
    assert "File too large" in status["reason"]
    assert States(tmp_path / "checkpoints").committed()[0].name == "step-00000008.pt"
    assert not list(tmp_path.rglob("*.tmp"))
    assert run(torchrun(config, tmp_path)).returncode == 0
    assert ending(tmp_path) == calm


def test_features_that_turn_unreadable_are_named_and_can_be_mended(config, calm, tmp_path):
    done = run(torchrun(config, tmp_path, restarts=3), ["unreadable", 0, 9, 0])
    assert done.returncode != 0
    status = read_status(tmp_path)
    assert status["state"] == "failed"
    assert re.search(r"features\.h5: clip c\d+ cannot be read \(.*Input/output error\)", status["reason"])
    assert "not tried again" in done.stderr
    assert run(torchrun(config, tmp_path)).returncode == 0
    assert read_status(tmp_path)["resumed_from_step"] >= 8  # one batch is read ahead
    assert ending(tmp_path) == calm


# ---- another number of processes, several machines


def test_another_number_of_processes_is_refused_unless_asked_for(config, calm, tmp_path):
    run(torchrun(config, tmp_path), ["kill_all", -1, 11, 0])
    wait_for(lambda: is_left(tmp_path), "its processes are gone", seconds=10)
    alone = [sys.executable, "-m", "groundnlq", "train", str(config), "--run", str(tmp_path)]
    refused = run(alone)
    assert refused.returncode == 2
    assert "saved by 2 processes, now 1" in refused.stderr
    asked = [*alone, "train.allow_other_world_size=true"]
    smaller = run(asked)
    assert smaller.returncode == 2
    assert "batches had 4 queries over all processes, now 2" in smaller.stderr
    done = run([*asked, "train.batch_size=4"])
    assert done.returncode == 0
    assert "processes 2 -> 1: goes on at the same sample, but no longer bitwise" in done.stderr
    rows = read_history(tmp_path)
    assert read_status(tmp_path)["resumed_from_step"] == 10
    assert [row["step"] for row in rows] == [6, 12, 18]
    rate = 2 * load_config(config).train.learning_rate  # of two processes, as it began
    assert rows[-1]["learning_rate"] == learning_rate_at(17, rate, 6, 18)


def still(path, data, **train):
    """A configuration without dropped paths, which every process draws for itself."""
    config = load_config(write_config(data, path, **train))
    config.model_copy(update={"model": config.model.model_copy(update={"drop_path": 0.0})}).save(path)
    return path


@pytest.mark.slow
def test_two_processes_of_two_train_as_one_of_four(data, tmp_path):
    """Equal but for the rounding of sums; the published normaliser differs as it says."""
    common = {"scale_rate_with_processes": False, "checkpoint_every_steps": 1, "keep_checkpoints": 20}
    kinds = {"one": {"batch_size": 4}, "two": {}, "published": {"published_normaliser": True}}
    first, last = {}, {}
    for name, changes in kinds.items():
        config, folder = still(tmp_path / f"{name}.yaml", data, **common, **changes), tmp_path / name
        assert run(torchrun(config, folder, processes=1 if name == "one" else 2)).returncode == 0
        first[name] = read_checkpoint(folder / "checkpoints" / "step-00000001.pt")
        last[name] = read_checkpoint(States(folder / "checkpoints").latest())
    for index, moments in first["one"]["optimizer"]["state"].items():  # a tenth of the clipped gradient
        together = first["two"]["optimizer"]["state"][index]["exp_avg"]
        torch.testing.assert_close(together, moments["exp_avg"], rtol=1e-3, atol=1e-7)
    for alone, together in zip(last["one"]["history"], last["two"]["history"], strict=True):
        assert together["loss total"] == pytest.approx(alone["loss total"], rel=1e-4)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3)
    for name, value in last["one"]["model"].items():  # AdamW blows up what rounding leaves of a zero gradient
        torch.testing.assert_close(last["two"]["model"][name], value, rtol=1e-3, atol=1e-3)
    assert last["two"]["loss_normaliser"] == last["one"]["loss_normaliser"] * 2
    counts = last["published"]["loss_normaliser"]
    assert counts[0] != counts[1]
    losses = [last[name]["history"][0]["loss total"] for name in ("published", "one")]
    assert losses[0] != pytest.approx(losses[1], rel=0.05)


def test_two_processes_predict_exactly_what_one_does(data, calm_folder, tmp_path):
    files = ("--records", data / "train.jsonl", "--features", data / "features.h5", "--text", data / "text.h5")
    for processes in (1, 2):
        options = ("--standalone", f"--nproc-per-node={processes}", "-m", "groundnlq", "predict")
        output = ("--output", str(tmp_path / f"{processes}.json"))
        assert run([*TORCHRUN, *options, str(calm_folder), *map(str, files), *output]).returncode == 0
    alone, together = (json.loads((tmp_path / f"{n}.json").read_text())["results"] for n in (1, 2))
    assert alone == together
    assert len({(r["annotation_uid"], r["query_idx"]) for r in together}) == len(together) == 24


@pytest.mark.slow
def test_two_machines_meet_at_one_rendezvous(config, calm, tmp_path):
    """Two agents on this machine, as two nodes would have them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
            "--rdzv-id=meet", "--local-addr=127.0.0.1")  # fmt: skip
    verb = ("-m", "groundnlq", "train", str(config), "--run-dir", str(tmp_path))
    nodes = [start([*TORCHRUN, *meet, *verb], real=True) for _ in range(2)]
    outputs = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert read_status(tmp_path)["processes"] == 2
    assert ending(tmp_path) == calm


# ---- from a notebook


def reply_to(message_id, client):
    while True:
        reply = client.get_shell_msg(timeout=60)
        if reply["parent_header"].get("msg_id") == message_id:
            return reply["content"]


@pytest.mark.slow
def test_a_notebook_cell_can_be_interrupted_its_kernel_killed_and_the_run_followed_again(config, calm, tmp_path):
    from jupyter_client.manager import start_new_kernel

    folder = tmp_path / "run"
    launch = (
        "from groundnlq.config import load_config\nfrom groundnlq.engine.launch import train\n"
        "from groundnlq.engine.reporter import Reporter\n"
        "seen = []\n"
        "class Seen(Reporter):\n    def epoch(self, history):\n        seen.append(history)\n"
        f"train(load_config({str(config)!r}), {str(folder)!r}, processes=2, reporter=Seen())"
    )
    kernel, client = start_new_kernel(env=environment(["sleep", -1, -1, -1, 1]), cwd=str(ROOT))
    try:
        # a kernel aborts cells that reach it right behind an error, unless that may not stop it
        cell = client.execute(launch, stop_on_error=False)
        wait_for(partial(trains_beyond, folder, 1), "it trains")
        kernel.interrupt_kernel()
        reply = reply_to(cell, client)
        assert (reply["status"], reply.get("ename")) == ("error", "KeyboardInterrupt")
        assert processes_of(folder) == []
        stopped_at = read_status(folder)
        assert stopped_at["state"] == "preempted"

        client.execute(launch)
        wait_for(partial(trains_beyond, folder, stopped_at["step"]), "it trains on")
        kernel.shutdown_kernel(now=True)
    finally:
        client.stop_channels()
        if kernel.has_kernel:
            kernel.shutdown_kernel(now=True)
    assert RunDirectory(folder).is_held()  # the processes outlive the kernel
    follower = subprocess.run(
        [sys.executable, "-c", f"{launch}\nprint(len(seen[-1]))"],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert follower.returncode == 0, follower.stderr
    assert follower.stdout.strip() == "3"
    assert ending(folder) == calm


# ---- for long


@pytest.mark.soak
def test_a_run_on_the_sample_world_survives_a_kill_every_few_seconds(tiny_world, tmp_path):
    """Either process, at a random moment; GROUNDNLQ_SOAK_KILLS sets how often (more kills: a longer run)."""
    kills = int(os.environ.get("GROUNDNLQ_SOAK_KILLS", "3"))
    changes = [f"data.folder={tiny_world}", f"train.epochs={2 + 2 * kills}", "train.validate_every_epochs=2",
               "train.batch_size=4", "train.checkpoint_every_steps=3"]  # fmt: skip
    assert run(torchrun("sample_scratch", tmp_path / "calm", *changes)).returncode == 0
    random, left, folder = np.random.default_rng(kills), kills, tmp_path / "killed"
    shaken = start(torchrun("sample_scratch", folder, *changes, restarts=kills))
    while left and shaken.poll() is None:
        time.sleep(random.uniform(1, 4))
        ranks = [pid for pid in processes_of(folder) if pid != shaken.pid]
        if ranks and read_status(folder).get("step", 0):
            with suppress(ProcessLookupError):
                os.kill(int(random.choice(ranks)), signal.SIGKILL)
                left -= 1
    _, errors = shaken.communicate(timeout=1200)
    assert shaken.returncode == 0, errors
    assert left < kills  # it was shaken at all
    assert ending(folder) == ending(tmp_path / "calm")
    assert not list(folder.rglob("*.tmp"))
