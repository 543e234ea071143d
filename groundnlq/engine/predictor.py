"""Ranked moments for every query of a split; each clip is read and embedded once for all its queries."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundnlq.config import DataConfig, DecodeConfig, RunConfig
from groundnlq.data.check import require_inputs
from groundnlq.data.dataset import Batch, QueryDataset, clip_batches, collate
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import Record, identity_of, read_records
from groundnlq.data.submission import Answers, Ranked
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.checkpoint import checkpoint_file, load_trained
from groundnlq.engine.distributed import World, joined_world
from groundnlq.engine.malloc import memory_kept
from groundnlq.errors import FeatureError, sample_of
from groundnlq.model.decode import decode
from groundnlq.model.grounder import Grounder, Outputs
from groundnlq.provenance import file_identity, made_by

Precision = Literal["float32", "bfloat16"]
# Of each channel, bytes of the queries that pass at once on a processor and on a GPU. Four Ego4D clips' worth
# of float32 would be up to 4 % faster than these three on a CPU, for 50 MB more.
BYTES_AT_ONCE = (12288, 262144)
MOST_QUERIES = 256  # of a clip that is read once; their tokens are encoded together


def predict(
    checkpoint: str | Path,
    records: str | Path | Sequence[Record],
    features: str | Path,
    text: str | Path,
    *,
    preset: str = "finetune",
    top_k: int | None = None,
    precision: Precision = "float32",
    weights: str | None = None,
    other_encoder: bool = False,
    progress: bool = True,
) -> Answers:
    """Answer all records with a trained network; under torchrun, each process answers its share of the clips.

    Args:
        checkpoint: a file or run folder of ours, or a published ``.pth.tar`` (with the `preset` it is of).
        top_k: segments per query; the checkpoint's own number by default.
        precision: bfloat16 is faster where the processor has it, and not quite the same.
        other_encoder: allow tokens of another encoder than the checkpoint was trained with.

    Raises:
        FeatureError: clips without features or queries without tokens, all by name, before any work; or
            features that make the network's numbers NaN.
        CheckpointError: the tokens are of another encoder.
    """
    trained = load_trained(checkpoint, preset, weights)
    model, config = trained.model, trained.config
    records = read_records(records) if isinstance(records, str | Path) else list(records)
    store, tokens = FeatureStore(features), TokenStore(text)
    require_inputs(records, store, tokens, config.model.video_dim, config.model.text_dim)
    trained.require_encoder(tokens.encoder, f"{checkpoint} with {text}", other_encoder)
    data = config.data
    dataset = QueryDataset(records, store, tokens, data.grid)
    rules = config.decode if top_k is None else config.decode.model_copy(update={"top_k": top_k})
    with joined_world() as world, memory_kept():
        model = model.to(world.device)
        answers = predict_dataset(model, dataset, data, rules, world, precision=precision, progress=progress)
    sources = made_by(
        checkpoint=file_identity(checkpoint_file(checkpoint)),
        records=identity_of(records),
        features={"path": str(features), "sha256": store.sha256},
        text={"path": str(text), "sha256": tokens.sha256, "encoder": tokens.encoder},
    )
    used = config.model_copy(update={"decode": rules}).model_dump(mode="json")
    return Answers(answers, sources | {"precision": precision, "configuration": used})


def predict_dataset(
    model: Grounder,
    dataset: QueryDataset,
    data: DataConfig,
    rules: DecodeConfig,
    world: World,
    *,
    precision: Precision = "float32",
    progress: bool = True,
) -> Ranked:
    """Answer all records of a dataset, in their order; with several processes each takes a share of clips."""
    answers = dict(stream(model, dataset, data, rules, world, precision=precision, progress=progress))
    every = {query_id: found for part in world.gather(answers) for query_id, found in part.items()}
    return {record.query_id: every[record.query_id] for record in dataset.records}


def stream(
    model: Grounder,
    dataset: QueryDataset,
    data: DataConfig,
    rules: DecodeConfig,
    world: World,
    *,
    precision: Precision = "float32",
    progress: bool = True,
) -> Iterator[tuple[str, np.ndarray]]:
    """This process' share of the answers, (query_id, (K, 3) ranked moments), clip by clip as they come."""
    batches = clip_batches(dataset.records, MOST_QUERIES)[world.rank :: world.size]
    show, source = progress and world.is_main, str(dataset.store.path)
    model = in_precision(model, precision)
    for indices in tqdm(batches, desc="predict", unit="clip", leave=False, disable=None if show else True):
        with evaluating(model):
            answers = answer(model, dataset.batch(indices), data, rules, source)
        yield from answers.items()


