"""Features of videos: decoded beside the network, saved as they come, written as a feature store."""

import hashlib
import json
import shutil
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal, cast

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
from groundnlq.engine.processor import memory_kept, sharing_cores, short_waits_when_busy
from groundnlq.errors import ConfigError, DataError, FeatureError, Findings, KitError, sample_of
from groundnlq.files import VIDEO_KINDS, check_id
from groundnlq.video.encoders import VideoEncoder, load_encoder
from groundnlq.video.frames import SHORTFALL_SEC, Video, content_identity
from groundnlq.video.pieces import Pieces

_PATIENCE_SEC = 7 * 86400.0  # with the other processes: one may have a much longer video
_Part = tuple[Path, float, float | None]  # of a video: from a second to another one, or to its end
_BAR = "{desc}{percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"


def features_of(
    path: str | Path, encoders: Sequence[VideoEncoder] | Callable, start_sec: float = 0.0, end_sec: float | None = None,
    *, cache: str | Path | None = None, key: str = "", batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:  # fmt: skip
    """(T, D) float32 features of a video or a part of it, those of several encoders beside each other.

    Args:
        cache: folder that keeps them, by content of the video, part, and encoders with their settings; what was saved
            there before a kill is not computed again.
        key: what to keep them by instead; then `encoders` may be what loads them, called only to make features.
        batch_size: steps that are encoded at once, by default as many as suit the device; it changes rounding only.
        progress: called with the number of steps done and of all.

    A DataError names a file that cannot be read; a warning says what is missing in one that can.
    """
    part = Path(path), float(start_sec), end_sec
    folder = Path(cache) / (key or _key(part, cast(Sequence, encoders))) if cache else None
    if folder and (whole := Pieces.load(folder.with_suffix(".npy"))) is not None:
        return torch.from_numpy(whole)
    encoders = encoders() if callable(encoders) else encoders
    batch_size = batch_size or min(encoder.batch_size for encoder in encoders)
    pieces, video, damaged_sec = Pieces(folder), Video.open(path), list[float]()
    tables = _frame_numbers(video, encoders, part)
    batches = _snippets(video, encoders, [table[pieces.num_steps :] for table in tables], batch_size, damaged_sec)
    with ThreadPoolExecutor(1) as decoder:  # one batch ahead, so that memory does not grow
        coming = decoder.submit(next, batches, None)
        while (snippets := coming.result()) is not None:
            coming = decoder.submit(next, batches, None)
            pieces.add(_encode(encoders, snippets, batch_size))
            if progress:
                progress(pieces.num_steps, len(tables[0]))
    if damaged_sec := [second for second in damaged_sec if second >= start_sec]:
        between = f"{min(damaged_sec):.1f} and {max(damaged_sec):.1f} s"
        warnings.warn(f"{path}: damaged between {between}; what could be decoded there is used", stacklevel=2)
    return torch.from_numpy(pieces.finish())


def extract_features(
    videos: Sequence[str | Path], encoders: Sequence[str | VideoEncoder], output: str | Path, *,
    annotations: Sequence[str | Path] = (), dtype: Literal["float16", "float32"] = "float16",
    batch_size: int | None = None, device: str | None = None, progress: bool = True, **options: Any,
) -> dict[str, int]:  # fmt: skip
    """Write a feature store of videos, or of folders of them; the same call goes on where another one was stopped.

    Under torchrun its processes share the clips. Clips that the output has, made in the same way, stay in it. What is
    under way lies in ``<output>.parts``, which is removed at the end.

    Args:
        encoders: what `load_encoder` takes, with its `options`; or encoders.
        annotations: official files; they say which part of which ``<video_uid>.*`` is which clip. Without them a video
            is a clip, whose id is its name.

    A FeatureError names the videos that cannot be used, once those of all others are written.
    """
    output, folder = Path(output), Path(f"{output}.parts")
    with World.join(_PATIENCE_SEC) as world, short_waits_when_busy(), memory_kept():
        options["device"] = device or world.device
        loaded = [load_encoder(e, **options) if isinstance(e, str) else e for e in encoders]
        attributes = _attributes(loaded)
        parts, keys, faults = world.from_main(lambda: _plan(_find_parts(find_videos(videos), annotations), loaded))
        kept = world.from_main(lambda: _kept(output, dtype, attributes, keys))
        todo = [uid for uid in keys if uid not in kept][world.rank :: world.size]
        bar = tqdm(total=len(todo), bar_format=_BAR, leave=False, disable=None if progress and world.is_main else True)
        how: Any = {"encoders": loaded, "cache": folder, "batch_size": batch_size}
        with bar, sharing_cores(len(todo) if world.device.type == "cpu" else 1) as pool:
            faults |= _make({uid: parts[uid] for uid in todo}, dtype, pool, bar, how)
        faults = dict(ChainMap(*world.gather(faults)))
        return world.from_main(lambda: _write(output, folder, keys, kept, faults, dtype=dtype, attributes=attributes))


def _make(parts: dict[str, _Part], dtype: str, pool: ThreadPoolExecutor, bar: tqdm, how: Any) -> dict[str, str]:
    """Features of these parts of videos, kept in the cache of `how`; the faults of those that have none."""
    ended, under_way, is_stopped = list[float](), dict[str, float](), Event()

    def show(uid: str, num_steps: int, all_steps: int) -> None:
        if is_stopped.is_set():
            raise InterruptedError
        under_way[uid] = num_steps / all_steps
        bar.n = len(ended) + sum(list(under_way.values()))  # of a copy: other threads change it
        bar.refresh()

    def make(uid: str) -> str:
        under_way[uid] = 0.0
        bar.set_description(f"{uid} ({len(ended) + len(under_way)} of {len(parts)})")
        path, start_sec, end_sec = parts[uid]
        try:
            array = features_of(path, start_sec=start_sec, end_sec=end_sec, progress=partial(show, uid), **how)
            checked_array(array, uid, None, cast(Any, dtype))
        except (DataError, FeatureError) as error:
            return str(error)
        finally:
            ended.append(under_way.pop(uid))
        return ""

    try:
        found = zip(parts, pool.map(make, parts), strict=True)
        return {uid: fault for uid, fault in found if fault}
    except BaseException:
        is_stopped.set()  # those under way end with their present batch; what they have made is kept
        pool.shutdown(cancel_futures=True)
        raise


def _attributes(encoders: Sequence[VideoEncoder]) -> dict[str, Any]:
    """What a store says about its features."""
    if len(strides := {encoder.stride_frames for encoder in encoders}) != 1:
        raise ConfigError(f"encoders have strides of {sample_of(sorted(strides))} frames -- one store has one stride")
    return {
        "fps": FPS,
        "snippet_stride_frames": strides.pop(),
        "encoder": " + ".join(encoder.name for encoder in encoders),
        "settings": {encoder.name: encoder.settings for encoder in encoders},
    }


def _plan(parts: dict[str, _Part], encoders: Sequence[VideoEncoder]) -> tuple[dict[str, Any], ...]:
    """Parts of videos, and the keys of their features or the reasons why they have none, by clip."""
    keys, faults = dict[str, str](), dict[str, str]()
    for uid, part in parts.items():
        try:
            keys[check_id(uid, str(part[0]))] = _key(part, encoders)
        except DataError as error:
            faults[uid] = str(error)
    return parts, keys, faults


def find_videos(videos: Sequence[str | Path]) -> dict[str, Path]:
    """By name without ending."""
    files: dict[str, Path] = {}
    findings = Findings("videos", DataError)
    for named in map(Path, videos):
        inside = sorted(p for p in named.rglob("*") if p.suffix.lower() in VIDEO_KINDS and not p.name.startswith("."))
        for path in inside if named.is_dir() else [named]:
            if (other := files.setdefault(path.stem, path)).resolve() != path.resolve():
                findings.add(f"{path} has the name of {other}")
    findings.raise_if_any("rename one of them: a name is an id")
    return files


def _find_parts(files: Mapping[str, Path], annotations: Sequence[str | Path]) -> dict[str, _Part]:
    parts, clips = dict[str, _Part](), read_clips(annotations) if annotations else {}
    for uid, clip in clips.items():
        if clip.video_uid in files:
            parts[uid] = files[clip.video_uid], max(0.0, clip.video_start_sec), clip.video_end_sec
    if lone := clips.keys() - parts.keys():
        warnings.warn(f"left out, their videos are not here: {sample_of(sorted(lone))}", stacklevel=2)
    if parts := parts if annotations else {stem: (path, 0.0, None) for stem, path in files.items()}:
        return parts
    raise DataError(f"no clip of a video here -- name videos ({', '.join(VIDEO_KINDS)}), with --clips as <video_uid>.*")


def _key(part: _Part, encoders: Sequence[VideoEncoder]) -> str:
    """A name for features: what makes others has another one."""
    made_of = [content_identity(part[0]), *part[1:], *([encoder.name, encoder.settings] for encoder in encoders)]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _kept(output: Path, dtype: str, attributes: dict[str, Any], keys: Mapping[str, str]) -> dict[str, str]:
    """Keys of clips that the output has and that stay in it: the same ones, and those of other videos."""
    if not output.exists():
        return {}
    store = FeatureStore(output)
    with StoreFile.open(output, "features") as root:
        found = {uid: np.bytes_(root["clips"][uid].attrs.get("identity", b"")).decode() for uid in store.clip_uids}
    if store.dtype == dtype and store.attributes == json.loads(json.dumps(attributes)):
        return {uid: key for uid, key in found.items() if keys.get(uid, key) == key}
    if others := sorted(found.keys() - keys.keys()):
        fault = f"has clips of other videos, made in another way: {sample_of(others)}"
        raise FeatureError(f"{output}: {fault} -- choose another file")
    return {}


def _write(
    output: Path, folder: Path, keys: dict[str, str], kept: dict[str, str], faults: dict[str, str], **options: Any
) -> dict[str, int]:
    """Join what all processes have made."""
    done = kept | {uid: key for uid, key in keys.items() if uid not in faults}
    if new := done.keys() - kept.keys():
        before: Any = FeatureStore(output) if kept else None
        arrays: Any = (Pieces.load(folder / f"{done[uid]}.npy") if uid in new else before.read(uid) for uid in done)
        write_features(output, zip(done, arrays, strict=True), identities=done, **options)
    shutil.rmtree(folder, ignore_errors=True)
    findings = Findings(f"{output} ({len(done)} of {len(done | faults)} clips)", FeatureError)
    findings.add(*faults.values())
    findings.raise_if_any("correct these, then give the same command again")
    return {"clips": len(done), "new": len(new)}


def _frame_numbers(video: Video, encoders: Sequence[VideoEncoder], part: _Part) -> list[np.ndarray]:
    """(T, num_frames) numbers of each encoder; they may differ by two steps, and are cut to the shortest."""
    _, start_sec, end_sec = part
    end_sec, remarks = end_sec or video.duration_sec, list(video.remarks)
    if start_sec >= video.duration_sec:
        raise DataError(f"{video.path}: ends at {video.duration_sec:.1f} s, before {start_sec:.1f} s")
    if end_sec > video.duration_sec + SHORTFALL_SEC:
        remarks.append(f"its frames end at {video.duration_sec:.1f} s, the clip at {end_sec:.1f} s")
        end_sec = video.duration_sec
    if remarks:
        warnings.warn(f"{video.path}: {'; '.join(remarks)}", stacklevel=3)
    num_frames = max(1, round(video.duration_sec * FPS))
    tables = [encoder.frame_numbers(start_sec, end_sec, num_frames) for encoder in encoders]
    lengths = [len(table) for table in tables]
    if max(lengths) - min(lengths) > MAX_LENGTH_DIFFERENCE:
        raise FeatureError(f"{video.path}: encoders make {', '.join(map(str, lengths))} steps -- extract them apart")
    return [table[: min(lengths)] for table in tables]


def _snippets(
    video: Video, encoders: Sequence[VideoEncoder], tables: list[np.ndarray], batch_size: int, damaged_sec: list[float]
) -> Iterator[list[np.ndarray]]:
    """For each encoder (B, num_frames, H, W, 3) uint8 of the next steps; a frame is held while steps need it."""
    last = np.max([table.max(axis=1) for table in tables], axis=0).tolist()
    first = np.min([table.min(axis=1) for table in tables], axis=0)
    first = np.minimum.accumulate(first[::-1])[::-1].tolist()  # of a step and all later ones
    wanted, step, batch = np.unique(np.concatenate([table.ravel() for table in tables])), 0, list[list[np.ndarray]]()
    held: dict[int, dict[int, np.ndarray]] = {}
    for number, pictures in video.frames(wanted.tolist(), {encoder.short_side for encoder in encoders}, damaged_sec):
        held[number] = pictures
        while step < len(last) and last[step] <= number:
            pairs = zip(encoders, tables, strict=True)
            batch.append([np.stack([held[n][encoder.short_side] for n in table[step]]) for encoder, table in pairs])
            step += 1
            if len(batch) == batch_size or step == len(last):
                yield [np.stack(frames) for frames in zip(*batch, strict=True)]
                batch = []
            held = {n: kept for n, kept in held.items() if step < len(last) and n >= first[step]}


def _encode(encoders: Sequence[VideoEncoder], snippets: list[np.ndarray], batch_size: int) -> np.ndarray:
    """(B, D) features. A smaller batch is filled up: with one size, a step is rounded the same in all batches."""
    rows = np.arange(batch_size).clip(max=len(snippets[0]) - 1)
    pairs = zip(encoders, snippets, strict=True)
    try:
        parts = [encoder.encode(torch.from_numpy(frames[rows])).float().cpu() for encoder, frames in pairs]
    except torch.OutOfMemoryError:
        raise KitError(f"a batch of {batch_size} steps has no room on the GPU -- take a smaller --batch") from None
    return torch.cat(parts, dim=1)[: len(snippets[0])].numpy()
