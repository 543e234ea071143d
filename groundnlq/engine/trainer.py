"""A run: epochs of steps, validation, checkpoints.

Nothing that shapes the future is hidden. The learning rate, the order of samples and every random number are
functions of the seed and the global step; the rest (what the learner holds, history, best score) is saved.
"""

from __future__ import annotations

import hashlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from groundnlq.config import RunConfig
from groundnlq.data.dataset import Batch, shuffled_batches
from groundnlq.data.recall import recalls
from groundnlq.data.records import identity_of
from groundnlq.engine.checkpoint import latest_state, read_checkpoint, save_model, save_state
from groundnlq.engine.distributed import World, launcher_pid
from groundnlq.engine.grounding import load_dataset, origin_of_run, start_from
from groundnlq.engine.optim import learning_rate_at
from groundnlq.engine.predictor import predict_dataset
from groundnlq.engine.prefetch import EpochSums, peak_memory_mb, read_ahead
from groundnlq.engine.run_dir import RunFolder
from groundnlq.engine.step import Learner
from groundnlq.engine.stop import StopRequest
from groundnlq.errors import CheckpointError, ConfigError, Preempted, sample_of
from groundnlq.model.grounder import Grounder

OnEpoch = Callable[[list[dict[str, Any]]], None]
OnStatus = Callable[[dict[str, Any]], None]
STATUS_EVERY_SEC = 1.0


