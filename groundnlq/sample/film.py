"""The event log of a clip as a film: hands and things that tell what happens, frame by frame, and as an mp4."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from groundnlq.errors import KitError
from groundnlq.files import atomic_path
from groundnlq.sample.scenes import MARGIN, SKIN, WHITE, Colour, colour_of, mixed, place_picture, sprite, stick
from groundnlq.sample.world import ClipLog, Event, WorldConfig

FRAME_RATE = Fraction(15, 2)  # a second; one frame of four at 30 fps
_INK, _WATER, _GREY = (50, 45, 60), (90, 170, 240), (150, 155, 165)


def film_frames(config: WorldConfig, log: ClipLog) -> Iterator[np.ndarray]:
    """Frames of a clip, (S, S, 3) uint8, S = `config.frame_size`: number n shows the clip at n / 7.5 s."""
    camera, unit = _Camera(config, log), config.frame_size / 128
    things = round(config.clutter * 6)
    place, picture, stays, events = None, None, list(log.stays), list(log.events)
    for number in range(math.ceil(log.duration_sec * FRAME_RATE)):
        time = float(number / FRAME_RATE)
        while len(stays) > 1 and stays[0][1] <= time:
            stays.pop(0)
        while events and events[0].end_sec <= time:
            events.pop(0)
        if place != stays[0][2]:
            place = stays[0][2]
            picture = place_picture(place, log.clutter[place][:things], unit, config.look_alikes)
        frame = camera.crop(picture, time, unit)
        view = _View(frame, unit, config, camera, time)
        if events and events[0].start_sec <= time:
            view.show(events[0])
        else:
            view.hand(112, 122 + 4 * math.sin(time), "open hand", 20)
        yield np.asarray(camera.lit(frame, time))


def write_film(path: str | Path, config: WorldConfig, log: ClipLog) -> None:
    """A clip as an mp4 (H.264), written whole or not at all."""
    try:
        import av
    except ImportError:
        raise KitError("films need PyAV -- pip install 'groundnlq[sample]'") from None
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        # a key frame every 2 s: a reader that wants a moment decodes little before it
        options = {"preset": "superfast", "tune": "fastdecode", "crf": "30", "g": "15", "bf": "0", "threads": "1"}
        stream: Any = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        stream.width = stream.height = config.frame_size
        stream.pix_fmt, stream.time_base = "yuv420p", 1 / FRAME_RATE
        for number, picture in enumerate(film_frames(config, log)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, 1 / FRAME_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_films(folder: Path, config: WorldConfig, logs: list[ClipLog]) -> Iterator[None]:
    """Films of clips that are not in the folder yet; yields after each."""
    for log in logs:
        if not (path := folder / f"{log.clip_uid}.mp4").exists():
            write_film(path, config, log)
        yield


class _Camera:
    """Moves and exposure over a clip's time: sums of slow waves with random phases."""

    def __init__(self, config: WorldConfig, log: ClipLog):
        self.config, random = config, config.stream("camera", log.split, log.clip_uid)
        self.phases, self.look = random.uniform(0, 2 * math.pi, 12), config.stream("look", log.clip_uid)
        self.sleeve = tuple(int(v) for v in self.look.integers(60, 200, 3))
        self.skin = mixed(SKIN, (110, 70, 45), float(self.look.uniform(0, 0.7)))

    def wave(self, number: int, period_sec: float, time: float) -> float:
        return math.sin(self.phases[number] + 2 * math.pi * time / period_sec)

    def crop(self, picture: Image.Image, time: float, unit: float) -> Image.Image:
        swing = 9 * self.config.shake
        x = 6 * self.wave(0, 11, time) + swing * (self.wave(1, 1.7, time) + 0.5 * self.wave(2, 0.9, time)) / 1.5
        y = 4 * self.wave(3, 14, time) + swing * (self.wave(4, 1.9, time) + 0.5 * self.wave(5, 1.1, time)) / 1.5
        left, top, size = round((MARGIN + x) * unit), round((MARGIN + y) * unit), self.config.frame_size
        return picture.crop((left, top, left + size, top + size))

    def lit(self, frame: Image.Image, time: float) -> Image.Image:
        """Brightness and warmth."""
        depth = self.config.light
        if not depth:
            return frame
        bright = 1 + depth * (0.28 * self.wave(6, 17, time) + 0.12 * self.wave(7, 5, time) - 0.1)
        warm = 0.14 * depth * self.wave(8, 23, time)
        return frame.point([min(255, round(v * bright * (1 + warm * tint))) for tint in (1, 0, -1) for v in range(256)])


