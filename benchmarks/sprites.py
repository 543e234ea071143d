"""The pictures of the sample world's films: pictograms of Noto Emoji, a few drawn here, and places made of them.

    pip install manimgx-fonts && python benchmarks/sprites.py

writes into ``groundnlq/sample``: ``sprites.png``, a cell a thing, whose grey value is how much of a line there is and
whose alpha is how much of the thing; ``places.png``, a column of places, wider than a film's frame by 16 of 128 on each
side; ``sprites.json``, the names of both in their order, and where they come from; ``sprites_OFL.txt``, the licence.
"""

import json
from importlib.metadata import distribution
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from groundnlq.sample.vocabulary import PERSONS

FOLDER = Path(__file__).resolve().parents[1] / "groundnlq" / "sample"
CELL, COLUMNS, WEIGHT = 48, 12, 560
FINE = 4  # times as large while drawing
LEVELS = 8  # of grey and of alpha: few levels make a small file
SOLID = 0.35  # grey of what lies within a broad line: it is the outline that stays dark
PLACE, COLOURS = 160, 64  # pixels a side of a place, colours of all places
WHITE = (255, 255, 255)
PACKAGE, FONT = "manimgx-fonts", "manimgx_fonts/NotoEmoji[wght].ttf"

GLYPHS = {
    # objects
    "hammer": "🔨", "screwdriver": "🪛", "wrench": "🔧", "saw": "🪚", "axe": "🪓", "magnet": "🧲", "ladder": "🪜",
    "bolt": "🔩", "toolbox": "🧰", "clamp": "🗜", "hook": "🪝",
    "apple": "🍎", "onion": "🧅", "carrot": "🥕", "bread": "🍞", "cheese": "🧀", "tomato": "🍅", "banana": "🍌",
    "egg": "🥚", "mushroom": "🍄", "melon": "🍉", "pizza": "🍕",
    "plate": "🍽", "cup": "☕", "bowl": "🥣", "pan": "🍳", "spoon": "🥄", "knife": "🔪", "teapot": "🫖",
    "bottle": "🍾", "jar": "🫙", "glass": "🍷", "pot": "🍲",
    "shirt": "👕", "sock": "🧦", "jacket": "🧥", "glove": "🧤", "hat": "🎩", "scarf": "🧣", "shoe": "👞",
    "dress": "👗", "boot": "👢", "cap": "🧢", "sandal": "🩴",
    "book": "📖", "notebook": "📓", "ruler": "📏", "envelope": "✉", "folder": "📁", "pencil": "✏",
    "newspaper": "📰", "calendar": "📅", "map": "🗺", "scissors": "✂", "paperclip": "📎",
    "sponge": "🧽", "broom": "🧹", "bucket": "🪣", "soap": "🧼", "plunger": "🪠", "toothbrush": "🪥",
    "tissue": "🧻", "detergent": "🧴", "comb": "🪮", "razor": "🪒", "duster": "🪶",
    "phone": "📱", "laptop": "💻", "camera": "📷", "lamp": "💡", "radio": "📻", "clock": "⏰", "keyboard": "⌨",
    "printer": "🖨", "headset": "🎧", "television": "📺", "flashlight": "🔦",
    "ball": "⚽", "doll": "🪆", "puzzle": "🧩", "kite": "🪁", "robot": "🤖", "balloon": "🎈", "drum": "🥁",
    "racket": "🏓", "skateboard": "🛹", "guitar": "🎸", "trumpet": "🎺",
    # containers
    "drawer": "🗄", "box": "📦", "basket": "🧺", "bag": "🎒", "bin": "🗑", "suitcase": "🧳", "cart": "🛒",
    # persons
    "mother": "👩", "grandmother": "👵", "boy": "👦", "girl": "👧", "baby": "👶", "policeman": "👮",
    "builder": "👷", "uncle": "🧔",
    # hands and what helps to tell what they do
    "open hand": "✋", "fist": "✊", "drop of water": "💧", "shower": "🚿", "brush": "🖌", "tools": "🛠", "gear": "⚙",
    "bubble": "💬", "stars": "✨", "bubbles": "🫧", "plant": "🪴",
}  # fmt: skip
FURNITURE = {  # a character and a colour
    "bed": ("🛏", (190, 140, 100)), "couch": ("🛋", (200, 90, 70)), "bathtub": ("🛁", (240, 250, 255)),
    "toilet": ("🚽", (240, 250, 255)), "window": ("🪟", (170, 215, 250)), "chair": ("🪑", (190, 140, 90)),
    "tree": ("🌳", (90, 170, 90)), "car": ("🚗", (210, 90, 80)), "picture": ("🖼", (160, 200, 150)),
    "plant": ("🪴", (110, 175, 100)), "bicycle": ("🚲", (110, 140, 200)), "sunflower": ("🌻", (250, 200, 70)),
    "computer": ("🖥", (170, 180, 200)), "books": ("📚", (220, 160, 110)), "sun": ("☀", (255, 215, 80)),
    "door": ("🚪", (180, 130, 90)), "cactus": ("🌵", (100, 170, 110)), "washing machine": (None, (250, 250, 255)),
}  # fmt: skip


