"""Frames of videos, decoded once into files of a folder of bounded size, which several processes and runs share."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import ChainMap
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from groundnlq.data.grid import FPS
from groundnlq.engine.distributed import World
from groundnlq.errors import DataError
from groundnlq.files import atomic_path
from groundnlq.video.frames import Video, content_identity

_MAPPED = 256  # files, of the thousand that a process may have open
_ROUND = 4  # videos of each thread, after which the processes tell each other how they are doing
_SHORTFALL_SEC = 1.0  # by which a video may end before the last frame that is wanted


class FrameCache:
    """Wanted frames of videos, by clip: numbers at 30 fps, ascending. A file of the folder has those of one clip as
    (N, H, W, 3) uint8; its name tells the video's content, the short side and the numbers.

    Args:
        wanted: clip -> file, and (N,) numbers of its frames.
        max_bytes: of all files in the folder. Files of other runs make room, the longest unused ones first; clips that
            still have none are decoded at every use.
    """

    def __init__(self, folder: Path, wanted: Mapping[str, tuple[Path, np.ndarray]], short_side: int, max_bytes: float):
        self.folder, self.wanted, self.short_side, self.max_bytes = folder, dict(wanted), short_side, max_bytes
        self.paths: dict[str, Path] = {}  # of the clips that `fill` has seen
        self.uncached: set[str] = set()
        self._lock = threading.Lock()
        self._open = lru_cache(maxsize=_MAPPED)(self._mapped)

    def fill(self, world: World, show: Callable[[int, int], None]) -> dict[str, str]:
        """Decode what the folder lacks, every process its share; to be called by all. Returns, by clip, why a video
        cannot be used; `show` is called with the number of clips done and of all."""
        names, faults, threads = list(self.wanted), dict[str, str](), max(1, (os.cpu_count() or 1) // world.size)
        for uid in names:
            with suppress(DataError):  # `_make` says it again
                self.paths[uid] = self.folder / f"{self._key(uid)}.npy"
        self._begin(world)
        step = _ROUND * threads * world.size
        with ThreadPoolExecutor(threads) as makers:
            for first in range(0, len(names), step):
                mine = names[first : first + step][world.rank :: world.size]
                made = dict(zip(mine, makers.map(self._made, mine), strict=True))
                faults |= ChainMap(*world.gather({uid: fault for uid, fault in made.items() if fault}))
                show(min(first + step, len(names)), len(names))
        self.uncached = set().union(*world.gather(self.uncached))
        return faults

    def read(self, uid: str, numbers: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) uint8: for each number, the last wanted frame that is not later."""
        path, wanted = self.wanted[uid]
        places = (np.searchsorted(wanted, numbers, side="right") - 1).clip(0)
        if uid not in self.uncached:
            return self._open(uid)[places]
        found = dict(Video.open(path).frames(np.unique(wanted[places]).tolist(), {self.short_side}, []))
        return np.stack([found[number][self.short_side] for number in wanted[places].tolist()])

    def identity(self) -> str:
        """A hash of the videos' content and of what is wanted of them."""
        return hashlib.sha256("".join(sorted(path.stem for path in self.paths.values())).encode()).hexdigest()

    # ---- details

    def _key(self, uid: str) -> str:
        path, numbers = self.wanted[uid]
        made_of = [uid, content_identity(path), self.short_side, numbers.tolist()]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    def _begin(self, world: World) -> None:
        """What is left of the room, for this process's share of the clips and of the files that may go."""
        ours = set(self.paths.values())
        self._left = self.max_bytes / world.size
        found = sorted((p.stat().st_mtime, p) for p in self.folder.glob("*.npy"))
        others = [path for _, path in found if path not in ours]
        self._others = [(path, path.stat().st_size) for path in others][world.rank :: world.size]
        self._left -= sum(size for _, size in self._others)

    def _take(self, num_bytes: int) -> None:
        """Reserve room, or raise `_NoRoom`."""
        with self._lock:
            while num_bytes > self._left and self._others:
                path, size = self._others.pop(0)
                path.unlink(missing_ok=True)
                self._left += size
            if num_bytes > self._left:
                raise _NoRoom
            self._left -= num_bytes

    def _made(self, uid: str) -> str:
        """Have the file of a clip, where there is room; the reason where its video cannot be used."""
        try:
            if uid in self.paths and (num_bytes := self._size(uid)):
                self._take(num_bytes)
                os.utime(self.paths[uid])  # it was used
            else:
                self._make(uid, self._take)
        except DataError as error:
            return str(error)
        except _NoRoom:
            self.uncached.add(uid)
            self.paths[uid].unlink(missing_ok=True)
        return ""

    def _make(self, uid: str, take: Callable[[int], None]) -> None:
        path, numbers = self.wanted[uid]
        video, last_sec = Video.open(path), numbers[-1] / FPS
        array: Any = None
        if video.duration_sec < last_sec - _SHORTFALL_SEC:
            raise DataError(f"{path}: ends at {video.duration_sec:.1f} s, its narrations at {last_sec:.1f} s")
        with atomic_path(self.paths[uid]) as temporary:
            for place, (_, pictures) in enumerate(video.frames(numbers.tolist(), {self.short_side}, [])):
                picture = pictures[self.short_side]
                if array is None:
                    take(len(numbers) * picture.size)
                    array = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(numbers), *picture.shape))
                array[place] = picture
            array.flush()

    def _mapped(self, uid: str) -> np.ndarray:
        """The frames of a clip; made again where the file is gone or damaged."""
        if not self._size(uid):
            self._make(uid, lambda num_bytes: None)
        return np.load(self.paths[uid], mmap_mode="r", allow_pickle=False)

    def _size(self, uid: str) -> int:
        """Bytes of a clip's frames; 0 where the file is missing or not whole."""
        with suppress(OSError, ValueError, EOFError):
            found = np.load(self.paths[uid], mmap_mode="r", allow_pickle=False)
            if found.ndim == 4 and found.dtype == np.uint8 and len(found) == len(self.wanted[uid][1]):
                return found.nbytes
        return 0


class _NoRoom(Exception):
    pass
