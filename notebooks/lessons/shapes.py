"""Small videos of coloured shapes that come and go, and a table of questions about them: something to film and ask."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from groundnlq.files import atomic_path, write_text

SIZE, FPS = 128, 10
COLORS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f4fd8", "yellow": "#ffd700"}
SHAPES = ("circle", "square", "triangle")
QUESTIONS = ("When was the {} there?", "Where did I see the {}?", "When did I last see the {}?")


@dataclass(frozen=True)
class Event:
    """A shape that is seen for a while, moving along a line."""

    name: str  # such as "red circle"
    start_sec: float
    end_sec: float
    path: np.ndarray  # (2, 2) places of its centre at the start and the end, in pixels


def draw_videos(folder: str | Path, num_videos: int = 16, length_sec: float = 30.0, seed: int = 0) -> Path:
    """Draw videos into a folder; those that are there are kept.

    Returns:
        the table of all questions, `questions.csv`, with the columns clip, query, start, end.
    """
    folder, rows = Path(folder), [("clip", "query", "start", "end")]
    for number in range(num_videos):
        random, name = np.random.default_rng([seed, number]), f"shapes_{number:02}"
        events = _events(random, length_sec)
        rows += [(name, random.choice(QUESTIONS).format(e.name), e.start_sec, e.end_sec) for e in events]
        if not (folder / f"{name}.mp4").exists():
            _draw(folder / f"{name}.mp4", events, length_sec, random)
    text = StringIO()
    csv.writer(text).writerows(rows)
    write_text(folder / "questions.csv", text.getvalue())
    return folder / "questions.csv"


def _events(random: np.random.Generator, length_sec: float) -> list[Event]:
    """Different shapes one after another, each for 1.5 to 4 seconds, with pauses."""
    names = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    random.shuffle(names)
    events, now = [], float(random.uniform(0.5, 3))
    while (end := now + float(random.uniform(1.5, 4))) < length_sec - 0.5:
        events.append(Event(names.pop(), round(now, 1), round(end, 1), random.uniform(30, SIZE - 30, (2, 2))))
        now = end + float(random.uniform(0.5, 2.5))
    return events


def _draw(path: Path, events: list[Event], length_sec: float, random: np.random.Generator) -> None:
    import av

    ground = random.integers(90, 170, (8, 8, 3), dtype=np.uint8)  # coarse patches, another room for each video
    room = Image.fromarray(ground).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(round(length_sec * FPS)):
            picture = room.copy()
            for event in events:
                if event.start_sec <= number / FPS < event.end_sec:
                    share = (number / FPS - event.start_sec) / (event.end_sec - event.start_sec)
                    _draw_shape(picture, event.name, (1 - share) * event.path[0] + share * event.path[1])
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def _draw_shape(picture: Image.Image, name: str, centre: np.ndarray) -> None:
    color, shape = name.split()
    (x, y), r, pen = centre, 24, ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), COLORS[color])
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), COLORS[color])
    else:
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], COLORS[color])
