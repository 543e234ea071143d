"""Pictures of the sample world's things and places, from sheets of pictograms (Noto Emoji, SIL OFL)."""

import colorsys
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageFilter

from groundnlq.sample.vocabulary import CONTAINERS, OBJECTS, PERSONS

Colour = tuple[int, int, int]
MARGIN = 16  # units of a place beyond the frame, for the camera to move; a frame is 128 units wide
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_GROUPS = (*OBJECTS.values(), CONTAINERS, PERSONS)
_SHELF = (150, 110, 75)
_SLOTS = (0, 3, 5, 1, 4, 2)  # of the shelf, in the order in which they fill


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """A colour with a share of another."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return r, g, b


def colour_of(name: str, look_alikes: float = 0.0) -> Colour:
    """The colour of an object, container or person, arbitrary but fixed.

    `look_alikes` is the share of objects that have the colour of the first one of their category.
    """
    number = next(number for number, names in enumerate(_GROUPS) if name in names)
    names, is_object = _GROUPS[number], number < len(OBJECTS)
    place = names.index(name)
    place = 0 if is_object and place < look_alikes * len(names) else place
    saturation, values = (0.8, (0.95, 0.7)) if is_object else (0.45, (0.8, 0.62))
    rgb = colorsys.hsv_to_rgb((place / len(names) + 0.08 * number) % 1, saturation, values[place % 2])
    r, g, b = (round(255 * part) for part in rgb)
    return mixed((r, g, b), WHITE, max(0.0, 0.45 - (0.3 * r + 0.59 * g + 0.11 * b) / 255))  # blue is dark


@lru_cache(maxsize=1)
def _sheets() -> tuple[dict[str, Image.Image], dict[str, Image.Image]]:
    """Cells of all things, pictures of all places."""
    folder = Path(__file__).parent
    about = json.loads((folder / "sprites.json").read_text(encoding="utf-8"))
    things, places = Image.open(folder / "sprites.png"), Image.open(folder / "places.png").convert("RGB")
    (side, columns), width = (about["cell"], about["columns"]), places.width
    corners = [(side * (i % columns), side * (i // columns)) for i in range(len(about["names"]))]
    return (
        {name: things.crop((x, y, x + side, y + side)) for name, (x, y) in zip(about["names"], corners, strict=True)},
        {name: places.crop((0, i * width, width, (i + 1) * width)) for i, name in enumerate(about["places"])},
    )


@lru_cache(maxsize=3000)
def sprite(name: str, size: tuple[int, int], fill: Colour, line: Colour, angle: int = 0, halo: int = 2) -> Image.Image:
    """RGBA picture of a thing, of `size` pixels and a margin on each side, turned by degrees, with a white rim."""
    bands = _sheets()[0][name].resize(size, Image.Resampling.BILINEAR).split()
    side, masks = max(size) + 8 + max(size) // 4 * bool(angle), []
    for band in bands:
        mask = Image.new("L", (side, side))
        mask.paste(band, ((side - size[0]) // 2, (side - size[1]) // 2))
        masks.append(mask.rotate(angle, Image.Resampling.BILINEAR) if angle else mask)
    lines, inside = masks
    picture = Image.new("RGB", (side, side), WHITE)
    picture.paste(fill, (0, 0), inside)
    picture.paste(line, (0, 0), lines)
    picture.putalpha(inside.filter(ImageFilter.MaxFilter(2 * halo + 1)) if halo else inside)
    return picture


def place_picture(place: str, things: Sequence[str], unit: float, look_alikes: float) -> Image.Image:
    """A place, wider than a frame by a margin on each side, with a shelf on which things lie."""
    side = round((128 + 2 * MARGIN) * unit)
    picture = _sheets()[1][place].resize((side, side))
    if things:
        picture.paste(_SHELF, (0, round(42 * unit), side, round(46 * unit)))
    for slot, name in zip(_SLOTS, things, strict=False):
        colour, size = colour_of(name, look_alikes), round(20 * unit)
        part = sprite(name, (size, size), colour, mixed(colour, BLACK, 0.65), halo=1)
        picture.paste(part, (round((34 + 18.4 * slot) * unit) - part.width // 2, round(18 * unit)), part)
    return picture