def main() -> None:
    files = distribution(PACKAGE)
    font = ImageFont.truetype(str(files.locate_file(FONT)), CELL * FINE * 10 // 13)
    font.set_variation_by_axes([WEIGHT])
    solid = dict.fromkeys(PERSONS, 1.0)  # hair is dark
    cells = {name: finished(glyph(font, symbol), solid.get(name, SOLID)) for name, symbol in GLYPHS.items()}
    cells |= {name: finished(draw()) for name, draw in DRAWN.items()}
    furniture = {
        name: (finished(glyph(font, character) if character else washer()), colour)
        for name, (character, colour) in FURNITURE.items()
    }
    sheet = Image.new("LA", (COLUMNS * CELL, -(-len(cells) // COLUMNS) * CELL))
    for number, cell in enumerate(cells.values()):
        sheet.paste(cell, (number % COLUMNS * CELL, number // COLUMNS * CELL))
    sheet.save(FOLDER / "sprites.png", optimize=True)
    places = Image.new("RGB", (PLACE, PLACE * len(PLACES)))
    for number, name in enumerate(PLACES):
        places.paste(place_picture(furniture, *PLACES[name]), (0, number * PLACE))
    places.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / "places.png", optimize=True)
    provenance = {
        "cell": CELL,
        "columns": COLUMNS,
        "made by": "benchmarks/sprites.py",
        "source": f"Noto Emoji 3.002, as packed in {PACKAGE} {files.version} (PyPI), weight {WEIGHT}",
        "licence": "SIL Open Font License 1.1, see sprites_OFL.txt",
        "drawn by the kit itself": list(DRAWN),
        "names": list(cells),
        "places": list(PLACES),
    }
    (FOLDER / "sprites.json").write_text(json.dumps(provenance, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    licence = next(file for file in files.files or () if file.name == "LICENSE").read_text(encoding="utf-8")
    head = "The pictograms in sprites.png and places.png are drawn from Noto Emoji, Copyright 2013 Google LLC.\n\n"
    (FOLDER / "sprites_OFL.txt").write_text(head + licence[licence.index("This Font Software") :], encoding="utf-8")
    for name in ("sprites.png", "places.png"):
        print(f"{name}: {(FOLDER / name).stat().st_size / 1024:.0f} KiB")


def glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Lines of a character, white on black, centred and as large as the cell allows."""
    side = CELL * FINE
    large = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(large).text((side // 2, side // 2), character, font=font, fill=255)
    return fitted(large.crop(large.getbbox()))


def fitted(lines: Image.Image) -> Image.Image:
    side, room = CELL * FINE, CELL * FINE - 2 * FINE
    scale = min(room / lines.width, room / lines.height)
    lines = lines.resize((max(1, round(lines.width * scale)), max(1, round(lines.height * scale))), Image.LANCZOS)
    cell = Image.new("L", (side, side))
    cell.paste(lines, ((side - lines.width) // 2, (side - lines.height) // 2))
    return cell


def finished(lines: Image.Image, solid: float = SOLID) -> Image.Image:
    """A cell of the sheet: lines, and everything that they enclose as alpha."""
    margin = 4 * FINE
    wide = Image.new("L", (lines.width + 2 * margin, lines.height + 2 * margin))
    wide.paste(lines, (margin, margin))
    closed = wide.point(lambda value: 255 * (value > 90)).filter(ImageFilter.MaxFilter(9))  # small gaps are closed
    ImageDraw.floodfill(closed, (0, 0), 128)
    inside = closed.point(lambda value: 255 * (value != 128)).filter(ImageFilter.MinFilter(9))
    within = wide.filter(ImageFilter.MinFilter(2 * FINE + 1 + FINE // 2 * 2)).crop(
        (margin, margin, *[margin + lines.width] * 2)
    )
    lines = ImageChops.subtract(lines, within.point(lambda value: round(value * (1 - solid))))
    inside = ImageChops.lighter(inside, wide).crop((margin, margin, margin + lines.width, margin + lines.height))
    small = [band.resize((CELL, CELL), Image.BOX).point(level) for band in (lines, inside)]
    small[0] = ImageChops.multiply(small[0], small[1].point(lambda value: 255 * (value > 0)))
    return Image.merge("LA", small)


def level(value: int) -> int:
    return round(round(value / 255 * (LEVELS - 1)) * 255 / (LEVELS - 1))


def canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("L", (100, 100))
    return picture, ImageDraw.Draw(picture)


def fridge() -> Image.Image:
    picture, draw = canvas()
    draw.rounded_rectangle((20, 2, 80, 94), 8, outline=255, width=5)
    draw.line((20, 36, 80, 36), fill=255, width=5)
    draw.line((32, 16, 32, 28), fill=255, width=5)
    draw.line((32, 46, 32, 66), fill=255, width=5)
    draw.line((28, 94, 28, 99), fill=255, width=7)
    draw.line((72, 94, 72, 99), fill=255, width=7)
    return fitted(picture.crop(picture.getbbox()).resize((4 * 61, 4 * 98)))


def oven() -> Image.Image:
    picture, draw = canvas()
    draw.rounded_rectangle((6, 4, 94, 96), 6, outline=255, width=5)
    draw.line((6, 28, 94, 28), fill=255, width=5)
    for x in (20, 36, 64, 80):
        draw.ellipse((x - 5, 11, x + 5, 21), fill=255)
    draw.line((22, 38, 78, 38), fill=255, width=5)
    draw.rounded_rectangle((20, 48, 80, 84), 5, outline=255, width=5)
    draw.line((34, 74, 46, 58), fill=255, width=4)
    draw.line((48, 76, 62, 58), fill=255, width=4)
    return fitted(picture.resize((400, 400)))


def cabinet() -> Image.Image:
    picture, draw = canvas()
    draw.rounded_rectangle((4, 10, 96, 86), 4, outline=255, width=5)
    draw.line((50, 10, 50, 86), fill=255, width=5)
    for x in (14, 60):
        draw.rectangle((x, 20, x + 26, 76), outline=255, width=4)
    for x in (44, 56):
        draw.ellipse((x - 4, 44, x + 4, 52), fill=255)
    for x in (14, 78):
        draw.rectangle((x, 86, x + 8, 95), fill=255)
    return fitted(picture.resize((400, 400)))


def washer() -> Image.Image:
    picture, draw = canvas()
    draw.rounded_rectangle((6, 4, 94, 96), 6, outline=255, width=5)
    draw.line((6, 24, 94, 24), fill=255, width=5)
    draw.ellipse((76, 9, 86, 19), fill=255)
    draw.ellipse((24, 34, 76, 86), outline=255, width=6)
    draw.arc((34, 46, 54, 70), 180, 360, fill=255, width=4)
    draw.arc((48, 46, 68, 70), 0, 180, fill=255, width=4)
    return fitted(picture.resize((400, 400)))


def place_picture(
    cells: dict[str, tuple[Image.Image, tuple[int, ...]]], wall, floor, pattern, furniture
) -> Image.Image:
    """A place: a wall with a pattern, a floor, pieces of furniture in pale colours."""
    picture = Image.new("RGB", (PLACE, PLACE), wall)
    draw = ImageDraw.Draw(picture)
    pattern(draw, mixed(wall, (90, 80, 90), 0.14))
    draw.rectangle((0, 112, PLACE, PLACE), floor)
    for x in range(-10, PLACE, 26):
        draw.rectangle((x, 112, x + 12, PLACE), mixed(floor, WHITE, 0.1))
    draw.rectangle((0, 110, PLACE, 113), mixed(floor, (0, 0, 0), 0.4))
    for name, x, y, size in furniture:
        cell, own = cells[name]
        lines, inside = cell.resize((size, size)).split()
        for mask, colour in ((inside, mixed(own, wall, 0.35)), (lines, mixed(wall, (60, 60, 80), 0.5))):
            picture.paste(colour, (x - size // 2, y - size // 2), mask)
    return picture


def mixed(colour, other, share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


def stripes(draw, colour) -> None:
    for x in range(0, PLACE, 20):
        draw.rectangle((x, 0, x + 9, 112), colour)


def tiles(draw, colour) -> None:
    for x in range(0, PLACE, 16):
        draw.rectangle((x, 0, x + 1, 112), colour)
        draw.rectangle((0, x, PLACE, x + 1), colour)


def bricks(draw, colour) -> None:
    for row, y in enumerate(range(0, 112, 12)):
        draw.rectangle((0, y, PLACE, y + 1), colour)
        for x in range(row % 2 * 14, PLACE, 28):
            draw.rectangle((x, y, x + 1, y + 12), colour)


def dots(draw, colour) -> None:
    for row, y in enumerate(range(6, 112, 16)):
        for x in range(4 + row % 2 * 10, PLACE, 20):
            draw.ellipse((x, y, x + 6, y + 6), colour)


def clouds(draw, colour) -> None:
    for x, y in ((20, 8), (84, 60), (116, 14)):
        draw.rounded_rectangle((x, y + 6, x + 34, y + 16), 5, WHITE)
        draw.ellipse((x + 7, y, x + 24, y + 14), WHITE)


def panels(draw, colour) -> None:
    draw.rectangle((0, 72, PLACE, 112), colour)
    for x in range(6, PLACE, 24):
        draw.rectangle((x, 78, x + 16, 106), mixed(colour, WHITE, 0.3))


def rails(draw, colour) -> None:
    draw.rectangle((0, 70, PLACE, 74), (110, 120, 140))
    for x in range(4, PLACE, 16):
        draw.rectangle((x, 74, x + 3, 112), (110, 120, 140))


# place: colour of its wall, of its floor, pattern of the wall, furniture as (name, x, y, size)
PLACES = {
    "kitchen": ((250, 232, 190), (190, 140, 100), tiles, (("window", 36, 78, 50), ("chair", 132, 92, 54))),
    "living room": ((240, 205, 190), (150, 95, 70), stripes, (("couch", 34, 100, 60), ("picture", 128, 74, 40))),
    "bathroom": ((190, 232, 236), (120, 170, 190), tiles, (("bathtub", 34, 98, 60), ("toilet", 130, 98, 48))),
    "bedroom": ((222, 205, 240), (150, 130, 175), dots, (("bed", 36, 100, 62), ("window", 130, 74, 42))),
    "garage": ((205, 205, 205), (120, 120, 122), bricks, (("car", 36, 100, 62), ("bicycle", 130, 98, 54))),
    "garden": ((178, 218, 250), (120, 178, 84), clouds, (("tree", 34, 86, 62), ("sunflower", 132, 92, 48))),
    "office": ((214, 232, 205), (105, 125, 110), stripes, (("computer", 36, 90, 54), ("books", 130, 94, 46))),
    "hallway": ((232, 216, 176), (140, 115, 85), panels, (("door", 36, 84, 62), ("plant", 130, 94, 46))),
    "balcony": ((250, 222, 170), (176, 150, 130), rails, (("sun", 36, 62, 40), ("cactus", 130, 94, 52))),
    "laundry room": (
        (226, 240, 250), (140, 150, 180), bricks, (("washing machine", 34, 96, 52), ("washing machine", 130, 96, 52)),
    ),
}  # fmt: skip

DRAWN = {"fridge": fridge, "oven": oven, "cabinet": cabinet}

if __name__ == "__main__":
    main()
