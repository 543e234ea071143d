"""Narrated frames: what stage one learns from, batch by batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.nn.utils.rnn import pad_sequence

from groundnlq.config import AlignConfig, RunConfig
from groundnlq.data.dataset import TensorBatch
from groundnlq.data.grid import FPS
from groundnlq.data.records import Record
from groundnlq.video.frame_cache import FrameCache

SCENE_SEC = 60.0
_ASPECT = 4 / 3  # to which a random crop squeezes or stretches at most


@dataclass(frozen=True)
class NarratedBatch(TensorBatch):
    """B narrations, each with the frames that were drawn for it."""

    frames: Tensor  # (B, num_frames, size, size, 3) uint8
    text: Tensor  # (B, L, D) float32 tokens, or (B, L) int64 token numbers
    text_mask: Tensor  # (B, L) bool
    tags: Tensor  # (B, 1 + verbs + nouns) float32: number of the narration, then 1 where it has a class
    query_ids: tuple[str, ...]


class NarratedFrames:
    """Narrations with the frames of their moments; makes batches.

    Args:
        text: a record's tokens, (L, D), or token numbers, (L,).
        num_classes: of verbs and of nouns.
        is_training: draw times, crops and flips at random, by seed, epoch and index only, and scene negatives if they
            are configured; else the middles are taken, of whole frames.
    """

    def __init__(
        self, records: Sequence[Record], config: RunConfig, cache: FrameCache, text: Callable[[Record], Tensor],
        num_classes: tuple[int, int] = (0, 0), is_training: bool = False,
    ):  # fmt: skip
        self.records, self.align, self.seed = list(records), config.align or AlignConfig(), config.train.seed
        self.cache, self.text, self.num_classes, self.is_training = cache, text, num_classes, is_training
        self.lengths = [1] * len(self.records)
        self._scenes: dict[str, list[tuple[float, int]]] = {}
        for index, record in enumerate(self.records):
            self._scenes.setdefault(record.clip_uid, []).append((record.moments_sec[0][0], index))

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: Sequence[int], epoch: int = 0, for_gpu: bool = False) -> NarratedBatch:
        """The narrations of these indices, then the scene negatives of each."""
        every = list(indices)
        if self.is_training and self.align.scene_negatives:
            every += [self.neighbour(index, epoch) for index in indices]
        texts = [self.text(self.records[index]) for index in every]
        mask = pad_sequence([torch.ones(len(text), dtype=torch.bool) for text in texts], batch_first=True)
        frames = torch.stack([self.frames(index, epoch) for index in every])
        tags, names = torch.stack(list(map(self._tags, every))), tuple(self.records[index].query_id for index in every)
        batch = NarratedBatch(frames, pad_sequence(texts, batch_first=True), mask, tags, names)
        return batch.pin_memory() if for_gpu else batch

    def neighbour(self, index: int, epoch: int) -> int:
        """Another narration of the same minute of the clip, drawn at random; else one of the clip, else any other."""
        random, here = np.random.default_rng([self.seed, epoch, index, 1]), self.records[index]
        start_sec = here.moments_sec[0][0]
        others = [(abs(start - start_sec), i) for start, i in self._scenes[here.clip_uid] if i != index]
        near = [i for distance, i in others if distance <= SCENE_SEC] or [i for _, i in others]
        return int(random.choice(near)) if near else (index + 1) % len(self.records)

    def frames(self, index: int, epoch: int = 0) -> Tensor:
        """(num_frames, size, size, 3) uint8."""
        record, align = self.records[index], self.align
        random = np.random.default_rng([self.seed, epoch, index]) if self.is_training else None
        pictures = self.cache.read(record.clip_uid, _frame_times(record, align, random).astype(np.int64))
        frames = _cropped(pictures, _box(pictures.shape[1:3], align, random), align.size)
        return frames.flip(2) if random is not None and align.flip and random.random() < 0.5 else frames

    def _tags(self, index: int) -> Tensor:
        record, (num_verbs, _) = self.records[index], self.num_classes
        tags = torch.zeros(1 + sum(self.num_classes))
        tags[0] = index
        tags[[1 + verb for verb in record.verbs if verb < num_verbs]] = 1
        tags[[1 + num_verbs + noun for noun in record.nouns if 1 + num_verbs + noun < len(tags)]] = 1
        return tags


def _frame_times(record: Record, align: AlignConfig, random: np.random.Generator | None) -> np.ndarray:
    """(num_frames,) times of a narration's frames in 30ths of a second.

    With `window_frames` they are spread over a window around a random time of the moment; without, one is drawn in each
    equal part of the moment. The middle is taken if `random` is None.
    """
    (start, end), parts = _moment(record), np.arange(align.num_frames)
    if align.window_frames is None:
        inside = 0.5 if random is None else random.random(align.num_frames)
        return start + (parts + inside) / align.num_frames * (end - start)
    centre = start + (0.5 if random is None else random.random()) * (end - start)
    times = centre + ((parts + 0.5) / align.num_frames - 0.5) * align.window_frames
    return times.clip(0, FPS * record.duration_sec)


def wanted_frames(records: Sequence[Record], align: AlignConfig) -> dict[str, np.ndarray]:
    """By clip, the numbers of the frames that narrations may need, at 30 fps."""
    every, margin = FPS / align.frames_per_sec, (align.window_frames or 0) / 2
    wanted: dict[str, list[np.ndarray]] = {}
    for record in records:
        start, end = _moment(record)
        first = math.floor(max(0, start - margin) / every)
        steps = np.arange(first, math.floor(min(end + margin, FPS * record.duration_sec) / every) + 1)
        if 0 < align.frames_per_moment < len(steps):
            steps = steps[np.linspace(0, len(steps) - 1, align.frames_per_moment).round().astype(int)]
        wanted.setdefault(record.clip_uid, []).append(np.floor(steps * every).astype(np.int64))
    return {uid: np.unique(np.concatenate(parts)) for uid, parts in wanted.items()}


def _moment(record: Record) -> tuple[float, float]:
    """Start and end in 30ths of a second, within the clip."""
    start, end = (FPS * min(max(0, second), record.duration_sec) for second in record.moments_sec[0])
    return start, end


def _box(shape: Sequence[int], align: AlignConfig, random: np.random.Generator | None) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of a frame that is seen."""
    height, width = shape
    if random is None or align.crop == (1, 1):
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side
    area = random.uniform(*align.crop) * height * width
    aspect = math.exp(random.uniform(-math.log(_ASPECT), math.log(_ASPECT)))
    high, wide = min(height, round((area / aspect) ** 0.5)), min(width, round((area * aspect) ** 0.5))
    return int(random.integers(height - high + 1)), int(random.integers(width - wide + 1)), high, wide


def _cropped(pictures: np.ndarray, box: tuple[int, int, int, int], size: int) -> Tensor:
    """(n, size, size, 3) uint8 from (n, H, W, 3), bilinear without antialiasing."""
    top, left, height, width = box
    part = torch.from_numpy(np.ascontiguousarray(pictures[:, top : top + height, left : left + width]))
    if (height, width) == (size, size):
        return part
    images = interpolate(part.movedim(-1, 1).float(), [size, size], mode="bilinear")
    return images.round().to(torch.uint8).movedim(1, -1)
