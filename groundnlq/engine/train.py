"""Training: epochs of steps, validation, checkpoints; resumable at any step.

Nothing that shapes the future is hidden state. The learning rate, the order of samples and every random
number are functions of the seed and the global step; the rest (weights, their average, optimizer, running
count of positives, history) is in the checkpoint.
"""

from __future__ import annotations

import hashlib
import resource
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from groundnlq.config import RunConfig
from groundnlq.data.annotations import Record, read_records
from groundnlq.data.dataset import Batch, QueryDataset, shuffled_batches
from groundnlq.data.feature_check import require_inputs
from groundnlq.data.features import FeatureStore
from groundnlq.data.recall import recalls
from groundnlq.data.text import TokenStore
from groundnlq.engine.checkpoint import load_latest_state, load_model, save_model, save_state
from groundnlq.engine.distributed import World, join_world, leave_world
from groundnlq.engine.optim import HEADS, Ema, learning_rate_at, make_optimizer, set_rate
from groundnlq.engine.predict import predict_dataset
from groundnlq.engine.run import RunFolder, read_status
from groundnlq.errors import CheckpointError, ConfigError, KitError
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion

LOSS_NAMES = ("classification", "regression", "total")
OnEpoch = Callable[[list[dict[str, Any]]], None]


class Preempted(KitError):
    """The run was asked to stop; its state is saved, and the same command continues it."""


class TrainingFailed(KitError):
    """The run cannot go on; what was saved last is intact."""


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run lies; `history` has a row for each epoch."""

    run_dir: Path
    best: Path
    last: Path
    history: list[dict[str, Any]]
    resumed_from_step: int


def train(
    config: RunConfig, run_dir: str | Path, *, progress: bool = True, on_epoch: OnEpoch | None = None
) -> TrainResult:
    """Train, or go on where this folder's run stopped; a finished run does nothing.

    Args:
        on_epoch: called with the history so far after every epoch, for a live curve.

    Raises:
        ConfigError: the folder belongs to another configuration.
        FeatureError: features or tokens are missing, before any work.
        Preempted: stopped by SIGTERM; state saved. (Ctrl-C saves as well and stays a KeyboardInterrupt.)
        TrainingFailed: loss or gradient not finite; the queries of the batch are named.
    """
    world, folder = join_world(), RunFolder(run_dir)
    try:
        if not world.is_main:
            return _run(config, folder, world, False, None)
        with folder.locked():
            folder.open(config)
            return _run(config, folder, world, progress, on_epoch)
    finally:
        leave_world(world)


def _run(
    config: RunConfig, folder: RunFolder, world: World, progress: bool, on_epoch: OnEpoch | None
) -> TrainResult:
    trainer = Trainer(config, folder, world, progress)
    trainer.restore()
    with stop_requests() as stop:
        try:
            trainer.fit(stop, on_epoch)
        except (Preempted, KeyboardInterrupt):
            trainer.write_status("preempted", "asked to stop; the same command continues")
            raise
        except Exception as error:
            trainer.write_status("failed", f"{type(error).__name__}: {error}")
            raise
    return TrainResult(folder.path, folder.best, folder.last, trainer.history, trainer.resumed_from_step)


@dataclass
class StopRequest:
    """A signal that asked for a stop; the handler only notes it, the training loop acts at a step's end."""

    signal_number: int = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""
    stop = StopRequest()

    def note(number: int, _frame: object) -> None:
        if stop.signal_number == signal.SIGINT == number:
            raise KeyboardInterrupt
        stop.signal_number = number

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class EpochSums:
    """Sums over the steps of the epoch that is under way; saved, so that its log line survives a stop."""

    losses: list[float] = field(default_factory=lambda: [0.0] * len(LOSS_NAMES))
    grad_norm: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    steps: int = 0


