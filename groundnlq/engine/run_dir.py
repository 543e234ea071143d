"""A run folder: what is in it, who works in it, and how the run stands."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from groundnlq.config import RunConfig, differing_keys, load_config, save_config
from groundnlq.errors import ConfigError, KitError
from groundnlq.files import write_json, write_text

# What a run may be continued with, since it does not shape the weights ...
FREE_KEYS = {f"train.{key}" for key in (
    "checkpoint_every_steps", "keep_checkpoints", "timeout_sec", "tensorboard", "allow_other_world_size",
)}  # fmt: skip
# ... and what only another number of processes needs; the trainer holds their product to the old one.
BATCH_KEYS = {"train.batch_size", "train.accumulate_steps"}


class RunFolder:
    """``config.yaml``, ``metrics.jsonl`` (a line an epoch), ``status.json``, ``checkpoints/``, ``best.pt``,
    ``last.pt``; ``log.txt`` where `launch` started the processes."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best, self.last = self.path / "best.pt", self.path / "last.pt"
        self.metrics, self.log = self.path / "metrics.jsonl", self.path / "log.txt"

    def open(self, config: RunConfig) -> None:
        """Make the folder, or check that it belongs to this configuration.

        Raises:
            ConfigError: another configuration has been run here; the differing keys are named.
        """
        known = self.path / "config.yaml"
        if known.exists():
            free = FREE_KEYS | (BATCH_KEYS if config.train.allow_other_world_size else set())
            before = load_config(known)
            if keys := [key for key in differing_keys(before, config) if key not in free]:
                raise ConfigError(
                    f"{self.path}: was run with another configuration; {', '.join(keys)} differ "
                    "-- use another run folder, or the same settings"
                )
            if before == config:
                return
        save_config(config, known)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second run in it is refused at once."""
        with self._lock_file() as file:
            if not _try_lock(file):
                raise KitError(f"{self.path}: in use by process {_holder(file)} -- wait for it, or stop it")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for leftover in self.path.rglob(".*.tmp"):  # of a process that died while writing
                leftover.unlink(missing_ok=True)
            yield

    def is_held(self) -> bool:
        """Whether a process works in this folder now."""
        if not (self.path / ".lock").exists():
            return False
        with self._lock_file() as file:
            return not _try_lock(file)

    def write_status(
        self, state: str, step: int, total_steps: int, reason: str = "", **more: Any
    ) -> dict[str, Any]:
        """Say how the run stands; exit codes of launchers do not. Returns what was written."""
        status = {"state": state, "step": step, "total_steps": total_steps, "reason": reason, **more}
        status |= {"pid": os.getpid(), "time": time.time()}
        write_json(self.path / "status.json", status)
        return status

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """One line for each epoch so far."""
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in history))

    def write_tensorboard(self, row: Mapping[str, Any]) -> None:
        """The numbers of an epoch as scalars for TensorBoard, in ``tensorboard/``.

        Raises:
            ConfigError: the extra is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("train.tensorboard needs pip install 'groundnlq[tensorboard]'") from None
        with SummaryWriter(self.path / "tensorboard") as writer:
            for name, value in row.items():
                writer.add_scalar(name, value, row["step"])

    def _lock_file(self) -> IO[str]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return open(self.path / ".lock", "a+", encoding="utf-8")
        except OSError as error:
            raise KitError(f"{self.path}: cannot work here ({error.strerror}) -- choose another") from None


def read_status(run_dir: str | Path) -> dict[str, Any]:
    """How a run stands: ``state`` is running, finished, preempted or failed; empty where none was begun.

    A run that no longer runs, and could not say so, has failed.
    """
    folder = RunFolder(run_dir)
    is_held, path = folder.is_held(), folder.path / "status.json"  # in this order: it may end in between
    status = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if status.get("state") == "running" and not is_held:
        return status | {"state": "failed", "reason": "its processes were killed; the same command continues"}
    return status


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """The epochs of a run so far: losses, rates, recalls of raw and averaged weights."""
    path = RunFolder(run_dir).metrics
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "?"
