"""The task of grounding queries: records with features and tokens, the network, its loss and its recalls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from groundnlq.config import ModelConfig, RunConfig, TrainConfig, differing_keys
from groundnlq.data.check import require_inputs
from groundnlq.data.dataset import Batch, QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.recall import recalls
from groundnlq.data.records import Record, read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.distributed import World
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter
from groundnlq.engine.run_dir import RunDirectory
from groundnlq.engine.task import Normaliser, Task
from groundnlq.errors import CheckpointError, ConfigError, sample_of
from groundnlq.model.grounder import Grounder, Outputs
from groundnlq.model.losses import Criterion
from groundnlq.provenance import file_identity, made_by

HEADS = "heads."  # prefix of the parameters that fine-tuning starts fresh
# how targets are assigned, paths are dropped and scales begin is each run's own
ARCHITECTURE = {f"model.{key}" for key in ModelConfig.model_fields} - {
    "model.drop_path", "model.scale_init", "model.regression_ranges_grid"
}  # fmt: skip


def task(config: RunConfig, world: World, reporter: Reporter | None = None) -> Task:
    """What a run of this configuration trains; `reporter` is told about the clips of a validation.

    Raises:
        FeatureError: features or tokens are missing; named.
        ConfigError: training records without moments.
    """
    train_set = load_dataset(config, config.data.train_records, is_training=True)
    val_set = load_dataset(config, config.data.val_records, is_training=False)
    torch.manual_seed(config.train.seed)
    model, encoder = Grounder.from_config(config.model), train_set.tokens.encoder

    def initialise() -> str:
        names = start_from(model, config, encoder)
        loaded, fresh = len(names["loaded"]), names["fresh"]
        text = f"{config.train.init_from}: {loaded} tensors loaded, {len(fresh)} start fresh: "
        return text + sample_of(fresh, 3) if loaded else ""

    def validate(network: Grounder) -> dict[str, float]:
        predictor = Predictor(network, config, config.train.precision, world, reporter=reporter or Reporter())
        return recalls(predictor.predict_dataset(val_set), val_set.records)

    return dataclasses.replace(
        bare_task(model, config.train, world),
        initialise=initialise,
        train_set=train_set,
        validate=validate,
        select_by="mean R@1",
        info={"encoder": encoder, "provenance": _origin(config, train_set) if world.is_main else {}},
    )


def bare_task(model: Grounder, config: TrainConfig, world: World) -> Task:
    """The task without data, enough for single steps of a `Learner`."""
    criterion = Criterion.from_config(config).to(world.device)

    def loss(outputs: Outputs, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor]:
        classification, regression, num_positives = criterion.sums(outputs, batch)
        return {"classification": classification, "regression": regression}, num_positives

    return Task(
        model=model,
        loss=loss,
        loss_weights={"classification": 1.0, "regression": config.regression_weight},
        normaliser=Normaliser(criterion.normaliser, criterion.count, config.published_normaliser),
        own_rate=lambda name: name.startswith(HEADS),
    )


def load_dataset(config: RunConfig, names: tuple[str, ...], is_training: bool) -> QueryDataset:
    """The records of these files with features and tokens; refused where anything is missing."""
    data, model = config.data, config.model
    records: list[Record] = [record for name in names for record in read_records(data.path(name))]
    if is_training and not all(record.moments_sec for record in records):
        raise ConfigError(f"data.train_records {', '.join(names)}: some records have no moments to learn from")
    store, tokens = FeatureStore(data.path(data.features)), TokenStore(data.path(data.text))
    require_inputs(records, store, tokens, model.video_dim, model.text_dim)
    jitter_max_scale, max_seq_len = (data.jitter_max_scale, model.max_seq_len) if is_training else (1, None)
    seed = config.train.seed
    return QueryDataset(records, store, tokens, data.grid, jitter_max_scale, seed, max_seq_len)


def start_from(model: Grounder, config: RunConfig, encoder: str | None = None) -> dict[str, list[str]]:
    """Load the weights of `train.init_from` but the heads, which start fresh on purpose.

    Args:
        encoder: of the query tokens at hand; None does not check it.

    Returns:
        names of the parameters that were ``loaded`` and that start ``fresh``.

    Raises:
        CheckpointError: no such file, another architecture, or trained with another encoder's tokens.
    """
    names, path = list(model.state_dict()), config.train.init_from
    if path is None:
        return {"loaded": [], "fresh": names}
    source = Predictor.load(path, preset=config)
    if keys := [key for key in differing_keys(source.config, config) if key in ARCHITECTURE]:
        raise CheckpointError(
            f"{path}: has another architecture than this run, {', '.join(keys)} differ -- set the same model.* keys"
        )
    if encoder is not None and not config.train.allow_other_encoder:
        source.require_encoder(encoder, path)
    state = source.model.state_dict()
    loaded = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    model.load_state_dict(loaded, strict=False)
    return {"loaded": list(loaded), "fresh": [name for name in names if name not in loaded]}


def _origin(config: RunConfig, data: QueryDataset) -> dict[str, Any]:
    """What a run's weights are made of, to be stored with them."""
    source = config.train.init_from and RunDirectory.weights_of(config.train.init_from)
    init_from = {"init_from": file_identity(source)} if source and source.exists() else {}
    return made_by(**data.sources(), **init_from)
