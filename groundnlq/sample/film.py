"""The event log of a clip as a film: frame by frame, and as an mp4. Needs PyAV (extra `sample`)."""

import json
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groundnlq.files import atomic_path
from groundnlq.sample.actions import Scene
from groundnlq.sample.pictures import MARGIN, place_picture
from groundnlq.sample.world import ClipLog, WorldConfig
from groundnlq.video.frames import pyav

FRAME_RATE = Fraction(15, 2)  # a second: every fourth frame of a film of 30
# quick to write and to read; a key frame every 2 s, so that a reader of a moment decodes little before it
_H264 = {"preset": "superfast", "tune": "fastdecode", "crf": "28", "g": "15", "bf": "0", "threads": "1"}


def film_frames(config: WorldConfig, log: ClipLog) -> Iterator[np.ndarray]:
    """Frames of a clip, (S, S, 3) uint8, S = `config.frame_size`: frame n shows the clip at n / 7.5 s."""
    camera, shown, picture = _Camera(config, log), None, None
    stays, events = list(log.stays), list(log.events)
    for number in range(math.ceil(log.duration_sec * FRAME_RATE)):
        time = float(number / FRAME_RATE)
        while len(stays) > 1 and stays[0][1] <= time:
            stays.pop(0)
        while events and events[0].end_sec <= time:
            events.pop(0)
        if picture is None or shown != stays[0][2]:
            shown = stays[0][2]
            things = log.clutter[shown][: round(6 * config.clutter)]
            picture = place_picture(shown, things, config.frame_size / 128, config.look_alikes)
        frame, shift = camera.framed(picture, time)
        scene = Scene(frame, config, shift, camera.arm)
        if events and events[0].start_sec <= time:
            scene.show(events[0], time - events[0].start_sec)
        else:
            scene.hand(112, 122 + 4 * math.sin(time), "open hand", 20)
        camera.cover(scene, time)
        yield camera.lit(frame, time)


def _write_film(path: str | Path, config: WorldConfig, log: ClipLog) -> None:
    """Write a clip as an mp4 (H.264), wholly or not at all."""
    av = pyav()
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=FRAME_RATE, options=_H264)
        stream.width = stream.height = config.frame_size
        stream.pix_fmt, stream.time_base = "yuv420p", 1 / FRAME_RATE
        for number, picture in enumerate(film_frames(config, log)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, 1 / FRAME_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_films(folder: Path, config: WorldConfig, logs: Iterable[ClipLog]) -> Iterator[None]:
    """Write ``<clip_uid>.mp4`` of all clips that the folder does not have; yields after each clip."""
    for log in logs:
        if not (path := folder / f"{log.clip_uid}.mp4").exists():
            _write_film(path, config, log)
        yield


class _Camera:
    """Moves and exposure over a clip's time: sums of slow waves with random phases."""

    def __init__(self, config: WorldConfig, log: ClipLog):
        random = config.stream("camera", log.split, log.clip_uid)
        self.config, self.phases = config, random.uniform(0, 2 * math.pi, 13)
        self.arm = (float(random.random()) * 0.7, float(random.random()))

    def wave(self, number: int, period_sec: float, time: float) -> float:
        return math.sin(self.phases[number] + 2 * math.pi * time / period_sec)

    def framed(self, picture: Image.Image, time: float) -> tuple[Image.Image, tuple[float, float]]:
        """The part of a place that is in view, and how far hands and things in it are from their usual points."""
        size, swing = self.config.frame_size, 6 * self.config.shake
        x = 6 * self.wave(0, 11, time) + swing * (self.wave(1, 1.7, time) + 0.5 * self.wave(2, 0.9, time))
        y = 4 * self.wave(3, 14, time) + swing * (self.wave(4, 1.9, time) + 0.5 * self.wave(5, 1.1, time))
        left, top = (round((MARGIN + v) * size / 128) for v in (x, y))
        shift = 4 * self.wave(9, 7, time) - 0.4 * x, 3 * self.wave(10, 9, time) - 0.4 * y
        return picture.crop((left, top, left + size, top + size)), shift

    def cover(self, scene: Scene, time: float) -> None:
        """A plant between camera and hands."""
        if much := self.config.occlusion:
            x, y = 52 * much - 8 + 8 * self.wave(11, 4, time), 126 - 18 * much + 5 * self.wave(12, 5, time)
            scene.sticker("plant", x, y, 40 + 60 * much, (60, 125, 75), halo=0)

    def lit(self, frame: Image.Image, time: float) -> np.ndarray:
        """The frame under the light of that time: brighter or darker, warmer or colder."""
        much = self.config.light
        bright = 1 + much * (0.3 * self.wave(6, 17, time) + 0.12 * self.wave(7, 5, time) - 0.12)
        tints = np.array([1, 0, -1]) * 0.14 * much * self.wave(8, 23, time) + 1
        factors = (128 * bright * tints).round().astype(int)
        shades = np.minimum(factors[:, None] * np.arange(256) >> 7, 255)  # (3, 256): what becomes of each value
        return np.asarray(frame.point(shades.ravel().tolist()))


def main(folder: str, config: str, count: str, number: str) -> None:
    """A helper process of `make_sample`: films every `count`-th clip of the event log, from the `number`-th on."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its helpers
    with open(Path(folder) / "events.jsonl", encoding="utf-8") as file:
        logs = (ClipLog.of(json.loads(line)) for line in islice(file, int(number), None, int(count)))
        for _ in write_films(Path(folder) / "clips", WorldConfig.model_validate_json(config), logs):
            if os.getppid() != parent:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
