"""Frames of a moment in a row, and a part of the video to play, where the video of the clip is available.

Needs PyAV (the extra `video`). A clip's video is `<clip_uid>.mp4` (or another of `files.VIDEO_KINDS`) in one folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from groundnlq.data.grid import FPS
from groundnlq.errors import DataError
from groundnlq.files import VIDEO_KINDS, check_id
from groundnlq.video.frames import Video, pyav

PLAYER_FPS = 15  # of parts to play: small, and enough to recognise what happens


def find_video(folder: str | Path, clip_uid: str) -> Path | None:
    """The clip's video in a folder; None where it has none."""
    names = (Path(folder) / f"{check_id(clip_uid, str(folder))}{kind}" for kind in VIDEO_KINDS)
    return next((path for path in names if path.is_file()), None)


@lru_cache(maxsize=16)  # the same frames are in many figures
def film_strip(
    path: Path, start_sec: float, end_sec: float, num_frames: int = 8, height: int = 108
) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced frames of a segment of a video; `height` is of their shorter side.

    Returns:
        their times (F,) in seconds and pictures (F, H, W, 3) uint8; F may be less than `num_frames` at the end of the
        video.

    Raises:
        DataError: no video that can be read.
    """
    numbers, pictures = _frames(path, np.linspace(start_sec, end_sec, num_frames), height)
    return numbers / FPS, np.stack(list(pictures))


def cut_video(path: Path, pieces_sec: Sequence[tuple[float, float]], height: int = 240) -> bytes:
    """Segments of a video, one after another, as a small MP4 without sound; `height` is of its shorter side.

    Raises:
        DataError: no video that can be read.
    """
    buffer = BytesIO()
    with pyav().open(buffer, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=PLAYER_FPS, options={"preset": "veryfast", "g": f"{PLAYER_FPS}"})
        stream.pix_fmt = "yuv420p"
        for start_sec, end_sec in pieces_sec:
            for picture in _frames(path, np.arange(start_sec, end_sec, 1 / PLAYER_FPS), height)[1]:
                picture = picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]  # H.264 takes even sides only
                if not stream.codec_context.is_open:
                    stream.height, stream.width = picture.shape[:2]
                target.mux(stream.encode(pyav().VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        target.mux(stream.encode())
    return buffer.getvalue()


def _frames(path: Path, times_sec: np.ndarray, short_side: int) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Frame numbers at 30 fps, as far as the video has them, and their pictures."""
    video = Video.open(path)
    numbers = np.unique((times_sec * FPS).round().astype(int))
    numbers = numbers[numbers / FPS < video.duration_sec]
    if not len(numbers):
        raise DataError(f"{path}: has no frame at {times_sec[0]:.1f} s -- is it the video of this clip?")
    return numbers, (pictures[short_side] for _, pictures in video.frames(numbers.tolist(), [short_side], []))
