"""One training step: weights, their average, optimizer and loss normaliser."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from groundnlq.config import TrainConfig
from groundnlq.engine.distributed import World
from groundnlq.engine.optim import Ema, make_optimizer
from groundnlq.engine.task import Task
from groundnlq.errors import TrainingFailed


class Learner:
    """A network in training, alone or with the other processes of its world as if they were one.

    N processes with batches of b take the steps of one process with batches of N b: losses are summed over
    all of them and divided by one loss normaliser. (Each draws its dropped paths for itself.)
    """

    def __init__(self, task: Task, config: TrainConfig, world: World):
        self.task, self.config, self.world = task, config, world
        self.model = task.model.to(world.device)
        self.ema = Ema(self.model, config.ema_decay)
        factor = config.backbone_rate_factor
        self.optimizer = make_optimizer(self.model, config.weight_decay, task.own_rate, factor)
        self.network: Any = world.wrap(self.model)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that `step` returns."""
        return (*(f"loss {name}" for name in self.task.loss_weights), "loss total")

    def step(self, micro_batches: list[Any], rate: float, seed: int) -> tuple[dict[str, float], float]:
        """One update by the gradients of all micro-batches of all processes.

        Args:
            rate: learning rate of this step.
            seed: of the paths that this process drops.

        Returns:
            the loss terms and ``loss total``; the gradient's norm before clipping.

        Raises:
            TrainingFailed: one of these is not finite; nothing was updated.
        """
        torch.manual_seed(seed)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(self.loss_names), dtype=torch.float64, device=self.world.device)
        for batch in micro_batches[:-1]:
            with nullcontext() if self.world.size == 1 else self.network.no_sync():
                sums += self._backward(batch)
        sums += self._backward(micro_batches[-1])  # here gradients are exchanged between the processes
        sums = self.world.sum(sums)
        divisor = self._divisor(sums[-1], len(micro_batches))
        terms = (sums[:-1] / divisor).tolist()
        losses = dict(zip(self.loss_names, [*terms, self._total(terms)], strict=True))
        norm = self._divide_and_clip(divisor)
        self._require_finite(losses, norm, micro_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        self.optimizer.step()
        self.ema.update(self.model)
        return losses, norm

    def state(self) -> dict[str, Any]:
        """What shapes the next steps, as plain values and tensors; to be called by all processes."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_normaliser": self.world.gather(self.task.normaliser.value.item()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, perhaps of another number of processes."""
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        values = state["loss_normaliser"] if "loss_normaliser" in state else state["positives"]  # of 0.1
        normaliser, size = self.task.normaliser, self.world.size
        if len(values) == size:
            normaliser.value.fill_(values[self.world.rank])
        else:  # one value for all, or as published one for each process, of its own share of the batch
            normaliser.value.fill_(sum(values) / size if normaliser.per_process else values[0])

    def _backward(self, batch: Any) -> Tensor:
        """Add this batch's gradients; returns its loss terms and what they count."""
        batch = batch.to(self.world.device, non_blocking=True)
        is_bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=is_bfloat16):
            outputs = self.network(batch)
        terms, count = self.task.loss(outputs, batch)
        losses = [terms[name] for name in self.task.loss_weights]
        if self.task.normaliser.per_process:
            self.task.normaliser.update(count)
            losses = [loss / self.task.normaliser.value for loss in losses]
        self._total(losses).backward()
        return torch.stack([*(loss.detach() for loss in losses), count])

    def _divisor(self, count: Tensor, num_micro_batches: int) -> Tensor:
        """The number that the summed losses and their gradients are divided by."""
        if self.task.normaliser.per_process:
            return torch.full_like(count, num_micro_batches * self.world.size)
        self.task.normaliser.update(count)
        return self.task.normaliser.value

    def _total(self, losses: list[Any]) -> Any:
        weights = self.task.loss_weights.values()
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    def _divide_and_clip(self, divisor: Tensor) -> float:
        """Both with one pass over the gradients; their norm once divided, before it was clipped."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # the gradients exchanged between processes are averages
        factor = (self.world.size / divisor).to(gradients[0].dtype)
        norm = factor * nn.utils.get_total_norm(gradients)
        clipped = (self.config.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as PyTorch clips
        torch._foreach_mul_(gradients, factor * clipped)
        return norm.item()

    def _require_finite(self, losses: dict[str, float], norm: float, batches: list[Any]) -> None:
        if all(map(math.isfinite, [*losses.values(), norm])):
            return
        mine = [query_id for batch in batches for query_id in batch.query_ids]
        ids = ", ".join(query_id for part in self.world.gather(mine) for query_id in part)
        loss = losses["loss total"]
        raise TrainingFailed(
            f"loss {loss:g}, gradient norm {norm:g}; queries of the batch: {ids} -- nothing was updated "
            "and the last checkpoint is intact; look at these queries' features, or lower train.learning_rate"
        )
