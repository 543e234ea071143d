"""A run folder: what is in it, who works in it, and how the run stands."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundnlq.config import RunConfig, differing_keys, load_config, save_config
from groundnlq.errors import ConfigError, KitError
from groundnlq.files import write_json, write_text


class RunFolder:
    """``config.yaml``, ``metrics.jsonl`` (a line an epoch), ``status.json``, ``checkpoints/``, and in the end
    ``best.pt`` and ``last.pt``."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best, self.last = self.path / "best.pt", self.path / "last.pt"
        self.metrics = self.path / "metrics.jsonl"

    def open(self, config: RunConfig) -> None:
        """Make the folder, or check that it belongs to this configuration.

        Raises:
            ConfigError: another configuration has been run here; the differing keys are named.
        """
        known = self.path / "config.yaml"
        if not known.exists():
            save_config(config, known)
            return
        if keys := differing_keys(load_config(known), config):
            raise ConfigError(
                f"{self.path}: was run with another configuration; {', '.join(keys)} differ "
                "-- use another run folder, or the same settings"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a second run in it is refused at once."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise KitError(
                    f"{self.path}: in use by process {file.read().strip() or '?'} -- wait for it, or stop it"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for leftover in self.path.rglob(".*.tmp"):  # of a process that died while writing
                leftover.unlink(missing_ok=True)
            yield

    def write_status(self, state: str, step: int, total_steps: int, reason: str = "") -> None:
        """Say how the run stands; exit codes of launchers do not."""
        status = {"state": state, "step": step, "total_steps": total_steps, "reason": reason}
        write_json(self.path / "status.json", status | {"pid": os.getpid(), "time": time.time()})

    def write_history(self, history: list[Mapping[str, Any]]) -> None:
        """One line for each epoch so far."""
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in history))


def read_status(run_dir: str | Path) -> dict[str, Any]:
    """How a run stands: ``state`` is running, finished, preempted or failed; empty where none was begun."""
    path = Path(run_dir) / "status.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """The epochs of a run so far: losses, rates, recalls of raw and averaged weights."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
