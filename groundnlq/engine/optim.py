"""AdamW groups, the learning rate of every step, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

HEADS = "heads."  # prefix of the parameters that fine-tuning starts fresh
FINAL_RATE = 1e-8


def parameter_groups(
    model: nn.Module, weight_decay: float, backbone_rate_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for AdamW: weights of linear and convolution layers decay; biases, norms and scales do not.

    Parameters outside the heads have their rate multiplied by `backbone_rate_factor`.
    """
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        is_head, decays = name.startswith(HEADS), parameter.dim() >= 2
        group = groups.setdefault(
            (is_head, decays),
            {
                "params": [],
                "weight_decay": weight_decay if decays else 0.0,
                "rate_factor": 1.0 if is_head else backbone_rate_factor,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def make_optimizer(
    model: nn.Module, weight_decay: float, backbone_rate_factor: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over the groups of `parameter_groups`; its rate is set before every step."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay, backbone_rate_factor), lr=0.0, fused=True)


def learning_rate_at(step: int, base: float, warmup_steps: int, total_steps: int) -> float:
    """The rate of a step, counted from 0: linear from 0 over the warm-up, then cosine to 1e-8.

    >>> [round(learning_rate_at(s, 1.0, 3, 7), 4) for s in (0, 1, 2, 3, 5)]
    [0.0, 0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup_steps:
        return base * step / max(1, warmup_steps - 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return FINAL_RATE + (base - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


class Ema:
    """Exponential moving average of a model's weights, itself a model that can predict."""

    def __init__(self, model: nn.Module, decay: float = 0.999):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """``average <- decay * average + (1 - decay) * weights``, after every step."""
        torch._foreach_lerp_(
            list(self.module.parameters()), [p.detach() for p in model.parameters()], 1 - self.decay
        )
