"""One training step: weights, their average, optimizer, learning rate and loss normaliser."""

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from groundnlq.config import TrainConfig
from groundnlq.engine.distributed import World
from groundnlq.engine.graphs import StepGraphs
from groundnlq.engine.task import Task
from groundnlq.errors import ConfigError, TrainingFailed

FINAL_RATE = 1e-8


class Learner:
    """A network in training, alone or with the other processes of its world as if they were one.

    N processes with batches of b take the steps of one process with batches of N b: losses are summed over
    all of them and divided by one loss normaliser. (Each draws its dropped paths for itself.)
    """

    def __init__(self, task: Task, config: TrainConfig, world: World):
        if config.cuda_graphs and world.size > 1:
            raise ConfigError(
                "train.cuda_graphs: several processes cannot use them yet -- set it to false, or train with one"
            )
        self.task, self.config, self.world = task, config, world
        self.model = task.model.to(world.device)
        self.parameters: list[Tensor] = list(self.model.parameters())  # a walk over all modules takes long
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)  # averaged weights
        self.averages: list[Tensor] = list(self.ema.parameters())
        self.optimizer = _make_optimizer(self.model, config.weight_decay, task.own_rate, config.backbone_rate_factor)
        self.network: Any = world.wrap(self.model)
        is_captured = config.cuda_graphs and world.device.type == "cuda"
        self.graphs = StepGraphs(self._backward, world.device) if is_captured else None
        self.loss_names = (*(f"loss {name}" for name in task.loss_weights), "loss total")  # that `step` returns

    def step(self, micro_batches: list[Any], rate: float, seed: int) -> tuple[dict[str, float], float]:
        """One update by the gradients of all micro-batches of all processes, at this learning rate; `seed` is of the
        paths that this process drops.

        Returns the loss terms with ``loss total``, and the gradient's norm before clipping; where one of these is not
        finite, nothing is updated, and TrainingFailed is raised.
        """
        torch.manual_seed(seed)
        if not self.model.training:
            self.network.train()
        self.optimizer.zero_grad(set_to_none=self.graphs is None)  # a graph adds to gradients where they are
        backward = self.graphs or self._backward
        sums = torch.zeros(len(self.loss_names), dtype=torch.float64, device=self.world.device)
        for batch in micro_batches[:-1]:
            with nullcontext() if self.world.size == 1 else self.network.no_sync():
                sums += backward(batch)
        sums += backward(micro_batches[-1])  # here gradients are exchanged between the processes
        sums = self.world.sum(sums)
        divisor = self._divisor(sums[-1], len(micro_batches))
        norms = self._divide_and_clip(divisor)
        *terms, norm = torch.cat([sums[:-1] / divisor, norms]).tolist()  # the step's one wait for a GPU
        losses = dict(zip(self.loss_names, [*terms, self._total(terms)], strict=True))
        self._require_finite(losses, norm, micro_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        self.optimizer.step()
        self.average()
        return losses, norm

    @torch.no_grad()
    def average(self) -> None:
        """``average <- decay * average + (1 - decay) * weights``, after every step."""
        torch._foreach_lerp_(self.averages, self.parameters, 1 - self.config.ema_decay)

    def state(self) -> dict[str, Any]:
        """What shapes the next steps, as plain values and tensors; to be called by all processes."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_normaliser": self.world.gather(self.task.normaliser.value.item()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, perhaps of another number of processes."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        values = state["loss_normaliser"] if "loss_normaliser" in state else state["positives"]  # of 0.1
        if len(values) == self.world.size:
            value = values[self.world.rank]
        else:  # one value for all, or as published one for each process, of its own share of the batch
            value = sum(values) / self.world.size if self.task.normaliser.per_process else values[0]
        self.task.normaliser.value.fill_(value)

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

    def _divide_and_clip(self, divisor: Tensor) -> Tensor:
        """Both with one pass over the gradients; (1,) their norm once divided, before it was clipped."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # the gradients exchanged between processes are averages
        factor = (self.world.size / divisor).to(gradients[0].dtype)
        norm = factor * nn.utils.get_total_norm(gradients)
        clipped = ((self.config.clip_grad_norm or math.inf) / (norm + 1e-6)).clamp(max=1.0)  # as PyTorch clips
        torch._foreach_mul_(gradients, factor * clipped)
        return norm[None]

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


def _make_optimizer(
    model: nn.Module, weight_decay: float, own_rate: Callable[[str], bool], backbone_rate_factor: float = 1.0
) -> torch.optim.AdamW:
    """AdamW; weights of linear and convolution layers decay, biases, norms and scales do not.

    The rate of a group is the step's own times its ``rate_factor``, which is `backbone_rate_factor` for all parameters
    but those of which `own_rate` says that they keep the full rate.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        is_own, decays = own_rate(name), parameter.dim() >= 2
        settings = {"weight_decay": weight_decay * decays, "rate_factor": 1.0 if is_own else backbone_rate_factor}
        groups.setdefault((is_own, decays), {"params": []} | settings)["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()), lr=0.0, fused=True)


def learning_rate_at(step: int, base: float, warmup_steps: int, total_steps: int) -> float:
    """The rate of a step, counted from 0: linear from 0 over the warm-up, then cosine to 1e-8.

    >>> [round(learning_rate_at(s, 1.0, 3, 7), 4) for s in (0, 1, 2, 3, 5)]
    [0.0, 0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup_steps:
        return base * step / max(1, warmup_steps - 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return FINAL_RATE + (base - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2
