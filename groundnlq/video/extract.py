"""Features of videos: decoded beside the network, saved as they come, written as a feature store."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundnlq.data.annotations import read_clips
from groundnlq.data.features import FeatureStore, checked_array, write_features
from groundnlq.data.grid import FPS
from groundnlq.data.importers import MAX_LENGTH_DIFFERENCE
from groundnlq.data.store import StoreFile
from groundnlq.engine.distributed import World
from groundnlq.errors import ConfigError, DataError, FeatureError, Findings, KitError, sample_of
from groundnlq.files import VIDEO_KINDS, atomic_path, check_id
from groundnlq.video.frames import Video, content_identity

if TYPE_CHECKING:
    from groundnlq.video.encoders import VideoEncoder

BATCH_SIZE = 8
_PIECE_SEC = 60.0  # of work, which a killed process may lose
_SHORTFALL_SEC = 1.0  # by which a video may end early without a warning
_PATIENCE_SEC = 7 * 86400.0  # with the other processes: one may have a much longer video
_BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"


@dataclass(frozen=True)
class _Clip:
    """Which part of which video a clip is."""

    clip_uid: str
    path: Path
    start_sec: float = 0.0
    end_sec: float | None = None


def features_of(
    path: str | Path, encoders: Sequence[VideoEncoder], start_sec: float = 0.0, end_sec: float | None = None, *,
    cache: str | Path | None = None, batch_size: int = BATCH_SIZE, progress: Callable[[int, int], None] | None = None,
) -> Tensor:  # fmt: skip
    """(T, D) float32 features of a video or a part of it, those of several encoders beside each other.

    Args:
        cache: a folder that keeps them, by content of the video, part, and encoders with their settings; what was saved
            there before a kill is not computed again.
        batch_size: steps that are encoded at once; it changes rounding only.
        progress: called with the number of steps done and of all.

    A DataError names a file that cannot be read; a warning says what is missing in one that can.
    """
    pieces = _Pieces(Path(cache) / _key(Path(path), start_sec, end_sec, encoders) if cache else None)
    if not pieces.is_whole:
        video, damaged_sec = Video.open(path), list[float]()
        tables = _frame_numbers(video, encoders, start_sec, end_sec)
        batches = _snippets(video, encoders, tables, range(pieces.num_steps, len(tables[0])), batch_size, damaged_sec)
        with ThreadPoolExecutor(1) as decoder:  # one batch ahead, so that memory does not grow
            coming = decoder.submit(next, batches, None)
            while (snippets := coming.result()) is not None:
                coming = decoder.submit(next, batches, None)
                pieces.add(_encode(encoders, snippets, batch_size))
                if progress:
                    progress(pieces.num_steps, len(tables[0]))
        if damaged_sec := [second for second in damaged_sec if second >= start_sec]:
            between = f"{min(damaged_sec):.1f} and {max(damaged_sec):.1f} s"
            warnings.warn(f"{path}: damaged between {between}; the last sound frame is used there", stacklevel=2)
        pieces.finish()
    return torch.from_numpy(np.concatenate(pieces.arrays))


def extract_features(
    videos: Sequence[str | Path], encoders: Sequence[str | VideoEncoder], output: str | Path, *,
    annotations: Sequence[str | Path] = (), dtype: Literal["float16", "float32"] = "float16",
    batch_size: int = BATCH_SIZE, device: str | None = None, progress: bool = True, **options: Any,
) -> dict[str, int]:  # fmt: skip
    """Write a feature store of videos, or of folders of them; the same call goes on where another one was stopped.

    Under torchrun its processes share the clips. Clips that the output has already, of the same videos and encoders,
    are kept. What is under way lies in ``<output>.parts``, which is removed at the end.

    Args:
        encoders: what `load_encoder` takes, with its `options`; or encoders.
        annotations: official files; they say which part of which ``<video_uid>.*`` is which clip. Without them a video
            is a clip, whose id is its name.

    A FeatureError names the videos that cannot be used, once those of all others are written.
    """
    output, parts = Path(output), Path(f"{output}.parts")
    with World.join(_PATIENCE_SEC) as world:
        loaded = [_loaded(encoder, device or world.device, options) for encoder in encoders]
        attributes = _attributes(loaded)
        clips, keys, faults = world.from_main(lambda: _plan(_find_clips(videos, annotations), loaded))
        kept = world.from_main(lambda: _kept(output, dtype, keys, faults))
        todo = [clip for clip in clips if clip.clip_uid in keys.keys() - kept][world.rank :: world.size]
        bar = tqdm(total=len(todo), bar_format=_BAR, disable=None if progress and world.is_main else True)
        for number, clip in enumerate(todo):
            bar.set_description(f"{clip.clip_uid} ({number + 1} of {len(todo)})")
            try:
                part, show = (clip.path, loaded, clip.start_sec, clip.end_sec), partial(_show, bar, number)
                features = features_of(*part, cache=parts, batch_size=batch_size, progress=show)
                checked_array(features, clip.clip_uid, None, dtype)
            except (DataError, FeatureError) as error:
                faults[clip.clip_uid] = str(error)
        bar.close()
        faults = dict(ChainMap(*world.gather(faults)))
        return world.from_main(lambda: _write(output, parts, keys, kept, faults, dtype, attributes))


def _show(bar: tqdm, num_clips: int, num_steps: int, all_steps: int) -> None:
    bar.n = num_clips + num_steps / all_steps
    bar.refresh()


def _loaded(encoder: str | VideoEncoder, device: Any, options: Mapping[str, Any]) -> VideoEncoder:
    if not isinstance(encoder, str):
        return encoder
    from groundnlq.video.encoders import load_encoder

    return load_encoder(encoder, device=device, **options)


def _attributes(encoders: Sequence[VideoEncoder]) -> dict[str, Any]:
    """What a store says about its features."""
    if len(strides := {encoder.stride_frames for encoder in encoders}) != 1:
        raise ConfigError(f"encoders have strides of {sample_of(sorted(strides))} frames -- one store has one stride")
    return {
        "fps": FPS,
        "snippet_stride_frames": strides.pop(),
        "window_frames": max(encoder.window_frames for encoder in encoders),
        "encoder": " + ".join(encoder.name for encoder in encoders),
        "settings": {encoder.name: encoder.settings for encoder in encoders},
    }


# ---- which clips


def _find_clips(videos: Sequence[str | Path], annotations: Sequence[str | Path]) -> list[_Clip]:
    files: dict[str, Path] = {}
    findings = Findings("videos", DataError)
    for path in (file for named in map(Path, videos) for file in (_files_in(named) if named.is_dir() else [named])):
        if (other := files.setdefault(path.stem, path)).resolve() != path.resolve():
            findings.add(f"{path} has the name of {other}")
    findings.raise_if_any("rename one of them: a name is an id")
    if not files:
        raise DataError(f"{sample_of(videos)}: no video in it -- name a folder of {', '.join(VIDEO_KINDS)}")
    if not annotations:
        return [_Clip(stem, path) for stem, path in files.items()]
    clips = list(read_clips(annotations).values())
    if lone := [clip.clip_uid for clip in clips if clip.video_uid not in files]:
        warnings.warn(f"left out, their videos are not here: {sample_of(lone)}", stacklevel=2)
    clips = [clip for clip in clips if clip.video_uid in files]
    return [_Clip(c.clip_uid, files[c.video_uid], max(0.0, c.video_start_sec), c.video_end_sec) for c in clips]


def _files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_KINDS and not p.name.startswith("."))


def _plan(clips: list[_Clip], encoders: Sequence[VideoEncoder]) -> tuple[list[_Clip], dict[str, str], dict[str, str]]:
    """Clips, and by their id the keys of their features or why they have none."""
    keys, faults = {}, {}
    for clip in clips:
        try:
            check_id(clip.clip_uid, str(clip.path))
            keys[clip.clip_uid] = _key(clip.path, clip.start_sec, clip.end_sec, encoders)
        except DataError as error:
            faults[clip.clip_uid] = str(error)
    return clips, keys, faults


def _key(path: Path, start_sec: float, end_sec: float | None, encoders: Sequence[VideoEncoder]) -> str:
    """A name for features: what makes others has another one."""
    made_of = [content_identity(path), start_sec, end_sec, [[encoder.name, encoder.settings] for encoder in encoders]]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _kept(output: Path, dtype: str, keys: Mapping[str, str], faults: Mapping[str, str]) -> set[str]:
    """Clips that the output has, as they are to be."""
    if not output.exists():
        return set()
    with StoreFile.open(output, "features") as root:
        found = {uid: root.plain_dataset(uid, "clips").attrs.get("identity", b"") for uid in root["clips"]}
        is_same_dtype = root.text("dtype") == dtype
    if others := found.keys() - keys.keys() - faults.keys():
        remedy = "name their videos, too, or another --output"
        raise FeatureError(f"{output}: has clips of other videos: {sample_of(sorted(others))} -- {remedy}")
    return {uid for uid, key in found.items() if is_same_dtype and keys.get(uid, "").encode() == key}


def _write(
    output: Path, parts: Path, keys: dict[str, str], kept: set[str], faults: dict[str, str], dtype: Any,
    attributes: Mapping[str, Any],
) -> dict[str, int]:  # fmt: skip
    """Join what all processes have made."""
    done = {uid: key for uid, key in keys.items() if uid not in faults}
    if done.keys() - kept:
        store = FeatureStore(output) if kept else None
        arrays = (store.read(uid) if store and uid in kept else _load(parts / f"{keys[uid]}.npy") for uid in done)
        write_features(output, zip(done, arrays, strict=True), attributes=attributes, dtype=dtype, identities=keys)
    shutil.rmtree(parts, ignore_errors=True)
    findings = Findings(f"{output} has {len(done)} of {len(keys | faults)} clips", FeatureError)
    findings.add(*faults.values())
    findings.raise_if_any("correct these, then give the same command again")
    return {"clips": len(done), "kept": len(kept)}


# ---- steps of one clip


def _frame_numbers(
    video: Video, encoders: Sequence[VideoEncoder], start_sec: float, end_sec: float | None
) -> list[Any]:
    """(T, num_frames) numbers of each encoder; they may differ by two steps, and are cut to the shortest."""
    stated_sec = video.stated_sec if end_sec is None else end_sec
    if start_sec >= video.duration_sec:
        raise DataError(f"{video.path}: ends at {video.duration_sec:.1f} s -- its clip begins at {start_sec:.1f} s")
    if stated_sec > video.duration_sec + _SHORTFALL_SEC:
        ends = f"its frames end at {video.duration_sec:.1f} s, not at {stated_sec:.1f} s"
        warnings.warn(f"{video.path}: {ends}; there are no features of the rest", stacklevel=3)
        end_sec = None
    end_sec = video.duration_sec if end_sec is None else end_sec
    num_frames = max(1, round(video.duration_sec * FPS))
    tables = [encoder.frame_numbers(start_sec, end_sec, num_frames) for encoder in encoders]
    lengths = [len(table) for table in tables]
    if max(lengths) - min(lengths) > MAX_LENGTH_DIFFERENCE:
        raise FeatureError(f"{video.path}: encoders make {', '.join(map(str, lengths))} steps -- extract them apart")
    return [table[: min(lengths)] for table in tables]


def _snippets(
    video: Video, encoders: Sequence[VideoEncoder], tables: list[np.ndarray], steps: range, batch_size: int,
    damaged_sec: list[float],
) -> Iterator[list[np.ndarray]]:  # fmt: skip
    """For each encoder (B, num_frames, H, W, 3) uint8 of the next steps; a frame is kept while steps need it."""
    if not steps:
        return
    last = np.max([table.max(axis=1) for table in tables], axis=0)
    first = np.minimum.accumulate(np.min([table.min(axis=1) for table in tables], axis=0)[::-1])[::-1]
    wanted = np.unique(np.concatenate([table[steps.start :].ravel() for table in tables])).tolist()
    held: dict[int, dict[int, np.ndarray]] = {}
    batch, remaining = list[list[np.ndarray]](), list(steps)[::-1]
    for number, pictures in video.frames(wanted, {encoder.short_side for encoder in encoders}, damaged_sec):
        held[number] = pictures
        while remaining and last[remaining[-1]] <= number:
            step = remaining.pop()
            pairs = zip(encoders, tables, strict=True)
            batch.append([np.stack([held[n][encoder.short_side] for n in table[step]]) for encoder, table in pairs])
            held = {n: kept for n, kept in held.items() if remaining and n >= first[remaining[-1]]}
            if len(batch) == batch_size or not remaining:
                yield [np.stack(frames) for frames in zip(*batch, strict=True)]
                batch = []


def _encode(encoders: Sequence[VideoEncoder], snippets: list[np.ndarray], batch_size: int) -> np.ndarray:
    """(B, D) features. A last, smaller batch is filled up: with one size, a step is rounded the same in all batches."""
    num_steps = len(snippets[0])
    filled = [torch.from_numpy(frames[np.arange(batch_size).clip(max=num_steps - 1)]) for frames in snippets]
    try:
        parts = [encoder.encode(frames) for encoder, frames in zip(encoders, filled, strict=True)]
    except torch.OutOfMemoryError:
        raise KitError(f"a batch of {batch_size} steps has no room on the GPU -- take a smaller --batch") from None
    return torch.cat([part.float().cpu() for part in parts], dim=1)[:num_steps].numpy()


class _Pieces:
    """Features of a clip as they come, in files named by their first step; in the end one file beside the folder."""

    def __init__(self, folder: Path | None):
        self.folder, self.saved_at = folder, time.monotonic()
        whole = _load(folder.with_suffix(".npy")) if folder else None
        self.is_whole, self.arrays = whole is not None, [] if whole is None else [whole]
        while folder and not self.is_whole and (piece := _load(folder / _piece(self.num_steps))) is not None:
            self.arrays.append(piece)
        self.num_saved = len(self.arrays)

    @property
    def num_steps(self) -> int:
        return sum(map(len, self.arrays))

    def add(self, array: np.ndarray) -> None:
        self.arrays.append(array)
        if self.folder and time.monotonic() - self.saved_at >= _PIECE_SEC:
            unsaved = np.concatenate(self.arrays[self.num_saved :])
            _save(self.folder / _piece(self.num_steps - len(unsaved)), unsaved)
            self.num_saved, self.saved_at = len(self.arrays), time.monotonic()

    def finish(self) -> None:
        if self.folder:
            _save(self.folder.with_suffix(".npy"), np.concatenate(self.arrays))
            shutil.rmtree(self.folder, ignore_errors=True)


def _piece(first_step: int) -> str:
    return f"{first_step:07d}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def _load(path: Path) -> np.ndarray | None:
    """None where it is missing or damaged: it is made again."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
