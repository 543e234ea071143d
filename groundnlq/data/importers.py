"""Import of published archives: features or query tokens from folders of tensors and arrays, LMDB or HDF5."""

import io
import tarfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundnlq.data.annotations import Clip, read_clips
from groundnlq.data.features import FeatureStore, checked_array, write_features, write_shards
from groundnlq.data.grid import StepGrid
from groundnlq.data.store import StoreFile
from groundnlq.data.text import CLIP_NAME, SAMPLE_NAME
from groundnlq.data.tokens import IMPORTED, TokenStore, write_tokens
from groundnlq.errors import FeatureError, KitError, sample_of
from groundnlq.files import SAFE_ID, load_tensors, refuse_stand_in

MAX_LENGTH_DIFFERENCE = 2  # steps by which two extractors may disagree about one clip
_FEATURES, _TOKENS = ("features", "feature", "feats", "feat"), ("token_features", "features")  # names of arrays


class _NoArray(FeatureError):
    """There is nothing to import: it is left out, unlike what is damaged."""


@dataclass(frozen=True)
class _Source:
    """An archive: the clips, videos or queries it has, and how to read the array of one."""

    path: Path
    keys: list[str]
    read: Callable[[str], Any]
    rate: Mapping[str, float] = field(default_factory=dict)  # of a store of this kit


def import_features(
    sources: Sequence[str | Path], output: str | Path, *, dtype: Literal["float16", "float32"] = "float16",
    clips: Sequence[str | Path] = (), join: bool = False, clips_per_file: int | None = None, progress: bool = True,
    **rate: float | None,
) -> dict[str, int]:  # fmt: skip
    """Write a feature store from one or several sources, concatenated by channel in the given order.

    A source is a folder of <clip_uid>.pt, .npy or .npz files at any depth, a published LMDB folder, an HDF5 file (a
    dataset or group per clip), or a store of this kit. Only clips of all sources are written. A FeatureError names
    unreadable sources, clips whose lengths differ by more than 2 steps, broken values.

    Args:
        clips: official files; whole videos are cut to their clips, to the nearest step.
        join: the sources have different clips, and become one.
        clips_per_file: write a folder of files (see `write_shards`).
        rate: see `StepGrid.rate`; by default that of the sources, if they know it, or the published one.
    """
    opened = [_open_source(path) for path in sources]
    known: dict[str, Any] = {key: value for source in opened for key, value in source.rate.items()}
    grid = replace(StepGrid(), **known | {key: value for key, value in rate.items() if value})
    opened = [_joined(opened)] if join else opened
    if clips:
        opened = [_cut_to_clips(source, read_clips(clips), grid) for source in opened]
    shared = set.intersection(*(set(source.keys) for source in opened))
    common = [uid for uid in opened[0].keys if uid in shared]
    if not common:
        remedy = "they are concatenated by channel; if each has clips of its own, give --join"
        raise FeatureError(f"no clip is in all of {', '.join(map(str, sources))} -- {remedy}")
    for source in opened:
        _leave_out(source.path, "not in every source", sorted(set(source.keys) - shared))
    bar = tqdm(total=len(common), desc="features", unit="clip", disable=None if progress else True)
    widths: dict[Path, int] = {}

    def read(clip_uid: str) -> Tensor:
        bar.update()
        return _concatenate(clip_uid, opened, widths)

    own_rate = {key: value for key in grid.rate if (value := getattr(grid, key))}
    about: Any = {"attributes": {"sources": [source.path.name for source in opened], **own_rate}, "dtype": dtype}
    report = {"clips": len(common)}
    with bar:
        if clips_per_file:
            report["kept from before"] = write_shards(output, common, read, clips_per_file=clips_per_file, **about)
        else:  # unlike a generator, map goes on behind a broken clip
            write_features(output, zip(common, map(read, common), strict=True), **about)
    return report | {f"left out of {s.path.name}": len(s.keys) - len(common) for s in opened}


def import_text(sources: Sequence[str | Path], output: str | Path, encoder: str | None = None) -> int:
    """Query tokens of several sources (as of `import_features`, by query_id) in one store; without the name of the
    `encoder`, as `TextEncoder.load` takes it, tokens of another one will not be noticed."""
    whole = _joined([_open_source(path, _TOKENS) for path in sources])
    if not encoder:
        remedy = "give --encoder (clip, for the published tokens)"
        warnings.warn(f"{output}: without its name, another text encoder is not noticed -- {remedy}", stacklevel=2)
    name = Path({"clip": CLIP_NAME, "sample": SAMPLE_NAME}.get(encoder or "", encoder or "")).name
    tokens = map(torch.as_tensor, map(whole.read, whole.keys))  # unlike a generator, goes on behind a broken entry
    return write_tokens(output, zip(whole.keys, tokens, strict=True), encoder=name or f"{IMPORTED}{whole.path}")


