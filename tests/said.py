"""A network that says what a test wants: a `LiveRun` over given segments and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from groundnlq.analysis.candidates import LiveRun
from groundnlq.config import RunConfig, parse_config
from groundnlq.data.records import Record
from groundnlq.model.grounder import Outputs
from groundnlq.model.points import make_points

RANGES = [[0, 4], [2, 8], [4, 16], [8, 10000]]


def config_of(**decode) -> RunConfig:
    """A second a step, four levels."""
    tree = {
        "name": "said",
        "model": {"num_self_levels": 3, "regression_ranges_grid": RANGES, "max_seq_len": 64},
        "data": {"fps": 30.0, "snippet_stride_frames": 30.0, "half_window": "consistent"},
        "decode": decode,
    }
    return parse_config(tree, "said")


class Said(nn.Module):
    """Gives each query its segments in seconds: (start, end, score) rows at points of the finest level."""

    def __init__(self, said: Mapping[str, Sequence[Sequence[float]]]):
        super().__init__()
        self.said = said
        self.where = nn.Parameter(torch.zeros(1))

    def forward(self, batch) -> Outputs:
        num_points = max([1, *(len(self.said.get(i, ())) for i in batch.query_ids)])
        points = make_points([num_points], [[0, 10000]])
        rows = [self._row(self.said.get(query_id, ()), points.time_grid) for query_id in batch.query_ids]
        logits, offsets, mask = (torch.stack(field) for field in zip(*rows, strict=True))
        return Outputs(logits, offsets, mask, points)

    @staticmethod
    def _row(said: Sequence[Sequence[float]], time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.tensor([*said, *[[0.5, 0.5, 1e-9]] * (len(time) - len(said))], dtype=torch.float32)
        start, end, score = rows.double().unbind(-1)
        offsets = torch.stack(
            [time - (start - 0.5), (end - 0.5) - time], dim=-1
        )  # a step is half a second on
        mask = torch.arange(len(time)) < max(1, len(said))
        return torch.logit(score).float(), offsets.float(), mask


def live_run(records: Sequence[Record], said: Mapping[str, Sequence[Sequence[float]]], **decode) -> LiveRun:
    """What `Said` says of these records."""

    def batch(indices):
        made = SimpleNamespace(query_ids=[records[i].query_id for i in indices], video=torch.zeros(1))
        made.to = lambda device, dtype: made
        return made

    dataset = SimpleNamespace(records=list(records), batch=batch)
    return LiveRun(Said(said), config_of(**decode), dataset, progress=False)