class Trainer:
    """A run in its folder, taken up where its newest checkpoint is, or begun."""

    def __init__(self, config: RunConfig, folder: RunFolder, world: World, progress: bool):
        self.config, self.folder, self.world = config, folder, world
        self.progress = progress and world.is_main
        # the main process chooses, so that all go on from the same state
        saved = world.from_main(lambda: latest_state(folder.checkpoints))
        self.train_set = load_dataset(config, config.data.train_records, is_training=True)
        self.val_set = load_dataset(config, config.data.val_records, is_training=False)
        self.batch_size = config.train.batch_size * config.train.accumulate_steps * world.size
        self._require_enough_records()
        self.steps_per_epoch = len(self._batches(0))
        self.total_steps = self.steps_per_epoch * config.train.epochs
        torch.manual_seed(config.train.seed)
        model = Grounder.from_config(config.model)
        self.origin = origin_of_run(config, self.train_set) if world.is_main else {}
        if saved is None:
            self._say_start(start_from(model, config, self.train_set.tokens.encoder))
        self.learner = Learner(model, config.train, world)
        self.step, self.resumed_from_step, self.rate_factor = 0, 0, world.size
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.sums = EpochSums()
        self.said_at = 0.0
        self.on_status: OnStatus | None = None
        if saved is not None:
            self.restore(read_checkpoint(saved))

    # ---- the run

    def fit(
        self, stop: StopRequest, on_epoch: OnEpoch | None = None, on_status: OnStatus | None = None
    ) -> None:
        """All epochs that are left."""
        self.on_status = on_status
        while len(self.history) < self.config.train.epochs and not self._is_patience_over():
            self.write_status("running")
            self.train_epoch(stop)
            self.finish_epoch()
            if on_epoch is not None and self.world.is_main:
                on_epoch(self.history)
        self.write_status("finished")

    def train_epoch(self, stop: StopRequest) -> None:
        """The steps that are left of this epoch; none where only its validation is."""
        epoch = len(self.history)
        first = self.step - epoch * self.steps_per_epoch
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=first,
            desc=f"epoch {epoch + 1}/{self.config.train.epochs}",
            leave=False,
            disable=None if self.progress else True,
        )
        began = time.perf_counter()
        for micro_batches, waited in self.batches_of(epoch, first):
            self.train_step(micro_batches)
            self.sums.seconds += time.perf_counter() - began
            self.sums.wait_seconds += waited
            began = time.perf_counter()
            bar.update()
            bar.set_postfix(loss=f"{self.sums.losses[2] / self.sums.steps:.3f}", refresh=False)
            self._after_step(stop)
        bar.close()

    def train_step(self, micro_batches: list[Batch]) -> None:
        """One update."""
        seed = _mix(self.config.train.seed, self.step, self.world.rank)
        self.sums.add(*self.learner.step(micro_batches, self.learning_rate(self.step), seed))
        self.step += 1

    def finish_epoch(self) -> None:
        """Validate where it is due, log, keep the best weights; the saved state comes last and commits it."""
        epoch, config = len(self.history) + 1, self.config.train
        row = self._log_row(epoch)
        if epoch % config.validate_every_epochs == 0 or epoch == config.epochs:
            began = time.perf_counter()
            networks = {"raw": self.learner.model, "ema": self.learner.ema.module}
            scores = {name: self.validate(network) for name, network in networks.items()}
            row |= {f"{name} {key}": value for name, table in scores.items() for key, value in table.items()}
            row["val_seconds"] = round(time.perf_counter() - began, 3)
            self._keep_best(epoch, scores)
        self.history.append(row)
        self.sums = EpochSums()
        if self.world.is_main:
            self.folder.write_history(self.history)
            if config.tensorboard:
                self.folder.write_tensorboard(row)
            self._export(self.folder.last, self.best.get("use", "ema"), epoch)
        self.save()

    def validate(self, model: Grounder) -> dict[str, float]:
        """Strict recalls on the validation records."""
        rules, data, precision = self.config.decode, self.config.data, self.config.train.precision
        ranked = predict_dataset(
            model, self.val_set, data, rules, self.world, precision=precision, progress=self.progress
        )
        return recalls(ranked, self.val_set.records)

    def learning_rate(self, step: int) -> float:
        """The rate of a step; as published it grows with the number of processes, if so configured."""
        config = self.config.train
        base = config.learning_rate * (self.rate_factor if config.scale_rate_with_processes else 1)
        return learning_rate_at(step, base, config.warmup_steps(self.steps_per_epoch), self.total_steps)

    def batches_of(self, epoch: int, first: int = 0) -> Iterator[tuple[list[Batch], float]]:
        """This process's micro-batches of every step from `first` on, and the seconds waited for them."""
        return read_ahead(self._batches(epoch)[first:], lambda indices: self._micro_batches(indices, epoch))

    # ---- what survives

    def state(self) -> dict[str, Any]:
        """Everything that makes the future, as plain values and tensors; to be called by all processes."""
        return self.learner.state() | {
            "history": self.history,
            "best": self.best,
            "sums": vars(self.sums),
            "rate_factor": self.rate_factor,
            "batch_size": self.batch_size,
            "num_processes": self.world.size,
            "records": self.fingerprint(),
            "made_with": self._made_with(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._check_same_run(state)
        self.learner.load(state)
        self.history, self.best = state["history"], state["best"]
        self.sums, self.rate_factor = EpochSums(**state["sums"]), state["rate_factor"]
        self.step = self.resumed_from_step = state["step"]

    def save(self) -> None:
        """Commit the state; returns in all processes when it is on disk, or raises in all."""
        state, keep = self.state(), self.config.train.keep_checkpoints
        self.world.from_main(lambda: str(save_state(self.folder.checkpoints, self.step, state, keep)))

    def write_status(self, state: str, reason: str = "") -> None:
        self.said_at = time.monotonic()
        if not self.world.is_main:
            return
        status = self.folder.write_status(
            *(state, self.step, self.total_steps, reason),
            epoch=min(len(self.history) + 1, self.config.train.epochs),
            loss=self.sums.losses[2] / max(1, self.sums.steps),
            processes=self.world.size,
            resumed_from_step=self.resumed_from_step,
            launcher=launcher_pid(),
        )
        if self.on_status is not None:
            self.on_status(status)

    def fingerprint(self) -> str:
        """A hash of the training records in order, which is what an index of the sampler means, and of the
        features and tokens that they are looked up in."""
        data = self.train_set
        parts = (identity_of(data.records)["sha256"], data.store.sha256, data.tokens.sha256)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _made_with(self) -> dict[str, Any]:
        device = self.world.device.type
        return {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device}

    def _check_same_run(self, state: dict[str, Any]) -> None:
        where, before, now = self.folder.path, state["num_processes"], self.world.size
        if state["records"] != self.fingerprint():
            raise CheckpointError(
                f"{where}: the training records, features or tokens changed -- use another run folder"
            )
        if before != now and not self.config.train.allow_other_world_size:
            raise CheckpointError(
                f"{where}: saved by {before} processes, now {now} -- start as many as before, or set "
                f"train.allow_other_world_size=true with batches of {state['batch_size']} over all processes"
            )
        if state["batch_size"] != self.batch_size:
            raise CheckpointError(
                f"{where}: batches had {state['batch_size']} queries over all processes, now "
                f"{self.batch_size} -- set train.batch_size and train.accumulate_steps to make them equal"
            )
        old, new = (
            made | {"processes": n} for made, n in ((state["made_with"], before), (self._made_with(), now))
        )
        changes = [f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        if changes and state["step"] < self.total_steps and self.world.is_main:
            # samples and rates stay the same; sums are rounded in another order, dropped paths are drawn anew
            warnings.warn(
                f"{where}: {', '.join(changes)}: goes on at the same sample, but no longer bitwise as before",
                stacklevel=2,
            )

    # ---- small print

    def _batches(self, epoch: int) -> list[list[int]]:
        return shuffled_batches(self.train_set.lengths, self.batch_size, self.config.train.seed, epoch)

    def _micro_batches(self, indices: list[int], epoch: int) -> list[Batch]:
        mine = indices[self.world.rank :: self.world.size]
        size = -(-len(mine) // self.config.train.accumulate_steps)
        return [self.train_set.batch(mine[i : i + size], epoch) for i in range(0, len(mine), size)]

    def _require_enough_records(self) -> None:
        if len(self.train_set) < self.world.size * self.config.train.accumulate_steps:
            raise ConfigError(
                f"{len(self.train_set)} training records are too few for {self.world.size} processes and "
                f"train.accumulate_steps={self.config.train.accumulate_steps} -- use fewer of them"
            )

    def _say_start(self, names: dict[str, list[str]]) -> None:
        self.initialised_from = names
        if names["loaded"] and self.progress:
            source, loaded, fresh = self.config.train.init_from, len(names["loaded"]), names["fresh"]
            tqdm.write(f"{source}: {loaded} tensors loaded, {len(fresh)} start fresh: {sample_of(fresh, 3)}")

    def _after_step(self, stop: StopRequest) -> None:
        every = self.config.train.checkpoint_every_steps
        asked = max(self.world.gather(stop.signal_number)) if self.world.any(stop.signal_number > 0) else 0
        if asked:
            self.save()
            if asked == signal.SIGINT:
                raise KeyboardInterrupt
            raise Preempted(f"{self.folder.path}: stopped at step {self.step}; the same command continues")
        if every and self.step % every == 0 and self.step % self.steps_per_epoch:
            self.save()
        if time.monotonic() > self.said_at + STATUS_EVERY_SEC:
            self.write_status("running")

    def _log_row(self, epoch: int) -> dict[str, Any]:
        return self.sums.row() | {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": self.learning_rate(self.step - 1),
            "loss_normaliser": self.learner.criterion.normaliser.item(),
            "peak_memory_mb": round(peak_memory_mb(self.world.device)),
        }

    def _keep_best(self, epoch: int, scores: dict[str, dict[str, float]]) -> None:
        use = max(scores, key=lambda name: scores[name]["mean R@1"])
        score = scores[use]["mean R@1"]
        if not self.best or score > self.best["mean R@1"]:
            self.best = {"epoch": epoch, "use": use, "mean R@1": score}
            if self.world.is_main:
                self._export(self.folder.best, use, epoch)

    def _export(self, path: Path, use: str, epoch: int) -> None:
        weights = {"raw": self.learner.model.state_dict(), "ema": self.learner.ema.module.state_dict()}
        info = {"epoch": epoch, "step": self.step, "encoder": self.train_set.tokens.encoder}
        save_model(path, self.config, weights, use, **info, provenance=self.origin)

    def _is_patience_over(self) -> bool:
        patience = self.config.train.patience_epochs
        return bool(patience and self.best and len(self.history) - self.best["epoch"] >= patience)


def _mix(*numbers: int) -> int:
    """A seed from seed, step and rank; neighbouring steps get unrelated ones."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number * 1442695040888963407 + 1013904223) % (1 << 63)
    return value
