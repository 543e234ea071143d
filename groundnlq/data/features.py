"""Feature store: one HDF5 dataset per clip, so that a whole clip is read in milliseconds; one file or a folder."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from groundnlq.data.grid import StepGrid
from groundnlq.data.store import DAMAGE, StoreFile, accepted
from groundnlq.errors import FeatureError, Findings, sample_of
from groundnlq.files import atomic_path, check_id

FLOAT16_MAX = 65504.0
MAX_OPEN_FILES = 64  # of one store in one process
_FILE_NAME, _FILE_NAMES = "{:05d}.h5", "[!.]*.h5"  # as written to a folder; as read from it


class _File(NamedTuple):
    """What one file of a store holds."""

    path: Path
    version: tuple[int, int]
    traits: dict[str, Any]  # width, dtype and attributes
    sha256: str  # see `_digest`
    num_steps: dict[str, int]  # of each clip, in the order they were written


class FeatureStore:
    """Features of many clips, in one HDF5 file or in a folder of them (see `write_shards`).

    A file is opened at the first read of one of its clips, once per process (again after a fork) and never pickled.
    Files that do not fit together, or a folder that lacks some, are one FeatureError.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._open_files: dict[int, dict[Path, StoreFile]] = {}  # by process
        self._files = _read_folder(self.path) if self.path.is_dir() else [_read_file(self.path)]
        self._file_of = {uid: file for file in self._files for uid in file.num_steps}
        self.num_steps = {uid: n for file in self._files for uid, n in file.num_steps.items()}
        self.clip_uids = list(self.num_steps)
        self.attributes = dict(self._files[0].traits)
        self.width, self.dtype = self.attributes.pop("width"), self.attributes.pop("dtype")
        # name and weights of the video encoders, if the features were extracted by this kit
        self.encoder: str | None = self.attributes.get("encoder")
        self.grid = StepGrid(**self.rate)  # that the features were imported with
        self.sha256 = _sum(file.sha256 for file in self._files)

    @property
    def rate(self) -> dict[str, Any]:
        """The part of `StepGrid.rate` that the features were imported with; older files know less."""
        found = {key: self.attributes.get(key) for key in StepGrid().rate}
        return {key: value for key, value in found.items() if isinstance(value, int | float) and value > 0}

    @property
    def durations_sec(self) -> dict[str, float]:
        """Seconds that the features of each clip span."""
        return {clip_uid: num_steps * self.grid.step_sec for clip_uid, num_steps in self.num_steps.items()}

    def __contains__(self, clip_uid: object) -> bool:
        return clip_uid in self.num_steps

    def read(self, clip_uid: str, as_stored: bool = False) -> Tensor:
        """(T, width) features of a clip: float32, or of the type that the file has."""
        if clip_uid not in self.num_steps:
            raise FeatureError(f"{self.path}: no features of clip {clip_uid} -- import them")
        values, file = np.empty((self.num_steps[clip_uid], self.width), self.dtype), self._file_of[clip_uid]
        try:
            root = self._open(file)
            root[f"clips/{clip_uid}"].read_direct(values)
            _require_same(file, root)  # HDF5 fills up with zeros where a file was cut off
        except DAMAGE as error:
            fault = f"clip {clip_uid} cannot be read ({error})"
            raise FeatureError(f"{file.path}: {fault} -- import the features again") from None
        features = torch.from_numpy(values)
        return features if as_stored else features.float()  # ten times as fast as HDF5's own conversion

    def damaged_files(self) -> list[Path]:
        """Files whose ids and values do not have the checksum that they were written with; reads all of them."""
        return [file.path for file in self._files if file.sha256 not in ("unknown", *self._digests(file))]

    def _digests(self, file: _File) -> tuple[str, str]:
        """The present checksum, and that of version 0.2: over all ids and values in order."""
        digests, in_order = [], hashlib.sha256()
        for clip_uid in file.num_steps:
            values = self.read(clip_uid, as_stored=True).numpy()
            digests.append(_digest(clip_uid, values))
            in_order.update(clip_uid.encode() + values.tobytes())
        return _sum(digests), in_order.hexdigest()

    def _open(self, file: _File) -> StoreFile:
        roots = self._open_files.setdefault(os.getpid(), {})
        if (root := roots.get(file.path)) is None:
            root = StoreFile(file.path, "r")
            _require_same(file, root)
            root = roots.setdefault(file.path, root)  # another thread may have been faster
            for oldest in list(roots)[:-MAX_OPEN_FILES]:
                roots.pop(oldest, None)  # closed once no thread reads from it
        return root

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_files": {}}


