"""Stage one: a video encoder learns from narrations, by comparing the features of frames and of texts (EgoVLP)."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundnlq.config import AlignConfig, RunConfig
from groundnlq.data.dataset import read_ahead
from groundnlq.data.records import Record, identity_of, odd_moments, read_records
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.checkpoint import trained_state
from groundnlq.engine.distributed import World
from groundnlq.engine.processor import short_waits_when_busy
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
from groundnlq.video.towers import SmallEncoder, SpaceTimeTransformer, Towers

NUM_STANDARD = 512  # narrations over which features are brought to unit variance
_BATCH = 64  # of validation


def task(config: RunConfig, world: World, reporter: Reporter | None = None) -> Task:
    """What a run of stage one trains; `reporter` receives the videos as they are decoded, and the validation.

    Missing tokens, and missing or broken videos, are refused by name; the latter are left out and counted with
    `data.leave_out_incomplete`.
    """
    align, reporter = _align_of(config), reporter or Reporter()
    lists = [_narrations(config, names, reporter) for names in (config.data.train_records, config.data.val_records)]
    read, text_model, text = _texts(config, [*chain(*lists)])
    cache, train, val = _with_frames(config, lists, world, reporter)
    if len(train) < (needed := config.train.batch_size * config.train.accumulate_steps * world.size):
        raise ConfigError(f"{len(train)} narrations are too few for batches of {needed} -- lower train.batch_size")
    if not (asked := questions(val)):
        raise ConfigError(f"data.val_records: {len(val)} narrations are too few or too alike for EgoMCQ -- give more")
    num_verbs = 1 + max((verb for record in train for verb in record.verbs), default=-1)
    num_nouns = 1 + max((noun for record in train for noun in record.nouns), default=-1)
    few = NarratedFrames(train[:: max(1, len(train) // NUM_STANDARD)], config, cache, read)
    val_set = NarratedFrames(val, config, cache, read)
    torch.manual_seed(config.train.seed)
    model, loss = Towers(align, text_model), EgoNCE(align.temperature, num_verbs, world)

    def validate(network: Towers) -> dict[str, float]:
        features = partial(_features, network, config=config, world=world, reporter=reporter)
        if isinstance(network.video, SmallEncoder):
            network.video.standardise(torch.from_numpy(features(few)[0]).to(world.device))
        pair = features(val_set)
        scores = {f"EgoMCQ {kind}": 100 * float(egomcq(*pair, choices).mean()) for kind, choices in asked.items()}
        return scores | {config.select_by: float(np.mean(list(scores.values())))}

    num_rows = torch.ones((), dtype=torch.float64, device=world.device)
    sources = {"records": identity_of(train), "validation records": identity_of(val), "text": text}
    sources |= {"videos": {"sha256": cache.identity()}}
    return Task(
        model=model,
        loss=loss,
        loss_weights=loss.weights,
        normaliser=Normaliser(num_rows, num_rows.copy_),
        own_rate=lambda name: True,
        initialise=partial(_start_from, model, align.init_from),
        inputs={name: source["sha256"] for name, source in sources.items()},
        train_set=NarratedFrames(train, config, cache, read, (num_verbs, num_nouns), is_training=True),
        validate=validate,
        select_by=config.select_by,
        info={"encoder": text["encoder"], "provenance": made_by(**sources)},
    )


def evaluate_run(path: str | Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """EgoMCQ of a run of stage one on its validation records: by kind, the clips of the questions and whether each was
    answered rightly."""
    config, state, _ = trained_state(path)
    reporter = TerminalReporter()
    with World.join(tf32=config.train.tf32) as world, short_waits_when_busy():
        records = _narrations(config, config.data.val_records, reporter)
        read, text_model, _ = _texts(config, records)
        cache, val = _with_frames(config, [records], world, reporter)
        model = Towers(_align_of(config), text_model)
        model.load_state_dict(state)
        pair = _features(model.to(world.device), NarratedFrames(val, config, cache, read), config, world, reporter)
    found = questions(val).items()
    return {kind: ([val[i].clip_uid for i in choices[:, 0]], egomcq(*pair, choices)) for kind, choices in found}


@torch.inference_mode()
def _features(
    network: Towers, dataset: NarratedFrames, config: RunConfig, world: World, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray]:
    """(N, width) features of all videos and of all texts; every process makes its share."""
    places, read = list(range(len(dataset))), partial(dataset.batch, for_gpu=world.device.type == "cuda")
    shares, mine = [places[i : i + _BATCH] for i in places[::_BATCH]], list[Any]()
    for batch, _ in read_ahead(read, shares[world.rank :: world.size], world.device):
        with torch.autocast(world.device.type, torch.bfloat16, enabled=config.train.precision == "bfloat16"):
            pair = network.eval()(batch.to(world.device, non_blocking=True))
        mine.append([features.float().cpu().numpy() for features in pair])
        done = min(len(mine) * world.size * _BATCH, len(places))
        reporter.status({"state": "predicting", "step": done, "total_steps": len(places)})
    parts = world.gather(mine)
    ordered = [parts[number % world.size][number // world.size] for number in range(len(shares))]
    videos, texts = (np.concatenate(rows) for rows in zip(*ordered, strict=True))
    return videos, texts


def _align_of(config: RunConfig) -> AlignConfig:
    if config.align is None:
        raise ConfigError(f"{config.name}: no section align -- start from the preset align or sample_align")
    if config.train.cuda_graphs:
        raise ConfigError("train.cuda_graphs: stage one cannot use them yet -- set it to false")
    return config.align


def _narrations(config: RunConfig, names: Sequence[str], reporter: Reporter) -> list[Record]:
    """Records whose moments lie within their clips; others are counted."""
    records = [record for name in names for record in read_records(config.data.path(name))]
    if odd := odd_moments(records):
        reporter.message(f"left out: {odd}")
    if found := [record for record in records if record.moments_sec and not record.oddity]:
        return found
    raise ConfigError(f"{', '.join(names)}: no narrations with moments -- write them with 'prepare narrations'")


def _with_frames(config: RunConfig, lists: list[list[Record]], world: World, reporter: Reporter) -> Any:
    """A cache with the frames of all records, then each list without those whose videos cannot be used."""
    align, data = _align_of(config), config.data
    folder, wanted = data.path(data.videos), wanted_frames([*chain(*lists)], align)
    files = find_videos([folder])
    found = {uid: (files[uid], numbers) for uid, numbers in wanted.items() if uid in files}
    cache = FrameCache(cache_folder() / "frames", found, align.short_side, align.cache_gb * 1e9)
    faults = {uid: f"{uid}: no such video" for uid in wanted if uid not in files} | cache.fill(world, reporter)
    findings = Findings(f"{folder} ({len(faults)} of {len(wanted)} clips)", DataError)
    findings.add(*faults.values())
    if not data.leave_out_incomplete or len(faults) == len(wanted):
        findings.raise_if_any("fetch these again, or leave them out with data.leave_out_incomplete=true")
    if faults:
        reporter.message(f"left out, {len(faults)} of {len(wanted)} clips without a usable video: {sample_of(faults)}")
    if uncached := len(cache.uncached):
        text = f"{uncached} of {len(wanted)} clips have no room in the cache ({align.cache_gb:g} GB)"
        reporter.message(f"{text} and are decoded at every use -- raise align.cache_gb")
    return cache, *([record for record in records if record.clip_uid not in faults] for records in lists)


def _start_from(model: Towers, path: str | None) -> str:
    """Load a run of stage one, or published weights of the video encoder."""
    if path is None:
        return ""
    try:
        if Path(path).is_dir() or path.endswith(".pt"):
            model.load_state_dict(trained_state(path)[1])
        else:
            state = SpaceTimeTransformer.from_published(published_weights(path)).state_dict()
            times, ours = state["temporal_embed"], model.video.state_dict()["temporal_embed"]
            state["temporal_embed"] = torch.cat([times, ours[:, times.shape[1] :]], 1)[:, : ours.shape[1]]
            model.video.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: of another shape: {reason:.200} -- set the same align.* keys") from None
    return f"{path}: weights loaded"


def _texts(config: RunConfig, records: Sequence[Record]) -> tuple[Any, Any, dict[str, Any]]:
    """A record's text as the text tower takes it, that tower's model or the width of tokens, and their identity."""
    if name := _align_of(config).text_encoder:
        encoder, texts = TextEncoder.load(name, trainable=True), sorted({record.query for record in records})
        encoder.model.train().requires_grad_(True).pooler = None  # nothing would train that one
        rows = encoder.tokenizer(texts, truncation=True, max_length=encoder.max_tokens)["input_ids"]
        numbers = dict(zip(texts, map(torch.tensor, rows), strict=True))
        about = {"encoder": encoder.name, "sha256": encoder.name}
        return lambda record: numbers[record.query], encoder.model, about
    store = TokenStore(config.data.path(config.data.text))
    if missing := [record.query_id for record in records if record.query_id not in store]:
        what = f"{len(missing)} of {len(records)} narrations have no tokens in {store.path}: {sample_of(missing)}"
        raise FeatureError(f"{what} -- encode their records with 'groundnlq text encode'")
    about = {"path": str(store.path), "sha256": store.sha256, "encoder": store.encoder}
    return lambda record: store.read(record.query_id), store.width, about
