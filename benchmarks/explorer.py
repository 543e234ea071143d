"""How long each turn of the explorer takes on a split of Ego4D's size: 4,552 queries, 415 clips, 7 levels.

    python benchmarks/explorer.py [--rounds 3]

The network is a stand-in that gives every query random peaks; what is timed is the explorer alone: filters,
decoding of the split, outcomes, recalls, drawing, and the picture as the notebook gets it. CPU time is what a
turn takes where nothing else runs; on a busy machine the wall clock includes the other processes.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from groundnlq.analysis.candidates import LivePredictions
from groundnlq.config import load_config
from groundnlq.data.records import Record
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter
from groundnlq.model.grounder import Outputs
from groundnlq.model.points import make_points
from groundnlq.view import explorer as module
from groundnlq.view import picture
from groundnlq.view.controls import ALL, NONE
from groundnlq.view.explorer import Explorer

NUM_QUERIES, NUM_CLIPS, CLIP_SEC = 4552, 415, 480.0


class Peaks(nn.Module):
    """For each query a few peaks of score somewhere, and segments of a length that fits the level."""

    def __init__(self, ranges_grid, num_steps: int, seed: int):
        super().__init__()
        lengths = tuple(-(-num_steps // 2**level) for level in range(len(ranges_grid)))
        self.points = make_points(lengths, ranges_grid)
        self.random = torch.Generator().manual_seed(seed)
        self.device = nn.Parameter(torch.zeros(1))

    def forward(self, batch) -> Outputs:
        num, time = len(batch.query_ids), self.points.time_grid
        centers = torch.rand(num, 6, 1, generator=self.random) * float(time.max())
        near = torch.exp(-(((time - centers) / (4 + self.points.stride)) ** 2)).amax(dim=1)
        logits = 6 * near - 6 + torch.randn(near.shape, generator=self.random) * 0.5
        offsets = 0.5 + 2 * torch.rand(num, len(time), 2, generator=self.random)
        return Outputs(logits, offsets, torch.ones_like(logits, dtype=torch.bool), self.points)


def make_run(records: list[Record], seed: int) -> LivePredictions:
    config = load_config("finetune")
    num_steps = int(CLIP_SEC / config.data.grid.step_sec)

    def batch(indices):
        made = SimpleNamespace(query_ids=[records[i].query_id for i in indices], video=torch.zeros(1))
        made.to = lambda *_, **__: made
        return made

    store = SimpleNamespace(path="none", rate={}, grid=config.data.grid)
    dataset = SimpleNamespace(records=records, batch=batch, store=store)
    model = Peaks(config.model.regression_ranges_grid, num_steps, seed)
    return LivePredictions(Predictor(model, config, reporter=Reporter()), dataset)


def make_records() -> list[Record]:
    random = np.random.default_rng(0)
    starts, lengths = random.uniform(0, CLIP_SEC - 40, NUM_QUERIES), random.lognormal(1.4, 1.2, NUM_QUERIES)
    return [
        Record(f"a{i}_{i % 11}", f"clip{i % NUM_CLIPS}", f"Where did I put thing {i}?", CLIP_SEC,
               ((starts[i], starts[i] + min(lengths[i], 40.0)),), template=f"template {i % 13}")
        for i in range(NUM_QUERIES)
    ]  # fmt: skip


class Screen:
    """Takes what a notebook would get: the panel, and copies of the picture."""

    def display(self, thing, **options):
        return self

    def update(self, bundle, **options) -> None:
        assert bundle["image/png"]


def turns(explorer: Explorer, number: int) -> dict:
    """Each a change that no turn before it has made."""
    names = list(explorer.by_clip)
    return {
        "choose a query": lambda: setattr(explorer.query, "index", number + 1),
        "next query": lambda: explorer.next.click(),
        "go to an answer": lambda: setattr(explorer.prediction, "index", 2),
        "answers k": lambda: setattr(explorer.top_k, "value", 6 + number),
        "tIoU": lambda: setattr(explorer.threshold, "value", 0.4 + 0.1 * number),
        "sigma": lambda: setattr(explorer.sigma, "index", number),
        "minimum score": lambda: setattr(explorer.min_score, "index", 3 + number),
        "search a text": lambda: setattr(explorer.search, "value", f"thing {number + 3}"),
        "outcome": lambda: setattr(explorer.outcome, "value", ("ranking within k", "suppressed", "hit")[number % 3]),
        "clear the text": lambda: setattr(explorer.search, "value", ""),
        "clear the outcome": lambda: setattr(explorer.outcome, "value", ALL),
        "choose a clip": lambda: setattr(explorer.clip, "value", names[number + 5]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    screen = Screen()
    module.display = picture.display = screen.display
    records = make_records()
    began = time.perf_counter()
    runs = {"one": make_run(records, 1), "other": make_run(records, 2)}
    explorer = Explorer(runs)
    explorer.picture.room = [950, 1, False]  # of a common screen
    explorer.show()
    took = time.perf_counter() - began
    began = time.process_time()
    explorer.second_run.value = "other"
    first = 1000 * (time.process_time() - began)
    print(f"{len(records)} queries, {torch.get_num_threads()} threads: ready after {took:.1f} s")
    print(f"a second run beside the first, for the first time: {first:.0f} ms CPU; of all turns in ms:")
    heads = ["median", "worst", "median CPU", "worst CPU"]
    print(f"{'':18}{'one run':>44}{'two runs':>44}\n{'':18}{''.join(f'{h:>11}' for h in heads * 2)}")
    table: dict[str, list[list[np.ndarray]]] = {}
    for beside in (NONE, "other"):
        explorer.second_run.value = beside
        spent: dict[str, list[np.ndarray]] = {}
        for number in range(rounds):
            explorer.clip.value = ALL
            for name, turn in turns(explorer, number).items():
                began = time.perf_counter(), time.process_time()
                turn()
                now = time.perf_counter(), time.process_time()
                spent.setdefault(name, []).append(1000 * np.subtract(now, began))
        explorer.top_k.value, explorer.threshold.value = 5, 0.3
        explorer.sigma.value, explorer.min_score.value = 0.75, 0.001
        for name, values in spent.items():
            table.setdefault(name, []).append(values)
    for name, columns in table.items():
        numbers = [f(values) for rows in columns for values in zip(*rows, strict=True) for f in (median, max)]
        print(f"{name:18}{''.join(f'{number:11.0f}' for number in numbers)}")


if __name__ == "__main__":
    main()
