"""Import of published archives: features from folders of .pt, LMDB or HDF5; query tokens from LMDB."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundnlq.data.features import FeatureStore, checked_array, write_features, write_shards
from groundnlq.data.grid import FPS, SNIPPET_STRIDE_FRAMES
from groundnlq.data.store import StoreFile
from groundnlq.data.tokens import IMPORTED, write_tokens
from groundnlq.errors import FeatureError, sample_of
from groundnlq.files import SAFE_ID, load_tensors

MAX_LENGTH_DIFFERENCE = 2  # steps by which two extractors may disagree about one clip


@dataclass(frozen=True)
class _Source:
    """An archive: the clips or queries it has, and how to read the array of one."""

    path: Path
    keys: list[str]
    read: Callable[[str], Tensor | np.ndarray]


def import_features(
    sources: Sequence[str | Path], output: str | Path, *, dtype: Literal["float16", "float32"] = "float16",
    fps: float = FPS, snippet_stride_frames: float = SNIPPET_STRIDE_FRAMES, progress: bool = True,
    clips_per_file: int | None = None,
) -> dict[str, int]:  # fmt: skip
    """Write a feature store from one or several sources, concatenated by channel in the given order.

    A source is a folder of ``<clip_uid>.pt`` tensors, an LMDB folder of the published layout, or an HDF5 file (of this
    kit, or with one dataset per clip), or a folder of stores of this kit. Only clips that every source has are written;
    those left out are counted. With `clips_per_file`, the output is a folder (see `write_shards`).

    A FeatureError names unreadable sources, clips whose lengths differ by more than 2 steps, broken values.
    """
    opened = [_open_source(path) for path in sources]
    shared = set.intersection(*(set(source.keys) for source in opened))
    common = [uid for uid in opened[0].keys if uid in shared]
    if not common:
        raise FeatureError(f"no clip is in all of {', '.join(map(str, sources))} -- check the folders")
    for source in opened:
        if lone := sorted(set(source.keys) - shared):
            warnings.warn(f"{source.path}: left out, not in every source: {sample_of(lone)}", stacklevel=2)
    bar = tqdm(total=len(common), desc="features", unit="clip", disable=None if progress else True)
    widths: dict[Path, int] = {}

    def read(clip_uid: str) -> Tensor:
        bar.update()
        return _concatenate(clip_uid, opened, widths)

    attributes = {"sources": [s.path.name for s in opened], "fps": fps, "snippet_stride_frames": snippet_stride_frames}
    about: dict[str, Any] = {"attributes": attributes, "dtype": dtype}
    report = {"clips": len(common)}
    with bar:
        if clips_per_file:
            report["kept from before"] = write_shards(output, common, read, clips_per_file=clips_per_file, **about)
        else:  # unlike a generator, map goes on behind a broken clip
            write_features(output, zip(common, map(read, common), strict=True), **about)
    return report | {f"left out of {s.path.name}": len(s.keys) - len(common) for s in opened}


def import_text_lmdb(source: str | Path, output: str | Path) -> int:
    """A published text LMDB (key query_id, array `token_features` or `features`) as a token store."""
    opened = _lmdb_source(Path(source), "token_features", "features")
    arrays = map(torch.as_tensor, map(opened.read, opened.keys))  # unlike a generator, goes on behind a broken entry
    return write_tokens(output, zip(opened.keys, arrays, strict=True), encoder=f"{IMPORTED}{opened.path.name}")


def _open_source(path: str | Path) -> _Source:
    path = Path(path)
    if (path / "data.mdb").exists():
        return _lmdb_source(path, "features")
    if path.is_dir() and next(path.glob("*.h5"), None):
        store = FeatureStore(path)
        return _Source(path, store.clip_uids, store.read)
    if path.is_dir():
        return _folder_source(path)
    if path.is_file() and h5py.is_hdf5(path):
        return _hdf5_source(path)
    what = "is not a folder of .pt files, LMDB folder or HDF5 file" if path.exists() else "does not exist"
    raise FeatureError(f"{path}: {what} -- name the extracted archive")


def _lmdb_source(path: Path, *names: str) -> _Source:
    """A published LMDB: of each entry the first array of these names; nothing in it is run."""
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

    def read(key: str) -> np.ndarray:
        with environment.begin() as transaction:
            value = transaction.get(key.encode())
        try:
            with np.load(io.BytesIO(value or b""), allow_pickle=False) as arrays:
                if name := next((name for name in names if name in arrays), None):
                    return arrays[name]
                raise FeatureError(f"{path}: entry {key} has {sample_of(arrays)}, expected {names[0]!r}")
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise FeatureError(f"{path}: entry {key} cannot be read ({error}) -- fetch it again") from None

    return _Source(path, keys, read)


def _folder_source(path: Path) -> _Source:
    clip_uids = [file.stem for file in sorted(path.glob("*.pt")) if SAFE_ID.fullmatch(file.stem)]
    if not clip_uids:
        raise FeatureError(f"{path}: no <clip_uid>.pt file in it -- name the folder of the tensors")

    def read(clip_uid: str) -> Tensor:
        value = load_tensors(file := path / f"{clip_uid}.pt", FeatureError)
        if not isinstance(value, Tensor):
            raise FeatureError(f"{file}: holds a {type(value).__name__}, expected one tensor (T, D)")
        return value

    return _Source(path, clip_uids, read)


def _hdf5_source(path: Path) -> _Source:
    with StoreFile(path, "r") as root:
        if root.text("kind", "") == "features":
            store = FeatureStore(path)
            return _Source(path, store.clip_uids, store.read)
        if links := [k for k in root if not isinstance(root.get(k, getlink=True), h5py.HardLink)]:
            raise FeatureError(f"{path}: {sample_of(links)}: links to other data are refused -- copy the data in")
        keys = [k for k in root if isinstance(root[k], h5py.Dataset)]
    if not keys:
        raise FeatureError(f"{path}: no dataset per clip at its top level")

    def read(clip_uid: str) -> np.ndarray:
        with StoreFile(path, "r") as root:
            return root.plain_dataset(clip_uid)[()]

    return _Source(path, keys, read)


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