class _View:
    """One frame, drawn upon in units: it is 128 units wide and high."""

    def __init__(self, frame: Image.Image, unit: float, config: WorldConfig, camera: _Camera, time: float):
        self.frame, self.unit, self.config, self.camera, self.time = frame, unit, config, camera, time
        self.draw = ImageDraw.Draw(frame)

    def show(self, event: Event) -> None:
        """An event; what it shows repeats about once a second."""
        turn = (self.time - event.start_sec) * self.config.motion_speed % 1.0
        if event.person:
            alone = event.object is None
            self.person(event.person, turn, *((52, 56, 64, 104, 30, 36) if alone else (24, 26, 36, 54, 14, 22)))
        if event.verb in _ACTIONS:
            _ACTIONS[event.verb](self, event, turn)
        if self.config.occlusion:
            size = 30 + 60 * self.config.occlusion
            x, y = 6 + 14 * self.camera.wave(9, 4, self.time), 118 + 8 * self.camera.wave(10, 5, self.time)
            self.sticker("plant", x, y, size, (60, 120, 70), (30, 70, 45), halo=0)

    def sticker(
        self, name: str, x: float, y: float, size: float, fill: Colour, line: Colour, angle: float = 0, halo: int = 2
    ) -> None:
        pixels, angle = 2 * round(size * self.unit / 2), 6 * round(angle / 6) % 360
        stick(self.frame, sprite(name, pixels, fill, line, angle, halo), x * self.unit, y * self.unit)

    def thing(self, name: str, x: float, y: float, size: float = 52, angle: float = 0) -> None:
        colour = colour_of(name, self.config.look_alikes)
        self.sticker(name, x, y, size, colour, mixed(colour, (0, 0, 0), 0.65), angle)

    def tool(self, name: str, x: float, y: float, size: float, colour: Colour = _GREY, angle: float = 0) -> None:
        self.sticker(name, x, y, size, colour, mixed(colour, _INK, 0.7), angle, halo=1)

    def hand(self, x: float, y: float, name: str = "fist", size: float = 32, angle: float = 30) -> None:
        """A hand at the end of an arm that comes from below on the right."""
        skin, line = self.camera.skin, mixed(self.camera.skin, _INK, 0.75)
        end = (max(x + 30, 110), 150)
        self.line(line, 18, (x, y), end)
        self.line(self.camera.sleeve, 14, (x + (end[0] - x) * 0.3, y + (end[1] - y) * 0.3), end)
        self.line(skin, 14, (x, y), (x + (end[0] - x) * 0.3, y + (end[1] - y) * 0.3))
        self.sticker(name, x, y, size, skin, line, angle, halo=0)

    def held(self, name: str, x: float, y: float, angle: float = 0) -> None:
        """An object in a hand; the hand covers more of it where occlusion is strong."""
        self.thing(name, x, y, angle=angle)
        reach = 26 - 14 * self.config.occlusion
        self.hand(x + reach, y + reach)

    def line(self, colour: Colour, width: float, *points: tuple[float, float]) -> None:
        scaled = [(x * self.unit, y * self.unit) for x, y in points]
        self.draw.line(scaled, colour, max(1, round(width * self.unit)), joint="curve")

    def strokes(self, x: float, y: float, dx: float, dy: float, colour: Colour = _INK) -> None:
        """Three lines that say: it comes from there."""
        for shift in (-12, 0, 12):
            across = (shift, 0) if dy else (0, shift)
            start = (x + across[0], y + across[1])
            self.line(WHITE, 5, start, (start[0] + dx, start[1] + dy))
            self.line(colour, 2.5, start, (start[0] + dx, start[1] + dy))

    def arrow(self, x: float, y: float, dy: float) -> None:
        """A straight arrow up or down."""
        tip = y + dy
        for colour, width in ((WHITE, 8), (_INK, 4)):
            self.line(colour, width, (x, y), (x, tip))
            self.line(colour, width, (x - 7, tip - math.copysign(8, dy)), (x, tip), (x + 7, tip - math.copysign(8, dy)))

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour | None, line: Colour | None = None
    ) -> None:
        box = [v * self.unit for v in (x - rx, y - ry, x + rx, y + ry)]
        self.draw.ellipse(box, fill, line, max(1, round(4 * self.unit)) if line else 0)

    def person(
        self, name: str, turn: float, x: float, y: float, size: float, bx: float, by: float, bsize: float
    ) -> None:
        """A face whose mouth moves, with a speech bubble."""
        colour = colour_of(name)
        self.ellipse(x, y, size * 0.6, size * 0.6, mixed(colour, WHITE, 0.45), colour)
        self.sticker(name, x, y, size, SKIN, mixed(colour, (0, 0, 0), 0.5), halo=1)
        is_open = turn * 4 % 1 < 0.55
        if is_open:
            self.ellipse(x, y + 0.2 * size, 0.1 * size, 0.09 * size, (150, 40, 50))
        self.sticker("bubble", bx, by, bsize * (1.0 if is_open else 0.85), WHITE, _INK)


