"""A run: epochs of steps, validation, checkpoints.

The learning rate, the order of samples and every random number are functions of the seed and the global step; all else
that shapes the future (what the learner holds, history, best score) is saved.
"""

import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from groundnlq.config import RunConfig
from groundnlq.data.dataset import read_ahead, shuffled_batches
from groundnlq.engine.checkpoint import States, read_checkpoint, save_model
from groundnlq.engine.distributed import StopRequest, World
from groundnlq.engine.reporter import Reporter
from groundnlq.engine.run_dir import RunDirectory
from groundnlq.engine.step import Learner, learning_rate_at
from groundnlq.engine.task import Task
from groundnlq.errors import CheckpointError, ConfigError, Preempted

STATUS_EVERY_SEC = 1.0


class Trainer:
    """A run in its directory, resumed from its newest checkpoint, or begun."""

    def __init__(self, task: Task, config: RunConfig, folder: RunDirectory, world: World, reporter: Reporter):
        self.task, self.run_config, self.config = task, config, config.train
        self.folder, self.world, self.reporter = folder, world, reporter
        self.states = States(folder.checkpoints)
        # the main process chooses, so that all go on from the same state
        saved = world.from_main(self.states.latest)
        self.batch_size = self.config.batch_size * self.config.accumulate_steps * world.size
        if len(task.train_set) < world.size * self.config.accumulate_steps:
            raise ConfigError(
                f"{len(task.train_set)} training records are too few for {world.size} processes and "
                f"train.accumulate_steps={self.config.accumulate_steps} -- use fewer of them"
            )
        self.steps_per_epoch = len(self._batches(0))
        self.total_steps = self.steps_per_epoch * self.config.epochs
        if saved is None and (text := task.initialise()):
            reporter.message(text)
        self.learner = Learner(task, self.config, world)
        self.step, self.resumed_from_step, self.rate_factor = 0, 0, world.size
        self.history: list[dict[str, Any]] = []
        self.schedule = {"epochs": self.config.epochs, "learning_rate": self.config.learning_rate}
        self.extended: list[dict[str, Any]] = []  # schedules of before, each with the step at which it ended
        self.best: dict[str, Any] = {}
        self.sums: Any = Counter()  # over the steps of the current epoch
        self.reported_at = 0.0
        threads, device = torch.get_num_threads(), world.device.type
        self.made_with = {"torch": str(torch.__version__), "threads": threads, "device": device}
        if saved is not None:
            self.restore(read_checkpoint(saved))

    # ---- the run

    def fit(self, stop: StopRequest) -> None:
        """All epochs that are left."""
        while len(self.history) < self.config.epochs and not self._is_patience_over():
            self.write_status("running")
            self.train_epoch(stop)
            self.finish_epoch()
        if not self.best:  # its file was damaged behind the last validation
            self.validate(len(self.history))
        self.write_status("finished")

    def train_epoch(self, stop: StopRequest) -> None:
        """The steps that are left of this epoch; none where only its validation is."""
        epoch = len(self.history)
        began = time.perf_counter()
        for micro_batches, waited in self.batches_of(epoch, self.step - epoch * self.steps_per_epoch):
            self.train_step(micro_batches)
            self.sums.update(steps=1, seconds=time.perf_counter() - began, wait_seconds=waited)
            began = time.perf_counter()
            self._after_step(stop)

    def train_step(self, micro_batches: list[Any]) -> None:
        """One update."""
        seed = _mix(self.config.seed, self.step, self.world.rank)
        losses, grad_norm = self.learner.step(micro_batches, self.learning_rate(self.step), seed)
        self.sums.update(losses | {"grad_norm": grad_norm})
        self.step += 1

    def finish_epoch(self) -> None:
        """Validate where it is due, log, keep the best weights; the saved state comes last and commits it."""
        epoch = len(self.history) + 1
        row = self._log_row(epoch)
        if epoch % self.config.validate_every_epochs == 0 or epoch == self.config.epochs:
            row |= self.validate(epoch)
        self.history.append(row)
        self.sums.clear()
        if self.world.is_main:
            self.folder.write_history(self.history, self.config.tensorboard)
        self._export(self.folder.last, self.best.get("use", "ema"), epoch)
        self.save()
        self.reporter.epoch(self.history)

    def validate(self, epoch: int) -> dict[str, float]:
        """Scores of raw and averaged weights; the better ones are exported if they are the best so far."""
        began = time.perf_counter()
        networks = {"raw": self.learner.model, "ema": self.learner.ema}
        scores = {name: self.task.validate(network) for name, network in networks.items()}
        row = {f"{name} {key}": value for name, table in scores.items() for key, value in table.items()}
        row["val_seconds"] = round(time.perf_counter() - began, 3)
        key = self.task.select_by
        use = max(scores, key=lambda name: scores[name][key])
        if not self.best or scores[use][key] > self.best[key]:
            self.best = {"epoch": epoch, "use": use, key: scores[use][key]}
            self._export(self.folder.best, use, epoch)
        return row

    def learning_rate(self, step: int) -> float:
        """The rate of a step; as published it grows with the number of processes, if so configured."""
        factor = self.rate_factor if self.config.scale_rate_with_processes else 1
        warmup_steps = self.config.warmup_steps(self.steps_per_epoch)
        return learning_rate_at(step, self.config.learning_rate * factor, warmup_steps, self.total_steps)

    def batches_of(self, epoch: int, first: int = 0) -> Iterator[tuple[list[Any], float]]:
        """This process's micro-batches of a step, read while the network computes, and the seconds waited for them."""
        read = partial(self._micro_batches, epoch=epoch)
        return read_ahead(read, self._batches(epoch)[first:], self.world.device)

    # ---- what is saved

    def save(self) -> None:
        """Commit all that shapes the future; returns in all processes when it is on disk, or raises in all."""
        own = ("history", "best", "rate_factor", "batch_size", "schedule", "extended", "made_with")
        state = self.learner.state() | {name: getattr(self, name) for name in own}
        state |= {"sums": dict(self.sums), "num_processes": self.world.size, "inputs": dict(self.task.inputs)}
        self.world.from_main(lambda: self.states.save(self.step, state, self.config.keep_checkpoints))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._check_same_run(state)
        self.learner.load(state)
        self.history, self.best = state["history"], state["best"]
        self.sums, self.rate_factor = Counter(state["sums"]), state["rate_factor"]
        self.step = self.resumed_from_step = state["step"]
        self.extended = state.get("extended", [])
        if (before := state.get("schedule", self.schedule)) != self.schedule:
            self.extended = [*self.extended, {"step": self.step} | before]
            changes = ", ".join(f"{key} {before[key]:g} -> {value:g}" for key, value in self.schedule.items())
            text = f"{self.folder.path}: {changes}; the cosine is laid over all epochs, so the rate goes on with"
            self.reporter.message(f"{text} {self.learning_rate(self.step):.3g}")
        self._mend_files()

    def write_status(self, state: str, reason: str = "") -> None:
        """Say how the run stands, in ``status.json`` and to the reporter."""
        self.reported_at = time.monotonic()
        if not self.world.is_main:
            return
        status = self.folder.write_status(
            *(state, self.step, self.total_steps, reason),
            epoch=min(len(self.history) + 1, self.config.epochs),
            epochs=self.config.epochs,
            loss=self.sums["loss total"] / max(1, self.sums["steps"]),
            processes=self.world.size,
            resumed_from_step=self.resumed_from_step,
            launcher=self.world.launcher,
        )
        self.reporter.status(status)

    def _check_same_run(self, state: dict[str, Any]) -> None:
        where, before, now = self.folder.path, state["num_processes"], self.world.size
        if changed := self.task.changed_inputs(state):
            raise CheckpointError(f"{where}: begun with other {', '.join(changed)} -- use those, or another run")
        if before != now and not self.config.allow_other_world_size:
            raise CheckpointError(
                f"{where}: saved by {before} processes, now {now} -- start as many as before, or set "
                f"train.allow_other_world_size=true with batches of {state['batch_size']} over all processes"
            )
        if state["batch_size"] != self.batch_size:
            raise CheckpointError(
                f"{where}: batches had {state['batch_size']} queries over all processes, now {self.batch_size} "
                "-- set train.batch_size and train.accumulate_steps to make them equal"
            )
        old, new = state["made_with"] | {"processes": before}, self.made_with | {"processes": now}
        changes = [f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        if changes and state["step"] < self.total_steps and self.world.is_main:
            # samples and rates stay the same; sums are rounded in another order, dropped paths are drawn again
            text = f"{where}: {', '.join(changes)}: goes on at the same sample, but no longer bitwise as before"
            warnings.warn(text, stacklevel=2)

    def _mend_files(self) -> None:
        """Write again what a crash may have left damaged; ``best.pt`` is written by the next validation."""
        self.world.from_main(lambda: self.folder.write_history(self.history))
        best, last = self.world.from_main(lambda: [*map(is_zipfile, (self.folder.best, self.folder.last))])
        if self.best and not best:
            warnings.warn(f"{self.folder.best}: damaged; the next validated weights replace it", stacklevel=2)
            self.best = {}
        if self.history and not last:
            self._export(self.folder.last, self.best.get("use", "ema"), len(self.history))

    # ---- details

    def _batches(self, epoch: int) -> list[list[int]]:
        return shuffled_batches(self.task.train_set.lengths, self.batch_size, self.config.seed, epoch)

    def _micro_batches(self, indices: list[int], epoch: int) -> list[Any]:
        mine, for_gpu = indices[self.world.rank :: self.world.size], self.world.device.type == "cuda"
        size = -(-len(mine) // self.config.accumulate_steps)
        return [self.task.train_set.batch(mine[i : i + size], epoch, for_gpu) for i in range(0, len(mine), size)]

    def _after_step(self, stop: StopRequest) -> None:
        every = self.config.checkpoint_every_steps
        if number := max(self.world.gather(stop.signal_number)):
            self.save()
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise Preempted(f"{self.folder.path}: stopped at step {self.step}; the same command continues")
        if every and self.step % every == 0 and self.step % self.steps_per_epoch:
            self.save()
        if time.monotonic() > self.reported_at + STATUS_EVERY_SEC:
            self.write_status("running")

    def _log_row(self, epoch: int) -> dict[str, Any]:
        """Means of losses and gradient norm; speed; the share of time in which the network had to wait."""
        steps, seconds = max(1, self.sums["steps"]), max(1e-9, self.sums["seconds"])
        means = {name: self.sums[name] / steps for name in (*self.learner.loss_names, "grad_norm")}
        return means | {
            "seconds": round(self.sums["seconds"], 3),
            "steps_per_second": round(steps / seconds, 3),
            "data_wait_share": round(self.sums["wait_seconds"] / seconds, 4),
            "epoch": epoch,
            "step": self.step,
            "learning_rate": self.learning_rate(self.step - 1),
            "loss_normaliser": self.task.normaliser.value.item(),
            "peak_memory_mb": round(_peak_memory_mb(self.world.device)),
        }

    def _export(self, path: Path, use: str, epoch: int) -> None:
        weights = {"raw": self.learner.model.state_dict(), "ema": self.learner.ema.state_dict()}
        if self.world.is_main:
            about = {"epoch": epoch, "step": self.step, "extended": self.extended}
            save_model(path, self.run_config, weights, use, **about, **self.task.info)

    def _is_patience_over(self) -> bool:
        patience = self.config.patience_epochs
        return bool(patience and self.best and len(self.history) - self.best["epoch"] >= patience)


def _peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has held: on the GPU if it has one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _mix(*numbers: int) -> int:
    """A seed from seed, step and rank; neighbouring steps get unrelated ones."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number * 1442695040888963407 + 1013904223) % (1 << 63)
    return value
