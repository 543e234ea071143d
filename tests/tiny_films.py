"""Films of coloured shapes that move over a noisy ground: a verb is a direction, a noun a shape of a colour."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from groundnlq.config import RunConfig
from groundnlq.data.records import Record, write_records
from groundnlq.data.tokens import write_tokens

FPS, SIZE, EVENT_SEC, NUM_EVENTS = 7.5, 64, 2.0, 8
DIRECTIONS = {"raises": (0, -1), "lowers": (0, 1), "pushes": (1, 0), "pulls": (-1, 0)}
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 70, 220), "white": (240, 240, 240)}
SHAPES = ("disc", "box")
NOUNS = [" ".join(pair) for pair in product(COLOURS, SHAPES)]


def draw_film(path: Path, events: list[tuple[str, str]], seed: int, fps: float = FPS) -> None:
    """A film of one event after the other, each (verb, noun) and `EVENT_SEC` long."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    from fractions import Fraction

    random = np.random.default_rng(seed)
    ground = random.integers(90, 160, (SIZE, SIZE, 3))
    starts = random.uniform(24, 40, (len(events), 2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for number in range(round(len(events) * EVENT_SEC * fps)):
            event, inside = divmod(number / fps, EVENT_SEC)
            pixels = ground.copy()
            _draw(pixels, *events[int(event)], starts[int(event)], inside / EVENT_SEC)
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _draw(pixels: np.ndarray, verb: str, noun: str, start: np.ndarray, share: float) -> None:
    colour, shape = noun.split()
    centre = start + 44 * (share - 0.5) * np.array(DIRECTIONS[verb])
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    across, down = abs(x - centre[0]), abs(y - centre[1])
    inside = across**2 + down**2 < 81 if shape == "disc" else np.maximum(across, down) < 8
    pixels[inside] = COLOURS[colour]


def make_tiny_films(folder: Path, num_clips: int = 10, num_val: int = 3, shuffled: bool = False) -> Path:
    """Narrated films with records, `train.jsonl` and `val.jsonl`, tokens of one random vector a word, and videos.

    With `shuffled` texts and tags belong to other events: nothing can be learned.
    """
    random, records = np.random.default_rng(0), []
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    vectors = {
        w: torch.from_numpy(random.standard_normal(16)).float() for w in sorted({*DIRECTIONS, *COLOURS, *SHAPES})
    }
    every = list(product(DIRECTIONS, NOUNS))
    for clip in range(num_clips):
        events = [every[i] for i in random.choice(len(every), NUM_EVENTS, replace=False)]
        draw_film(folder / "videos" / f"c{clip}.mp4", events, clip)
        told = [every[i] for i in random.choice(len(every), NUM_EVENTS)] if shuffled else events
        for number, (verb, noun) in enumerate(told):
            tags = ((list(DIRECTIONS).index(verb),), (NOUNS.index(noun),))
            moment, length = (number * EVENT_SEC, (number + 1) * EVENT_SEC), len(events) * EVENT_SEC
            about = f"c{clip}_{number}", f"c{clip}", f"C {verb} the {noun}", length, (moment,), "nlq_narration"
            records.append(Record(*about, verbs=tags[0], nouns=tags[1]))
    tokens = ((r.query_id, torch.stack([vectors[w] for w in r.query.split() if w in vectors])) for r in records)
    write_tokens(folder / "text.h5", tokens, encoder="words")
    split = (num_clips - num_val) * NUM_EVENTS
    write_records(folder / "train.jsonl", records[:split])
    write_records(folder / "val.jsonl", records[split:])
    return folder


def films_config(folder: Path, align: dict | None = None, **train) -> RunConfig:
    tree = {
        "name": "films",
        "data": {"folder": str(folder), "train_records": ["train.jsonl"], "val_records": ["val.jsonl"],
                 "snippet_stride_frames": 24},
        "train": {"epochs": 3, "warmup_epochs": 0.5, "batch_size": 8, "learning_rate": 2e-3, "ema_decay": 0.9} | train,
        "align": {"encoder": "small", "width": 16, "size": 32, "short_side": 32, "channels": [8, 16, 16],
                  "window_frames": 16, "frames_per_moment": 0, "crop": [1, 1], "flip": False} | (align or {}),
    }  # fmt: skip
    return RunConfig.parse(tree, "films")