def write_features(
    path: str | Path, clips: Iterable[tuple[str, np.ndarray | Tensor]], *,
    attributes: Mapping[str, Any] | None = None, dtype: Literal["float16", "float32"] = "float16",
    identities: Mapping[str, str] | None = None,
) -> int:  # fmt: skip
    """Write (clip_uid, (T, D) array) pairs as they come, atomically; returns the number of clips.

    `identities` say what the features of each clip were made of.
    A FeatureError names all clips that are not (T, D), empty, of another width than the first, hold NaN, Inf or a value
    beyond float16, are given twice, or that `clips` itself raised.
    """
    digests, findings = [], Findings(str(path), FeatureError)
    with atomic_path(path) as temporary, StoreFile(temporary, "w") as root:
        group = root.create_group("clips", track_order=True)
        for clip_uid, array in accepted(
            clips, lambda uid, values, width: checked_array(values, check_id(uid, str(path)), width, dtype), findings
        ):
            dataset = group.create_dataset(clip_uid, data=array)
            if identities:
                dataset.attrs["identity"] = np.bytes_(identities[clip_uid].encode())
            digests.append(_digest(clip_uid, array))
        findings.raise_if_any("nothing was written")
        if not len(group):
            raise FeatureError(f"{path}: no clip to write -- check the source and the list of clips")
        root.attrs["width"] = array.shape[1]
        about = {"attributes": json.dumps(dict(attributes or {})), "sha256": _sum(digests)}
        root.write_texts(kind="features", dtype=dtype, **about)
        return len(group)