def in_precision(model: Grounder, precision: Precision) -> Grounder:
    """The model itself for float32; for bfloat16 a copy of which every tensor is, so that nothing casts."""
    return model if precision == "float32" else copy.deepcopy(model).bfloat16()


@contextmanager
def evaluating(model: Grounder) -> Iterator[Grounder]:
    """The model in evaluation mode and without gradients; afterwards in the mode it was in."""
    was_training = model.training
    try:
        with torch.inference_mode():
            yield model.eval()
    finally:
        model.train(was_training)


def answer(
    model: Grounder, batch: Batch, data: DataConfig, rules: DecodeConfig, source: str = "features"
) -> Ranked:
    """Ranked moments (K, 3) for the queries of a batch.

    Clips are embedded once; the queries then pass a few at a time, so that memory depends neither on their
    number nor, beyond one query, on the clips' length.

    Raises:
        FeatureError: the network's numbers are not finite; names the queries and the `source`.
    """
    parameter = next(model.parameters())
    batch = batch.to(parameter.device, dtype=parameter.dtype)
    text = model.encode_text(batch.text, batch.text_mask)
    clips = model.encode_video(batch.video, batch.video_mask)
    bytes_each = batch.video.shape[1] * parameter.element_size()
    at_once = max(1, BYTES_AT_ONCE[parameter.device.type != "cpu"] // bytes_each)
    answers: Ranked = {}
    for first in range(0, len(text), at_once):
        part = slice(first, first + at_once)
        query_ids = batch.query_ids[part]
        outputs = model.ground(clips, batch.clip_index[part], text[part], batch.text_mask[part])
        require_finite(outputs, query_ids, batch.clip_uids[0], source)
        moments = decode(outputs, data.grid, batch.durations_sec[part], rules)
        answers |= zip(query_ids, (m.numpy() for m in moments), strict=True)
    return answers


def infer(model: Grounder, batch: Batch) -> Outputs:
    """The network's outputs for one batch, in evaluation mode."""
    with evaluating(model):
        return model(batch)


def require_finite(outputs: Outputs, query_ids: Sequence[str], clip_uid: str, where: str) -> None:
    """Refuse numbers that decoding would drop without a word.

    Raises:
        FeatureError: names the queries.
    """
    numbers = torch.cat([outputs.logits[..., None], outputs.offsets], dim=-1)
    is_bad = (~numbers.isfinite().all(-1) & outputs.mask).any(1).tolist()
    if any(is_bad):
        names = sample_of(i for i, bad in zip(query_ids, is_bad, strict=True) if bad)
        raise FeatureError(
            f"{where}: the network's numbers for {names} (clip {clip_uid}) are NaN or Inf "
            "-- look for broken features with 'groundnlq features check'"
        )


def level_scores(outputs: Outputs, query: int = 0) -> list[np.ndarray]:
    """Classification scores of one query: an array of its points for each pyramid level, finest first."""
    scores, levels = outputs.logits[query].float().sigmoid(), outputs.points.level
    valid = outputs.mask[query]
    return [scores[valid & (levels == level)].cpu().numpy() for level in range(int(levels.max()) + 1)]


def ask(
    model: Grounder, config: RunConfig, video: Tensor, tokens: Tensor, duration_sec: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Ground one question of one's own in one clip.

    Args:
        video: (T, video_dim) features of the clip; tokens: (L, text_dim) of the question.

    Returns:
        ranked moments (K, 3) and the scores of every pyramid level.
    """
    nothing = torch.zeros(0, 2)
    batch = collate(
        [video],
        [tokens],
        [0],
        [nothing],
        ["question"],
        ["clip"],
        [duration_sec],
    )
    outputs = infer(model, batch.to(next(model.parameters()).device))
    (moments,) = decode(outputs, config.data.grid, [duration_sec], config.decode)
    return moments.numpy(), level_scores(outputs)
