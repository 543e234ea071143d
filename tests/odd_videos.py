"""Videos as people have them, made with PyAV; `python -m tests.odd_videos` prints the table of docs/own_video.md.

A picture tells its second, and has a white quarter at its top left.
"""

from __future__ import annotations

import io
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundnlq.errors import KitError
from groundnlq.video.extract import features_of
from tests.tiny_encoders import Colours

av: Any = pytest.importorskip("av", reason="PyAV is not installed")
SECONDS, FPS, TICKS = 6.0, 30, 3000
LEVELS = 15  # of grey, between one digit and the next


def picture(second: float, width: int = 64, height: int = 48) -> np.ndarray:
    """The time in thirtieths, as two digits of base 16: the lower left and the lower right part."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[: height // 2, : width // 2] = 250
    coarse, fine = divmod(round(second * 30) % 256, 16)
    pixels[height // 2 :, : width // 2] = LEVELS * coarse
    pixels[height // 2 :, width // 2 :] = LEVELS * fine
    return pixels


def second_of(pixels: np.ndarray) -> float:
    """What a picture tells; the edges of the parts, which codecs blur, are left out."""
    height, width, _ = pixels.shape
    lower = pixels[height * 5 // 8 : height * 7 // 8]
    parts = lower[:, width // 8 : width * 3 // 8], lower[:, width * 5 // 8 : width * 7 // 8]
    coarse, fine = (round(float(part.mean()) / LEVELS) for part in parts)
    return (16 * coarse + fine) / 30


def regular(seconds: float = SECONDS, fps: float = FPS) -> list[float]:
    return [number / fps for number in range(round(seconds * fps))]


def make(
    target: Path | io.BytesIO, times: Sequence[float] | None = None, *, codec: str = "libx264",
    pixels: str = "yuv420p", size: tuple[int, int] = (64, 48), start: float = 0.0, turn: tuple[Any, ...] = (),
    beside: str = "", options: dict[str, str] | None = None, muxer: dict[str, str] | None = None,
    kind: str | None = None, aspect: Fraction | None = None,
    draw: Callable[[float, int, int], np.ndarray] = picture,
) -> None:  # fmt: skip
    """A video with frames at `times`, `start` later by its time stamps; `beside` names streams that come before it."""
    name = str(target) if isinstance(target, Path) else target
    with av.open(name, "w", format=kind, options=muxer or {}) as container:
        others = [_SIDE_STREAMS[letter](container) for letter in beside]
        stream = container.add_stream(codec, rate=FPS, options={"g": "15"} | (options or {}))
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, TICKS)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(*turn)
        for other in others:
            other()
        for second in regular() if times is None else times:
            frame = av.VideoFrame.from_ndarray(draw(second, *size), format="rgb24")
            frame.pts, frame.time_base = round((start + second) * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _sound(container: Any) -> Callable[[], None]:
    stream = container.add_stream("aac", rate=48000, layout="mono")

    def write() -> None:
        for number in range(int(SECONDS * 48000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    return write


def _small(container: Any) -> Callable[[], None]:
    """A second video stream: one black picture."""
    stream = container.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"

    def write() -> None:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())

    return write


_SIDE_STREAMS = {"s": _sound, "v": _small}


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        _sound(container)()


def song(path: Path) -> None:
    with av.open(str(path), "w") as container:
        write, cover = _sound(container), _small(container)
        container.streams.video[0].disposition = av.stream.Disposition.attached_pic
        write()
        cover()


def cut(path: Path, share: float, **options: Any) -> None:
    make(path, **options)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def damage(path: Path, first_sec: float, end_sec: float, **options: Any) -> None:
    """Overwrite the pictures of a stretch; a pattern instead of grey, so that there is something to break."""
    make(path, draw=_noisy, **options)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size and first_sec <= float(p.pts * p.time_base) < end_sec]
        places = [(p.pos, p.size) for p in packets]
    content = bytearray(path.read_bytes())
    for place, size in places:
        content[place : place + size] = bytes(size)
    path.write_bytes(content)


def _noisy(second: float, width: int, height: int) -> np.ndarray:
    pixels = picture(second, width, height)
    noise = np.random.default_rng(round(1000 * second)).integers(0, 255, (height // 2, width // 2, 3))
    pixels[: height // 2, width // 2 :] = noise
    return pixels


def trim(path: Path) -> None:
    """Cut as phones do: the edit list shows 2 to 5 s of what the file has."""
    make(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12
    _, begin, rate = struct.unpack(">IiI", content[place : place + 12])
    with av.open(str(path)) as container:
        begin += int(2 / container.streams.video[0].time_base)
    content[place : place + 12] = struct.pack(">IiI", 3000, begin, rate)  # milliseconds; ticks of the stream
    path.write_bytes(content)


def joined(path: Path) -> None:
    """Two recordings one after the other, the second with times from zero again."""
    make(path, regular(4.0))
    first = path.read_bytes()
    make(path, regular(2.0))
    path.write_bytes(first + path.read_bytes())


def headless(path: Path) -> None:
    make(path)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 5 // 188 * 188 :])


def names_another(path: Path) -> None:
    make(path.with_name("other.mp4"))
    path.write_text("ffconcat version 1.0\nfile other.mp4\n", encoding="utf-8")


@dataclass(frozen=True)
class Odd:
    """A kind of video: `times` of its frames, None where it is refused, and what the frames tell, where they tell
    other times; `undo` turns an upright picture back."""

    name: str
    what: str
    make: Callable[[Path], Any]
    times: Sequence[float] | None = tuple(regular())
    undo: Callable[[np.ndarray], np.ndarray] = np.asarray
    lost_sec: tuple[float, float] = (0.0, 0.0)  # a stretch whose pictures may be any
    told: Sequence[float] | None = None


def _made(**options: Any) -> Callable[[Path], None]:
    return lambda path: make(path, **options)


def _odd_size(width: int, height: int) -> Callable[[Path], None]:
    return _made(size=(width, height), codec="ffv1", pixels="bgr0")


PHONE = [n / 30 for n in (0, 1, 3, 15, 16, 30, 51, 53, 54, 75, 96, 97, 120, 150, 177)]
NTSC = [round(TICKS * second) / TICKS for second in regular(fps=30 / 1.001)]
ODD = [
    Odd("plain.mp4", "nothing odd", _made()),
    Odd("turned.mp4", "turned by 90 degrees in its display matrix, as phones do", _made(turn=(90,)),
        undo=lambda p: np.rot90(p, -1)),
    Odd("turned_back.mp4", "turned by 270 degrees", _made(turn=(-90,)), undo=np.rot90),
    Odd("upside_down.mp4", "turned by 180 degrees", _made(turn=(180,)), undo=lambda p: p[::-1, ::-1]),
    Odd("mirrored.mp4", "turned and mirrored, as front cameras do", _made(turn=(90, True)),
        undo=lambda p: np.rot90(p[:, ::-1], -1)),
    Odd("variable.mp4", "variable frame rate", _made(times=PHONE), PHONE),
    Odd("slow.mkv", "a picture every two seconds", _made(times=(0, 2, 4)), (0.0, 2.0, 4.0)),
    Odd("ntsc.mp4", "29.97 frames a second", _made(times=NTSC), NTSC),
    Odd("trimmed.mp4", "cut to 2 ... 5 s without encoding it again, as phones do", trim, regular(3.0),
        told=regular(5.0)[60:]),
    Odd("late.mp4", "time stamps start at 5 s", _made(start=5.0)),
    Odd("late.ts", "time stamps start at 5 s, transport stream", _made(start=5.0)),
    Odd("late.mkv", "time stamps start at 5 s, Matroska (milliseconds)", _made(start=5.0)),
    Odd("live.mkv", "no duration, no index", _made(kind="matroska", muxer={"live": "1"})),
    Odd("live.webm", "no duration, no index, VP9", _made(kind="webm", codec="libvpx-vp9", muxer={"live": "1"})),
    Odd("sound.mp4", "sound comes first", _made(beside="s")),
    Odd("streams.mkv", "sound and a small picture come first", _made(beside="sv")),
    Odd("old.avi", "AVI, MPEG-4", _made(codec="mpeg4")),
    Odd("raw.h264", "no container, no time stamps; 25 a second are assumed", _made(), regular(7.2, 25),
        told=regular()),
    Odd("one_pixel.mkv", "1 x 1 pixel", _odd_size(1, 1)),
    Odd("odd_size.mkv", "101 x 37 pixels", _odd_size(101, 37)),
    Odd("strip.mkv", "2 x 600 pixels; squeezed to 1 : 16", _odd_size(2, 600)),
    Odd("large.mp4", "3840 x 2160 pixels", _made(size=(3840, 2160), times=(0, 0.5),
        options={"preset": "ultrafast"}), (0.0, 0.5)),
    Odd("wide_pixels.mp4", "pixels twice as wide as high", _made(aspect=Fraction(2, 1))),
    Odd("ten_bits.mp4", "10 bits a channel", _made(pixels="yuv420p10le")),
    Odd("alpha.mov", "with transparency", _made(codec="qtrle", pixels="argb")),
    Odd("interlaced.mp4", "interlaced", _made(options={"flags": "+ildct+ilme"})),
    Odd("animated.gif", "animated GIF", _made(codec="gif", pixels="rgb8", times=regular(fps=10)), regular(fps=10)),
    Odd("one_frame.mp4", "one frame, shorter than a step", _made(times=(0,)), (0.0,)),
    Odd("damaged.mp4", "the pictures from 2 to 3 s are zeros", lambda path: damage(path, 2.0, 3.0),
        lost_sec=(1.9, 3.5)),
    Odd("damaged.ts", "the same in a transport stream", lambda path: damage(path, 2.0, 3.0), lost_sec=(1.5, 3.5)),
    Odd("damaged_start.mp4", "the pictures of the first second are zeros", lambda path: damage(path, 0.0, 1.0),
        lost_sec=(0.0, 1.5)),
    Odd("damaged_end.mp4", "the pictures of the last second are zeros", lambda path: damage(path, 5.0, 6.0),
        lost_sec=(4.9, 6.0)),
    Odd("cut.mkv", "cut off behind two thirds", lambda path: cut(path, 0.67), regular(4.0), lost_sec=(3.8, 4.0)),
    Odd("cut.mp4", "the same, with its index in front", lambda path: cut(path, 0.67, muxer={"movflags": "faststart"}),
        regular(2.7), lost_sec=(2.5, 2.7)),
    Odd("cut_index.mp4", "the same, with its index at the end", lambda path: cut(path, 0.67), None),
    Odd("headless.ts", "the first fifth is lost", headless, regular(4.8), lost_sec=(0.0, 6.0)),
    Odd("joined.ts", "two recordings in one file, the second with times from zero again", joined, regular(4.0)),
    Odd("sound_only.mp4", "no video stream", sound_only, None),
    Odd("song.mp4", "sound with a cover picture", song, None),
    Odd("picture.png", "a picture", _made(codec="png", pixels="rgb24", kind="image2", times=(0,)), None),
    Odd("picture.mp4", "a picture with the name of a video", _made(codec="png", pixels="rgb24", kind="image2",
        times=(0,)), None),
    Odd("empty.mp4", "an empty file", lambda path: path.touch(), None),
    Odd("text.mp4", "a text", lambda path: path.write_text("not a video\n" * 99, encoding="utf-8"), None),
    Odd("list.mp4", "a play list that names another file", names_another, None),
    Odd("missing.mp4", "no file", lambda path: None, None),
    Odd("folder.mp4", "a folder", Path.mkdir, None),
]  # fmt: skip


def outcome(path: Path) -> tuple[str, str]:
    """Steps that a video has features of, and what the kit says about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            steps = str(len(features_of(path, [Colours()])))
        except KitError as error:
            return "none", str(error)
    return steps, "; ".join(str(warning.message) for warning in caught)


def table(folder: Path) -> list[str]:
    """Rows of the page, of videos that were made in a folder."""
    lines = ["| file | what is odd | steps | what is said |", "| --- | --- | --- | --- |"]
    with chdir(folder):
        for odd in ODD:
            steps, said = outcome(Path(odd.name))
            lines.append(f"| {odd.name} | {odd.what} | {steps} | {said} |")
    return lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for odd in ODD:
            odd.make(Path(name) / odd.name)
        sys.stdout.write("\n".join(table(Path(name))) + "\n")
