"""Run directory: its files, the process that works in it, and how the run stands."""

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from groundnlq.config import RunConfig, load_config
from groundnlq.errors import ConfigError, KitError
from groundnlq.files import MARKER, acquire_lock, write_json, write_text

# Keys that may change when a run goes on, since they do not shape the weights ...
FREE_KEYS = {
    "train.checkpoint_every_steps", "train.keep_checkpoints", "train.timeout_sec", "train.tensorboard",
    "train.allow_other_world_size", "align.cache_gb",
}  # fmt: skip
# ... names of files, whose content the trainer compares ...
FILE_KEYS = {f"data.{name}" for name in ("folder", "train_records", "val_records", "features", "text", "videos")}
# ... those that may change where a run is extended ...
EXTEND_KEYS = {"train.epochs", "train.learning_rate", "train.patience_epochs"}
# ... and those that another number of processes needs; the trainer requires the same global batch.
BATCH_KEYS = {"train.batch_size", "train.accumulate_steps"}
LOCK_PATIENCE_SEC = 0.2  # `is_held` of another process locks for about a millisecond


class RunDirectory:
    """``config.yaml``, ``metrics.jsonl`` (a line an epoch), ``status.json``, ``checkpoints/``, ``best.pt``,
    ``last.pt``; ``log.txt`` of processes that `train` started."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best, self.last = self.path / "best.pt", self.path / "last.pt"
        self.metrics, self.log = self.path / "metrics.jsonl", self.path / "log.txt"

    @classmethod
    def weights_of(cls, path: str | Path) -> Path:
        """The file with weights that a path means: of a run directory its best ones."""
        return cls(path).best if Path(path).is_dir() else Path(path)

    def open(self, config: RunConfig, extend: bool = False, is_running: bool = False) -> None:
        """Make the directory, or check that it belongs to this configuration; an error names the differing keys.

        With `extend` it may go on for more epochs, or with another rate or patience; if running, it stays as it is.
        """
        known = self.path / "config.yaml"
        if known.exists():
            try:
                before = load_config(known)
            except ConfigError as error:
                remedy = f"remove it to take the present settings ('groundnlq show {self.path}' prints the former)"
                raise ConfigError(f"{error} -- {remedy}") from None
            free = FREE_KEYS | (BATCH_KEYS if config.train.allow_other_world_size else set())
            free |= set() if is_running else FILE_KEYS
            free |= EXTEND_KEYS if extend and config.train.epochs >= before.train.epochs else set()
            if keys := [key for key in before.differing_keys(config) if key not in free]:
                hint = "; --extend goes on for more epochs or with another rate" * (set(keys) <= EXTEND_KEYS)
                raise ConfigError(
                    f"{self.path}: was run with another configuration; {', '.join(keys)} differ "
                    f"-- use another run folder, or the same settings{hint}"
                )
            if is_running or before == config:
                return
        config.save(known)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; a second run in it is refused at once.

        The lock ends with the process, however that ends.
        """
        holder = self.path / ".pid"
        try:
            lock = acquire_lock(self.path / ".lock", LOCK_PATIENCE_SEC)
        except Timeout as error:
            pid = (holder.read_text(encoding="utf-8") if holder.exists() else "") or "?"
            is_marker = error.lock_file.endswith(MARKER)
            hint = f"; if it was killed on another machine, remove {error.lock_file}" if is_marker else ""
            raise KitError(f"{self.path}: in use by process {pid} -- wait for it, or stop it{hint}") from None
        with lock:
            if lock.lock.lock_file.endswith(MARKER):
                warnings.warn(f"{self.path}: no flock on this file system; a marker file is used", stacklevel=3)
            with suppress(OSError):  # a full disk is reported by the first result that has no room
                holder.write_text(str(os.getpid()), encoding="utf-8")
            for leftover in self.path.rglob(".*.tmp"):  # of a process that died while writing
                leftover.unlink(missing_ok=True)
            yield

    def is_held(self) -> bool:
        """Whether a process works in this directory now."""
        if not (self.path / ".pid").exists():
            return False
        try:
            with acquire_lock(self.path / ".lock", 0):
                return False
        except Timeout:
            return True

    def write_status(self, state: str, step: int, total_steps: int, reason: str = "", **more: Any) -> dict[str, Any]:
        """Say how the run stands; exit codes of launchers do not. Returns what was written."""
        status = {"state": state, "step": step, "total_steps": total_steps, "reason": reason, **more}
        status |= {"pid": os.getpid(), "time": time.time()}
        write_json(self.path / "status.json", status)
        return status

    def write_history(self, history: Sequence[Mapping[str, Any]], tensorboard: bool = False) -> None:
        """One line for each epoch so far; if asked the newest one's numbers as scalars, too, in ``tensorboard/``."""
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in history))
        if not tensorboard:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("train.tensorboard needs pip install 'groundnlq[tensorboard]'") from None
        with SummaryWriter(self.path / "tensorboard") as writer:
            for name, value in history[-1].items():
                writer.add_scalar(name, value, history[-1]["step"])


def read_status(run_dir: str | Path) -> dict[str, Any]:
    """How a run stands: ``state`` is running, finished, preempted or failed; empty where none was begun.

    A run that no longer runs, and could not say so, has failed.
    """
    folder = RunDirectory(run_dir)
    is_held, path = folder.is_held(), folder.path / "status.json"  # in this order: it may end in between
    status = next(_read_json_lines(path), {})
    if status.get("state") == "running" and not is_held:
        return status | {"state": "failed", "reason": "its processes were killed; the same command continues"}
    return status


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """The epochs of a run so far: losses, rates, recalls of raw and averaged weights."""
    return list(_read_json_lines(RunDirectory(run_dir).metrics))


def _read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Mappings, one a line; what a crash left of others is passed over: the run writes such a file again."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() or [""] if path.exists() else ():
        try:
            yield dict(json.loads(line))
        except (ValueError, TypeError):
            warnings.warn(f"{path}: damaged; left out until the run writes it again", stacklevel=3)
