"""What one step of training changes: weights, their average, optimizer, running count of positives."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from groundnlq.config import TrainConfig
from groundnlq.data.dataset import Batch
from groundnlq.engine.distributed import World
from groundnlq.engine.optim import Ema, make_optimizer, set_rate
from groundnlq.errors import TrainingFailed
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion


class Learner:
    """A network that learns, alone or with the other processes of its world as if they were one.

    N processes with batches of b take the steps of one process with batches of N b: losses are summed over
    all of them and divided by one running count of positives. (Each draws its dropped paths for itself.)
    """

    def __init__(self, model: Grounder, config: TrainConfig, world: World):
        self.model, self.config, self.world = model.to(world.device), config, world
        self.ema = Ema(self.model, config.ema_decay)
        self.criterion = Criterion.from_config(config).to(world.device)
        self.optimizer = make_optimizer(self.model, config.weight_decay, config.backbone_rate_factor)
        self.network = world.wrap(self.model)

    def step(self, micro_batches: list[Batch], rate: float, seed: int) -> tuple[list[float], float]:
        """One update by the gradients of all micro-batches of all processes.

        Args:
            rate: learning rate of this step.
            seed: of the paths that this process drops.

        Returns:
            classification, regression and total loss; the gradient's norm before clipping.

        Raises:
            TrainingFailed: one of these is not finite; nothing was updated.
        """
        torch.manual_seed(seed)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        for batch in micro_batches[:-1]:
            with nullcontext() if self.world.size == 1 else self.network.no_sync():
                sums += self._backward(batch)
        sums += self._backward(micro_batches[-1])  # here gradients cross over to the other processes
        sums = self.world.sum(sums)
        divisor = self._divisor(sums[2], len(micro_batches))
        losses = self._losses(sums[:2] / divisor)
        norm = self._divide_and_clip(divisor)
        self._require_finite(losses, norm, micro_batches)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.ema.update(self.model)
        return losses, norm

    def state(self) -> dict[str, Any]:
        """What shapes the next steps, as plain values and tensors; to be called by all processes."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "positives": self.world.gather(self.criterion.normaliser.item()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, perhaps of another number of processes."""
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        counts = state["positives"]
        if len(counts) == self.world.size:
            self.criterion.normaliser.fill_(counts[self.world.rank])
        else:  # one count for all, or as published one for each, of its own share of the batch
            is_shared = not self.config.published_normaliser
            self.criterion.normaliser.fill_(counts[0] if is_shared else sum(counts) / self.world.size)

    def _backward(self, batch: Batch) -> Tensor:
        """Add this batch's gradients; its classification and regression losses and number of positives."""
        batch = batch.to(self.world.device, non_blocking=True)
        is_bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=is_bfloat16):
            outputs = self.network(batch)
        *losses, positives = self.criterion.sums(outputs, batch)
        if self.config.published_normaliser:
            self.criterion.count(positives)
            losses = [loss / self.criterion.normaliser for loss in losses]
        (losses[0] + self.config.regression_weight * losses[1]).backward()
        return torch.stack([losses[0].detach(), losses[1].detach(), positives])

    def _divisor(self, positives: Tensor, num_micro_batches: int) -> Tensor:
        """What the summed losses and their gradients count."""
        if self.config.published_normaliser:
            return torch.full_like(positives, num_micro_batches * self.world.size)
        self.criterion.count(positives)
        return self.criterion.normaliser

    def _losses(self, means: Tensor) -> list[float]:
        """Classification, regression, total."""
        classification, regression = means.tolist()
        return [classification, regression, classification + self.config.regression_weight * regression]

    def _divide_and_clip(self, divisor: Tensor) -> float:
        """Both with one pass over the gradients; their norm once divided, before it was clipped."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # what arrives from the other processes is an average
        factor = (self.world.size / divisor).to(gradients[0].dtype)
        norm = factor * nn.utils.get_total_norm(gradients)
        clipped = (self.config.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # as PyTorch clips
        torch._foreach_mul_(gradients, factor * clipped)
        return norm.item()

    def _require_finite(self, losses: list[float], norm: float, batches: list[Batch]) -> None:
        if all(map(math.isfinite, [*losses, norm])):
            return
        mine = [query_id for batch in batches for query_id in batch.query_ids]
        ids = ", ".join(query_id for part in self.world.gather(mine) for query_id in part)
        raise TrainingFailed(
            f"loss {losses[2]:g}, gradient norm {norm:g}; queries of the batch: {ids} -- nothing was updated "
            "and the last checkpoint is intact; look at these queries' features, or lower train.learning_rate"
        )
