"""Feature store: one contiguous HDF5 dataset per clip, so that a whole clip is read in milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from groundnlq.errors import FeatureError, Findings, KitError
from groundnlq.files import atomic_path, check_id
from groundnlq.provenance import made_by

SCHEMA = 1
FLOAT16_MAX = 65504.0
PIECE_BYTES = 2**18  # of a clip, read and widened at once


class FeatureStore:
    """Features of many clips in one HDF5 file.

    HDF5 says at the start where each clip lies. Those that lie in one piece, as `write_features` leaves them,
    are then read from the plain file, which is opened at first use, once per process, never shared across a
    fork and never pickled.

    Raises:
        FeatureError: not HDF5, truncated, another schema, a link in place of data; named with the remedy.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._opened: tuple[BinaryIO, Lock] | None = None
        self._pid = -1
        root = open_hdf5(self.path, "features")
        self._version = _version(root.id.get_vfd_handle())
        try:
            self.attributes: dict[str, Any] = json.loads(read_text(root, "attributes", "{}"))
            self.width = int(root.attrs["width"])
            self.dtype = read_text(root, "dtype")
            if self.dtype not in ("float16", "float32"):
                raise ValueError(f"values are {self.dtype!r:.80}")
            self.sha256 = read_text(root, "sha256", "unknown")  # of ids and values, in order
            self.num_steps, self._begins = _places(root, self.width, self.dtype, self.path)
        except (KeyError, ValueError, OSError, RuntimeError, TypeError) as error:
            reason = f"{self.path}: damaged ({error})"
            raise FeatureError(f"{reason} -- import the features again") from None
        finally:
            root.close()

    @property
    def clip_uids(self) -> list[str]:
        return list(self.num_steps)

    def __contains__(self, clip_uid: str) -> bool:
        return clip_uid in self.num_steps

    def read(self, clip_uid: str) -> Tensor:
        """(T, width) float32 features of a clip."""
        if clip_uid not in self.num_steps:
            raise FeatureError(f"{self.path}: no features of clip {clip_uid} -- import them")
        begins = self._begins[clip_uid]
        try:
            if begins is None:
                with h5py.File(self.path, "r") as root:
                    self._require_same(root.id.get_vfd_handle())
                    return torch.from_numpy(root["clips"][clip_uid][()]).float()
            file, lock = self._open()
            with lock:
                return self._read_at(file, begins, self.num_steps[clip_uid])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise FeatureError(
                f"{self.path}: clip {clip_uid} cannot be read ({error}) -- import the features again"
            ) from None

    def _read_at(self, file: BinaryIO, begins: int, num_steps: int) -> Tensor:
        """Piece by piece: while one is widened, the disk is at the next ones."""
        values = torch.empty(num_steps, self.width)
        bytes_a_step = self.width * np.dtype(self.dtype).itemsize
        at_once = max(1, PIECE_BYTES // bytes_a_step)
        buffer = np.empty((at_once, self.width), self.dtype)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), begins, num_steps * bytes_a_step, os.POSIX_FADV_WILLNEED)
        file.seek(begins)
        for piece in values.split(at_once):
            part = buffer[: len(piece)]
            if file.readinto(part) != part.nbytes:
                raise OSError("the file ends too early")
            piece.copy_(torch.from_numpy(part))
        return values

    def is_as_written(self) -> bool:
        """Whether ids and values still have the checksum they were written with; reads the whole file."""
        digest = hashlib.sha256()
        for clip_uid in self.clip_uids:
            values = self.read(clip_uid).to(getattr(torch, self.dtype)).numpy()
            digest.update(clip_uid.encode() + values.tobytes())
        return self.sha256 in ("unknown", digest.hexdigest())

    def close(self) -> None:
        if self._opened is not None and self._pid == os.getpid():
            self._opened[0].close()
        self._opened = None

    def _open(self) -> tuple[BinaryIO, Lock]:
        """The file, and who may move its position."""
        if self._opened is None or self._pid != os.getpid():
            file = self.path.open("rb")
            self._require_same(file.fileno())
            self._opened, self._pid = (file, Lock()), os.getpid()
        return self._opened

    def _require_same(self, descriptor: int) -> None:
        if _version(descriptor) != self._version:  # other clips, or elsewhere
            raise FeatureError(f"{self.path}: was replaced while in use -- begin again")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_pid": -1}


def write_features(
    path: str | Path,
    clips: Iterable[tuple[str, np.ndarray | Tensor]],
    *,
    attributes: Mapping[str, Any] | None = None,
    dtype: Literal["float16", "float32"] = "float16",
) -> int:
    """Write (clip_uid, (T, D) array) pairs as they come, atomically; returns the number of clips.

    Raises:
        FeatureError: not (T, D), empty, another width than the first, NaN or Inf, a value beyond float16, a
            clip given twice, what `clips` itself raises; all clips by name in one message.
    """
    width, count, digest = None, 0, hashlib.sha256()
    findings = Findings(str(path), FeatureError)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as root:
        group = root.create_group("clips", track_order=True)
        for clip_uid, values in each_readable(clips, findings):
            try:
                array = checked_array(values, check_id(clip_uid, str(path)), width, dtype)
            except KitError as error:
                findings.add(str(error))
                continue
            width = array.shape[1]
            if clip_uid in group:
                findings.add(f"clip {clip_uid} is given twice -- keep one of them")
                continue
            group.create_dataset(clip_uid, data=array)
            digest.update(clip_uid.encode() + array.tobytes())
            count += 1
        findings.raise_if_any("nothing was written")
        if width is None:
            raise FeatureError(f"{path}: no clip to write -- check the source and the list of clips")
        root.attrs["width"] = width
        texts = {
            "attributes": json.dumps(dict(attributes or {})),
            "dtype": dtype,
            "sha256": digest.hexdigest(),
        }
        write_texts(root, kind="features", **texts)
    return count


