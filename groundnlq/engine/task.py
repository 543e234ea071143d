"""What a `Trainer` trains: network, batches, loss and its divisor, validation."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Normaliser:
    """Divisor of the summed loss, saved with the state of a run.

    With `per_process` every process divides each micro-batch by its own value; without, the sums of all processes are
    divided by one value, so that N processes with batches of b train as one with N b.
    """

    value: Tensor  # float64 scalar, changed in place
    update: Callable[[Tensor], object]  # from what the losses of one step count
    per_process: bool = False


@dataclass(frozen=True)
class Task:
    """One kind of learning; `engine.grounding` makes the one of this package.

    Args:
        loss: output of the network, batch -> named sums of the loss terms, and what they count (float64).
        loss_weights: name of each term and its weight in the total loss.
        own_rate: whether a parameter, by name, has the learning rate of new parameters; all others have
            `train.backbone_rate_factor` times that.
        inputs: a hash of each file that shapes the run, by name; a run is not resumed with others.
        initialise: loads the weights that a new run (none that is resumed) starts from; returns what to tell about it.
        train_set: samples: ``len()``; `lengths` (about equal ones share a batch); ``batch(indices, epoch, for_gpu)``,
            which moves by ``.to(device, non_blocking=True)`` and names its samples in ``.query_ids`` (CUDA graphs
            need a dataclass with ``.tensors()``). Random changes of samples depend on the epoch only.
        select_by: the number of `validate` by which the best weights are chosen, higher is better.
        info: plain values saved beside the exported weights.
    """

    model: nn.Module
    loss: Callable[[Any, Any], tuple[Mapping[str, Tensor], Tensor]]
    loss_weights: Mapping[str, float]
    normaliser: Normaliser
    own_rate: Callable[[str], bool]
    initialise: Callable[[], str] = lambda: ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    train_set: Any = ()  # none where a `Learner` alone takes single steps
    validate: Callable[[Any], dict[str, float]] = lambda network: {}
    select_by: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def changed_inputs(self, state: Mapping[str, Any]) -> list[str]:
        """Names of the inputs that are others than in a saved state, with the beginnings of both hashes."""
        first = "\n".join(list(self.inputs.values())[:3])  # 0.2 saved one hash of these
        now = {"data": hashlib.sha256(first.encode()).hexdigest()} | dict(self.inputs)
        before = {"data": state["records"]} if "records" in state else state["inputs"]
        return [f"{name} ({old:.8}, now {now.get(name)!s:.8})" for name, old in before.items() if now.get(name) != old]
