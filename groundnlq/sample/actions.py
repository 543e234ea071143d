"""What events look like: hands, things, tools and persons whose motion tells the verb, drawn upon a place."""

import math
from collections.abc import Callable
from functools import partial

from PIL import Image, ImageDraw

from groundnlq.sample.pictures import BLACK, WHITE, Colour, colour_of, mixed, sprite
from groundnlq.sample.world import Event, WorldConfig

_INK, _WATER, _GREY, _GOLD, _PAINT = (50, 45, 60), (90, 170, 240), (165, 170, 180), (255, 215, 60), (225, 40, 160)
_SKIN = (245, 198, 150)
_ARM = ((_SKIN, (110, 70, 45)), ((70, 90, 120), (150, 140, 120)))  # lightest and darkest skin; two sleeves
_DOORS = ("drawer", "fridge", "oven", "cabinet")  # containers with a door; the others have a lid
_Point = tuple[float, float]


class Scene:
    """A frame that is drawn upon, 128 units wide and high, whatever its size in pixels. All is moved by `shift` units;
    `arm` has shares of darkness of the skin and of the sleeve of the person who wears the camera."""

    def __init__(self, frame: Image.Image, config: WorldConfig, shift: _Point, arm: tuple[float, float]):
        self.frame, self.config, self.shift, self.unit = frame, config, shift, config.frame_size / 128
        self.skin, self.sleeve = (mixed(*ends, share) for ends, share in zip(_ARM, arm, strict=True))
        self.draw = ImageDraw.Draw(frame)

    def show(self, event: Event, time_sec: float) -> None:
        """An event, `time_sec` after its start; what it shows repeats once a second at motion speed 1."""
        turn = time_sec * self.config.motion_speed % 1.0
        if event.person and event.object:
            self.person(event.person, turn, 24, 26, 36)
        elif event.person:
            self.person(event.person, turn, 52, 60, 66)
        if event.verb in _ACTIONS:
            _ACTIONS[event.verb](self, turn, event.object or event.container or "", event.container or "")

    def sticker(
        self, name: str, x: float, y: float, size: float, fill: Colour, line: Colour | None = None, angle: float = 0,
        halo: int = 1, width: float = 1.0,
    ) -> None:  # fmt: skip
        """A pictogram around a point; even sizes and few angles, so that few need to be drawn."""
        high, wide = (2 * round(part * self.unit / 2) for part in (size, max(0.1, width) * size))
        part = sprite(name, (wide, high), fill, line or mixed(fill, BLACK, 0.65), 6 * round(angle / 6) % 360, halo)
        ((x, y),) = self._pixels((x, y))
        self.frame.paste(part, (round(x - part.width / 2), round(y - part.height / 2)), part)

    def thing(self, name: str, x: float, y: float, size: float = 52, angle: float = 0, width: float = 1.0) -> None:
        """An object or container in its own colour."""
        self.sticker(name, x, y, size, colour_of(name, self.config.look_alikes), None, angle, 2, width)

    def hand(self, x: float, y: float, name: str = "fist", size: float = 32, angle: float = 30) -> None:
        """A hand at the end of an arm that comes from below on the right."""
        end = (max(x + 30, 110, 160 - y), 150)
        wrist = (x + (end[0] - x) * 0.3, y + (end[1] - y) * 0.3)
        self.line(mixed(self.skin, _INK, 0.75), 18, (x, y), end)
        self.line(self.sleeve, 14, wrist, end)
        self.line(self.skin, 14, (x, y), wrist)
        self.sticker(name, x, y, size, self.skin, None, angle, halo=0)

    def held(self, name: str, x: float, y: float, angle: float = 0) -> None:
        """An object in a hand, which covers more of it where occlusion is strong."""
        self.thing(name, x, y, angle=angle)
        reach = 26 - 14 * self.config.occlusion
        self.hand(x + reach, y + reach)

    def person(self, name: str, turn: float, x: float, y: float, size: float) -> None:
        """A face whose mouth moves, with a speech bubble."""
        colour, is_talking = colour_of(name), turn * 4 % 1 < 0.55
        self.disc(x, y, 0.6 * size, 0.6 * size, mixed(colour, WHITE, 0.3), mixed(colour, BLACK, 0.3))
        self.sticker(name, x, y, size, _SKIN, mixed(colour, BLACK, 0.6))
        if is_talking:
            self.disc(x, y + 0.2 * size, 0.1 * size, 0.09 * size, (150, 40, 50))
        self.sticker("bubble", x + 0.85 * size, y - 0.35 * size, (0.5 + 0.1 * is_talking) * size, WHITE, _INK)

    def strokes(self, x: float, y: float, dy: float) -> None:
        """Three lines in the wake of a thing that falls (or rises)."""
        for across in (-12, 0, 12):
            self.line(WHITE, 5, (x + across, y), (x + across, y + dy))
            self.line(_INK, 2.5, (x + across, y), (x + across, y + dy))

    def arrow(self, x: float, y: float, dx: float, dy: float) -> None:
        """An arrow from a point on."""
        barbs = [(x + 0.8 * dx + 0.2 * side * dy, y + 0.8 * dy + 0.2 * side * dx) for side in (-1, 1)]
        for colour, width in ((WHITE, 8), (_INK, 4)):
            self.line(colour, width, (x, y), (x + dx, y + dy))
            self.line(colour, width, barbs[0], (x + dx, y + dy), barbs[1])

    def line(self, colour: Colour, width: float, *points: _Point) -> None:
        self.draw.line(self._pixels(*points), colour, max(1, round(width * self.unit)), joint="curve")

    def disc(self, x: float, y: float, rx: float, ry: float, fill: Colour | None, line: Colour | None = None) -> None:
        box = self._pixels((x - rx, y - ry), (x + rx, y + ry))
        self.draw.ellipse(box, fill, line, round(4 * self.unit) if line else 0)

    def polygon(self, fill: Colour, *points: _Point) -> None:
        self.draw.polygon(self._pixels(*points), fill, _INK)

    def arc(self, x: float, y: float, radius: float, start: int, end: int) -> None:
        box = self._pixels((x - radius, y - radius), (x + radius, y + radius))
        self.draw.arc(box, start, end, _INK, max(1, round(2.5 * self.unit)))

    def _pixels(self, *points: _Point) -> list[_Point]:
        return [((x + self.shift[0]) * self.unit, (y + self.shift[1]) * self.unit) for x, y in points]