def each_readable(pairs: Iterable[tuple[str, Any]], findings: Findings) -> Iterator[tuple[str, Any]]:
    """The pairs as they come; a pair that cannot be read is a finding, and the next one is tried."""
    source = iter(pairs)
    while True:
        try:
            yield next(source)
        except StopIteration:
            return
        except FeatureError as error:
            findings.add(str(error))


def checked_array(
    values: np.ndarray | Tensor, clip_uid: str, width: int | None, dtype: str = "float32"
) -> np.ndarray:
    """(T, D) features in the given dtype, or a FeatureError that names the clip and what is wrong."""
    try:
        tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError) as error:
        raise FeatureError(
            f"clip {clip_uid}: features are no array of numbers ({error}) -- extract it again"
        ) from None
    if tensor.dim() != 2:
        raise FeatureError(
            f"clip {clip_uid}: features are {tuple(tensor.shape)}, expected (T, D) -- extract it again"
        )
    if 0 in tensor.shape:
        raise FeatureError(f"clip {clip_uid}: features are empty, {tuple(tensor.shape)} -- extract it again")
    if width is not None and tensor.shape[1] != width:
        raise FeatureError(
            f"clip {clip_uid}: features are {tuple(tensor.shape)}, expected (T, {width}) as before -- "
            "if they are (D, T), transpose them"
        )
    if not tensor.is_floating_point():
        raise FeatureError(
            f"clip {clip_uid}: features are {tensor.dtype}, expected real numbers -- extract it again"
        )
    tensor = tensor.float()
    if not tensor.isfinite().all():
        step, channel = (~tensor.isfinite()).nonzero()[0].tolist()
        value = tensor[step, channel].item()
        raise FeatureError(f"clip {clip_uid}: {value} at step {step}, channel {channel} -- extract it again")
    if dtype == "float16" and tensor.abs().max() > FLOAT16_MAX:
        raise FeatureError(
            f"clip {clip_uid}: value {tensor.abs().max().item():g} is beyond float16 -- use --dtype float32"
        )
    return tensor.to(getattr(torch, dtype)).numpy()


def open_hdf5(path: Path, kind: str) -> h5py.File:
    """Open a file that this kit wrote; anything else is a FeatureError that says what it is instead."""
    verb = {"features": "import the features", "tokens": "encode the text"}[kind]
    remedy = f"{verb} again"
    try:
        root = h5py.File(path, "r")
    except FileNotFoundError:
        raise FeatureError(f"{path}: no such file -- {verb} first") from None
    except BlockingIOError:
        raise FeatureError(f"{path}: open for writing elsewhere -- wait for that program to end") from None
    except OSError as error:
        raise FeatureError(f"{path}: not a readable HDF5 file ({error}) -- {remedy}") from None
    try:
        found, schema = read_text(root, "kind", ""), root.attrs.get("schema", 0)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        root.close()
        raise FeatureError(f"{path}: damaged ({error}) -- {remedy}") from None
    if found != kind or schema != SCHEMA:
        root.close()
        what = f"schema {schema} of {found!r}" if found else "HDF5, but not written by this kit"
        raise FeatureError(f"{path}: is {what}, expected schema {SCHEMA} of {kind!r} -- {remedy}")
    return root


def write_texts(root: h5py.File, **texts: str) -> None:
    """Mark a file as ours. Texts of fixed length: HDF5 keeps others where a flipped bit can make it loop."""
    root.attrs["schema"] = SCHEMA
    for name, text in (texts | {"made_by": json.dumps(made_by())}).items():
        root.attrs[name] = np.bytes_(text.encode())


def read_text(root: h5py.File, name: str, default: str | None = None) -> str:
    """A text among the file's attributes; KeyError where it is missing and there is no default."""
    value = root.attrs[name] if default is None else root.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def plain_dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """A dataset that lies in this very file: a link, or data kept in another file, is refused unread."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise FeatureError(
            f"{path}: {name!r:.80} is a link to other data, which is refused -- copy the data in"
        )
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset):
        raise FeatureError(f"{path}: {name!r:.80} is no array -- import it again")
    if dataset.is_virtual or dataset.external:
        raise FeatureError(f"{path}: {name!r:.80} lies in other files, which is refused -- copy the data in")
    return dataset


def _version(descriptor: int) -> tuple[int, int]:
    """Bytes and time of the last change of an open file."""
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _places(
    root: h5py.File, width: int, dtype: str, path: Path
) -> tuple[dict[str, int], dict[str, int | None]]:
    """Of each clip its steps, and the byte at which it begins (None where only HDF5 can put it together)."""
    if not isinstance(root.get("clips", getlink=True), h5py.HardLink):
        raise FeatureError(f"{path}: 'clips' is a link to other data, which is refused -- copy the data in")
    num_steps, begins, group, findings = {}, {}, root["clips"], Findings(str(path), FeatureError)
    for name in group:
        dataset = plain_dataset(group, name, path)  # HDF5 refuses one that would end behind the file
        shape = dataset.shape
        if len(shape) != 2 or shape[1] != width or shape[0] == 0:
            findings.add(f"clip {name!r:.80} is {shape}, expected (T, {width})")
        else:
            num_steps[name] = shape[0]
            begins[name] = dataset.id.get_offset() if dataset.dtype == dtype else None
    findings.raise_if_any("import the features again")
    return num_steps, begins
