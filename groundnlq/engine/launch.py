"""Training in a run directory: in this process, or in several that torchrun starts and that are watched here.

The processes outlive the one that started them (a notebook's kernel that dies, a closed terminal); a later call finds
them by their run directory.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from groundnlq.config import RunConfig
from groundnlq.engine.distributed import StopRequest, World
from groundnlq.engine.processor import memory_kept, short_waits_when_busy
from groundnlq.engine.reporter import Reporter, TerminalReporter
from groundnlq.engine.run_dir import RunDirectory, read_history, read_status
from groundnlq.engine.trainer import Trainer
from groundnlq.errors import KitError, Preempted, TrainingFailed

LOOK_EVERY_SEC = 0.2
MAX_RESTARTS = 3
STOPPED = "asked to stop; the same command continues"


@dataclass(frozen=True)
class TrainResult:
    """Files of a finished run; `history` has a row for each epoch."""

    run_dir: Path
    best: Path
    last: Path
    history: list[dict[str, Any]]
    resumed_from_step: int


def train(
    config: RunConfig, run_dir: str | Path, *, processes: int = 1, reporter: Reporter | None = None,
    attach: bool = True, extend: bool = False,
) -> TrainResult:  # fmt: skip
    """Train, or resume the run of this directory; a finished run does nothing.

    Args:
        processes: of this machine that train as one; their output goes to ``log.txt``, and those that died are started
            again from the newest checkpoint. Under torchrun its processes train as one instead.
        reporter: receives the progress; progress bars in a terminal by default.
        attach: follow several processes that already train here; without it they are an error.
        extend: go on with more `epochs`, or another `learning_rate` or `patience_epochs` (docs/reliability.md).

    Raises:
        ConfigError, FeatureError: before any work; the latter also by clip where features became unreadable.
        Preempted: stopped by SIGTERM after a step, state saved; Ctrl-C: the same as KeyboardInterrupt.
        TrainingFailed: loss or gradient not finite, or any failure of several processes; with the reason.
    """
    folder, reporter = RunDirectory(run_dir), reporter or TerminalReporter()
    if processes == 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        return _train_here(config, folder, reporter, extend)
    if attach and folder.is_held():
        folder.open(config, is_running=True)
        return _follow(folder, None, reporter)
    with folder.locked():
        folder.open(config, extend)
    return _follow(folder, _start(folder, processes), reporter)


@contextmanager
def beside(config: RunConfig, run_dir: str | Path, processes: int = 1) -> Iterator[Callable[..., TrainResult]]:
    """A training in a process of its own, on half of this processor's threads, while the block has the other half.

    Two small networks learn faster beside each other than one after the other with all threads. Gives a function that
    waits for the end; it takes a `reporter` and returns what `train` returns. With several `processes`, with one
    thread, or on a GPU, that function does the whole training. Where the block fails, the training is stopped; the same
    call continues.
    """
    folder, threads = RunDirectory(run_dir), torch.get_num_threads()
    if processes > 1 or threads == 1 or torch.cuda.is_available():
        yield partial(train, config, run_dir, processes=processes)
        return
    is_running = folder.is_held()  # perhaps since a notebook whose kernel died
    with nullcontext() if is_running else folder.locked():
        folder.open(config, is_running=is_running)
    torchrun = None if is_running else _start(folder, 1, threads // 2)
    torch.set_num_threads(threads - threads // 2)
    try:
        yield lambda reporter=None: _follow(folder, torchrun, reporter or TerminalReporter())
    except BaseException:
        if torchrun:
            _ask_to_stop(torchrun.pid)
        raise
    finally:
        torch.set_num_threads(threads)


# ---- in this process


def _train_here(config: RunConfig, folder: RunDirectory, reporter: Reporter, extend: bool) -> TrainResult:
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.use_deterministic_algorithms(config.train.deterministic)
    with ExitStack() as held, World.join(config.train.timeout_sec, config.train.tf32) as world:
        world.from_main(lambda: _enter(folder, config, held, extend))
        with StopRequest() as stop, memory_kept(), short_waits_when_busy():
            trainer = _run(config, folder, world, reporter if world.is_main else Reporter(), stop)
    return TrainResult(folder.path, folder.best, folder.last, trainer.history, trainer.resumed_from_step)


def _run(config: RunConfig, folder: RunDirectory, world: World, reporter: Reporter, stop: StopRequest) -> Trainer:
    trainer = None
    try:
        task = import_module(config.task).task(config, world, reporter)  # of one of the rooms to the right, too
        trainer = Trainer(task, config, folder, world, reporter)
        trainer.fit(stop)
    except (Preempted, KeyboardInterrupt):
        if trainer is not None:
            trainer.write_status("preempted", STOPPED)
        raise
    except Exception as error:
        reason, is_lasting = world.explain(error)
        steps = (trainer.step, trainer.total_steps) if trainer is not None else (0, 0)
        with suppress(KitError):  # a full disk has no room for this either
            reporter.status(folder.write_status("failed", *steps, reason, is_lasting=is_lasting))
        raise
    return trainer


def _enter(folder: RunDirectory, config: RunConfig, held: ExitStack, extend: bool) -> None:
    """Take the directory, if it is free and of this configuration, and if another attempt makes sense."""
    held.enter_context(folder.locked())
    folder.open(config, extend)
    status, is_restart = read_status(folder.path), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if is_restart and status.get("state") == "failed" and status.get("is_lasting"):
        raise TrainingFailed(f"{status['reason']} (not tried again: it would fail again)")


# ---- in several processes


def _start(folder: RunDirectory, processes: int, threads: int = 0) -> subprocess.Popen[bytes]:
    """Processes with so many threads each; by default they share those of the machine."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={processes}", f"--max-restarts={MAX_RESTARTS}"),
        *("-m", "groundnlq", "train", str(folder.path / "config.yaml"), "--run-dir", str(folder.path)),
    ]
    usual = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    environment = usual | dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    (folder.path / "status.json").unlink(missing_ok=True)  # the next one is about this start
    with open(folder.log, "ab") as log:
        # a session of its own: Ctrl-C reaches this process alone, which hands it on
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _follow(folder: RunDirectory, torchrun: subprocess.Popen[bytes] | None, reporter: Reporter) -> TrainResult:
    """Report from a run directory until its processes have ended; hand a request to stop on to them."""
    num_epochs, reported_at, is_told, is_running = 0, 0.0, False, True
    launcher = torchrun.pid if torchrun else read_status(folder.path).get("launcher")
    with StopRequest() as stop:
        try:
            while is_running:
                # while torchrun starts its processes again, nobody holds the directory
                is_running = (
                    torchrun.poll() is None if torchrun else folder.is_held() or Path(f"/proc/{launcher}").exists()
                )
                status, history = read_status(folder.path), read_history(folder.path)
                if status.get("time", 0.0) > reported_at:
                    reporter.status(status)
                if len(history) > num_epochs:
                    reporter.epoch(history)
                num_epochs, reported_at = len(history), status.get("time", 0.0)
                launcher = launcher or status.get("launcher")  # the processes may not have said yet who started them
                if stop.signal_number and launcher and not is_told:
                    is_told = _ask_to_stop(launcher)
                time.sleep(LOOK_EVERY_SEC * is_running)
        except KeyboardInterrupt:  # a second Ctrl-C waits for nothing, but may not leave them training
            if launcher and not is_told:
                _ask_to_stop(launcher)
            raise
    if status.get("state") == "finished":
        return TrainResult(folder.path, folder.best, folder.last, history, status["resumed_from_step"])
    if stop.signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    if status.get("state") == "preempted":
        raise Preempted(f"{folder.path}: stopped at step {status['step']}; the same command continues")
    reason = status.get("reason") or "its processes did not start"
    raise TrainingFailed(f"{folder.path}: {reason} -- what they printed is in {folder.log}")


def _ask_to_stop(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    return True
