"""A network with given predictions: `LivePredictions` over given segments and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from groundnlq.analysis.candidates import LivePredictions
from groundnlq.config import RunConfig
from groundnlq.data.records import Record
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter
from groundnlq.model.grounder import Outputs
from groundnlq.model.points import make_points

RANGES = [[0, 4], [2, 8], [4, 16], [8, 10000]]


def config_of(train: Mapping | None = None, ranges: Sequence = RANGES, **decode) -> RunConfig:
    """A second a step, by default four levels."""
    tree = {
        "name": "stub",
        "model": {"num_self_levels": len(ranges) - 1, "regression_ranges_grid": ranges, "max_seq_len": 64},
        "data": {"fps": 30.0, "snippet_stride_frames": 30.0, "half_window": "consistent"},
        "train": dict(train or {}),
        "decode": decode,
    }
    return RunConfig.parse(tree, "stub")


class StubNetwork(nn.Module):
    """Gives each query its segments in seconds: (start, end, score) rows at points of the finest level."""

    def __init__(self, segments: Mapping[str, Sequence[Sequence[float]]]):
        super().__init__()
        self.segments = segments
        self.where = nn.Parameter(torch.zeros(1))

    def forward(self, batch) -> Outputs:
        num_points = max([1, *(len(self.segments.get(i, ())) for i in batch.query_ids)])
        points = make_points((num_points,), ((0, 10000),))
        rows = [self._row(self.segments.get(query_id, ()), points.time_grid) for query_id in batch.query_ids]
        logits, offsets, mask = (torch.stack(field) for field in zip(*rows, strict=True))
        return Outputs(logits, offsets, mask, points)

    @staticmethod
    def _row(segments: Sequence[Sequence[float]], time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        padding = [[0.5, 0.5, 1e-9]] * (len(time) - len(segments))
        start, end, score = torch.tensor([*segments, *padding], dtype=torch.float32).double().unbind(-1)
        offsets = torch.stack([time - (start - 0.5), (end - 0.5) - time], dim=-1)  # a step is half a second on
        mask = torch.arange(len(time)) < max(1, len(segments))
        return torch.logit(score).float(), offsets.float(), mask


def live_predictions(
    records: Sequence[Record],
    segments: Mapping[str, Sequence[Sequence[float]]],
    config: RunConfig | None = None,
    **decode,
) -> LivePredictions:
    """The predictions of a `StubNetwork` for these records."""

    def batch(indices):
        made = SimpleNamespace(query_ids=[records[i].query_id for i in indices], video=torch.zeros(1))
        made.to = lambda device, **_: made
        return made

    dataset = SimpleNamespace(records=list(records), batch=batch, store=SimpleNamespace(rate={}))
    predictor = Predictor(StubNetwork(segments), config or config_of(**decode), reporter=Reporter())
    return LivePredictions(predictor, dataset)
