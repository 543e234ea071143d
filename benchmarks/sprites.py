"""The sprite sheet of the sample world's films: pictograms of Noto Emoji and a few drawn here, one PNG.

    pip install manimgx-fonts && python benchmarks/sprites.py

writes ``sprites.png``, ``sprites.json`` (names of the cells in reading order, provenance) and ``sprites_OFL.txt`` into
``groundnlq/sample``. A cell's grey value is how much of a line there is, its alpha how much of the thing.
"""

import json
from importlib.metadata import distribution
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

FOLDER = Path(__file__).resolve().parents[1] / "groundnlq" / "sample"
CELL, COLUMNS, WEIGHT = 48, 12, 560
FINE = 4  # times as large while drawing
LEVELS = 8  # of grey and of alpha: few levels make a small file
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
    # furniture
    "bed": "🛏", "couch": "🛋", "bathtub": "🛁", "toilet": "🚽", "window": "🪟", "chair": "🪑", "tree": "🌳",
    "car": "🚗", "picture": "🖼", "plant": "🪴", "bicycle": "🚲", "sunflower": "🌻", "computer": "🖥",
    "books": "📚", "sun": "☀", "cloud": "☁", "door": "🚪", "cactus": "🌵",
    # hands and what helps to tell what they do
    "open hand": "✋", "fist": "✊", "drop of water": "💧", "shower": "🚿", "brush": "🖌", "tools": "🛠", "gear": "⚙",
    "bubble": "💬", "stars": "✨", "bubbles": "🫧",
}  # fmt: skip


def main() -> None:
    files = distribution(PACKAGE)
    font = ImageFont.truetype(str(files.locate_file(FONT)), CELL * FINE * 10 // 13)
    font.set_variation_by_axes([WEIGHT])
    cells = {name: finished(glyph(font, character)) for name, character in GLYPHS.items()}
    cells |= {name: finished(draw()) for name, draw in DRAWN.items()}
    sheet = Image.new("LA", (COLUMNS * CELL, -(-len(cells) // COLUMNS) * CELL))
    for number, cell in enumerate(cells.values()):
        sheet.paste(cell, (number % COLUMNS * CELL, number // COLUMNS * CELL))
    sheet.save(FOLDER / "sprites.png", optimize=True)
    provenance = {
        "cell": CELL,
        "columns": COLUMNS,
        "made by": "benchmarks/sprites.py",
        "source": f"Noto Emoji 3.002, as packed in {PACKAGE} {files.version} (PyPI), weight {WEIGHT}",
        "licence": "SIL Open Font License 1.1, see sprites_OFL.txt",
        "drawn by the kit itself": list(DRAWN),
        "names": list(cells),
    }
    (FOLDER / "sprites.json").write_text(json.dumps(provenance, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    licence = next(file for file in files.files or () if file.name == "LICENSE").read_text(encoding="utf-8")
    head = "The pictograms in sprites.png are drawn from Noto Emoji, Copyright 2013 Google LLC.\n\n"
    (FOLDER / "sprites_OFL.txt").write_text(head + licence[licence.index("This Font Software") :], encoding="utf-8")
    print(f"{len(cells)} cells, {(FOLDER / 'sprites.png').stat().st_size / 1024:.0f} KiB")


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


def finished(lines: Image.Image) -> Image.Image:
    """A cell of the sheet: lines, and everything that they enclose as alpha."""
    margin = 4 * FINE
    wide = Image.new("L", (lines.width + 2 * margin, lines.height + 2 * margin))
    wide.paste(lines, (margin, margin))
    closed = wide.point(lambda value: 255 * (value > 90)).filter(ImageFilter.MaxFilter(9))  # small gaps are closed
    ImageDraw.floodfill(closed, (0, 0), 128)
    inside = closed.point(lambda value: 255 * (value != 128)).filter(ImageFilter.MinFilter(9))
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


def sink() -> Image.Image:
    picture, draw = canvas()
    draw.arc((40, 4, 74, 38), 180, 360, fill=255, width=7)
    draw.line((43, 20, 43, 46), fill=255, width=7)
    draw.line((71, 20, 71, 30), fill=255, width=7)
    draw.line((34, 14, 52, 14), fill=255, width=5)
    draw.rounded_rectangle((2, 44, 98, 56), 4, outline=255, width=5)
    draw.polygon([(10, 56), (90, 56), (80, 84), (20, 84)], outline=255, width=5)
    draw.line((50, 84, 50, 98), fill=255, width=9)
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


DRAWN = {"fridge": fridge, "oven": oven, "sink": sink, "washing machine": washer}

if __name__ == "__main__":
    main()
