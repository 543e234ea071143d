"""Feature store: one contiguous HDF5 dataset per clip, so that a whole clip is read in milliseconds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from groundnlq.errors import FeatureError
from groundnlq.files import atomic_path, check_id

SCHEMA = 1
FLOAT16_MAX = 65504.0


class FeatureStore:
    """Features of many clips in one HDF5 file.

    The file is opened at first use, once per process, never shared across a fork and never pickled.

    Raises:
        FeatureError: not HDF5, truncated, another schema, a link in place of data; named with the remedy.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        root = open_hdf5(self.path, "features")
        try:
            self.attributes: dict[str, Any] = json.loads(root.attrs.get("attributes", "{}"))
            self.width = int(root.attrs["width"])
            self.dtype = str(root.attrs["dtype"])
            self.num_steps: dict[str, int] = _lengths(root["clips"], self.path)
        except (KeyError, ValueError, OSError, RuntimeError) as error:
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
        try:
            array = self._open()["clips"][clip_uid][()]
        except (OSError, KeyError) as error:
            raise FeatureError(
                f"{self.path}: clip {clip_uid} cannot be read ({error}) -- import the features again"
            ) from None
        return torch.from_numpy(array).float()  # torch widens float16 several times faster than numpy

    def close(self) -> None:
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = h5py.File(self.path, "r"), os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_pid": -1}


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
            clip given twice; always with the clip's name.
    """
    width, count = None, 0
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as root:
        group = root.create_group("clips", track_order=True)
        for clip_uid, values in clips:
            array = checked_array(values, check_id(clip_uid, str(path)), width, dtype)
            width = array.shape[1]
            if clip_uid in group:
                raise FeatureError(f"clip {clip_uid} is given twice -- keep one of them")
            group.create_dataset(clip_uid, data=array)
            count += 1
        if width is None:
            raise FeatureError(f"{path}: no clip to write -- check the source and the list of clips")
        root.attrs.update(schema=SCHEMA, kind="features", width=width, dtype=dtype)
        root.attrs["attributes"] = json.dumps(dict(attributes or {}))
    return count


def checked_array(
    values: np.ndarray | Tensor, clip_uid: str, width: int | None, dtype: str = "float32"
) -> np.ndarray:
    """(T, D) features in the given dtype, or a FeatureError that names the clip and what is wrong."""
    tensor = torch.as_tensor(values)
    if tensor.dim() != 2:
        raise FeatureError(f"clip {clip_uid}: features are {tuple(tensor.shape)}, expected (T, D)")
    if 0 in tensor.shape:
        raise FeatureError(f"clip {clip_uid}: features are empty, {tuple(tensor.shape)} -- extract it again")
    if width is not None and tensor.shape[1] != width:
        hint = "; are they transposed?" if tensor.shape[0] == width else ""
        raise FeatureError(
            f"clip {clip_uid}: features are {tuple(tensor.shape)}, expected (T, {width}){hint}"
        )
    if not tensor.is_floating_point():
        raise FeatureError(f"clip {clip_uid}: features are {tensor.dtype}, expected floating point numbers")
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
    remedy = f"import the {kind} again"
    try:
        root = h5py.File(path, "r")
    except FileNotFoundError:
        raise FeatureError(f"{path}: no such file -- import the {kind} first") from None
    except BlockingIOError:
        raise FeatureError(f"{path}: open for writing elsewhere -- wait for that program to end") from None
    except OSError as error:
        raise FeatureError(f"{path}: not a readable HDF5 file ({error}) -- {remedy}") from None
    found, schema = root.attrs.get("kind"), root.attrs.get("schema", 0)
    if found != kind or schema != SCHEMA:
        root.close()
        what = f"schema {schema} of {found!r}" if found else "HDF5, but not written by this kit"
        raise FeatureError(f"{path}: is {what}, expected schema {SCHEMA} of {kind!r} -- {remedy}")
    return root


def _lengths(group: h5py.Group, path: Path) -> dict[str, int]:
    lengths = {}
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise FeatureError(f"{path}: {name!r} is a link to other data, which is refused")
        lengths[name] = group[name].shape[0]
    return lengths
