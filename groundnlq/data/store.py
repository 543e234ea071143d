"""The HDF5 files of this kit: what feature stores and token stores share, and what is refused in them."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import h5py
import numpy as np
from torch import Tensor

from groundnlq.errors import FeatureError, Findings, KitError
from groundnlq.files import NO_FLOCK, has_flock, refuse_stand_in
from groundnlq.provenance import made_by

Values = TypeVar("Values", "np.ndarray", "Tensor")
SCHEMA = 1
DAMAGE = (KeyError, OSError, RuntimeError, TypeError, ValueError)  # what HDF5 raises on broken bytes
_REMEDIES = {"features": "import the features", "tokens": "encode the text"}


class StoreFile(h5py.File):
    """An open HDF5 file of this kit; its attributes say kind, schema and what it was made of."""

    def __init__(self, path: Path, mode: str):
        # without a lock nothing is lost: what the kit writes gets its name when it is whole
        super().__init__(path, mode, locking=None if has_flock(path, mode) else False)

    @classmethod
    @contextmanager
    def open(cls, path: Path, kind: str) -> Iterator[Self]:
        """Open to read; what is missing, truncated, held by a writer, of another kind or schema, or found damaged
        while it is open, is a FeatureError with the remedy."""
        remedy = f"{_REMEDIES[kind]} again"
        refuse_stand_in(path)
        try:
            root = cls(path, "r")
        except FileNotFoundError:
            raise FeatureError(f"{path}: no such file -- {_REMEDIES[kind]} first") from None
        except BlockingIOError:
            raise FeatureError(f"{path}: open for writing elsewhere -- wait for that program to end") from None
        except OSError as error:
            if error.errno in NO_FLOCK:  # where the variable asks for locks
                remedy = "its file system has no locks: set HDF5_USE_FILE_LOCKING=FALSE"
            raise FeatureError(f"{path}: not a readable HDF5 file ({error}) -- {remedy}") from None
        with root:
            try:
                found, schema = root.text("kind", ""), root.attrs.get("schema", 0)
                if found != kind or schema != SCHEMA:
                    what = f"schema {schema} of {found!r}" if found else "HDF5, but not written by this kit"
                    raise FeatureError(f"{path}: is {what}, expected schema {SCHEMA} of {kind!r} -- {remedy}")
                yield root
            except DAMAGE as error:
                raise FeatureError(f"{path}: damaged ({error}) -- {remedy}") from None

    def text(self, name: str, default: str | None = None) -> str:
        """A text among the attributes; KeyError where it is missing and no default is given."""
        value = self.attrs[name] if default is None else self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def write_texts(self, **texts: str) -> None:
        """Mark the file as ours. Texts of fixed length: HDF5 keeps others where a flipped bit can make it loop."""
        self.attrs["schema"] = SCHEMA
        for name, text in (texts | {"made_by": json.dumps(made_by())}).items():
            self.attrs[name] = np.bytes_(text.encode())

    def plain_dataset(self, name: str, inside: h5py.Group | None = None) -> h5py.Dataset:
        """A dataset that lies in this very file: a link, or data kept elsewhere, is refused unread."""
        group, fault = inside or self, ""
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            fault = "is a link to other data, which is refused -- copy the data in"
        elif not isinstance(dataset := group[name], h5py.Dataset):
            fault = "is not an array -- import it again"
        elif dataset.is_virtual or dataset.external:
            fault = "lies in other files, which is refused -- copy the data in"
        if fault:
            raise FeatureError(f"{self.filename}: {name!r:.80} {fault}")
        return dataset


def accepted(
    pairs: Iterable[tuple[str, Any]], check: Callable[[str, Any, int | None], Values], findings: Findings
) -> Iterator[tuple[str, Values]]:
    """Names and (rows, width) values; a pair that is a duplicate, or cannot be read or used, is a finding.

    `check` takes name, values and the width of the first ones; it returns usable values or raises a KitError.
    """
    source, names, width = iter(pairs), set(), None
    while True:
        try:
            name, values = next(source)
            values = check(name, values, width)
        except StopIteration:
            return
        except KitError as error:
            findings.add(str(error))
            continue
        if name in names:
            findings.add(f"{name} is given twice -- keep one of them")
            continue
        names.add(name)
        width = width or values.shape[1]
        yield name, values
