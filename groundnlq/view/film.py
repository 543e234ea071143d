"""Frames of a moment in a row, and a part of the video to play, where the video of the clip is available.

Needs PyAV (the extra `video`). A clip's video is `<clip_uid>.mp4` (or another of `files.VIDEO_KINDS`) in one folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from groundnlq.errors import DataError, KitError
from groundnlq.files import VIDEO_KINDS, check_id


def find_video(folder: str | Path, clip_uid: str) -> Path | None:
    """The clip's video in a folder; None where it has none."""
    names = (Path(folder) / f"{check_id(clip_uid, str(folder))}{kind}" for kind in VIDEO_KINDS)
    return next((path for path in names if path.is_file()), None)


@lru_cache(maxsize=4)  # the same frames are in many figures
def film_strip(
    path: Path, start_sec: float, end_sec: float, num_frames: int = 8, height: int = 108
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced frames of a segment of a video.

    Returns:
        their times (F,) in seconds and pictures (F, height, width, 3) uint8; F may be less than `num_frames` at
        the end of the video.

    Raises:
        DataError: no video that can be read.
    """
    wanted = np.linspace(start_sec, end_sec, num_frames)
    times: list[float] = []
    pictures: list[np.ndarray] = []
    with _opened(path) as container:
        for frame in _frames(container, start_sec):
            if frame.time >= wanted[len(times)] - 1e-6:
                width = 2 * round(height * frame.width / frame.height / 2)
                times.append(frame.time)
                pictures.append(frame.to_ndarray(width=width, height=height, format="rgb24"))
            if len(times) == num_frames:
                break
    if not pictures:
        raise DataError(f"{path}: has no frame at {start_sec:.1f} s -- is it the video of this clip?")
    return np.array(times), np.stack(pictures)


def cut_video(path: Path, start_sec: float, end_sec: float, height: int = 240) -> bytes:
    """A segment of a video as a small MP4 without sound, for a player.

    Raises:
        DataError: no video that can be read.
    """
    buffer = BytesIO()
    with _opened(path) as source, _av().open(buffer, "w", format="mp4") as target:
        rate = source.streams.video[0].average_rate
        stream = None
        for number, frame in enumerate(_frames(source, start_sec)):
            if frame.time > end_sec:
                break
            if stream is None:
                stream = target.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
                stream.height, stream.width = height, 2 * round(height * frame.width / frame.height / 2)
                stream.pix_fmt = "yuv420p"
            small = frame.reformat(stream.width, stream.height, "yuv420p")
            small.pts, small.time_base = number, 1 / rate
            target.mux(stream.encode(small))
        if stream is None:
            raise DataError(f"{path}: has no frame at {start_sec:.1f} s -- is it the video of this clip?")
        target.mux(stream.encode())
    return buffer.getvalue()


def _frames(container: Any, start_sec: float) -> Iterator[Any]:
    """Decoded frames from a time on; a video can be entered at its key frames only."""
    stream = container.streams.video[0]
    container.seek(int(max(0.0, start_sec) / stream.time_base), stream=stream)
    yield from (frame for frame in container.decode(stream) if frame.time >= start_sec - 1e-6)


def _opened(path: Path) -> Any:
    try:
        container = _av().open(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no video that can be read ({error}) -- fetch it again") from None
    if not container.streams.video:
        raise DataError(f"{path}: has no pictures in it -- fetch it again")
    return container


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise KitError("film strips need PyAV -- pip install 'groundnlq[video]'") from None
    return av
