"""The answer to a question about one clip: ranked moments, and the scores behind them."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from groundnlq.model.grounder import Outputs


class Moment(NamedTuple):
    """Predicted segment of a clip in seconds, and its score in (0, 1]."""

    start_sec: float
    end_sec: float
    score: float


class Answer(NamedTuple):
    """A free-form query about a clip, its moments, and the scores of the points of each level, finest first."""

    question: str
    duration_sec: float
    moments: list[Moment]
    level_scores: list[np.ndarray]

    @classmethod
    def of(cls, question: str, duration_sec: float, moments: Tensor, outputs: Outputs) -> "Answer":
        """Of decoded moments (K, 3) and the network's outputs for the one query."""
        valid = outputs.mask[0]
        scores, level = outputs.logits[0, valid].float().sigmoid().cpu(), outputs.points.level[valid].cpu()
        levels = [scores[level == number].numpy() for number in range(int(outputs.points.level.max()) + 1)]
        rows = [Moment(start, min(end, duration_sec), score) for start, end, score in moments.tolist()]  # of float32
        return cls(question, duration_sec, rows, levels)
