"""Stage one: a video encoder learns from narrations, by comparing the features of frames and of texts (EgoVLP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundnlq.config import AlignConfig, RunConfig
from groundnlq.data.records import Record, identity_of, odd_moments, read_records
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.checkpoint import trained_state
from groundnlq.engine.distributed import World
from groundnlq.engine.prefetch import read_ahead
from groundnlq.engine.reporter import Reporter, TerminalReporter
from groundnlq.engine.task import Normaliser, Task
from groundnlq.errors import CheckpointError, ConfigError, DataError, FeatureError, Findings, sample_of
from groundnlq.provenance import made_by
from groundnlq.video.answer import cache_folder
from groundnlq.video.egonce import EgoNCE, egomcq, questions
from groundnlq.video.encoders import published_weights
from groundnlq.video.extract import find_videos
from groundnlq.video.frame_cache import FrameCache
from groundnlq.video.narrated import NarratedFrames, wanted_frames
from groundnlq.video.spacetime import SpaceTimeTransformer
from groundnlq.video.towers import SmallEncoder, Towers

NUM_STANDARD = 512  # narrations over which features are brought to unit variance
_BATCH = 64  # of validation


def task(config: RunConfig, world: World, reporter: Reporter | None = None) -> Task:
    """What a run of stage one trains; `reporter` receives the videos as they are decoded, and the validation.

    Missing tokens, and missing or broken videos, are refused by name; the latter are left out and counted with
    `data.leave_out_incomplete`.
    """
    align, reporter = _align_of(config), reporter or Reporter()
    kinds = [_records(config, names, reporter) for names in (config.data.train_records, config.data.val_records)]
    text = _Texts(config, [record for records in kinds for record in records])
    cache, train, val = _with_frames(config, kinds, world, reporter)
    if len(train) < (needed := config.train.batch_size * config.train.accumulate_steps * world.size):
        raise ConfigError(f"{len(train)} narrations are too few for batches of {needed} -- lower train.batch_size")
    num_verbs, num_nouns = (1 + max((n for r in train for n in classes(r)), default=-1) for classes in _CLASSES)
    train_set = NarratedFrames(train, config, cache, text, (num_verbs, num_nouns), is_training=True)
    val_set, asked = NarratedFrames(val, config, cache, text), questions(val)
    few = NarratedFrames(train[:: max(1, len(train) // NUM_STANDARD)], config, cache, text)
    if not asked:
        raise ConfigError(f"data.val_records: {len(val)} narrations are too few or too alike for EgoMCQ -- give more")
    torch.manual_seed(config.train.seed)
    model, loss = Towers(align, text.model), EgoNCE(align.temperature, num_verbs, world)

    def validate(network: Towers) -> dict[str, float]:
        features = partial(_features, network, config=config, world=world, reporter=reporter)
        if isinstance(network.video, SmallEncoder):
            network.video.standardise(torch.from_numpy(features(few)[0]).to(world.device))
        videos, texts = map(_unit, features(val_set))
        scores = {f"EgoMCQ {kind}": 100 * float(egomcq(texts, videos, c).mean()) for kind, c in asked.items()}
        return scores | {config.select_by: float(np.mean(list(scores.values())))}

    num_rows = torch.ones((), dtype=torch.float64, device=world.device)
    sources = {"records": identity_of(train), "validation records": identity_of(val), "text": text.about}
    sources |= {"videos": {"sha256": cache.identity()}}
    return Task(
        model=model,
        loss=loss,
        loss_weights=loss.weights,
        normaliser=Normaliser(num_rows, partial(_set, num_rows)),
        own_rate=lambda name: True,
        initialise=partial(_start_from, model, align.init_from),
        inputs={name: source["sha256"] for name, source in sources.items()},
        train_set=train_set,
        validate=validate,
        select_by=config.select_by,
        info={"encoder": text.name, "provenance": made_by(**sources)},
    )


def _set(value: Tensor, count: Tensor) -> None:
    value.copy_(count)


_CLASSES: tuple[Callable[[Record], tuple[int, ...]], ...] = (lambda r: r.verbs, lambda r: r.nouns)


def evaluate_run(path: str | Path, weights: str | None = None) -> dict[str, tuple[list[str], np.ndarray]]:
    """EgoMCQ of a run of stage one on its validation records: by kind, the clips of the questions and whether each was
    answered rightly."""
    config, state, _ = trained_state(path, weights)
    align, reporter = _align_of(config), TerminalReporter()
    with World.join(tf32=config.train.tf32) as world:
        records = _records(config, config.data.val_records, reporter)
        text = _Texts(config, records)
        cache, val = _with_frames(config, [records], world, reporter)
        model = Towers(align, text.model)
        model.load_state_dict(state)
        dataset = NarratedFrames(val, config, cache, text)
        videos, texts = map(_unit, _features(model.to(world.device), dataset, config, world, reporter))
    found = questions(val)
    return {kind: ([val[i].clip_uid for i in c[:, 0]], egomcq(texts, videos, c)) for kind, c in found.items()}


@torch.inference_mode()
def _features(
    network: Towers, dataset: NarratedFrames, config: RunConfig, world: World, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray]:
    """(N, width) features of all videos and of all texts; every process makes its share."""
    places, is_gpu = list(range(len(dataset))), world.device.type == "cuda"
    batches = [places[i : i + _BATCH] for i in range(0, len(places), _BATCH)]
    mine, network = list[Any](), network.eval()
    read = partial(dataset.batch, for_gpu=is_gpu)
    for batch, _ in read_ahead(read, batches[world.rank :: world.size], world.device):
        with torch.autocast(world.device.type, torch.bfloat16, enabled=config.train.precision == "bfloat16"):
            pair = network(batch.to(world.device, non_blocking=True))
        mine.append([features.float().cpu().numpy() for features in pair])
        reporter.status({"state": "predicting", "step": len(mine) * world.size * _BATCH, "total_steps": len(places)})
    parts = world.gather(mine)
    ordered = [parts[number % world.size][number // world.size] for number in range(len(batches))]
    videos, texts = (np.concatenate(rows) for rows in zip(*ordered, strict=True))
    return videos, texts


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-9)


def _align_of(config: RunConfig) -> AlignConfig:
    if config.align is None:
        raise ConfigError(f"{config.name}: no section align -- start from the preset align or sample_align")
    if config.train.cuda_graphs:
        raise ConfigError("train.cuda_graphs: stage one cannot use them yet -- set it to false")
    return config.align


def _records(config: RunConfig, names: Sequence[str], reporter: Reporter) -> list[Record]:
    """Narrations whose moments lie within their clips; others are counted."""
    records = [record for name in names for record in read_records(config.data.path(name))]
    if odd := odd_moments(records):
        reporter.message(f"left out: {odd}")
    records = [record for record in records if record.moments_sec and not record.oddity]
    if not records:
        raise ConfigError(f"{', '.join(names)}: no narrations with moments -- write them with 'prepare narrations'")
    return records


def _with_frames(config: RunConfig, kinds: list[list[Record]], world: World, reporter: Reporter) -> Any:
    """A cache with the frames of all records, then each list without those whose videos cannot be used."""
    align, data = _align_of(config), config.data
    folder, wanted = data.path(data.videos), wanted_frames([r for records in kinds for r in records], align)
    files = find_videos([folder])
    faults = {uid: f"{uid}: no such video" for uid in wanted if uid not in files}
    found = {uid: (files[uid], numbers) for uid, numbers in wanted.items() if uid in files}
    cache = FrameCache(cache_folder() / "frames", found, align.short_side, align.cache_gb * 1e9)
    faults |= cache.fill(world, lambda *done: reporter.status(dict(zip(_DONE, ("decoding", *done), strict=True))))
    findings = Findings(f"{folder} ({len(faults)} of {len(wanted)} clips)", DataError)
    findings.add(*faults.values())
    if not data.leave_out_incomplete or len(faults) == len(wanted):
        findings.raise_if_any("fetch these again, or leave them out with data.leave_out_incomplete=true")
    if faults:
        reporter.message(f"left out, {len(faults)} of {len(wanted)} clips without a usable video: {sample_of(faults)}")
    if cache.uncached:
        text = f"{len(cache.uncached)} of {len(wanted)} clips have no room in the cache ({align.cache_gb:g} GB)"
        reporter.message(f"{text} and are decoded at every use -- raise align.cache_gb")
    return cache, *([record for record in records if record.clip_uid not in faults] for records in kinds)


_DONE = ("state", "step", "total_steps")


def _start_from(model: Towers, path: str | None) -> str:
    """Load a run of stage one, or published weights of the video encoder."""
    if path is None:
        return ""
    try:
        if Path(path).is_dir() or path.endswith(".pt"):
            model.load_state_dict(trained_state(path)[1])
        else:
            model.video.load_state_dict(SpaceTimeTransformer.from_published(published_weights(path)).state_dict())
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: of another shape: {reason:.200} -- set the same align.* keys") from None
    return f"{path}: weights loaded"


class _Texts:
    """A record's text as the text tower takes it: frozen tokens of the store, or token numbers of a model.

    `model` is that model, or the width of the tokens; `name` its name and hash.
    """

    def __init__(self, config: RunConfig, records: Sequence[Record]):
        self.model: Any
        if name := _align_of(config).text_encoder:
            encoder = TextEncoder.load(name)
            self.model, self.name = encoder.model.train().requires_grad_(True), encoder.name
            encoder.model.pooler = None  # nothing would train it
            texts = sorted({record.query for record in records})
            options: Any = {"truncation": True, "max_length": encoder.max_tokens}
            numbers = dict(zip(texts, encoder.tokenizer(texts, **options)["input_ids"], strict=True))
            self.read: Callable[[Record], Tensor] = lambda record: torch.tensor(numbers[record.query])
            self.about: dict[str, Any] = {"encoder": encoder.name, "sha256": encoder.name}
            return
        store = TokenStore(config.data.path(config.data.text))
        if missing := [record.query_id for record in records if record.query_id not in store]:
            what = f"{len(missing)} of {len(records)} narrations have no tokens in {store.path}: {sample_of(missing)}"
            raise FeatureError(f"{what} -- encode their records with 'groundnlq text encode'")
        self.model, self.name, self.read = store.width, store.encoder, lambda record: store.read(record.query_id)
        self.about = {"path": str(store.path), "sha256": store.sha256, "encoder": store.encoder}

    def __call__(self, record: Record) -> Tensor:
        return self.read(record)
