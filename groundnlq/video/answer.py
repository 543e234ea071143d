"""Questions about a video file: a network, the video encoders that its features need, and a cache of features."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from groundnlq import __version__
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.processor import memory_kept
from groundnlq.engine.run_dir import RunDirectory
from groundnlq.errors import CheckpointError, sample_of
from groundnlq.video.encoders import FILES, LITE, READY, VideoEncoder, load_encoder
from groundnlq.video.extract import features_of
from groundnlq.video.frames import content_identity

CACHE_VARIABLE = "GROUNDNLQ_CACHE"
PUBLISHED = (
    "the champion's weights (.pth.tar, github.com/houzhijian/GroundNLQ, MIT) and its three encoders, in an order that "
    f"nobody published: --encoder videomae=FILE, of verbs and of nouns: {FILES['videomae']}; --encoder egovlp=FILE: "
    f"{FILES['egovlp']}"
)


def load(
    path: str | Path, *, video_encoder: str | Sequence[str] = (), download: bool = False, device: str = "cpu",
    precision: Literal["float32", "bfloat16"] = "float32", **options: Any,
) -> Predictor:  # fmt: skip
    """A trained network, ready to answer questions about clips and videos.

    >>> model = load("runs/finetune", video_encoder="egovlp=egovlp.pth")  # doctest: +SKIP
    >>> model.ask("kitchen.mp4", "Where did I put the scissors?")[0]  # doctest: +SKIP
    Moment(start_sec=12.3, end_sec=15.8, score=0.71)

    Args:
        path: run directory, checkpoint of ours or published ``.pth.tar``; or ``sample``, the sample world's network.
        video_encoder: as ``NAME=WEIGHTS``, several in the order of the channels (see `load_encoder`); by default the
            one that the checkpoint names, if it comes with a package or lies in ``align`` beside the run. Loaded at the
            first video.
        download, device: of the video encoders; `precision` is of all networks, `options` are of `Predictor.load`.
    """
    path = READY.with_name("network.pt") if path == "sample" else path
    model = Predictor.load(path, precision=precision, **options)
    given = [video_encoder] if isinstance(video_encoder, str) else list(video_encoder)
    settings = {"device": device, "precision": precision, "download": download}
    model.video_features = _VideoFeatures(model, given, settings)
    return model


def cache_folder() -> Path:
    """Folder of cached features: `$GROUNDNLQ_CACHE`, else ``groundnlq`` in the user's folder for caches."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundnlq"


class _VideoFeatures:
    """Makes the features of a video once, and keeps them by its content, the encoders and their settings."""

    def __init__(self, model: Predictor, given: list[str], options: dict[str, Any]):
        self.model, self.given, self.options = model, given, options

    def __call__(self, path: Path) -> Tensor:
        with memory_kept(), tqdm(desc=f"features of {path.name}", unit="step", disable=None, leave=False) as bar:

            def show(num_steps: int, all_steps: int) -> None:
                bar.total = all_steps
                bar.update(num_steps - bar.n)

            key = self._key(path)
            encoders: Any = (lambda: self.encoders) if key else self.encoders
            return features_of(path, encoders, cache=cache_folder(), key=key, progress=show)

    def _key(self, path: Path) -> str:
        """What features are kept by, known before an encoder is loaded: by the name in the checkpoint, which has a hash
        of its weights, and the files that were given. Empty where these do not say which weights they are."""
        files = [Path(spec.partition("=")[2] or spec) for spec in self.given]
        trained, precision = self.model.info.get("video_encoder"), self.options["precision"]
        if not trained and not (files and all(map(Path.is_file, files))):
            return ""
        found = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        made_of = [content_identity(path), trained, self.given, found, precision, __version__]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    @cached_property
    def encoders(self) -> list[VideoEncoder]:
        """Loaded as given, and checked to be those of the training."""
        trained = self.model.info.get("video_encoder")
        encoders = [load_encoder(spec, **self.options) for spec in self.given] or [self._of_training(trained)]
        name, width = " + ".join(e.name for e in encoders), sum(e.width for e in encoders)
        expected, stride = self.model.config.model.video_dim, self.model.config.data.grid.snippet_stride_frames
        strides = {encoder.stride_frames for encoder in encoders}
        if trained not in (None, name) or width != expected or strides != {stride}:
            raise CheckpointError(
                f"{self.model.path}: trained with features of {trained or 'an encoder'} ({expected} wide, every "
                f"{stride:g} frames), these would be of {name} ({width} wide, every {sample_of(strides)} frames) "
                "-- give the encoders of the training, in their order"
            )
        return encoders

    def _of_training(self, trained: str | None) -> VideoEncoder:
        """The encoder of the training, where its name is all that is needed."""
        if trained and trained.startswith(f"{LITE} ") and " + " not in trained:
            return load_encoder(LITE, **self.options)
        run = RunDirectory.weights_of(self.model.path or "").parent
        for path in (READY, run.parent / "align" / "best.pt"):  # the latter is where notebook 2 trains one
            if path.is_file() and (encoder := load_encoder(str(path), **self.options)).name == trained:
                return encoder
        raise CheckpointError(
            f"{self.model.path}: a video needs the encoder that made the features of the training, "
            f"{trained or 'which this checkpoint does not name'} -- give --encoder (video_encoder=) as "
            f"'features extract' takes it; for {PUBLISHED}"
        )
