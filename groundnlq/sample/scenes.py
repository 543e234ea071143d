"""Pictures of the sample world's things and places, from a sheet of pictograms (Noto Emoji, SIL OFL)."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from groundnlq.sample.vocabulary import CATEGORY_OF, CONTAINERS, OBJECTS, PERSONS

Colour = tuple[int, int, int]
MARGIN = 16  # units of a place beyond the frame, for the camera to move; a frame is 128 units wide
WHITE, SKIN = (255, 255, 255), (245, 198, 150)
_SHEET = Path(__file__).with_name("sprites.png")

# place -> colour of wall, of floor, pattern, furniture: (name, x, y, size)
_LOOKS: dict[str, tuple[Colour, Colour, str, tuple]] = {
    "kitchen": ((250, 232, 190), (190, 140, 100), "tiles", (("window", 36, 78, 50), ("chair", 132, 92, 54))),
    "living room": ((240, 205, 190), (150, 95, 70), "stripes", (("couch", 34, 100, 60), ("picture", 128, 74, 40))),
    "bathroom": ((190, 232, 236), (120, 170, 190), "tiles", (("bathtub", 34, 98, 60), ("toilet", 130, 98, 48))),
    "bedroom": ((222, 205, 240), (150, 130, 175), "dots", (("bed", 36, 100, 62), ("window", 130, 74, 42))),
    "garage": ((205, 205, 205), (120, 120, 122), "bricks", (("car", 36, 100, 62), ("bicycle", 130, 98, 54))),
    "garden": ((178, 218, 250), (120, 178, 84), "clouds", (("tree", 34, 86, 62), ("sunflower", 132, 92, 48))),
    "office": ((214, 232, 205), (105, 125, 110), "stripes", (("computer", 36, 90, 54), ("books", 130, 94, 46))),
    "hallway": ((232, 216, 176), (140, 115, 85), "panels", (("door", 36, 84, 62), ("plant", 130, 94, 46))),
    "balcony": ((250, 222, 170), (176, 150, 130), "rails", (("sun", 36, 62, 40), ("cactus", 130, 94, 52))),
    "laundry room": (
        (226, 240, 250), (140, 150, 180), "bricks", (("washing machine", 34, 96, 52), ("washing machine", 130, 96, 52)),
    ),
}  # fmt: skip


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """A colour with a share of another."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return r, g, b


def colour_of(name: str, look_alikes: float = 0.0) -> Colour:
    """The colour of an object, container or person; `look_alikes` is the share that has another one's."""
    if name in CONTAINERS:
        return _hue(CONTAINERS.index(name) / len(CONTAINERS) + 0.06, 0.42, (0.8, 0.62)[CONTAINERS.index(name) % 2])
    if name in PERSONS:
        return _hue(PERSONS.index(name) / len(PERSONS), 0.7, 0.6)
    siblings = OBJECTS[CATEGORY_OF[name]]
    place = siblings.index(name)
    place = 0 if place < look_alikes * len(siblings) else place
    return _hue(place / len(siblings) + 0.08 * list(OBJECTS).index(CATEGORY_OF[name]), 0.8, (0.95, 0.7)[place % 2])


