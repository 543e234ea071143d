"""Frames of videos, decoded once into files of a folder of bounded size, which several processes and runs share."""

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
from groundnlq.engine.reporter import Reporter
from groundnlq.errors import DataError
from groundnlq.files import atomic_path
from groundnlq.video.frames import SHORTFALL_SEC, Video, content_identity

_MAPPED = 256  # files, of the thousand that a process may have open
_ROUND = 4  # videos of each thread, after which the processes tell each other how they are doing
_PARSING = threading.Lock()  # of a file's header: in Python 3.11, `ast.literal_eval` fails where two threads are in it


class FrameCache:
    """Wanted frames of videos, by clip: numbers at 30 fps, ascending. A file of the folder has those of one clip as
    (N, H, W, 3) uint8; its name tells the video's content, the short side and the numbers. `max_bytes` is of all files
    in the folder: those of other runs make room, the longest unused ones first; clips that have none are decoded at
    every use.
    """

    def __init__(self, folder: Path, wanted: Mapping[str, tuple[Path, np.ndarray]], short_side: int, max_bytes: float):
        self.folder, self.wanted, self.short_side, self.max_bytes = folder, dict(wanted), short_side, max_bytes
        self.paths: dict[str, Path] = {}  # of the clips that `fill` has seen
        self.uncached: set[str] = set()
        self._lock, self._left = threading.Lock(), max_bytes
        self._open = lru_cache(maxsize=_MAPPED)(self._mapped)

    def fill(self, world: World, reporter: Reporter) -> dict[str, str]:
        """Decode what the folder lacks, every process its share; to be called by all. Returns, by clip, why a video
        cannot be used."""
        names, faults, threads = list(self.wanted), dict[str, str](), max(1, (os.cpu_count() or 1) // world.size)
        for uid in names:
            with suppress(DataError):  # `_make` says it again
                self.paths[uid] = self.folder / f"{self._key(uid)}.npy"
        self._left, step = self.max_bytes / world.size, _ROUND * threads * world.size
        with ThreadPoolExecutor(threads) as makers:
            for first in range(0, len(names), step):
                mine = names[first : first + step][world.rank :: world.size]
                made = zip(mine, makers.map(self._made, mine), strict=True)
                faults |= ChainMap(*world.gather({uid: fault for uid, fault in made if fault}))
                world.from_main(self._trim)
                done = min(first + step, len(names))
                reporter.status({"state": "decoding", "step": done, "total_steps": len(names)})
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

    def _trim(self) -> None:
        """Remove the files of other runs that were not used for longest, until all others have room."""
        found = [(p.stat().st_mtime, p.stat().st_size, p) for p in self.folder.glob("*.npy")]
        excess, ours = sum(size for _, size, _ in found) - self.max_bytes, set(self.paths.values())
        for _, size, path in sorted(found):
            if excess > 0 and path not in ours:
                path.unlink(missing_ok=True)
                excess -= size

    def _take(self, num_bytes: int) -> None:
        """Reserve room, or raise `_NoRoom`."""
        with self._lock:
            if num_bytes > self._left:
                raise _NoRoom
            self._left -= num_bytes

    def _made(self, uid: str) -> str:
        """Have the file of a clip, where there is room; the reason where its video cannot be used."""
        try:
            if uid in self.paths and (frames := self._found(uid)) is not None:
                self._take(frames.nbytes)
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
        if video.duration_sec < last_sec - SHORTFALL_SEC:
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
        if (frames := self._found(uid)) is None:
            self._make(uid, lambda num_bytes: None)
            frames = self._found(uid)
        return frames

    def _found(self, uid: str) -> Any:
        """The frames of a clip, mapped; None where the file is missing or not whole."""
        with suppress(OSError, ValueError, EOFError), _PARSING:
            frames = np.load(self.paths[uid], mmap_mode="r", allow_pickle=False)
            if frames.ndim == 4 and frames.dtype == np.uint8 and len(frames) == len(self.wanted[uid][1]):
                return frames
        return None


class _NoRoom(Exception):
    pass