def write_shards(
    folder: str | Path, clip_uids: Sequence[str], read: Callable[[str], np.ndarray | Tensor], *, clips_per_file: int,
    part: tuple[int, int] = (0, 1), attributes: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> int:  # fmt: skip
    """Write a folder of feature stores ``00000.h5`` ..., each of `clips_per_file` clips; it is read as one store.

    A file that is there is kept, so that the same call goes on where another one was interrupted; returns the number of
    clips kept. Process k of n writes every n-th file with ``part=(k, n)``.

    A FeatureError names files of other clips or attributes, and all that `write_features` refuses; the other files are
    written all the same.
    """
    folder, findings = Path(folder), Findings(str(folder), FeatureError)
    chunks = [list(clip_uids[first : first + clips_per_file]) for first in range(0, len(clip_uids), clips_per_file)]
    wanted = {folder / _FILE_NAME.format(number): chunk for number, chunk in enumerate(chunks)}
    kept = {path: _read_file(path) for path in sorted(folder.glob(_FILE_NAMES))}
    about = json.loads(json.dumps({**(attributes or {}), "num_files": len(wanted)}))  # as they are read again
    for path, file in kept.items():
        traits = about | {"width": file.traits["width"], "dtype": dtype}
        if list(file.num_steps) != wanted.get(path) or file.traits != traits:
            findings.add(f"{path.name} holds other clips or attributes than are to be written")
    findings.raise_if_any("choose an empty folder")
    for path, chunk in list(wanted.items())[part[0] :: part[1]]:
        try:
            if path not in kept:  # `map` goes on behind a broken clip, a generator would not
                write_features(path, zip(chunk, map(read, chunk), strict=True), attributes=about, dtype=dtype)
        except FeatureError as error:
            findings.add(str(error))
    findings.raise_if_any("correct these, then give the same command again")
    if all(path.exists() for path in wanted):
        _read_folder(folder)
    return sum(len(file.num_steps) for file in kept.values())


def checked_array(values: np.ndarray | Tensor, clip_uid: str, width: int | None, dtype: str = "float32") -> np.ndarray:
    """(T, D) features in the given dtype, or a FeatureError that names the clip and what is wrong."""
    try:
        tensor = torch.as_tensor(values).detach()
        fault = _fault_of(tensor, width, dtype)
    except (TypeError, ValueError) as error:
        fault = f"features are not an array of numbers ({error})"
    if fault:
        remedy = "" if " -- " in fault else " -- extract it again"
        raise FeatureError(f"clip {clip_uid}: {fault}{remedy}")
    return tensor.float().to(getattr(torch, dtype)).numpy()


def _fault_of(tensor: Tensor, width: int | None, dtype: str) -> str | None:
    shape = tuple(tensor.shape)
    if len(shape) != 2:
        return f"features are {shape}, expected (T, D)"
    if 0 in shape:
        return f"features are empty, {shape}"
    if width not in (None, shape[1]):
        return f"features are {shape}, expected (T, {width}) as before -- if they are (D, T), transpose them"
    if not tensor.is_floating_point():
        return f"features are {tensor.dtype}, expected real numbers"
    values = tensor.float()
    if not values.isfinite().all():
        step, channel = (~values.isfinite()).nonzero()[0].tolist()
        return f"{values[step, channel].item()} at step {step}, channel {channel}"
    if dtype == "float16" and (largest := values.abs().max().item()) > FLOAT16_MAX:
        return f"value {largest:g} is beyond float16 -- use --dtype float32"
    return None


def _digest(clip_uid: str, values: np.ndarray) -> str:
    return hashlib.sha256(f"{clip_uid} {values.shape}".encode() + values.tobytes()).hexdigest()


def _sum(digests: Iterable[str]) -> str:
    """One hash of many: neither their order nor their split over files changes it."""
    known = list(digests)
    return "unknown" if "unknown" in known else f"{sum(int(digest, 16) for digest in known) % 2**256:064x}"


def _version(root: h5py.File) -> tuple[int, int]:
    """Bytes and time of the last change of an open file."""
    found = os.fstat(root.id.get_vfd_handle())
    return found.st_size, found.st_mtime_ns


def _require_same(file: _File, root: StoreFile) -> None:
    if _version(root) != file.version:
        raise FeatureError(f"{file.path}: was changed while in use -- begin again")


def _read_folder(folder: Path) -> list[_File]:
    """Files of a folder, by name; those that are broken, missing, or do not fit together are one error."""
    findings, files, owners = Findings(str(folder), FeatureError), list[_File](), dict[str, str]()
    paths = sorted(folder.glob(_FILE_NAMES))
    for path in paths:
        try:
            if path.is_symlink():
                raise FeatureError(f"{path.name} is a link to other data, which is refused -- copy the data in")
            files.append(_read_file(path))
        except FeatureError as error:
            findings.add(str(error))
            continue
        here, first = files[-1].traits, files[0].traits
        for key in sorted({*here, *first} - {"sources"}):
            if (found := here.get(key)) != (before := first.get(key)):
                findings.add(f"{path.name}: {key} is {found}, but {before} in {files[0].path.name}")
        if twice := [uid for uid in files[-1].num_steps if uid in owners]:
            findings.add(f"{path.name}: {sample_of(twice)} also in {owners[twice[0]]}")
        owners |= dict.fromkeys(files[-1].num_steps, path.name)
    if not paths:
        raise FeatureError(f"{folder}: no .h5 file in it -- name a feature store")
    num_files = files[0].traits.get("num_files") if files else None
    if isinstance(num_files, int) and num_files > len(paths):
        lacking = next(name for name in map(_FILE_NAME.format, count()) if folder / name not in paths)
        findings.add(f"{len(paths)} of {num_files} files are there, not {lacking} -- finish writing or copying them")
    findings.raise_if_any("import the features again")
    return files


def _read_file(path: Path) -> _File:
    with StoreFile.open(path, "features") as root:
        width, dtype = int(root.attrs["width"]), root.text("dtype")
        if dtype not in ("float16", "float32"):
            raise ValueError(f"values are {dtype!r:.80}")
        traits = {**json.loads(root.text("attributes", "{}")), "width": width, "dtype": dtype}
        return _File(path, _version(root), traits, _sum([root.text("sha256", "unknown")]), _num_steps(root, width))


def _num_steps(root: StoreFile, width: int) -> dict[str, int]:
    """Steps of each clip, in the order they were written."""
    path = root.filename
    if not isinstance(root.get("clips", getlink=True), h5py.HardLink):
        raise FeatureError(f"{path}: 'clips' is a link to other data, which is refused -- copy the data in")
    num_steps, findings = {}, Findings(path, FeatureError)
    for name in (clips := root["clips"]):
        shape = root.plain_dataset(name, clips).shape  # HDF5 refuses data that would end behind the file
        if len(shape) != 2 or shape[1] != width or shape[0] == 0:
            findings.add(f"clip {name!r:.80} is {shape}, expected (T, {width})")
        else:
            num_steps[name] = shape[0]
    findings.raise_if_any("import the features again")
    return num_steps
