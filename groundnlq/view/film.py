"""Frames of moments in a row, and a part of the video to play, where the video of the clip is available.

Needs PyAV (the extra `video`). A clip's video is `<clip_uid>.mp4` (or another of `files.VIDEO_KINDS`) in one folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from groundnlq.data.grid import FPS
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record
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


def moments_to_compare(
    record: Record, segments: np.ndarray, rank: int = 1, name: str = ""
) -> dict[str, tuple[float, float]]:
    """Start and end of the true moment, where there is one, and of the answer (K, 3) of this rank, of a run of this
    name; by titles that tell which is which and when it is."""
    shown, overlaps = dict[str, tuple[float, float]](), best_tiou(segments, record.moments_sec)
    if record.moments_sec and not record.oddity:
        start, end = record.moments_sec[0]
        shown[f"true moment: {start:.1f} – {end:.1f} s"] = start, end
    if rank <= len(segments):
        start, end = segments[rank - 1, :2].tolist()
        tiou = f", tIoU {overlaps[rank - 1]:.2f}" if record.moments_sec else ""
        shown[f"answer {rank}{f' of {name}' if name else ''}: {start:.1f} – {end:.1f} s{tiou}"] = start, end
    return shown


def film_strips(folder: str | Path, record: Record, segments: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Strips of the true moment and the first of these segments; none where the folder has no video of the clip."""
    return strips_of(find_video(folder, record.clip_uid), moments_to_compare(record, segments))


def strips_of(
    path: Path | None, moments_sec: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Strips of moments by title, each frame the middle of a fifth; none without a video."""
    if path is None:
        return {}
    inner = {title: (end - start) / 10 for title, (start, end) in moments_sec.items()}
    return {t: film_strip(path, start + inner[t], end - inner[t], 5) for t, (start, end) in moments_sec.items()}


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