class Trainer:
    """The state of a run and the verbs that move it."""

    def __init__(self, config: RunConfig, folder: RunFolder, world: World, progress: bool):
        self.config, self.folder, self.world, self.progress = config, folder, world, progress
        self.train_set = load_dataset(config, config.data.train_records, is_training=True)
        self.val_set = load_dataset(config, config.data.val_records, is_training=False)
        self.batch_size = config.train.batch_size * config.train.accumulate_steps * world.size
        self.steps_per_epoch = len(self._batches(0))
        self.total_steps = self.steps_per_epoch * config.train.epochs
        torch.manual_seed(config.train.seed)
        self.model = Grounder.from_config(config.model)
        self.initialised_from = start_from(self.model, config)
        self.model.to(world.device)
        self.ema = Ema(self.model, config.train.ema_decay)
        self.criterion = Criterion.from_config(config.train, world.sum).to(world.device)
        self.optimizer = make_optimizer(
            self.model, config.train.weight_decay, config.train.backbone_rate_factor
        )
        self.network = world.wrap(self.model)
        self.step, self.resumed_from_step = 0, 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.sums = EpochSums()

    # ---- the run

    def fit(self, stop: StopRequest, on_epoch: OnEpoch | None = None) -> None:
        """All epochs that are left."""
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
        batches = self._batches(epoch)[first:]
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=first,
            desc=f"epoch {epoch + 1}/{self.config.train.epochs}",
            leave=False,
            disable=None if self.progress and self.world.is_main else True,
        )
        began = time.perf_counter()
        for micro_batches, waited in self._ahead(batches, epoch):
            self.train_step(micro_batches)
            self.sums.seconds += time.perf_counter() - began
            self.sums.wait_seconds += waited
            began = time.perf_counter()
            bar.update()
            bar.set_postfix(loss=f"{self.sums.losses[2] / self.sums.steps:.3f}", refresh=False)
            self._after_step(stop)
        bar.close()

    def train_step(self, micro_batches: list[Batch]) -> None:
        """Gradients of all micro-batches, divided by the running count of positives, then one update."""
        config, device = self.config.train, self.world.device
        torch.manual_seed(_mix(config.seed, self.step, self.world.rank))
        totals = torch.zeros(3, dtype=torch.float64, device=device)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        for index, batch in enumerate(micro_batches):
            batch = batch.to(device, non_blocking=True)
            with self._sync_only_if(index == len(micro_batches) - 1):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    predictions = self.network(batch)
                classification, regression, positives = self.criterion.sums(predictions, batch)
                (classification + config.regression_weight * regression).backward()
            totals += torch.stack([classification.detach(), regression.detach(), positives])
        totals = self.world.sum(totals)
        self.criterion.count(totals[2])
        losses = totals[:2] / self.criterion.positives
        losses = [*losses.tolist(), float(losses[0] + config.regression_weight * losses[1])]
        self._scale_gradients(self.world.size / self.criterion.positives)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad_norm).item()
        self._require_finite(losses, norm, micro_batches)
        set_rate(self.optimizer, self.learning_rate(self.step))
        self.optimizer.step()
        self.ema.update(self.model)
        self.step += 1
        self.sums.losses = [a + b for a, b in zip(self.sums.losses, losses, strict=True)]
        self.sums.grad_norm += norm
        self.sums.steps += 1

    def finish_epoch(self) -> None:
        """Validate where it is due, log, keep the best weights, save."""
        epoch, config = self.step // self.steps_per_epoch, self.config.train
        row = self._log_row(epoch)
        if epoch % config.validate_every_epochs == 0 or epoch == config.epochs:
            began = time.perf_counter()
            scores = {"raw": self.validate(self.model), "ema": self.validate(self.ema.module)}
            row |= {f"{name} {key}": value for name, table in scores.items() for key, value in table.items()}
            row["val_seconds"] = round(time.perf_counter() - began, 3)
            self._keep_best(epoch, scores)
        self.history.append(row)
        self.sums = EpochSums()
        self.save()
        if self.world.is_main:
            self.folder.write_history(self.history)
            self._export(self.folder.last, self.best.get("use", "ema"), epoch)

    def validate(self, model: Grounder) -> dict[str, float]:
        """Strict recalls on the validation records."""
        rules, data = self.config.decode, self.config.data
        precision = self.config.train.precision
        ranked = predict_dataset(
            model, self.val_set, data, rules, self.world, precision=precision, progress=self.progress
        )
        return recalls(ranked, self.val_set.records)

    def learning_rate(self, step: int) -> float:
        config = self.config.train
        base = config.learning_rate * (self.world.size if config.scale_rate_with_processes else 1)
        warmup_steps = config.warmup_epochs * self.steps_per_epoch
        return learning_rate_at(step, base, warmup_steps, self.total_steps)

    # ---- what survives

    def state(self) -> dict[str, Any]:
        """Everything that makes the future, as plain values and tensors."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "criterion": self.criterion.state_dict(),
            "history": self.history,
            "best": self.best,
            "sums": vars(self.sums),
            "world_size": self.world.size,
            "records": self.fingerprint(),
        }

    def restore(self) -> None:
        """Take up the newest whole state of the folder, if there is one."""
        state = load_latest_state(self.folder.checkpoints) if self.folder.checkpoints.exists() else None
        if state is None:
            return
        self._check_same_run(state)
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.criterion.load_state_dict(state["criterion"])
        self.history, self.best = state["history"], state["best"]
        self.sums = EpochSums(**state["sums"])
        self.step = self.resumed_from_step = state["step"]

    def save(self) -> None:
        if self.world.is_main:
            self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
            save_state(self.folder.checkpoints, self.step, self.state(), self.config.train.keep_checkpoints)

    def write_status(self, state: str, reason: str = "") -> None:
        if self.world.is_main:
            self.folder.write_status(state, self.step, self.total_steps, reason)

    def fingerprint(self) -> str:
        """A hash of the training records in order: what an index of the sampler means."""
        ids = "\n".join(record.query_id for record in self.train_set.records)
        return hashlib.sha256(ids.encode()).hexdigest()

    def _check_same_run(self, state: dict[str, Any]) -> None:
        if state["records"] != self.fingerprint():
            raise CheckpointError(
                f"{self.folder.path}: the training records changed -- use another run folder"
            )
        if state["world_size"] != self.world.size:
            raise CheckpointError(
                f"{self.folder.path}: saved by {state['world_size']} processes, now {self.world.size} "
                "-- start as many as before"
            )

    # ---- small print

    def _batches(self, epoch: int) -> list[list[int]]:
        return shuffled_batches(self.train_set.lengths, self.batch_size, self.config.train.seed, epoch)

    def _ahead(self, batches: list[list[int]], epoch: int) -> Iterator[tuple[list[Batch], float]]:
        """Micro-batches of every step and the seconds waited for them; the next is read during a step."""
        with ThreadPoolExecutor(1) as reader:
            pending = [reader.submit(self._micro_batches, batch, epoch) for batch in batches[:1]]
            for following in [*batches[1:], None][: len(batches)]:
                began = time.perf_counter()
                current = pending.pop().result()
                waited = time.perf_counter() - began
                if following is not None:
                    pending.append(reader.submit(self._micro_batches, following, epoch))
                yield current, waited

    def _micro_batches(self, indices: list[int], epoch: int) -> list[Batch]:
        mine = indices[self.world.rank :: self.world.size]
        size = -(-len(mine) // self.config.train.accumulate_steps)
        return [self.train_set.batch(mine[i : i + size], epoch) for i in range(0, len(mine), size)]

    def _sync_only_if(self, is_last: bool):
        wrapped = self.network is not self.model
        return self.network.no_sync() if wrapped and not is_last else torch.enable_grad()

    def _scale_gradients(self, factor: Tensor) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))

    def _require_finite(self, losses: list[float], norm: float, batches: list[Batch]) -> None:
        if not all(map(torch.isfinite, torch.tensor([*losses, norm]))):
            ids = ", ".join(query_id for batch in batches for query_id in batch.query_ids)
            raise TrainingFailed(
                f"loss {losses[2]:g}, gradient norm {norm:g} at step {self.step}, queries {ids} -- the last "
                f"checkpoint is intact; look at these queries' features, or lower train.learning_rate"
            )

    def _after_step(self, stop: StopRequest) -> None:
        every = self.config.train.checkpoint_every_steps
        is_epoch_end = self.step % self.steps_per_epoch == 0
        if self.world.any(bool(stop.signal_number)):
            self.save()
            if stop.signal_number == signal.SIGINT:
                raise KeyboardInterrupt
            raise Preempted(f"{self.folder.path}: stopped at step {self.step}; the same command continues")
        if every and self.step % every == 0 and not is_epoch_end:
            self.save()

    def _log_row(self, epoch: int) -> dict[str, Any]:
        sums, steps = self.sums, max(1, self.sums.steps)
        losses = {f"loss {name}": x / steps for name, x in zip(LOSS_NAMES, sums.losses, strict=True)}
        return losses | {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": self.learning_rate(self.step - 1),
            "grad_norm": sums.grad_norm / steps,
            "positives": float(self.criterion.positives),
            "seconds": round(sums.seconds, 3),
            "steps_per_second": round(steps / max(1e-9, sums.seconds), 3),
            "data_wait_share": round(sums.wait_seconds / max(1e-9, sums.seconds), 4),
            "peak_memory_mb": round(_peak_memory_mb(self.world.device)),
        }

    def _keep_best(self, epoch: int, scores: dict[str, dict[str, float]]) -> None:
        use = max(scores, key=lambda name: scores[name]["mean R@1"])
        score = scores[use]["mean R@1"]
        if not self.best or score > self.best["mean R@1"]:
            self.best = {"epoch": epoch, "use": use, "mean R@1": score}
            if self.world.is_main:
                self._export(self.folder.best, use, epoch)

    def _export(self, path: Path, use: str, epoch: int) -> None:
        weights = {"raw": self.model.state_dict(), "ema": self.ema.module.state_dict()}
        info = {"epoch": epoch, "step": self.step, "encoder": self.train_set.tokens.encoder}
        save_model(path, self.config, weights, use, **info, records=self.fingerprint())

    def _is_patience_over(self) -> bool:
        patience = self.config.train.patience_epochs
        return bool(patience and self.best and len(self.history) - self.best["epoch"] >= patience)


def load_dataset(config: RunConfig, names: tuple[str, ...], is_training: bool) -> QueryDataset:
    """The records of these files with features and tokens; refused where anything is missing."""
    data, model = config.data, config.model
    records: list[Record] = [record for name in names for record in read_records(data.path(name))]
    if is_training and not all(record.moments_sec for record in records):
        raise ConfigError(
            f"data.train_records {', '.join(names)}: some records have no moments to learn from"
        )
    store, tokens = FeatureStore(data.path(data.features)), TokenStore(data.path(data.text))
    require_inputs(records, store, tokens, model.video_dim, model.text_dim)
    return QueryDataset(
        records,
        store,
        tokens,
        data.grid,
        model.coarsest_stride,
        jitter_max_scale=data.jitter_max_scale if is_training else 1,
        seed=config.train.seed,
        max_seq_len=model.max_seq_len if is_training else None,
    )


def start_from(model: Grounder, config: RunConfig) -> dict[str, list[str]]:
    """Load the weights of `train.init_from` but the heads, which start fresh on purpose.

    Returns:
        names of the parameters that were ``loaded`` and that start ``fresh``.

    Raises:
        CheckpointError: no such file, or another architecture.
    """
    names = list(model.state_dict())
    if config.train.init_from is None:
        return {"loaded": [], "fresh": names}
    source, source_config = load_model(config.train.init_from, preset=config.name)
    if source_config.model.model_dump(exclude={"drop_path"}) != config.model.model_dump(
        exclude={"drop_path"}
    ):
        raise CheckpointError(
            f"{config.train.init_from}: has another architecture than this run -- set the same model.* keys"
        )
    loaded = {name: value for name, value in source.state_dict().items() if not name.startswith(HEADS)}
    model.load_state_dict(loaded, strict=False)
    return {"loaded": list(loaded), "fresh": [name for name in names if name not in loaded]}


def is_finished(run_dir: str | Path) -> bool:
    """Whether a run folder holds a finished run."""
    return read_status(run_dir).get("state") == "finished"


def _mix(*numbers: int) -> int:
    """A seed from seed, step and rank; neighbouring steps get unrelated ones."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number * 1442695040888963407 + 1013904223) % (1 << 63)
    return value


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
