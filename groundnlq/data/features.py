"""Feature store: one HDF5 dataset per clip, so that a whole clip is read in milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from groundnlq.data.grid import FPS, SNIPPET_STRIDE_FRAMES, StepGrid
from groundnlq.data.store import DAMAGE, StoreFile, accepted
from groundnlq.errors import FeatureError, Findings
from groundnlq.files import atomic_path, check_id

FLOAT16_MAX = 65504.0


class FeatureStore:
    """Features of many clips in one HDF5 file.

    The file is opened at the first read, once per process (again after a fork) and never pickled.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._files: dict[int, StoreFile] = {}  # by process
        with StoreFile.open(self.path, "features") as root:
            self._version = _version(root)
            self.attributes: dict[str, Any] = json.loads(root.text("attributes", "{}"))
            self.width = int(root.attrs["width"])
            self.dtype = root.text("dtype")
            if self.dtype not in ("float16", "float32"):
                raise ValueError(f"values are {self.dtype!r:.80}")
            self.sha256 = root.text("sha256", "unknown")  # of ids and values, in order
            self.num_steps = _num_steps(root, self.width)

    @property
    def grid(self) -> StepGrid:
        """The grid that the features were imported with."""
        fps = self.attributes.get("fps", FPS)
        return StepGrid(fps, self.attributes.get("snippet_stride_frames", SNIPPET_STRIDE_FRAMES), "consistent")

    @property
    def durations_sec(self) -> dict[str, float]:
        """Seconds that the features of each clip span."""
        return {clip_uid: num_steps * self.grid.step_sec for clip_uid, num_steps in self.num_steps.items()}

    @property
    def clip_uids(self) -> list[str]:
        return list(self.num_steps)

    def __contains__(self, clip_uid: object) -> bool:
        return clip_uid in self.num_steps

    def read(self, clip_uid: str) -> Tensor:
        """(T, width) float32 features of a clip."""
        if clip_uid not in self.num_steps:
            raise FeatureError(f"{self.path}: no features of clip {clip_uid} -- import them")
        values = np.empty((self.num_steps[clip_uid], self.width), self.dtype)
        try:
            file = self._file()
            file["clips"][clip_uid].read_direct(values)
            self._require_same(file)  # HDF5 fills up with zeros where a file was cut off
        except DAMAGE as error:
            fault = f"clip {clip_uid} cannot be read ({error})"
            raise FeatureError(f"{self.path}: {fault} -- import the features again") from None
        return torch.from_numpy(values).float()  # faster than HDF5's own conversion by a factor of ten

    def is_as_written(self) -> bool:
        """Whether ids and values still have the checksum they were written with; reads the whole file."""
        digest = hashlib.sha256()
        for clip_uid in self.clip_uids:
            values = self.read(clip_uid).to(getattr(torch, self.dtype)).numpy()
            digest.update(clip_uid.encode() + values.tobytes())
        return self.sha256 in ("unknown", digest.hexdigest())

    def _file(self) -> StoreFile:
        if os.getpid() not in self._files:
            file = StoreFile(self.path, "r")
            self._require_same(file)
            self._files.setdefault(os.getpid(), file)  # another thread may have been faster
        return self._files[os.getpid()]

    def _require_same(self, file: StoreFile) -> None:
        if _version(file) != self._version:
            raise FeatureError(f"{self.path}: was changed while in use -- begin again")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}


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
    digest, findings = hashlib.sha256(), Findings(str(path), FeatureError)

    def check(clip_uid: str, values: np.ndarray | Tensor, width: int | None) -> np.ndarray:
        return checked_array(values, check_id(clip_uid, str(path)), width, dtype)

    with atomic_path(path) as temporary, StoreFile(temporary, "w") as root:
        group = root.create_group("clips", track_order=True)
        for clip_uid, array in accepted(clips, check, findings):
            dataset = group.create_dataset(clip_uid, data=array)
            if identities:
                dataset.attrs["identity"] = np.bytes_(identities[clip_uid].encode())
            digest.update(clip_uid.encode() + array.tobytes())
        findings.raise_if_any("nothing was written")
        if not len(group):
            raise FeatureError(f"{path}: no clip to write -- check the source and the list of clips")
        root.attrs["width"] = array.shape[1]
        about = {"attributes": json.dumps(dict(attributes or {})), "sha256": digest.hexdigest()}
        root.write_texts(kind="features", dtype=dtype, **about)
        return len(group)


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


def _version(root: h5py.File) -> tuple[int, int]:
    """Bytes and time of the last change of an open file."""
    found = os.fstat(root.id.get_vfd_handle())
    return found.st_size, found.st_mtime_ns


def _num_steps(root: StoreFile, width: int) -> dict[str, int]:
    """Steps of each clip, in the order they were written."""
    path = root.filename
    if not isinstance(root.get("clips", getlink=True), h5py.HardLink):
        raise FeatureError(f"{path}: 'clips' is a link to other data, which is refused -- copy the data in")
    num_steps, findings = {}, Findings(path, FeatureError)
    for name in root["clips"]:
        shape = root.plain_dataset(name, "clips").shape  # HDF5 refuses data that would end behind the file
        if len(shape) != 2 or shape[1] != width or shape[0] == 0:
            findings.add(f"clip {name!r:.80} is {shape}, expected (T, {width})")
        else:
            num_steps[name] = shape[0]
    findings.raise_if_any("import the features again")
    return num_steps
