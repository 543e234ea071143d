"""What a run begins with: records with their features and tokens, and weights to start from."""

from __future__ import annotations

from groundnlq.config import ModelConfig, RunConfig, differing_keys
from groundnlq.data.annotations import Record, read_records
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.feature_check import require_inputs
from groundnlq.data.features import FeatureStore
from groundnlq.data.text import TokenStore
from groundnlq.engine.checkpoint import load_model
from groundnlq.engine.optim import HEADS
from groundnlq.errors import CheckpointError, ConfigError
from groundnlq.model.grounder import Grounder

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
        model.coarsest_stride,
        jitter_max_scale=data.jitter_max_scale if is_training else 1,
        seed=config.train.seed,
        max_seq_len=model.max_seq_len if is_training else None,
    )


def start_from(model: Grounder, config: RunConfig) -> dict[str, list[str]]:
    """Load the weights of `train.init_from` but the heads, which start fresh on purpose.

    Returns:
        names of the parameters that were ``loaded`` and that start ``fresh``.

    Raises:
        CheckpointError: no such file, or another architecture.
    """
    names = list(model.state_dict())
    if config.train.init_from is None:
        return {"loaded": [], "fresh": names}
    source, source_config = load_model(config.train.init_from, preset=config)
    if keys := [key for key in differing_keys(source_config, config) if key in ARCHITECTURE]:
        raise CheckpointError(
            f"{config.train.init_from}: has another architecture than this run, {', '.join(keys)} differ "
            "-- set the same model.* keys"
        )
    loaded = {name: value for name, value in source.state_dict().items() if not name.startswith(HEADS)}
    model.load_state_dict(loaded, strict=False)
    return {"loaded": list(loaded), "fresh": [name for name in names if name not in loaded]}
