"""AdamW groups, the learning rate of every step, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

FINAL_RATE = 1e-8


def make_optimizer(
    model: nn.Module, weight_decay: float, own_rate: Callable[[str], bool], backbone_rate_factor: float = 1.0
) -> torch.optim.AdamW:
    """AdamW; weights of linear and convolution layers decay, biases, norms and scales do not.

    Its rate is set before every step to the step's own, times each group's ``rate_factor``.

    Args:
        own_rate: whether the parameter of a name keeps the full learning rate; the rate of all others is
            multiplied by `backbone_rate_factor`.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        key = is_own, decays = own_rate(name), parameter.dim() >= 2
        settings = {
            "weight_decay": weight_decay if decays else 0.0,
            "rate_factor": 1.0 if is_own else backbone_rate_factor,
        }
        groups.setdefault(key, {"params": []} | settings)["params"].append(parameter)
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


class Ema:
    """Exponential moving average of a model's weights, itself a model that can predict."""

    def __init__(self, model: nn.Module, decay: float):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """``average <- decay * average + (1 - decay) * weights``, after every step."""
        torch._foreach_lerp_(list(self.module.parameters()), [p.detach() for p in model.parameters()], 1 - self.decay)