def _hue(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return r, g, b


@lru_cache(maxsize=1)
def _cells() -> dict[str, Image.Image]:
    sheet, about = Image.open(_SHEET), json.loads(_SHEET.with_suffix(".json").read_text(encoding="utf-8"))
    side, columns = about["cell"], about["columns"]
    corners = {name: (side * (i % columns), side * (i // columns)) for i, name in enumerate(about["names"])}
    return {name: sheet.crop((x, y, x + side, y + side)) for name, (x, y) in corners.items()}


@lru_cache(maxsize=3000)
def sprite(name: str, size: int, fill: Colour, line: Colour, angle: int = 0, halo: int = 2) -> Image.Image:
    """RGBA picture of a thing, `size` pixels and a margin on each side, turned by degrees, with a white rim."""
    lines, inside = _cells()[name].resize((size, size), Image.Resampling.BILINEAR).split()
    side, masks = size + 8 + size // 4 * bool(angle), []
    for band in (lines, inside):
        mask = Image.new("L", (side, side))
        mask.paste(band, ((side - size) // 2, (side - size) // 2))
        masks.append(mask.rotate(angle, Image.Resampling.BILINEAR) if angle else mask)
    picture = Image.new("RGBA", (side, side), (*WHITE, 0))
    picture.putalpha(masks[1].filter(ImageFilter.MaxFilter(2 * halo + 1)) if halo else masks[1])
    for mask, colour in zip(masks[::-1], (fill, line), strict=True):
        picture.paste(Image.merge("RGBA", [Image.new("L", mask.size, part) for part in (*colour, 255)]), (0, 0), mask)
    return picture


def stick(picture: Image.Image, part: Image.Image, x: float, y: float) -> None:
    """Put a sprite with its centre at a pixel."""
    picture.paste(part, (round(x - part.width / 2), round(y - part.height / 2)), part)


def place_picture(place: str, things: Sequence[str], unit: float, look_alikes: float) -> Image.Image:
    """A place, wider than a frame by a margin on each side, with a shelf on which things lie."""
    wall, floor, pattern, furniture = _LOOKS[place]
    side, end = round((128 + 2 * MARGIN) * unit), 128 + 2 * MARGIN
    picture = Image.new("RGB", (side, side), wall)
    draw = ImageDraw.Draw(picture)

    def box(x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        draw.rectangle([round(v * unit) for v in (x0, y0, x1, y1)], fill=colour)

    _PATTERNS[pattern](box, mixed(wall, (90, 80, 90), 0.14))
    box(0, 112, end, end, floor)
    for x in range(-10, end, 26):
        box(x, 112, x + 12, end, mixed(floor, WHITE, 0.1))
    box(0, 110, end, 113, mixed(floor, (0, 0, 0), 0.4))
    for name, x, y, size in furniture:
        colours = mixed(wall, WHITE, 0.45), mixed(wall, (60, 60, 80), 0.5)
        stick(picture, sprite(name, round(size * unit), *colours, halo=0), x * unit, y * unit)
    if things:
        box(8, 42, end - 8, 46, (150, 110, 75))
    for i, name in enumerate(things):
        colour = colour_of(name, look_alikes)
        part = sprite(name, round(20 * unit), colour, mixed(colour, (0, 0, 0), 0.65), halo=1)
        stick(picture, part, (24 + i * 112 / max(5, len(things) - 1)) * unit, 32 * unit)
    return picture


def _stripes(box, colour: Colour) -> None:
    for x in range(0, 160, 20):
        box(x, 0, x + 9, 112, colour)


def _tiles(box, colour: Colour) -> None:
    for x in range(0, 160, 16):
        box(x, 0, x + 1, 112, colour)
        box(0, x, 160, x + 1, colour)


def _bricks(box, colour: Colour) -> None:
    for row, y in enumerate(range(0, 112, 12)):
        box(0, y, 160, y + 1, colour)
        for x in range(row % 2 * 14, 160, 28):
            box(x, y, x + 1, y + 12, colour)


def _dots(box, colour: Colour) -> None:
    for row, y in enumerate(range(6, 112, 16)):
        for x in range(4 + row % 2 * 10, 160, 20):
            box(x, y, x + 5, y + 5, colour)


def _clouds(box, colour: Colour) -> None:
    for x, y in ((20, 12), (84, 56), (120, 16)):
        for left, top, right in ((0, 4, 30), (5, 0, 22), (3, 8, 27)):
            box(x + left, y + top, x + right, y + top + 6, WHITE)


def _panels(box, colour: Colour) -> None:
    box(0, 72, 160, 112, colour)
    for x in range(6, 160, 24):
        box(x, 78, x + 16, 106, mixed(colour, WHITE, 0.3))


def _rails(box, colour: Colour) -> None:
    box(0, 70, 160, 74, (110, 120, 140))
    for x in range(4, 160, 16):
        box(x, 74, x + 3, 112, (110, 120, 140))


_PATTERNS = {
    "stripes": _stripes, "tiles": _tiles, "bricks": _bricks, "dots": _dots, "clouds": _clouds, "panels": _panels,
    "rails": _rails,
}  # fmt: skip
