"""Clips longer than the position table: the stretched table against overlapping windows, by recall.

    groundnlq sample data/long900 clip_length_sec=900 num_val_clips=24 num_train_clips=1 num_narrated_clips=0 \
        num_test_clips=1 queries_per_clip=20 objects_per_clip=6
    python benchmarks/long_clips.py runs/demo/finetune data/long900
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from pathlib import Path

import torch

import groundnlq
from groundnlq.data.dataset import clip_batches
from groundnlq.data.records import read_records
from groundnlq.engine.predictor import open_dataset
from groundnlq.model.decode import decode
from groundnlq.model.grounder import Outputs
from groundnlq.model.points import make_points

AT_ONCE = 8  # queries


def windows(num_steps: int, size: int, multiple: int) -> list[tuple[int, int, int, int]]:
    """First and last step that a window sees, and of the points that it answers; all multiples of the coarsest stride.

    >>> windows(10, 4, 2)
    [(0, 4, 0, 2), (2, 6, 2, 4), (4, 8, 4, 6), (6, 10, 6, 10)]
    """
    hop = max(multiple, size // 2 // multiple * multiple)
    starts = [0]
    if num_steps > size:
        last = math.ceil((num_steps - size) / multiple) * multiple
        starts = sorted({*range(0, last, hop), last})
    middles = [(a + b + size) // 2 // multiple * multiple for a, b in pairwise(starts)]
    ends = [*middles, num_steps]
    return [(s, min(num_steps, s + size), a, b) for s, a, b in zip(starts, [0, *middles], ends, strict=True)]


def joined(parts: list[tuple[Outputs, int, int, int]], num_steps: int, ranges: list) -> Outputs:
    """Outputs of one clip from those of its windows, each with its first step and the steps that it answers."""
    num_levels, columns = len(ranges), []
    for level in range(num_levels):
        for outputs, first, begin, end in parts:
            time = outputs.points.time_grid + first
            chosen = (outputs.points.level == level) & (time >= begin) & (time < end)
            columns.append([x[:, chosen] for x in (outputs.logits, outputs.offsets, outputs.mask)])
    logits, offsets, mask = (torch.cat(kind, dim=1) for kind in zip(*columns, strict=True))
    lengths = tuple(-(-num_steps // 2**n) for n in range(num_levels))
    return Outputs(logits, offsets, mask, make_points(lengths, ranges))


@torch.inference_mode()
def recalls(model: groundnlq.engine.predictor.Predictor, folder: Path, size: int) -> str:
    """Recalls with windows of `size` steps; 0: the whole clip at once."""
    records = read_records(folder / "nlq_val.jsonl")
    dataset = open_dataset(model.config, records, folder / "features.h5", folder / "text.h5")
    network, ranges, ranked = model.model.eval(), model.config.model.regression_ranges_grid, {}
    for indices in clip_batches(records, AT_ONCE):
        batch = dataset.batch(indices)
        text, num_steps = network.encode_text(batch.text, batch.text_mask), int(batch.video_mask.sum())
        parts = []
        for first, last, begin, end in windows(num_steps, size or num_steps, 2 ** (len(ranges) - 1)):
            clips = network.encode_video(batch.video[:, first:last], batch.video_mask[:, first:last])
            parts.append((network.ground(clips, batch.clip_index, text, batch.text_mask), first, begin, end))
        outputs = joined(parts, num_steps, ranges)
        moments = decode(outputs, model.config.data.grid, batch.durations_sec, model.config.decode)
        ranked |= zip(batch.query_ids, (m.numpy() for m in moments), strict=True)
    strict = groundnlq.evaluate(ranked, records).strict
    return f"R@1 IoU=0.3 {strict['R@1 IoU=0.3']:.1f}, R@5 IoU=0.3 {strict['R@5 IoU=0.3']:.1f} ({len(records)} queries)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", help="sample worlds with long clips")
    arguments = parser.parse_args()
    model = groundnlq.load(arguments.checkpoint)
    table = model.config.model.max_seq_len
    for folder in arguments.folders:
        for size in (0, table, table // 2):
            print(f"{folder.name}, {f'windows of {size} steps' if size else 'stretched table'}:", end=" ", flush=True)
            print(recalls(model, folder, size), flush=True)


if __name__ == "__main__":
    main()
