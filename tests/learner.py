"""A `Learner` of a network without data, for single steps."""

from __future__ import annotations

from groundnlq.config import TrainConfig
from groundnlq.engine.distributed import World
from groundnlq.engine.step import Learner
from groundnlq.engine.task import Normaliser, Task
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion


def new_learner(model: Grounder, config: TrainConfig, world: World | None = None) -> Learner:
    world = world or World()
    loss = Criterion(config, world.device)
    normaliser = Normaliser(loss.normaliser, loss.update, config.published_normaliser)
    task = Task(model, loss, loss.weights, normaliser, own_rate=lambda name: name.startswith("heads."))
    return Learner(task, config, world)