def _carry(scene: Scene, turn: float, thing: str, container: str, is_put: bool) -> None:
    """A hand brings an object into a container and leaves; taking it is the same, backwards."""
    way = 2 * (turn if is_put else 1 - turn)
    depth, side = 30 + 34 * min(1.0, way), 1 if is_put else -1
    if way < 1:
        scene.held(thing, 64, depth)
        scene.strokes(58, depth - 30 * side, -12 * side)
    else:
        scene.thing(thing, 64, 64)
    scene.thing(container, 62, 100, 58)
    scene.arrow(19, 76 - 22 * side, 0, 44 * side)
    if way >= 1:
        scene.hand(78 + 14 * (way - 1), 62 - 34 * (way - 1), "open hand", 34, 20)


def _wash(scene: Scene, turn: float, thing: str, _: str) -> None:
    x, y = 6 * math.cos(2 * math.pi * turn), 6 * math.sin(2 * math.pi * turn)
    scene.sticker("shower", 92, 18, 36, _WATER)
    scene.held(thing, 62 + x, 68 + y)
    for i in range(4):
        scene.sticker("drop of water", 44 + 12 * i, 30 + (60 * turn + 23 * i) % 62, 13, _WATER)
    scene.sticker("bubbles", 36 + x / 2, 92 + y / 2, 30, (225, 240, 255))


def _wipe(scene: Scene, turn: float, thing: str, _: str) -> None:
    x = 62 + 26 * math.sin(2 * math.pi * turn)
    scene.thing(thing, 62, 62)
    corners = ((-17, 60), (-4, 56), (14, 61), (17, 80), (4, 77), (-13, 82))
    scene.polygon((255, 225, 80), *((x + dx, y) for dx, y in corners))
    for i in range(3):
        scene.line((225, 90, 60), 2, (x - 12 + 9 * i, 59), (x - 9 + 9 * i, 78))
    scene.hand(x + 8, 74, "open hand", 30, 60)
    scene.sticker("stars", 34, 34, 22, _GOLD)


def _drop(scene: Scene, turn: float, thing: str, _: str) -> None:
    fall = min(1.0, turn / 0.75) ** 2
    scene.hand(84, 14, "open hand", 34, 150)
    scene.thing(thing, 58, 44 + 54 * fall, angle=-50 * fall)
    scene.strokes(58, 14 + 54 * fall, -6 - 16 * fall)
    for dx, dy in ((-34, -8), (34, -8), (-26, -20), (26, -20)) if turn > 0.6 else ():
        scene.line(_INK, 3, (58 + 0.8 * dx, 118 + 0.8 * dy), (58 + 1.2 * dx, 118 + 1.2 * dy))