def _open_source(path: str | Path, names: Sequence[str] = _FEATURES) -> _Source:
    path = Path(path)
    if (path / "data.mdb").exists():
        return _lmdb_source(path, names)
    if path.is_dir():
        return (_store_source if next(path.glob("*.h5"), None) else _folder_source)(path, names)
    if path.is_file() and h5py.is_hdf5(path):
        return _hdf5_source(path, names)
    what = "is not a folder of tensors, LMDB folder or HDF5 file" if path.exists() else "does not exist"
    if path.is_file() and (path.suffix == ".zip" or tarfile.is_tarfile(path)):
        what = "is a packed archive"
    raise FeatureError(f"{path}: {what} -- name the extracted archive")


def _joined(sources: Sequence[_Source]) -> _Source:
    """Sources of different keys as one; the writer refuses a key that several have."""
    owner = {key: source for source in sources for key in source.keys}
    path = Path("+".join(source.path.name for source in sources))
    return _Source(path, [key for source in sources for key in source.keys], lambda key: owner[key].read(key))


def _cut_to_clips(source: _Source, clips: Mapping[str, Clip], grid: StepGrid) -> _Source:
    """The clips of a source of whole videos; a source that has clips stays as it is."""
    videos = set(source.keys)
    if videos & clips.keys():
        return source
    whole = lru_cache(1)(source.read)

    def read(clip_uid: str) -> Any:
        clip = clips[clip_uid]
        first, num = max(0, round(clip.video_start_sec / grid.step_sec)), round(grid.num_steps(clip.duration_sec))
        if clip.video_uid in videos and len(part := whole(clip.video_uid)[first : first + num]):
            return part
        raise _NoArray(clip_uid)

    by_video = sorted(clips, key=lambda clip_uid: clips[clip_uid].video_uid)  # each is read once
    if not (there := [clip_uid for clip_uid in by_video if _has_array(read, clip_uid)]):
        raise FeatureError(
            f"{source.path}: has no clip and no video of the annotations -- compare the names of its files"
        )
    _leave_out(source.path, "no features of their time in their video", sorted(clips.keys() - set(there)))
    return _Source(source.path, there, read)


def _folder_source(path: Path, names: Sequence[str]) -> _Source:
    """Files named by clip, in subfolders, too."""
    files = [file for file in path.rglob("*") if file.is_file()]
    found = sorted(file for file in files if _has_array(partial(_read_file, names=names), file))
    by_clip = {file.stem: file for file in found}
    if not found:
        raise FeatureError(f"{path}: no <clip_uid>.pt, .npy or .npz file with an array -- name the folder of them")
    if twice := [file.relative_to(path) for file in found if by_clip[file.stem] != file]:
        raise FeatureError(f"{path}: clips in several files: {sample_of(twice)} -- name folders to concatenate singly")
    _leave_out(path, "no features", sorted(file.relative_to(path) for file in set(files) - set(found)))
    return _Source(path, list(by_clip), lambda clip_uid: _read_file(by_clip[clip_uid], names))


def _has_array(read: Callable[[Any], Any], key: Any) -> bool:
    """Whether there is something to import; what is damaged is reported when it is imported."""
    try:
        read(key)
    except KitError as error:
        return not isinstance(error, _NoArray)
    return True


def _leave_out(path: Path, why: str, names: Sequence[object]) -> None:
    if names:
        warnings.warn(f"{path}: left out, {why}: {sample_of(names)}", stacklevel=4)


def _read_file(file: Path, names: Sequence[str]) -> Any:
    """The array of a file, whose values are not read yet if its format allows it."""
    if file.suffix not in (".pt", ".pth", ".npy", ".npz") or not SAFE_ID.fullmatch(file.stem):
        raise _NoArray(f"{file}: not a feature file")
    refuse_stand_in(file)
    if file.suffix.startswith(".n"):
        return _load_numpy(file, names, str(file), mmap_mode="c")
    return _array_of(load_tensors(file, FeatureError, mmap=True), names, str(file))


