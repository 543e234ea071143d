"""What a run begins with: records with their features and tokens, and weights to start from."""

from __future__ import annotations

from typing import Any

from groundnlq.config import ModelConfig, RunConfig, differing_keys
from groundnlq.data.check import require_inputs
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import Record, identity_of, read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.checkpoint import checkpoint_file, load_trained
from groundnlq.engine.optim import HEADS
from groundnlq.errors import CheckpointError, ConfigError
from groundnlq.model.grounder import Grounder
from groundnlq.provenance import file_identity, made_by

# how targets are assigned, paths are dropped and scales begin is each run's own
ARCHITECTURE = {f"model.{key}" for key in ModelConfig.model_fields} - {
    "model.drop_path", "model.scale_init", "model.regression_ranges_grid"
}  # fmt: skip


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
        jitter_max_scale=data.jitter_max_scale if is_training else 1,
        seed=config.train.seed,
        max_seq_len=model.max_seq_len if is_training else None,
    )


def origin_of_run(config: RunConfig, data: QueryDataset) -> dict[str, Any]:
    """What a run's weights are made of, to be stored with them."""
    store, tokens = data.store, data.tokens
    source = config.train.init_from and checkpoint_file(config.train.init_from)
    return made_by(
        records=identity_of(data.records),
        features={"path": str(store.path), "sha256": store.sha256},
        text={"path": str(tokens.path), "sha256": tokens.sha256, "encoder": tokens.encoder},
        **({"init_from": file_identity(source)} if source and source.exists() else {}),
    )


def start_from(model: Grounder, config: RunConfig, encoder: str | None = None) -> dict[str, list[str]]:
    """Load the weights of `train.init_from` but the heads, which start fresh on purpose.

    Args:
        encoder: of the query tokens at hand; None does not ask.

    Returns:
        names of the parameters that were ``loaded`` and that start ``fresh``.

    Raises:
        CheckpointError: no such file, another architecture, or trained with another encoder's tokens.
    """
    names, path = list(model.state_dict()), config.train.init_from
    if path is None:
        return {"loaded": [], "fresh": names}
    source = load_trained(path, config)
    if keys := [key for key in differing_keys(source.config, config) if key in ARCHITECTURE]:
        raise CheckpointError(
            f"{path}: has another architecture than this run, {', '.join(keys)} differ "
            "-- set the same model.* keys"
        )
    if encoder is not None:
        source.require_encoder(encoder, path, config.train.allow_other_encoder)
    state = source.model.state_dict()
    loaded = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    model.load_state_dict(loaded, strict=False)
    return {"loaded": list(loaded), "fresh": [name for name in names if name not in loaded]}
