"""Splits of 1, 10 and 100 times Ego4D's val at small width: does memory stay flat and time linear?

    python benchmarks/scale.py 1 10 100
    python benchmarks/scale.py --stores 10000 100000

Each size in a process of its own: features and tokens are written to disk clip by clip, then all queries are
answered and their recalls counted as they come, and no answer is kept. With `--stores`, for these numbers of clips:
feature stores of one file and of many, how long they take to write and open, and to read a clip at random.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from timing import QUERIES_PER_CLIP

from groundnlq.config import DataConfig, ModelConfig, RunConfig
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore, write_features, write_shards
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record
from groundnlq.data.tokens import TokenStore, write_tokens
from groundnlq.engine.predictor import Predictor
from groundnlq.model.grounder import Grounder

CLIPS, WIDTH, STEPS, STEP_SEC = 415, 8, 60, 16.043 / 30
MODEL = ModelConfig(
    video_dim=WIDTH,
    text_dim=WIDTH,
    width=WIDTH,
    num_heads=2,
    num_embed_layers=1,
    num_text_layers=1,
    num_stem_layers=1,
    num_self_levels=2,
    max_seq_len=256,
    regression_ranges_grid=((0, 4), (2, 8), (4, 10000)),
)


CLIPS_PER_FILE, READS = 1000, 2000


def main() -> None:
    kind, *sizes = sys.argv[1:]
    if kind == "--run":
        run(int(sizes[0]))
    elif kind == "--store":
        open_store(int(sizes[0]), int(sizes[1]))
    elif kind == "--stores":
        for size in sizes:
            for clips_per_file in (size, str(CLIPS_PER_FILE)):
                subprocess.run([sys.executable, __file__, "--store", size, clips_per_file], check=True)
    else:
        for factor in (kind, *sizes):
            subprocess.run([sys.executable, __file__, "--run", factor], check=True)


def open_store(num_clips: int, clips_per_file: int) -> None:
    """A store of clips so short that only what each clip costs beside its values is left."""
    values, clip_uids = np.ones((8, WIDTH), np.float32), [f"{i:08x}-0000-0000-0000-{i:012x}" for i in range(num_clips)]
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.process_time()
        write_shards(folder, clip_uids, lambda _: values, clips_per_file=clips_per_file)
        written = time.process_time()
        num_bytes = sum(path.stat().st_size for path in folder.iterdir()) / num_clips - values.size * 2
        before, opening = peak_mb(), time.process_time()
        store = FeatureStore(folder)
        opened = time.process_time()
        for number in np.random.default_rng(0).integers(num_clips, size=READS):
            store.read(clip_uids[number])
        read, num_files = time.process_time(), len(list(folder.iterdir()))
    print(
        f"{num_clips:7d} clips in {num_files:4d} files: written in {1e3 * (written - began) / num_clips:.2f} ms, "
        f"{num_bytes:.0f} bytes a clip beside its values, checked and opened in {opened - opening:.1f} s "
        f"= {1e3 * (opened - opening) / num_clips:.3f} ms a clip, {peak_mb() - before} MB; "
        f"a clip at random in {1e3 * (read - opened) / READS:.2f} ms (processor time)",
        flush=True,
    )


def run(factor: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        features, text = Path(folder, "f.h5"), Path(folder, "t.h5")
        records = list(make_records(factor * CLIPS))
        write_features(features, make_clips(factor * CLIPS))
        write_tokens(text, ((r.query_id, torch.randn(3, WIDTH)) for r in records), encoder="random")
        began, opening = time.process_time(), peak_mb()
        dataset = QueryDataset(records, FeatureStore(features), TokenStore(text), DataConfig().grid, 4)
        opened, before = time.process_time(), peak_mb()
        hits = count_hits(Grounder(MODEL), dataset)
        seconds, after = time.process_time() - opened, peak_mb()
    print(
        f"{factor:4d} x: {len(records):7d} queries, opened in {opened - began:5.1f} s, answered in "
        f"{seconds:7.1f} s = {1e3 * seconds / len(records):.2f} ms a query (processor time); peak memory "
        f"{opening} MB with the records, {before} MB opened, {after} MB at the end; R@1 {hits:.2%}",
        flush=True,
    )


def count_hits(model: Grounder, dataset: QueryDataset) -> float:
    """R@1 at IoU 0.3, counted while the answers come; they come in the order of the records."""
    answers = Predictor(model, RunConfig(name="scale")).stream(dataset)
    hits = 0
    for record, (query_id, ranked) in zip(dataset.records, answers, strict=True):
        assert record.query_id == query_id
        hits += bool(best_tiou(ranked[:1], record.moments_sec).max(initial=0) > 0.3)
    return hits / len(dataset.records)


def make_records(num_clips: int) -> Iterator[Record]:
    for clip in range(num_clips):
        for query in range(QUERIES_PER_CLIP):
            start = float(query)
            moments = ((start, start + 5.0),)
            yield Record(f"a{clip}_{query}", f"c{clip}", "where?", STEPS * STEP_SEC, moments)


def make_clips(num_clips: int) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return ((f"c{clip}", random.standard_normal((STEPS, WIDTH))) for clip in range(num_clips))


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