def _shake(scene: Scene, turn: float, thing: str, _: str) -> None:
    swing = math.sin(4 * math.pi * turn + 0.8)
    scene.held(thing, 62 + 13 * swing, 60, -26 * swing)
    for radius in (36, 43, 50):
        scene.arc(62, 58, radius, 140, 220)
        scene.arc(62, 58, radius, -40, 40)


def _repair(scene: Scene, turn: float, thing: str, _: str) -> None:
    lift = abs(math.sin(2 * math.pi * turn))
    scene.thing(thing, 58, 68)
    scene.sticker("gear", 24, 98, 34, (230, 190, 70), angle=60 * turn)
    scene.hand(94 + 4 * lift, 50 - 14 * lift)
    scene.sticker("tools", 86 + 4 * lift, 36 - 14 * lift, 38, _GREY, angle=20 * lift)
    if lift < 0.6:
        scene.sticker("stars", 72, 50, 30, _GOLD)


def _paint(scene: Scene, turn: float, thing: str, _: str) -> None:
    way = abs(2 * turn - 1)
    scene.thing(thing, 58, 64)
    for i in range(3):
        scene.line(_PAINT, 6, (42 + 12 * i, 90), (42 + 12 * i, 88 - (14 + 8 * i) * max(0.3, way)))
    scene.hand(96, 72 - 34 * way)
    scene.sticker("brush", 84, 66 - 34 * way, 42, _PAINT)


def _weigh(scene: Scene, turn: float, thing: str, _: str) -> None:
    swing = math.sin(2 * math.pi * turn)
    scene.polygon(_GREY, (38, 92), (90, 92), (104, 130), (24, 130))
    scene.line(_INK, 8, (26, 90), (102, 90))
    scene.line((220, 222, 228), 4, (27, 90), (101, 90))
    scene.disc(64, 111, 15, 15, WHITE, _INK)
    scene.line((225, 30, 40), 3, (64, 114), (64 + 13 * math.sin(1.2 * swing), 114 - 13 * math.cos(1.2 * swing)))
    scene.thing(thing, 64, 62 + 2 * swing)


def _see(scene: Scene, turn: float, thing: str, _: str) -> None:
    scene.line(_INK, 12, (88, 86), (122, 124))
    scene.line((190, 130, 70), 7, (90, 88), (121, 123))
    scene.disc(62, 60, 42, 42, (235, 246, 255), _INK)
    scene.thing(thing, 62, 60, 38 + 16 * math.sin(math.pi * turn / 2))


def _move_door(scene: Scene, turn: float, thing: str, _: str, is_open: bool) -> None:
    """The door or lid of a container, which opens or closes."""
    way, side = min(1.0, 1.3 * turn), -1 if is_open else 1
    angle = 1.1 * (way if is_open else 1 - way)
    if thing in _DOORS:
        scene.sticker(thing, 58, 76, 84, (45, 40, 50), halo=2)
        width = math.cos(angle)
        scene.thing(thing, 58 - 30 * (1 - width), 76, 84, width=width)
        scene.hand(56 + 62 * (width - 0.5), 84)
        scene.arrow(58 - 20 * side, 22, 40 * side, 0)
    else:
        dark = mixed(colour_of(thing), BLACK, 0.65)
        scene.thing(thing, 62, 88, 66)
        scene.disc(62, 56, 33, 2 + 7 * math.sin(angle), (40, 35, 45), dark)
        x, y = 28 + 68 * math.cos(angle), 54 - 68 * math.sin(angle)
        scene.line(dark, 12, (28, 54), (x, y))
        scene.line(colour_of(thing), 8, (28, 54), (x, y))
        scene.hand(x + 4, y + 4, size=28)
        scene.arrow(114, 56 - 20 * side, 0, 40 * side)


_ACTIONS: dict[str, Callable[[Scene, float, str, str], None]] = {
    "put": partial(_carry, is_put=True), "take": partial(_carry, is_put=False), "wash": _wash, "wipe": _wipe,
    "drop": _drop, "shake": _shake, "repair": _repair, "paint": _paint, "weigh": _weigh, "see": _see,
    "open": partial(_move_door, is_open=True), "close": partial(_move_door, is_open=False),
}  # fmt: skip