def _put(view: _View, event: Event, turn: float) -> None:
    _carry(view, event, 2 * turn, is_put=True)


def _take(view: _View, event: Event, turn: float) -> None:
    _carry(view, event, 2 * (1 - turn), is_put=False)


def _carry(view: _View, event: Event, way: float, is_put: bool) -> None:
    """`way` 0 → 1: the object goes into its container; 1 → 2: the hand leaves without it."""
    depth = 30 + 34 * min(1.0, way)
    if way < 1:
        view.held(event.object, 64, depth)
        view.strokes(58, depth - 30 if is_put else depth + 30, 0, -12 if is_put else 12)
    else:
        view.thing(event.object, 64, 64)
    view.thing(event.container, 62, 100, 58)
    view.arrow(14, 70 if is_put else 116, 44 if is_put else -44)
    if way >= 1:
        view.hand(78 + 14 * (way - 1), 62 - 34 * (way - 1), "open hand", 34, 20)


def _wash(view: _View, event: Event, turn: float) -> None:
    angle = 2 * math.pi * turn
    view.tool("shower", 88, 16, 36, _WATER)
    view.held(event.object, 62 + 6 * math.cos(angle), 68 + 6 * math.sin(angle))
    for i, x in enumerate((44, 56, 68, 80)):
        view.tool("drop of water", x, 30 + (60 * turn + 23 * i) % 62, 13, _WATER)
    view.tool("bubbles", 36 + 3 * math.cos(angle), 92 + 3 * math.sin(angle), 30, (225, 240, 255))


def _wipe(view: _View, event: Event, turn: float) -> None:
    view.thing(event.object, 62, 62)
    x, y = 62 + 26 * math.sin(2 * math.pi * turn), 70
    points = [(x - 17, y - 10), (x - 4, y - 14), (x + 14, y - 9), (x + 17, y + 10), (x + 4, y + 7), (x - 13, y + 12)]
    view.draw.polygon([(a * view.unit, b * view.unit) for a, b in points], (255, 225, 80), _INK)
    for i in (0, 1, 2):
        view.line((225, 90, 60), 2, (x - 12 + 9 * i, y - 11), (x - 9 + 9 * i, y + 8))
    view.hand(x + 8, y + 4, "open hand", 30, 60)
    view.tool("stars", 36, 34, 20, (255, 250, 200))


def _drop(view: _View, event: Event, turn: float) -> None:
    fall = min(1.0, turn / 0.75)
    y = 44 + 54 * fall * fall
    view.hand(84, 14, "open hand", 34, 150)
    view.thing(event.object, 58, y, angle=-50 * fall)
    view.strokes(58, y - 30, 0, -6 - 16 * fall)
    if turn > 0.7:
        for dx, dy in ((-34, -8), (34, -8), (-26, -20), (26, -20)):
            view.line(_INK, 3, (58 + 0.8 * dx, 118 + 0.8 * dy), (58 + 1.2 * dx, 118 + 1.2 * dy))


def _shake(view: _View, event: Event, turn: float) -> None:
    swing = math.sin(4 * math.pi * turn + 0.8)
    view.held(event.object, 62 + 13 * swing, 60, -26 * swing)
    for side, start in ((-1, 140), (1, -40)):
        for radius in (36, 43, 50):
            box = [v * view.unit for v in (62 - radius, 58 - radius, 62 + radius, 58 + radius)]
            view.draw.arc(box, start, start + 80, _INK, max(1, round(2.5 * view.unit)))


