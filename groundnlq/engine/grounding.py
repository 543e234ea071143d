"""The task of grounding queries: records with features and tokens, the network, its loss and its recalls."""

from pathlib import Path

import torch
from torch import Tensor

from groundnlq.config import ModelConfig, RunConfig
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.recall import recalls
from groundnlq.data.records import identity_of, odd_moments, read_records
from groundnlq.data.tokens import same_encoder
from groundnlq.engine.checkpoint import READY, encoder_name, read_checkpoint, trained_state
from groundnlq.engine.distributed import World
from groundnlq.engine.predictor import Predictor, open_dataset
from groundnlq.engine.reporter import Reporter
from groundnlq.engine.run_dir import RunDirectory
from groundnlq.engine.task import Normaliser, Task
from groundnlq.errors import CheckpointError, ConfigError, sample_of
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion
from groundnlq.provenance import file_identity, made_by

HEADS = "heads."  # prefix of the parameters that fine-tuning starts fresh
# how targets are assigned, paths are dropped and scales begin is each run's own
ARCHITECTURE = {f"model.{key}" for key in ModelConfig.model_fields} - {
    "model.drop_path", "model.scale_init", "model.regression_ranges_grid"
}  # fmt: skip


def task(config: RunConfig, world: World, reporter: Reporter | None = None) -> Task:
    """What a run of this configuration trains; `reporter` receives the clips of a validation.

    Missing features or tokens, and training records without moments, are refused by name.
    """
    train_set = load_dataset(config, config.data.train_records, is_training=True, reporter=reporter)
    val_set = load_dataset(config, config.data.val_records, is_training=False)
    torch.manual_seed(config.train.seed)
    model, encoder = Grounder(config.model), train_set.tokens.encoder
    criterion = Criterion(config.train, world.device)

    def initialise() -> str:
        names = start_from(model, config, encoder, train_set.store)
        loaded, fresh = len(names["loaded"]), names["fresh"]
        text = f"{config.train.init_from}: {loaded} tensors loaded, {len(fresh)} start fresh"
        return text + (f": {sample_of(fresh, 3)}" if fresh else "") if loaded else ""

    def validate(network: Grounder) -> dict[str, float]:
        predictor = Predictor(network, config, config.train.precision, world, reporter=reporter or Reporter())
        return recalls(predictor.predict_dataset(val_set), val_set.records)

    sources = train_set.sources()  # what the weights are made of
    files = sources | {"validation records": identity_of(val_set.records)}  # by content: they may move
    inputs = {name: f["path"] if f["sha256"] == "unknown" else f["sha256"] for name, f in files.items()}
    if (start := _start(config)) and Path(path := RunDirectory.weights_of(start)).exists():
        sources["init_from"] = file_identity(path)
    return Task(
        model=model,
        loss=criterion,
        loss_weights=criterion.weights,
        normaliser=Normaliser(criterion.normaliser, criterion.update, config.train.published_normaliser),
        own_rate=lambda name: name.startswith(HEADS),
        initialise=initialise,
        inputs=inputs,
        train_set=train_set,
        validate=validate,
        select_by=config.select_by,
        info={"encoder": encoder, "video_encoder": train_set.store.encoder, "provenance": made_by(**sources)},
    )


def load_dataset(
    config: RunConfig, names: tuple[str, ...], is_training: bool, reporter: Reporter | None = None
) -> QueryDataset:
    """The records of these files with features and tokens; refused where anything is missing. Training leaves out
    records with an `oddity`, and tells the `reporter`."""
    records = [record for name in names for record in read_records(config.data.path(name))]
    leave_out = config.data.leave_out_incomplete
    if not is_training:  # recalls count every query
        return open_dataset(config, records, incomplete="keep" if leave_out else "refuse")
    if reporter and (odd := odd_moments(records)):
        reporter.message(f"left out of training: {odd}")
    records = [record for record in records if not record.oddity]
    if not records or not all(record.moments_sec for record in records):
        raise ConfigError(f"data.train_records {', '.join(names)}: some records have no moments to learn from")
    return open_dataset(
        config, records, incomplete="leave out" if leave_out else "refuse",
        jitter_max_scale=config.data.jitter_max_scale, seed=config.train.seed,
        max_seq_len=config.model.max_seq_len,
    )  # fmt: skip


