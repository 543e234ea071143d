"""Making features of videos: decoding alone, whole extraction by an encoder, peak memory by length.

    python benchmarks/extraction.py [--encoder efficientnet-lite0 ...] [--minutes 1 60 120]

The videos are made here: moving noise at 30 frames a second, joined as often as needed without encoding it
again. Each length is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from groundnlq.video.encoders import load_encoder
from groundnlq.video.extract import features_of
from groundnlq.video.frames import Video

SIZES = {"256p": (456, 256), "540p": (960, 540), "1080p": (1920, 1080)}
MEGABYTE = 1 << 20


class MeanColour:
    """An encoder that costs nothing, so that the rest is seen."""

    name, width, settings = "mean colour", 3, "none"
    short_side, num_frames, window_frames, stride_frames = 256, 4, 16.043, 16.043

    def frame_numbers(self, start_sec: float, end_sec: float, num_frames: int) -> np.ndarray:
        middles = (np.arange(max(1, int(num_frames / 16.043))) + 0.5) * 16.043
        return (middles[:, None] + np.array([-6.0, -2.0, 2.0, 6.0])).astype(np.int64).clip(0, num_frames - 1)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return frames[:, :, ::16, ::16].float().mean((1, 2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", nargs="*", default=["efficientnet-lite0"])
    parser.add_argument("--minutes", nargs="*", type=int, default=[1, 60, 120])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as name:
        for size, (width, height) in SIZES.items():
            path = make(Path(name) / f"{size}.mp4", width, height, seconds=15)
            print(f"decoding alone, {size}: {4 * seconds_of_decoding(path):.2f} s per minute of video", flush=True)
        minute = make(Path(name) / "minute.mp4", *SIZES["256p"], seconds=60)
        for spec in arguments.encoder:
            encoder, began = load_encoder(spec), time.perf_counter()
            features_of(minute, [encoder])
            print(f"{encoder.name}, 256p: {time.perf_counter() - began:.2f} s per minute of video", flush=True)
        for count in arguments.minutes:
            path = join(minute, Path(name) / f"{count}min.mp4", count)
            command = [sys.executable, __file__, "--measure", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{count} min: {found}", flush=True)


def make(path: Path, width: int, height: int, seconds: int) -> Path:
    random = np.random.default_rng(0)
    texture = np.kron(random.integers(0, 255, (height // 8 + 20, width // 8 + 20, 3), np.uint8), np.ones((8, 8, 1)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "g": "60"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(30 * seconds):  # moves in a circle
            x, y = (int(80 + 70 * turn(number / 150)) for turn in (np.cos, np.sin))
            pixels = np.ascontiguousarray(texture[y : y + height, x : x + width].astype(np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def join(minute: Path, path: Path, count: int) -> Path:
    with av.open(str(minute)) as source, av.open(str(path), "w") as target:
        read = source.streams.video[0]
        written = target.add_stream_from_template(read)
        length = round(60 / read.time_base)
        packets = [packet for packet in source.demux(read) if packet.size]
        stamps = [(packet.pts, packet.dts) for packet in packets]
        for number in range(count):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                packet.stream = written
                packet.pts, packet.dts = pts + number * length, dts + number * length
                target.mux(packet)
    return path


def seconds_of_decoding(path: Path) -> float:
    video, began = Video.open(path), time.perf_counter()
    wanted = np.unique(MeanColour().frame_numbers(0, 15, 450)).tolist()
    assert len(list(video.frames(wanted, [256], []))) == len(wanted)
    return time.perf_counter() - began


def peak_mb() -> int:
    """Of this program; `getrusage` would count what started it."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def measure(path: Path) -> dict[str, Any]:
    before = peak_mb()
    began = time.perf_counter()
    video = Video.open(path)
    read = time.perf_counter() - began
    features = features_of(path, [MeanColour()])
    return {
        "file_mb": round(path.stat().st_size / MEGABYTE),
        "steps": len(features),
        "seconds_to_open": round(read, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_per_minute": round(60 * (time.perf_counter() - began) / video.duration_sec, 2),
        "peak_mb_after_imports": before,
        "peak_mb": peak_mb(),
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
