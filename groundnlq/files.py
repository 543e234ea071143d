"""Result files appear under their final name whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundnlq.errors import DataError, KitError

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_id(name: str, where: str) -> str:
    """An id that may become a file or dataset name; anything that could leave its folder is refused."""
    if not isinstance(name, str) or not SAFE_ID.fullmatch(name):
        raise DataError(f"{where}: id {name!r:.60} is not allowed -- ids are letters, digits, '.', '_', '-'")
    return name


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is flushed to disk and renamed, else removed."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(
            f"cannot create folder {path.parent}: {error.strerror} -- choose another place"
        ) from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # HDF5 has words of its own
        raise KitError(f"cannot write {path}: {reason} -- nothing was replaced") from error
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike) -> None:
    """Refuse to begin work whose result could not be written to `path`."""
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise KitError(f"cannot write {path}: {folder} may not be written -- choose another place")


def _flush_folder(folder: Path) -> None:
    """Make renames last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: object, indent: int | None = None) -> None:
    """Write JSON atomically; NaN and Inf are refused, since readers disagree about them."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def sha256_of(path: str | os.PathLike) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tensors(path: str | os.PathLike, error: Callable[[str], KitError]) -> Any:
    """The tensors and plain values of a `torch.save` file; a file that would run code is refused unrun."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's dialects
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as reason:
        raise error(f"{path}: {reason.strerror} -- check the path") from None
    except pickle.UnpicklingError as reason:  # torch's words recommend to load it unsafely; they end here
        found = re.search(r"GLOBAL (\S+)", str(reason))
        what = f"it asks for {found[1]:.80}, which could run code" if found else "it is no plain pickle"
        raise error(f"{path}: refused, {what} -- only tensors and plain values are read") from None
    except Exception:  # every way in which bytes can be broken
        raise error(f"{path}: damaged, or not written by torch.save -- fetch or make it again") from None