def start_from(
    model: Grounder, config: RunConfig, encoder: str | None = None, store: FeatureStore | None = None
) -> dict[str, list[str]]:
    """Load the weights of `train.init_from` but the heads, which start fresh on purpose unless `train.init_heads`; of a
    run of stage one its text map.

    `encoder` is of the query tokens at hand, `store` has the features; None does not check them. Returns the names of
    the parameters that were ``loaded`` and that start ``fresh``. A CheckpointError says where architecture or encoders
    are others.
    """
    names, path = list(model.state_dict()), _start(config)
    if path is None and config.model.text_map_width:
        raise ConfigError("model.text_map_width: the map is of stage one -- name its run (train.init_from), or set 0")
    if path is None:
        return {"loaded": [], "fresh": names}
    if config.model.text_map_width and (text_map := _text_map(path, config, encoder, store)) is not None:
        model.load_state_dict(text_map, strict=False)
        return {"loaded": list(text_map), "fresh": [name for name in names if name not in text_map]}
    source = Predictor.load(path, preset=config)
    if keys := [key for key in source.config.differing_keys(config) if key in ARCHITECTURE]:
        raise CheckpointError(
            f"{path}: has another architecture than this run, {', '.join(keys)} differ -- set the same model.* keys"
        )
    if encoder is not None and not config.train.allow_other_encoder:
        source.require_encoder(encoder, path)
    if store is not None and not config.train.allow_other_encoder:
        source.require_encoder(store.encoder, path, "features")
    state = source.model.state_dict()
    loaded = {name: x for name, x in state.items() if config.train.init_heads or not name.startswith(HEADS)}
    model.load_state_dict(loaded, strict=False)
    return {"loaded": list(loaded), "fresh": [name for name in names if name not in loaded]}


def _start(config: RunConfig) -> str | None:
    return str(READY) if config.train.init_from == "sample" else config.train.init_from


def _text_map(
    path: str, config: RunConfig, encoder: str | None, store: FeatureStore | None
) -> dict[str, Tensor] | None:
    """Stage one's text map; None if `path` is no run of stage one. A CheckpointError says why it does not fit."""
    content = read_checkpoint(RunDirectory.weights_of(path))
    if not (isinstance(of_run := content.get("config"), dict) and of_run.get("align")):
        return None
    source, state, info = trained_state(path, content=content)
    text_map = {name: x for name, x in state.items() if name.startswith("text_map.")}
    wanted, found = (config.model.text_map_width, config.model.text_dim), tuple(text_map["text_map.weight"].shape)
    video, any_other = encoder_name(source, state), config.train.allow_other_encoder
    if found != wanted:
        fault = f"a text map of {found[1]} to {found[0]} numbers, here {wanted[1]} to {wanted[0]}"
        raise CheckpointError(f"{path}: {fault} -- set model.text_dim={found[1]} model.text_map_width={found[0]}")
    is_trained = bool(source.align and source.align.text_encoder)  # reads words, not tokens
    if is_trained or not (any_other or encoder is None or same_encoder(info.get("encoder"), encoder)):
        raise CheckpointError(f"{path}: its text map is not of these tokens ({encoder}) -- set model.text_map_width=0")
    if not any_other and store is not None and video not in (store.encoder or "").split(" + "):
        fault = f"the text map of {video}, but {store.path} has features of {store.encoder or 'an unknown encoder'}"
        raise CheckpointError(f"{path}: {fault} -- name the run that made these (train.init_from)")
    return text_map
