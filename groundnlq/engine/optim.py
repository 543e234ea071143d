"""All weights in one tensor: their update, norm and average are a few operations instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

ALIGNED = 64  # a parameter begins at a multiple of so many numbers, as if it lay alone
_MOMENTS = ("exp_avg", "exp_avg_sq")


class FlatParameters:
    """Parameters as views of one tensor, `values`. Numbers between two of them are zero and stay zero."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = parameters
        self.bounds = [*accumulate((ALIGNED * -(-p.numel() // ALIGNED) for p in parameters), initial=0)]
        self.values = parameters[0].detach().new_zeros(self.bounds[-1])
        for parameter, view in zip(parameters, self.split(self.values), strict=True):
            parameter.data = view.copy_(parameter.detach())

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of a tensor like `values`, each of a parameter's shape."""
        spans = zip(self.parameters, self.bounds[:-1], strict=True)
        return [flat[first : first + p.numel()].view_as(p) for p, first in spans]


class Optimizer:
    """AdamW; weights of linear and convolution layers decay, biases, norms and scales do not.

    The rate of a group is the step's own times its ``rate_factor``, which is `backbone_rate_factor` for all parameters
    but those of which `own_rate` says that they keep the full rate. Frozen parameters are left out. The saved state is
    that of `torch.optim.AdamW` with single parameters.
    """

    def __init__(
        self, model: nn.Module, weight_decay: float, own_rate: Callable[[str], bool], backbone_rate_factor: float = 1.0
    ):
        self.groups = _groups(model, weight_decay, own_rate, backbone_rate_factor)
        self.flat = FlatParameters([p for group in self.groups for p in group["params"]])
        self.gradient = torch.zeros_like(self.flat.values)  # backward passes add to it
        for parameter, view in zip(self.flat.parameters, self.flat.split(self.gradient), strict=True):
            parameter.grad = view
        counts = accumulate((len(group["params"]) for group in self.groups), initial=0)
        self._sizes = [end - first for first, end in pairwise(self.flat.bounds[count] for count in counts)]
        parts = [nn.Parameter(part) for part in self.flat.values.split(self._sizes)]
        for part, gradient in zip(parts, self.gradient.split(self._sizes), strict=True):
            part.grad = gradient
        groups = [group | {"params": [part]} for group, part in zip(self.groups, parts, strict=True)]
        self._adamw = torch.optim.AdamW(groups, lr=0.0, fused=True)

    def step(self, rate: float) -> None:
        """Update by the gradients at hand."""
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["rate_factor"]
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        content = self._adamw.state_dict()
        if parts := list(content["state"].values()):
            first, second = (self.flat.split(torch.cat([part[key] for part in parts])) for key in _MOMENTS)
            moments = enumerate(zip(first, second, strict=True))
            content["state"] = {i: {"step": parts[0]["step"], _MOMENTS[0]: m, _MOMENTS[1]: v} for i, (m, v) in moments}
        return content

    def load_state_dict(self, content: dict[str, Any]) -> None:
        saved, own = content["state"], self._adamw.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key in _MOMENTS if saved else ():
            flat = torch.zeros_like(self.flat.values)
            for i, view in enumerate(self.flat.split(flat)):
                view.copy_(saved[i][key])
            for i, part in enumerate(flat.split(self._sizes)):
                state.setdefault(i, {"step": saved[0]["step"].clone()})[key] = part
        pairs = zip(content["param_groups"], own["param_groups"], strict=True)
        groups = [group | {"params": mine["params"]} for group, mine in pairs]
        self._adamw.load_state_dict({"state": state, "param_groups": groups})


def _groups(
    model: nn.Module, weight_decay: float, own_rate: Callable[[str], bool], backbone_rate_factor: float
) -> list[dict[str, Any]]:
    found: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_own, decays = own_rate(name), parameter.dim() >= 2
            settings = {"weight_decay": weight_decay * decays, "rate_factor": 1.0 if is_own else backbone_rate_factor}
            found.setdefault((is_own, decays), {"params": []} | settings)["params"].append(parameter)
    return list(found.values())