def _repair(view: _View, event: Event, turn: float) -> None:
    tap = abs(math.sin(2 * math.pi * turn))
    view.thing(event.object, 58, 68)
    view.tool("gear", 24, 98, 34, (230, 190, 70), 60 * turn)
    view.hand(94 + 4 * tap, 50 - 14 * tap)
    view.tool("tools", 86 + 4 * tap, 36 - 14 * tap, 38, (175, 180, 190), 20 * tap)
    if tap < 0.6:
        view.tool("stars", 74, 48, 30, (255, 215, 40))


def _paint(view: _View, event: Event, turn: float) -> None:
    colour, way = (225, 40, 160), abs(2 * turn - 1)
    view.thing(event.object, 58, 64)
    for i, x in enumerate((42, 54, 66)):
        view.line(colour, 6, (x, 90), (x, 88 - (14 + 8 * i) * max(0.3, way)))
    y = 70 - 34 * way
    view.hand(96, y + 2)
    view.tool("brush", 84, y - 4, 42, colour, 0)


def _weigh(view: _View, event: Event, turn: float) -> None:
    view.draw.polygon(
        [(a * view.unit, b * view.unit) for a, b in ((38, 92), (90, 92), (104, 128), (24, 128))], _GREY, _INK
    )
    view.line(_INK, 8, (26, 90), (102, 90))
    view.line((220, 222, 228), 4, (27, 90), (101, 90))
    angle = 1.2 * math.sin(2 * math.pi * turn)
    view.ellipse(64, 111, 15, 15, WHITE, _INK)
    view.line((225, 30, 40), 3, (64, 114), (64 + 13 * math.sin(angle), 114 - 13 * math.cos(angle)))
    view.thing(event.object, 64, 62 + 2 * math.sin(2 * math.pi * turn))


def _see(view: _View, event: Event, turn: float) -> None:
    near = math.sin(math.pi * turn / 2)
    view.line(_INK, 12, (88, 86), (122, 124))
    view.line((190, 130, 70), 7, (90, 88), (121, 123))
    view.ellipse(62, 60, 42, 42, (235, 246, 255), _INK)
    view.thing(event.object, 62, 60, 38 + 16 * near)


def _open(view: _View, event: Event, turn: float) -> None:
    _lid(view, event, min(1.0, turn * 1.3), -1)


def _close(view: _View, event: Event, turn: float) -> None:
    _lid(view, event, 1 - min(1.0, turn * 1.3), 1)


def _lid(view: _View, event: Event, way: float, direction: int) -> None:
    """A container whose lid is open by `way`, 0 to 1."""
    colour, angle = colour_of(event.container), 1.25 * way
    view.thing(event.container, 62, 82, 72)
    view.ellipse(62, 44, 36, 2 + 8 * way, (40, 35, 45), mixed(colour, (0, 0, 0), 0.5))
    x, y = 26 + 72 * math.cos(angle), 42 - 72 * math.sin(angle)
    view.line(mixed(colour, (0, 0, 0), 0.65), 11, (26, 42), (x, y))
    view.line(colour, 7, (26, 42), (x, y))
    view.hand(x + 2, y + 6, "fist", 30)
    view.arrow(114, 40 - 20 * direction, 40 * direction)


_ACTIONS: dict[str, Callable[[_View, Event, float], None]] = {
    "put": _put, "take": _take, "wash": _wash, "wipe": _wipe, "drop": _drop, "shake": _shake, "repair": _repair,
    "paint": _paint, "weigh": _weigh, "see": _see, "open": _open, "close": _close,
}  # fmt: skip


def main() -> None:
    """A helper process of `make_sample`: films every n-th clip from the i-th on; its arguments are folder, i, n."""
    folder, first, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    config = WorldConfig.model_validate_json(sys.stdin.read())
    with open(folder / "events.jsonl", encoding="utf-8") as file:
        logs = [ClipLog.of(json.loads(line)) for number, line in enumerate(file) if number % step == first]
    for _ in write_films(folder / "clips", config, logs):
        pass


if __name__ == "__main__":
    main()
