"""Several training processes from one call: started through torchrun, watched through the run folder.

The processes outlive the one that started them (a notebook's kernel that dies, a closed terminal); a later
call finds them by their folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from groundnlq.config import RunConfig
from groundnlq.engine.run_dir import RunFolder, read_history, read_status
from groundnlq.engine.stop import StopRequest, stop_requests
from groundnlq.engine.train import TrainResult, train
from groundnlq.engine.trainer import OnEpoch, OnStatus
from groundnlq.errors import Preempted, TrainingFailed

LOOK_EVERY_SEC = 0.2


def launch(
    config: RunConfig,
    run_dir: str | Path,
    *,
    processes: int,
    max_restarts: int = 3,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    on_status: OnStatus | None = None,
    attach: bool = True,
) -> TrainResult:
    """Train with several processes on this machine; what they print goes to ``log.txt`` in the run folder.

    Interrupting the call (Ctrl-C, a notebook's stop button) stops the run behind its current step, saved.
    Where a run of the same configuration is under way in the folder, the call follows that one.

    Args:
        max_restarts: how often processes that died are started again, from the newest checkpoint.
        attach: follow a run that is under way; without it the folder is refused as in use.

    Raises:
        ConfigError: the folder belongs to another configuration.
        Preempted: the run was stopped by SIGTERM.
        TrainingFailed: it failed, with the reason that the processes gave.
    """
    if processes == 1:
        return train(config, run_dir, progress=progress, on_epoch=on_epoch, on_status=on_status)
    folder = RunFolder(run_dir)
    if attach and folder.is_held():
        folder.open(config)
        watch = _Watch(folder, None, on_epoch, on_status)
    else:
        with folder.locked():
            folder.open(config)
        watch = _Watch(folder, _start(folder, processes, max_restarts), on_epoch, on_status)
    with stop_requests() as stop:
        watch.until_the_end(stop, progress)
    return _result(folder, stop)


def _start(folder: RunFolder, processes: int, max_restarts: int) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={processes}", f"--max-restarts={max_restarts}"),
        *("-m", "groundnlq", "train", str(folder.path / "config.yaml"), "--run-dir", str(folder.path)),
    ]
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"OMP_NUM_THREADS": str(threads)} | dict(os.environ)
    (folder.path / "status.json").unlink(missing_ok=True)  # what it will say is about this start
    with open(folder.log, "ab") as log:
        # a session of its own: Ctrl-C reaches this process alone, which hands it on
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


class _Watch:
    """Shows how a run goes until its processes have ended, and hands a request to stop on to them."""

    def __init__(
        self,
        folder: RunFolder,
        torchrun: subprocess.Popen[bytes] | None,
        on_epoch: OnEpoch | None,
        on_status: OnStatus | None,
    ):
        self.folder, self.torchrun, self.on_epoch, self.on_status = folder, torchrun, on_epoch, on_status
        self.num_epochs, self.said_at, self.is_told = 0, 0.0, False

    def until_the_end(self, stop: StopRequest, progress: bool) -> None:
        try:
            with tqdm(desc="train", unit="step", leave=False, disable=None if progress else True) as bar:
                while self._is_running():
                    status = self._look()
                    bar.total, bar.n = status.get("total_steps"), status.get("step", 0)
                    bar.refresh()
                    if stop.signal_number:
                        self._ask_to_stop()
                    time.sleep(LOOK_EVERY_SEC)
        except KeyboardInterrupt:  # a second Ctrl-C waits for nothing, but may not leave them training
            self._ask_to_stop()
            raise
        self._look()

    def _look(self) -> dict[str, Any]:
        status, history = read_status(self.folder.path), read_history(self.folder.path)
        if self.on_status is not None and status.get("time", 0.0) > self.said_at:
            self.on_status(status)
        if self.on_epoch is not None and len(history) > self.num_epochs:
            self.on_epoch(history)
        self.num_epochs, self.said_at = len(history), status.get("time", 0.0)
        return status

    def _is_running(self) -> bool:
        if self.torchrun is not None:
            return self.torchrun.poll() is None
        launcher = (
            self._launcher()
        )  # is there while it starts its processes again, when nobody holds the folder
        return self.folder.is_held() or (launcher is not None and Path(f"/proc/{launcher}").exists())

    def _ask_to_stop(self) -> None:
        launcher = self._launcher()
        if self.is_told or launcher is None:  # or its processes have not said yet who started them
            return
        with suppress(ProcessLookupError):
            os.kill(launcher, signal.SIGTERM)
        self.is_told = True

    def _launcher(self) -> int | None:
        if self.torchrun is not None:
            return self.torchrun.pid
        return read_status(self.folder.path).get("launcher")


def _result(folder: RunFolder, stop: StopRequest) -> TrainResult:
    status: dict[str, Any] = read_status(folder.path)
    if status.get("state") == "finished":
        resumed = status["resumed_from_step"]
        return TrainResult(folder.path, folder.best, folder.last, read_history(folder.path), resumed)
    if stop.signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    if status.get("state") == "preempted":
        raise Preempted(f"{folder.path}: stopped at step {status['step']}; the same command continues")
    reason = status.get("reason") or "its processes did not start"
    raise TrainingFailed(f"{folder.path}: {reason} -- what they printed is in {folder.log}")
