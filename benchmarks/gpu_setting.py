"""What all GPU checks share: report, device, size, precisions, synthetic data of Ego4D's shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gpu_site  # noqa: F401  (first: the import path)
import numpy as np
import torch
from gpu_report import Report
from timing import STEP_SEC

from groundnlq.config import ModelConfig, RunConfig, TrainConfig
from groundnlq.data.dataset import Batch, QueryDataset
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.records import Record, read_records, write_records
from groundnlq.data.tokens import TokenStore, write_tokens
from groundnlq.engine.distributed import World
from groundnlq.engine.graphs import StepGraphs
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter
from groundnlq.engine.step import Learner
from groundnlq.engine.task import Normaliser, Task
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion
from tests.recorded_graph import recording

PRECISIONS = ("float32", "tf32", "bfloat16")
CHAMPION = RunConfig(name="champion")


@dataclass(frozen=True)
class Setting:
    """One run of the checks."""

    report: Report
    device: torch.device
    is_quick: bool
    folder: Path
    encoders: tuple[str, ...] = ()  # of video

    @property
    def narrow(self) -> dict[str, Any]:
        """Changes of the architecture in a quick run."""
        return {"width": 32, "video_dim": 64, "text_dim": 32} if self.is_quick else {}

    @property
    def dims(self) -> tuple[int, int]:
        return (64, 32) if self.is_quick else (2304, 512)

    @property
    def num_steps(self) -> int:
        return 60 if self.is_quick else 900

    @property
    def rounds(self) -> int:
        return 2 if self.is_quick else 10

    def model(self) -> Grounder:
        """The champion's network (narrow in a quick run) with scales at which every path counts."""
        torch.manual_seed(0)
        with self.device:
            return Grounder(ModelConfig(**({"scale_init": 0.5} | self.narrow))).to(self.device)

    def learner(self, precision: str = "float32", **train: Any) -> Learner:
        return learner_of(self.model(), self.device, precision=kit_precision(precision), **train)

    def predictor(self, precision: str) -> Predictor:
        return predictor_of(self.model().eval(), precision)

    def batch(self, num_queries: int, num_clips: int | None = None) -> Batch:
        """Random features on the CPU; queries are dealt to the clips in turn, by default one for each."""
        random = torch.Generator().manual_seed(1)
        num_clips, num_steps, (video_dim, text_dim) = num_clips or num_queries, self.num_steps, self.dims
        queries, center = range(num_queries), num_steps / 2
        return Batch.collate(
            clips=[torch.randn(num_steps, video_dim, generator=random) for _ in range(num_clips)],
            texts=[torch.randn(8 + i % 9, text_dim, generator=random) for i in queries],
            clip_index=[i * num_clips // num_queries for i in queries],
            moments_grid=[torch.tensor([[center - 4.0 * 2 ** (i % 3), center + 9.0]]) for i in queries],
            query_ids=[f"q_{i}" for i in queries],
            clip_uids=[f"c{i}" for i in range(num_clips)],
            durations_sec=[num_steps * STEP_SEC] * num_queries,
        )

    def given(self, num_queries: int) -> Batch:
        """The same for a step as training gives it: on a GPU float16 and pinned."""
        batch = self.batch(num_queries)
        return replace(batch, video=batch.video.half()).pin_memory() if self.device.type == "cuda" else batch

    def make_split(self, clip_steps: list[int], queries_per_clip: int) -> Path:
        """Records, features and tokens of a synthetic split; val is its first clip, few every fourth query."""
        folder, random = self.folder / "split", np.random.default_rng(0)
        folder.mkdir(exist_ok=True)
        video_dim, text_dim = self.dims
        noise = random.standard_normal((max(clip_steps) + 8 * len(clip_steps), video_dim), np.float32)
        clips = ((f"c{i}", noise[8 * i : 8 * i + n]) for i, n in enumerate(clip_steps))
        write_features(folder / "features.h5", clips, dtype="float16")
        records, tokens = [], []
        for i, n in enumerate(clip_steps):
            for q in range(queries_per_clip):
                start, duration = float(random.uniform(0, n - 8)) * STEP_SEC, n * STEP_SEC
                records.append(Record(f"a{i}_{q}", f"c{i}", "where?", duration, ((start, start + 4.0),)))
                size = (8 + (i + q) % 9, text_dim)
                tokens.append((f"a{i}_{q}", torch.from_numpy(random.standard_normal(size, np.float32))))
        write_records(folder / "train.jsonl", records)
        write_records(folder / "few.jsonl", records[::4])
        write_records(folder / "val.jsonl", records[:queries_per_clip])
        write_tokens(folder / "text.h5", tokens, encoder="random")
        return folder

    def open_split(self, indices: Sequence[int] | None = None) -> QueryDataset:
        """All its queries, or some."""
        folder = self.folder / "split"
        stores, records = (
            (FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")),
            read_records(folder / "train.jsonl"),
        )
        records = records if indices is None else [records[i] for i in indices]
        return QueryDataset(records, *stores, CHAMPION.data.grid)


def learner_of(model: Grounder, device: torch.device, world: World | None = None, **train: Any) -> Learner:
    """A learner of single steps; a CPU records what `train.cuda_graphs` would capture."""
    config, world = TrainConfig(**train), world or World(device=device)
    loss = Criterion(config, world.device)
    task = Task(model, loss, loss.weights, Normaliser(loss.normaliser, loss.update), own_rate=bool)
    learner = Learner(task, config, world)
    if config.cuda_graphs and device.type == "cpu":
        capture = recording(lambda: [*(p.grad for p in model.parameters()), loss.normaliser])
        learner.graphs = StepGraphs(learner._backward, device, capture)
    return learner


def predictor_of(model: Grounder, precision: str, config: RunConfig = CHAMPION) -> Predictor:
    """A silent predictor with the model's device."""
    world = World(device=next(model.parameters()).device)
    return Predictor(model, config, kit_precision(precision), world, reporter=Reporter())


@contextmanager
def in_tf32(is_on: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TF32, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def kit_precision(name: str) -> Literal["float32", "bfloat16"]:
    """The kit's own name; TF32 is float32 with another switch."""
    return "bfloat16" if name == "bfloat16" else "float32"
