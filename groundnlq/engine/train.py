"""Training in a run folder, alone or as one of several processes; what was stopped goes on where it was."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from groundnlq.config import RunConfig
from groundnlq.engine.distributed import World, joined_world
from groundnlq.engine.malloc import memory_kept
from groundnlq.engine.run_dir import RunFolder, read_status
from groundnlq.engine.stop import StopRequest, stop_requests
from groundnlq.engine.trainer import OnEpoch, OnStatus, Trainer
from groundnlq.errors import KitError, Preempted, TrainingFailed

ASKED = "asked to stop; the same command continues"


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run lies; `history` has a row for each epoch."""

    run_dir: Path
    best: Path
    last: Path
    history: list[dict[str, Any]]
    resumed_from_step: int


def train(
    config: RunConfig,
    run_dir: str | Path,
    *,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    on_status: OnStatus | None = None,
) -> TrainResult:
    """Train, or go on where this folder's run stopped; a finished run does nothing.

    Processes that torchrun started train as one; `launch` starts them from a notebook or the command line.

    Args:
        on_epoch: called with the history so far after every epoch, for a live curve.
        on_status: called about every second with step, total_steps, epoch and its mean loss so far.

    Raises:
        ConfigError: the folder belongs to another configuration.
        FeatureError: features or tokens are missing, before any work; or became unreadable, by clip.
        Preempted: stopped by SIGTERM; state saved. (Ctrl-C saves as well and stays a KeyboardInterrupt.)
        TrainingFailed: loss or gradient not finite; the queries of the batch are named.
    """
    folder = RunFolder(run_dir)
    _choose_kernels(config)
    with ExitStack() as held, joined_world(config.train.timeout_sec) as world:
        world.from_main(lambda: _enter(folder, config, held))
        with stop_requests() as stop, memory_kept():
            trainer = _run(config, folder, world, stop, progress, on_epoch, on_status)
    return TrainResult(folder.path, folder.best, folder.last, trainer.history, trainer.resumed_from_step)


def _run(
    config: RunConfig,
    folder: RunFolder,
    world: World,
    stop: StopRequest,
    progress: bool,
    on_epoch: OnEpoch | None,
    on_status: OnStatus | None,
) -> Trainer:
    trainer = None
    try:
        trainer = Trainer(config, folder, world, progress)
        trainer.fit(stop, on_epoch, on_status)
    except (Preempted, KeyboardInterrupt):
        if trainer is not None:
            trainer.write_status("preempted", ASKED)
        raise
    except Exception as error:
        reason, is_lasting = world.explain(error)
        steps = (trainer.step, trainer.total_steps) if trainer is not None else (0, 0)
        with suppress(KitError):  # on a full disk there is no room for this either
            folder.write_status("failed", *steps, reason, is_lasting=is_lasting)
        raise
    return trainer


def _enter(folder: RunFolder, config: RunConfig, held: ExitStack) -> None:
    """Take the folder, if it is free and of this configuration, and if trying again makes sense."""
    held.enter_context(folder.locked())
    folder.open(config)
    status, is_restart = read_status(folder.path), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if is_restart and status.get("state") == "failed" and status.get("is_lasting"):
        raise TrainingFailed(f"{status['reason']} (not tried again: it would fail again)")


def _choose_kernels(config: RunConfig) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.train.tf32
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.use_deterministic_algorithms(config.train.deterministic)
