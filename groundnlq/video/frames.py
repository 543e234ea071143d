"""Frames of a video at given times, upright and scaled, from the files that people have. Needs PyAV (extra `video`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from groundnlq.data.grid import FPS
from groundnlq.errors import DataError, KitError

_TOLERANCE_SEC = 0.0011  # Matroska rounds the times of the first frame and of every other to milliseconds
_BACK_SEC = (0.0, 10.0, 100.0, math.inf)  # how far before a time decoding begins, until the frame there comes out
_MAX_ASPECT = 16  # a longer side is squeezed; one frame of 1 x 10,000 pixels could fill the memory otherwise
_MAX_FAILURES = 1000  # of reading, in one file
_NUM_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


@dataclass(frozen=True)
class Video:
    """A video file with frames in it; times are seconds after the first time stamp of its video stream."""

    path: Path
    identity: str  # see `content_identity`
    duration_sec: float  # where its last frame ends; found by reading the file to its end
    stated_sec: float  # what its header says; 0 if nothing
    start_sec: float | None  # the first time stamp; None: no time stamps, frames are `frame_sec` apart
    frame_sec: float
    size: tuple[int, int]  # width and height of its pixels as stored, if they were square
    turn: tuple[bool, int, int]  # is transposed, then steps through rows and columns: 1, or -1 if flipped

    @classmethod
    def open(cls, path: str | Path) -> Video:
        """Read a file to its end, decoding the first frame; a DataError says why it is not a video."""
        try:
            return _scan(Path(path), content_identity(Path(path)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: not a readable video ({reason}) -- fetch or export it again") from None

    def frames(
        self, numbers: Iterable[int], short_sides: Collection[int], damaged_sec: list[float]
    ) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        """Frames by their number at 30 fps: n stands for the frame shown at n / 30 s, the last that is not later.

        Args:
            numbers: in ascending order; before the first frame the first is used, after the last the last.
            short_sides: in pixels, of the pictures to make of each frame.
            damaged_sec: receives the times at which something was not decoded, or not wholly.

        Returns:
            number and (H, W, 3) uint8 pictures by short side, one after the other.
        """
        wanted = list(numbers)[::-1]
        scalers = {side: import_av().video.reformatter.VideoReformatter() for side in short_sides}
        shown, pictures = None, None
        for time_sec, frame in chain(self._decoded_near(wanted[-1] / FPS, damaged_sec), [(math.inf, None)]):
            while wanted and wanted[-1] / FPS < time_sec - _TOLERANCE_SEC:
                pictures = pictures or {side: self._picture(shown or frame, side, scalers[side]) for side in scalers}
                yield wanted.pop(), pictures
            if not wanted:
                return
            shown, pictures = frame, None

    def _picture(self, frame: Any, short_side: int, scaler: Any) -> np.ndarray:
        """(H, W, 3) uint8, upright. All frames get the shape that the first one has, even if a later one differs."""
        scale, longest = short_side / min(self.size), _MAX_ASPECT * short_side
        width, height = (min(longest, round(scale * side)) for side in self.size)
        scaled = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="BICUBIC")
        is_transposed, rows, columns = self.turn
        picture = scaled.to_ndarray()
        return (picture.swapaxes(0, 1) if is_transposed else picture)[::rows, ::columns]

    def _decoded_near(self, start_sec: float, damaged_sec: list[float]) -> Iterator[tuple[float, Any]]:
        """Times and frames from the frame shown at a time on, or from one before it."""
        for back_sec in _BACK_SEC:
            from_sec = 0.0 if self.start_sec is None else max(0.0, start_sec - back_sec)
            decoded = self._decoded(from_sec, damaged_sec)
            first = next(decoded, None)
            if from_sec == 0.0 or (first and first[0] <= start_sec + _TOLERANCE_SEC):
                break
        return chain([first] if first else [], decoded)

    def _decoded(self, from_sec: float, damaged_sec: list[float]) -> Iterator[tuple[float, Any]]:
        """Times and frames in order, from a key frame near `from_sec` on; one that goes back in time is left out."""
        start_sec, latest_sec = self.start_sec or 0.0, -math.inf
        with _opened(self.path) as (container, stream):
            if from_sec > 0.0:
                with suppress(import_av().FFmpegError):  # it cannot be entered in the middle
                    container.seek(math.floor((from_sec + start_sec) / stream.time_base), stream=stream)
            for packet in _packets(container, stream):
                frames = _decode(packet)
                if frames is None or any(frame.is_corrupt for frame in frames):
                    damaged_sec.append(max(from_sec, latest_sec))
                for frame in frames or ():
                    if self.start_sec is None or frame.pts is None:
                        time_sec = max(latest_sec, -self.frame_sec) + self.frame_sec
                    else:
                        time_sec = frame.time - start_sec
                    if time_sec > latest_sec:
                        latest_sec = time_sec
                        yield time_sec, frame


@lru_cache(maxsize=256)  # of a long video, many clips are wanted
def _scan(path: Path, identity: str) -> Video:
    first, num_packets, earliest, latest = None, 0, math.inf, (-math.inf, 0)
    with _opened(path) as (container, stream):
        for packet in _packets(container, stream):
            first = first or next(iter(_decode(packet) or ()), None)
            if packet is None or packet.is_discard or not packet.size:
                continue
            num_packets += 1
            if packet.pts is not None:
                earliest, latest = min(earliest, packet.pts), max(latest, (packet.pts, packet.duration or 0))
        if first is None:
            raise DataError(f"{path}: none of its frames can be decoded -- fetch or export it again")
        tick_sec, frame_sec = float(stream.time_base), 1 / float(stream.average_rate or 25)
        start = earliest if stream.start_time is None else stream.start_time
        gap = (latest[0] - start) / max(1, num_packets - 1) or frame_sec / tick_sec  # where no duration is told
        has_stamps = math.isfinite(start)
        return Video(
            path=path,
            identity=identity,
            duration_sec=(latest[0] + (latest[1] or gap) - start) * tick_sec if has_stamps else num_packets * frame_sec,
            stated_sec=stream.duration * tick_sec
            if stream.duration
            else (container.duration or 0) / 1e6 - start * tick_sec,
            start_sec=start * tick_sec if has_stamps else None,
            frame_sec=frame_sec,
            size=(first.width * float(stream.sample_aspect_ratio or 1), first.height),
            turn=_turn(first),
        )


def _turn(frame: Any) -> tuple[bool, int, int]:
    """How the display matrix of a frame turns and mirrors it, to the nearest right angle."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()  # pixel (x, y) is shown at (a x + c y, b x + d y)
    is_transposed = abs(b) > abs(a)
    rows, columns = (b, c) if is_transposed else (d, a)
    return is_transposed, -1 if rows < 0 else 1, -1 if columns < 0 else 1


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Container and main video stream; a file cannot name others to be read in its place (a play list would)."""
    av = import_av()
    with open(path, "rb") as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
        stream = container.streams.best("video")
        if stream is None or av.stream.Disposition.attached_pic in stream.disposition:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise DataError(f"{path}: has no video in it, only {kinds} -- name another file")
        if container.format.name.endswith("_pipe"):
            raise DataError(f"{path}: is a picture, not a video -- name another file")
        stream.thread_type = "AUTO"
        yield container, stream


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets to the last, which is empty and brings out the frames under way; None where reading failed."""
    for _ in range(_MAX_FAILURES):
        try:
            yield from container.demux(stream)
            return
        except import_av().FFmpegError:
            yield None


def _decode(packet: Any) -> list[Any] | None:
    """Frames that come out as a packet goes in; None where it is damaged."""
    try:
        return packet.decode() if packet is not None else None
    except import_av().FFmpegError:
        return None


def content_identity(path: Path) -> str:
    """Hash of a file's length and of 16 pieces of its bytes: `sha256_of` takes minutes for a film."""
    with open(path, "rb") as file:
        num_bytes = file.seek(0, 2)
        if num_bytes == 0:
            raise DataError(f"{path}: is empty -- fetch or export it again")
        digest = hashlib.sha256(str(num_bytes).encode())
        for number in range(_NUM_SAMPLES):
            file.seek(number * max(0, num_bytes - _SAMPLE_BYTES) // (_NUM_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def import_av() -> Any:
    try:
        import av
    except ImportError:
        raise KitError("videos need PyAV -- pip install 'groundnlq[video]'") from None
    return av
