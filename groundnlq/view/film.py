"""Frames of a moment in a row, and parts of a video to play, where the video of the clip is available.

Needs PyAV (the extra `video`). A clip's video is `<clip_uid>.mp4` (or another of `files.VIDEO_KINDS`) in one folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from groundnlq.data.grid import FPS
from groundnlq.errors import DataError
from groundnlq.files import VIDEO_KINDS, check_id
from groundnlq.video.frames import Video, import_av

PLAYER_FPS = 15  # of parts to play: half of the frame numbers, which are at 30 fps


def find_video(folder: str | Path, clip_uid: str) -> Path | None:
    """The clip's video in a folder; None where it has none."""
    names = (Path(folder) / f"{check_id(clip_uid, str(folder))}{kind}" for kind in VIDEO_KINDS)
    return next((path for path in names if path.is_file()), None)


@lru_cache(maxsize=16)  # the same frames are in many figures
def film_strip(
    path: Path, start_sec: float, end_sec: float, num_frames: int = 8, short_side: int = 108
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced frames of a segment of a video, upright.

    Returns:
        their times (F,) in seconds and pictures (F, height, width, 3) uint8; F may be less than `num_frames` at
        the end of the video.

    Raises:
        DataError: no video that can be read.
    """
    numbers = _numbers(path, np.linspace(start_sec, end_sec, num_frames))
    pictures = dict(Video.open(path).frames(np.unique(numbers).tolist(), {short_side}, []))
    return numbers / FPS, np.stack([pictures[number][short_side] for number in numbers])


def cut_video(path: Path, pieces_sec: Sequence[tuple[float, float]], short_side: int = 240) -> bytes:
    """Segments of a video one after another, as a small MP4 without sound, for a player.

    Raises:
        DataError: no video that can be read.
    """
    buffer, number = BytesIO(), 0
    with import_av().open(buffer, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=PLAYER_FPS, options={"preset": "veryfast", "g": str(PLAYER_FPS)})
        stream.pix_fmt = "yuv420p"
        for start_sec, end_sec in pieces_sec:
            numbers = _numbers(path, np.arange(start_sec, end_sec, 1 / PLAYER_FPS))
            for _, pictures in Video.open(path).frames(np.unique(numbers).tolist(), {short_side}, []):
                height, width = (side // 2 * 2 for side in pictures[short_side].shape[:2])
                stream.width, stream.height = width, height
                picture = np.ascontiguousarray(pictures[short_side][:height, :width])
                frame = import_av().VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, number = number, number + 1
                target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return buffer.getvalue()


def _numbers(path: Path, times_sec: np.ndarray) -> np.ndarray:
    """Numbers at 30 fps of the frames at these times, none behind the end of the video."""
    numbers = np.round(times_sec.clip(0) * FPS).astype(int)
    inside = numbers[numbers < Video.open(path).duration_sec * FPS]
    if not len(inside):
        raise DataError(f"{path}: has no frame at {times_sec[0]:.1f} s -- is it the video of this clip?")
    return inside
