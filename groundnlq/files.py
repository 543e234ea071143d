"""Files: written whole or not at all; read without running anything that is in them."""

import errno
import fcntl
import hashlib
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import SoftFileLock, UnixFileLock

from groundnlq.errors import ConfigError, DataError, KitError

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of Lustre, NFS, FUSE
MARKER = ".marker"
POLL_SEC = 0.02
VIDEO_KINDS = (".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mts", ".ts", ".webm", ".wmv")
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_id(name: str, where: str) -> str:
    """An id that may become a file or dataset name; anything that could leave its folder is refused."""
    if not isinstance(name, str) or not SAFE_ID.fullmatch(name):
        raise DataError(f"{where}: id {name!r:.60} is not allowed -- ids are letters, digits, '.', '_', '-'")
    return name


def sha256_of(path: str | os.PathLike) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_stand_in(path: str | os.PathLike) -> None:
    """A DataError if a download brought something else: a pointer of Git LFS, or a web page."""
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(200).lstrip().lower()
        if start.startswith(b"version https://git-lfs"):
            raise DataError(f"{path}: a pointer of Git LFS, not the file itself -- fetch it with 'git lfs pull'")
        if start.startswith((b"<!doctype html", b"<html")):
            raise DataError(f"{path}: a web page, not the file itself -- fetch it again; a site may ask to confirm")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is flushed to disk and renamed, else removed."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot create folder {path.parent}: {error.strerror} -- choose another place") from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)  # a rename survives a loss of power only then
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)  # HDF5 gives no number
        raise KitError(f"cannot write {path}: {reason} -- nothing was replaced") from error
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_flock(path: Path, mode: str) -> bool:
    """Whether the file system knows locks; `mode` is ``r``, or another with which the file is made if it is missing."""
    with open(path, "rb" if mode == "r" else "ab") as file, suppress(BlockingIOError):
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_FLOCK:
                return False
            raise
    return True


def acquire_lock(path: Path, timeout_sec: float = -1) -> Any:
    """A held lock, released by ``with`` and by the end of the process; `filelock.Timeout` after a time that is not -1.

    A file system without flock gets a marker file instead: the one of a killed process is taken over on the same
    machine, but not on another.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = UnixFileLock(path) if has_flock(path, "a") else SoftFileLock(f"{path}{MARKER}")
    except OSError as error:
        raise KitError(f"{path.parent}: cannot work here ({error.strerror}) -- choose another") from None
    return lock.acquire(timeout_sec, POLL_SEC)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: object, indent: int | None = None) -> None:
    """Write JSON atomically; NaN and Inf are refused, since readers disagree about them."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def load_tensors(path: str | os.PathLike, error: Callable[[str], KitError], mmap: bool = False) -> Any:
    """The tensors and plain values of a `torch.save` or safetensors file; a file that could run code is refused. With
    `mmap`, values are read when they are used, where the layout allows it."""
    import torch
    from safetensors.torch import load_file

    refuse_stand_in(path)
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as reason:
        raise error(f"{path}: {reason.strerror} -- check the path") from None
    except pickle.UnpicklingError as reason:  # torch's own message recommends loading it unsafely
        found = re.search(r"GLOBAL (\S+)", str(reason))
        what = f"it asks for {found[1]:.80}, which could run code" if found else "it is not a plain pickle"
        remedy = "only tensors and plain values are read; save these alone, as model.state_dict() or float(x)"
        raise error(f"{path}: refused, {what} -- {remedy}") from None
    except Exception:  # bytes can be damaged in many ways
        raise error(f"{path}: damaged, or not written by torch.save -- fetch or make it again") from None


def parse_yaml(text: str, where: str) -> Any:
    """The value of plain YAML; tags, aliases, duplicate keys and deep nesting are refused with a ConfigError."""
    try:
        return yaml.load(text, Loader=_PlainLoader)  # a SafeLoader with further limits
    except RecursionError:
        raise ConfigError(f"{where}: not plain YAML -- nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not plain YAML -- {' '.join(str(error).split())}") from None


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen: set[str] = set()
        for key, _ in node.value:
            name = repr(self.construct_object(key, deep=True))
            if name in seen:
                raise yaml.YAMLError(f"duplicate key {name}")
            seen.add(name)
        return super().construct_mapping(node, deep)
