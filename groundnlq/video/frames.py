"""Frames of a video at given times, upright and scaled, from the files that people have. Needs PyAV (extra `video`)."""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from groundnlq.data.grid import FPS
from groundnlq.errors import DataError, KitError

SHORTFALL_SEC = 1.0  # by which a video may end before the last frame that is wanted
_TOLERANCE_SEC = 0.0011  # Matroska rounds the times of the first frame and of every other to milliseconds
_BACK_SEC = (0.0, 10.0, 100.0, math.inf)  # how far before a time decoding begins, until the frame there comes out
_MAX_ASPECT = 16  # a longer side is squeezed: one frame of 1 x 10,000 pixels could fill the memory
_MAX_FAILURES = 1000  # of reading, in one file
_THREADS = 8  # whatever the machine has: of damaged parts, their number changes what comes out ...
_SMALL = 2**17  # ... and one for videos of fewer pixels, where the others cost more than they bring
_PIECES = 16, 1 << 16  # of a file, for its identity: how many, of how many bytes


@dataclass(frozen=True)
class Video:
    """A video file with frames in it; times are seconds after the first time stamp of its video stream."""

    path: Path
    duration_sec: float  # where its last frame ends; found by reading the file to its end
    remarks: tuple[str, ...]  # about what is missing
    start_sec: float | None  # the first time stamp; None: no time stamps, frames are `frame_sec` apart
    frame_sec: float
    size: tuple[float, int]  # width and height as stored, in square pixels
    turn: tuple[bool, int, int]  # is transposed, then steps through rows and columns: 1, or -1 if flipped

    @classmethod
    def open(cls, path: str | Path) -> "Video":
        """Read a file to its end, decoding the first frame; a DataError says why it is not a video."""
        return _scan(Path(path), content_identity(path))

    def frames(
        self, numbers: Iterable[int], short_sides: Collection[int], damaged_sec: list[float]
    ) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        """Frames by their number at 30 fps: n stands for the frame shown at n / 30 s, the last that is not later.

        `numbers` ascend; before the first frame the first is used, after the last the last. Yields each number with a
        (H, W, 3) uint8 picture for each of `short_sides`. `damaged_sec` receives the times at which something was not
        decoded, or not wholly.
        """
        if not (wanted := list(numbers)[::-1]):
            return
        scalers = {side: pyav().video.reformatter.VideoReformatter() for side in short_sides}
        shown, pictures = None, None
        for time_sec, frame in chain(self._decoded_near(wanted[-1] / FPS, damaged_sec), [(math.inf, None)]):
            while wanted and wanted[-1] / FPS < time_sec - _TOLERANCE_SEC:
                pictures = pictures or {side: self._picture(shown or frame, side, scalers[side]) for side in scalers}
                yield wanted.pop(), pictures
            if not wanted:
                return
            shown, pictures = frame, None

    def _picture(self, frame: Any, short_side: int, scaler: Any) -> np.ndarray:
        """(H, W, 3) uint8, upright; all frames get the shape of the first one, even if a later one differs."""
        scale, longest = short_side / min(self.size), _MAX_ASPECT * short_side
        width, height = (min(longest, round(scale * side)) for side in self.size)
        rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="BICUBIC").to_ndarray()
        is_transposed, rows, columns = self.turn
        return (rgb.swapaxes(0, 1) if is_transposed else rgb)[::rows, ::columns]

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
        latest_sec, newest_sec, broken_sec = -self.frame_sec, 0.0, math.inf
        with opened(self.path) as (container, stream):
            if from_sec > 0.0:
                with suppress(pyav().FFmpegError):  # it cannot be entered in the middle
                    container.seek(math.floor((from_sec + (self.start_sec or 0.0)) / stream.time_base), stream=stream)
            for packet in _packets(container, stream):
                frames = _decode(packet)
                newest_sec = max(newest_sec, self._time_sec(packet, newest_sec))  # its frame comes out later
                if frames is None or packet.is_corrupt:
                    damaged_sec.append(max(from_sec, latest_sec))
                    broken_sec = newest_sec + 2 * self.frame_sec  # what is lost may follow
                for frame in frames or ():
                    time_sec = self._time_sec(frame, latest_sec + self.frame_sec)
                    if frame.is_corrupt or time_sec > broken_sec:
                        damaged_sec.append(time_sec)
                        broken_sec = math.inf
                    if time_sec > latest_sec:
                        latest_sec = time_sec
                        yield time_sec, frame
            if broken_sec < math.inf:
                damaged_sec.append(self.duration_sec)

    def _time_sec(self, item: Any, default_sec: float) -> float:
        """Of a frame or packet."""
        if self.start_sec is None or item is None or item.pts is None:
            return default_sec
        return float(item.pts * item.time_base) - self.start_sec