def _load_numpy(file: Path | io.BytesIO, names: Sequence[str], where: str, **options: Any) -> Any:
    """The array of a .npy or .npz file; nothing in it is run."""
    try:
        value = np.load(file, allow_pickle=False, **options)
        return _array_of(value if isinstance(value, np.ndarray) else dict(value), names, where)
    except FeatureError:
        raise
    except Exception as error:  # bytes can be damaged in many ways
        if "bject" in str(error):  # numpy's own words recommend to load them unsafely
            what = "not plain numbers, and pickled objects could run code -- save an array of numbers"
            raise FeatureError(f"{where}: refused, {what}") from None
        raise FeatureError(f"{where} cannot be read ({error}) -- fetch it again") from None


def _array_of(value: Any, names: Sequence[str], where: str) -> Any:
    """An array, or that of a dictionary: called by one of the names, or the only one of two axes or more; without
    single axes, so (1, T, D) or (T, D, 1, 1) becomes (T, D)."""
    entries = value if isinstance(value, Mapping) else {names[0]: value}
    arrays = {name: array for name, array in entries.items() if isinstance(array, Tensor | np.ndarray)}
    called = [name for name in names if name in arrays][:1] or [n for n, array in arrays.items() if array.ndim > 1]
    if len(called) != 1:
        raise _NoArray(f"{where} has {sample_of(entries)}, expected an array {names[0]!r}")
    array = arrays[called[0]]
    while array.ndim > 2 and 1 in array.shape:
        array = array.squeeze(max(axis for axis, length in enumerate(array.shape) if length == 1))
    return array


def _lmdb_source(path: Path, names: Sequence[str]) -> _Source:
    """A published LMDB, whose entries are .npz files."""
    try:
        import lmdb
    except ImportError:
        raise FeatureError(f"{path} is LMDB -- install its reader: pip install 'groundnlq[lmdb]'") from None
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
        with environment.begin() as transaction:
            keys = [key.decode() for key in transaction.cursor().iternext(values=False)]
    except (lmdb.Error, UnicodeDecodeError) as error:
        raise FeatureError(f"{path}: not a readable LMDB ({error}) -- fetch it again") from None

    def read(key: str) -> Any:
        with environment.begin() as transaction:
            return _load_numpy(io.BytesIO(transaction.get(key.encode()) or b""), names, f"{path}: entry {key}")

    return _Source(path, keys, read)


def _store_source(path: Path, names: Sequence[str]) -> _Source:
    if names is _TOKENS:
        return _Source(path, (tokens := TokenStore(path)).query_ids, tokens.read)
    return _Source(path, (store := FeatureStore(path)).clip_uids, store.read, store.rate)


def _hdf5_source(path: Path, names: Sequence[str]) -> _Source:
    """A store, or datasets that are called as their clip is, or by one of the names in a group that is."""
    with StoreFile(path, "r") as root:
        if root.text("kind", ""):
            return _store_source(path, names)
        links: dict[str, Any] = {}
        root.visititems_links(links.__setitem__)
        if foreign := [place for place, link in links.items() if not isinstance(link, h5py.HardLink)]:
            raise FeatureError(f"{path}: {sample_of(foreign)}: links to other data are refused -- copy the data in")
        every = [PurePosixPath(place) for place in links if isinstance(root[place], h5py.Dataset)]
    grouped = {place: place.parent.name for place in every if place.name in names and place.parent.name}
    clip_of = grouped or {place: place.name for place in every}
    places = {clip: str(place) for place, clip in clip_of.items()}
    if not places or len(places) < len(clip_of):
        raise FeatureError(f"{path}: has {sample_of(every)}; expected one dataset or group per clip")

    def read(key: str) -> Any:
        with StoreFile(path, "r") as root:
            return _array_of(root.plain_dataset(places[key])[()], names, f"{path}: {key}")

    return _Source(path, list(places), read)


def _concatenate(clip_uid: str, sources: Sequence[_Source], widths: dict[Path, int]) -> Tensor:
    """`widths` remembers the first clip's of each source."""
    parts = []
    for source in sources:
        where = f"{clip_uid} of {source.path}"
        parts.append(torch.from_numpy(checked_array(source.read(clip_uid), where, widths.get(source.path))))
        widths.setdefault(source.path, parts[-1].shape[1])
    lengths = [len(part) for part in parts]
    if max(lengths) - min(lengths) > MAX_LENGTH_DIFFERENCE:
        each = ", ".join(f"{n} in {s.path.name}" for n, s in zip(lengths, sources, strict=True))
        raise FeatureError(f"clip {clip_uid}: steps differ: {each} -- were they extracted at one rate?")
    return torch.cat([part[: min(lengths)] for part in parts], dim=1)
