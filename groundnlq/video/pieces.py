"""Features of a clip as they come, saved piece by piece."""

import shutil
import time
from pathlib import Path

import numpy as np

from groundnlq.files import atomic_path

_PIECE_SEC = 60.0  # of work, which a killed process may lose


class Pieces:
    """Features of a clip as they come, in files named by their first step; in the end one file beside the folder."""

    def __init__(self, folder: Path | None):
        self.folder, self.saved_at, self.arrays = folder, time.monotonic(), list[np.ndarray]()
        while folder and (piece := self.load(folder / f"{self.num_steps}.npy")) is not None:
            self.arrays.append(piece)
        self.num_saved = len(self.arrays)

    @property
    def num_steps(self) -> int:
        return sum(map(len, self.arrays))

    def add(self, array: np.ndarray) -> None:
        self.arrays.append(array)
        if self.folder and time.monotonic() - self.saved_at >= _PIECE_SEC:
            unsaved = np.concatenate(self.arrays[self.num_saved :])
            _save(self.folder / f"{self.num_steps - len(unsaved)}.npy", unsaved)
            self.num_saved, self.saved_at = len(self.arrays), time.monotonic()

    def finish(self) -> np.ndarray:
        array = np.concatenate(self.arrays)
        if self.folder:
            _save(self.folder.with_suffix(".npy"), array)
            shutil.rmtree(self.folder, ignore_errors=True)
        return array

    @staticmethod
    def load(path: Path) -> np.ndarray | None:
        """An array of a file; None where it is missing or damaged: it is made again."""
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