@lru_cache(maxsize=256)  # of a long video, many clips are wanted
def _scan(path: Path, _identity: str) -> Video:
    first, num_packets, dts, start, last, back = None, 0, -math.inf, math.inf, (-math.inf, 0), math.inf  # in ticks
    with opened(path) as (container, stream):
        tick_sec, frame_sec = float(stream.time_base), 1 / float(stream.average_rate or 25)
        for packet in _packets(container, stream):
            if packet is not None and packet.size and not packet.is_discard:
                num_packets += 1
                if packet.pts is not None:
                    start = start if first else min(start, packet.pts)
                    last = max(last, (packet.pts, packet.duration or 0))
                if packet.dts is not None:
                    back = min(back, last[0]) if packet.dts < dts - 1 / tick_sec else back
                    dts = packet.dts
            first = first or next(iter(_decode(packet) or ()), None)
        if first is None:
            raise DataError(f"{path}: none of its frames can be decoded -- fetch or export it again")
        has_stamps, stated = math.isfinite(start), stream.duration or (container.duration or 0) / 1e6 / tick_sec - start
        end = last[0] + (last[1] or (last[0] - start) / max(1, num_packets - 1)) - start
        duration_sec = end * tick_sec if has_stamps else num_packets * frame_sec
        remarks = {
            f"its frames end at {duration_sec:.1f} s, not at {stated * tick_sec:.1f} s": stated > end + 1 / tick_sec,
            f"its time stamps go back at {(back - start) * tick_sec:.1f} s": back < math.inf,
            f"it has no time stamps; {1 / frame_sec:g} frames a second are assumed": not has_stamps,
        }
        return Video(
            path=path,
            duration_sec=duration_sec,
            remarks=tuple(remark for remark, holds in remarks.items() if holds),
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
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and main video stream; a DataError where there is none.

    A file cannot name others to be read in its place, as a play list would.
    """
    av = pyav()
    with _file(path) as file:
        try:
            container = av.open(file, options={"protocol_whitelist": "none"})
        except av.FFmpegError as error:
            raise DataError(f"{path}: not a readable video ({error.strerror}) -- fetch or export it again") from None
        with container:
            stream = container.streams.best("video")
            if stream is None or av.stream.Disposition.attached_pic in stream.disposition:
                raise DataError(f"{path}: has no video stream -- fetch or export it again")
            if container.format.name.endswith("_pipe"):
                raise DataError(f"{path}: is a picture, not a video -- name another file")
            stream.thread_type, stream.thread_count = "AUTO", 1 if stream.width * stream.height < _SMALL else _THREADS
            yield container, stream


def pyav() -> Any:
    """The module `av`; a KitError says how to install it."""
    try:
        import av
    except ImportError:
        raise KitError("videos need PyAV -- pip install 'groundnlq[video]'") from None
    return av


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets to the last, which is empty and brings out the frames under way; None where reading failed."""
    for _ in range(_MAX_FAILURES):
        with suppress(pyav().FFmpegError):
            yield from container.demux(stream)
            return
        yield None


def _decode(packet: Any) -> list[Any] | None:
    """Frames that come out as a packet goes in; None where it is damaged."""
    with suppress(pyav().FFmpegError):
        return packet.decode() if packet is not None else None
    return None


def content_identity(path: str | Path) -> str:
    """Hash of a file's length and of 16 pieces of its bytes; `sha256_of` takes minutes for a film."""
    num_pieces, num_bytes = _PIECES
    with _file(Path(path)) as file:
        length = file.seek(0, 2)
        digest = hashlib.sha256(str(length).encode())
        for place in np.linspace(0, max(0, length - num_bytes), num_pieces, dtype=int).tolist():
            file.seek(place)
            digest.update(file.read(num_bytes))
    return digest.hexdigest()


def _file(path: Path) -> BinaryIO:
    try:
        if path.stat().st_size:
            return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror} -- check the path") from None
    raise DataError(f"{path}: is empty -- fetch or export it again")
