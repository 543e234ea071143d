"""EgoNCE, the loss of stage one, and EgoMCQ, its validation (EgoVLP, Lin et al. 2022)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from groundnlq.data.records import Record
from groundnlq.engine.distributed import World

NUM_CHOICES = 5
_DRAWS = 64  # of other videos' narrations, of which four are wrong choices


class EgoNCE:
    """The loss of a batch of texts and videos of all processes: called with the features of both, (b, D) each, and the
    batch of this process; returns named sums over its rows, and their number."""

    def __init__(self, temperature: float, num_verbs: int, world: World):
        self.temperature, self.num_verbs, self.world = temperature, num_verbs, world
        self.weights = {"text to video": 1.0, "video to text": 1.0}

    def __call__(self, features: tuple[Tensor, Tensor], batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        texts, videos = (normalize(x.float(), dim=1) for x in features[::-1])
        mine = torch.cat([texts, videos, batch.tags], dim=1)
        widths = [texts.shape[1], videos.shape[1], batch.tags.shape[1]]
        all_texts, all_videos, tags = self.world.gather_rows(mine).split(widths, dim=1)
        positives = self.positives(batch.tags, tags)
        pairs = (texts, all_videos), (videos, all_texts)
        losses = [egonce(rows @ others.T, positives, self.temperature) for rows, others in pairs]
        count = torch.tensor(len(texts), dtype=torch.float64, device=texts.device)
        return dict(zip(self.weights, losses, strict=True)), count

    def positives(self, ours: Tensor, others: Tensor) -> Tensor:
        """(b, B) bool: the same narration, or one that shares a verb and a noun, by `NarratedBatch.tags`."""
        (one, verbs, nouns), (other, other_verbs, other_nouns) = (
            (tags[:, :1], tags[:, 1 : 1 + self.num_verbs], tags[:, 1 + self.num_verbs :]) for tags in (ours, others)
        )
        return (one == other.T) | ((verbs @ other_verbs.T > 0) & (nouns @ other_nouns.T > 0))


def egonce(similarity: Tensor, positives: Tensor, temperature: float = 0.05) -> Tensor:
    """Sum over the rows i of (b, B) similarities of ``-log Σ_{j positive of i} softmax_j(similarity / temperature)``.

    Every row has a positive. With the row itself alone it is InfoNCE.
    """
    log_shares = log_softmax(similarity / temperature, dim=1)
    return -log_shares.masked_fill(~positives, -torch.inf).logsumexp(dim=1).sum()


def questions(records: Sequence[Record], seed: int = 0) -> dict[str, np.ndarray]:
    """EgoMCQ: by kind, (Q, 5) places of records: a narration and, behind it, four wrong choices.

    These are of other recordings (``inter``) or of the same one (``intra``), and no positives of the narration. Records
    that have not so many are not asked about.
    """
    by_video: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        by_video.setdefault(_recording(record), []).append(place)
    asked: dict[str, list[list[int]]] = {"inter": [], "intra": []}
    for place, record in enumerate(records):
        random, own = np.random.default_rng([seed, place]), by_video[_recording(record)]
        drawn = {"inter": random.integers(len(records), size=_DRAWS), "intra": random.permutation(own)}
        for kind, found in drawn.items():
            others = [i for i in dict.fromkeys(found.tolist()) if not is_positive(record, records[i])]
            others = [i for i in others if (_recording(records[i]) == _recording(record)) == (kind == "intra")]
            if len(others) >= NUM_CHOICES - 1:
                asked[kind].append([place, *others[: NUM_CHOICES - 1]])
    return {kind: np.array(choices) for kind, choices in asked.items() if choices}


def egomcq(videos: np.ndarray, texts: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """(Q,) whether a text is nearer to its own video than to all wrong choices, by cosine; features are (N, D)."""
    videos = videos / np.linalg.norm(videos, axis=1, keepdims=True).clip(min=1e-9)
    similarity = np.einsum("qd,qcd->qc", texts[choices[:, 0]], videos[choices])
    return similarity[:, 0] > similarity[:, 1:].max(axis=1)


def is_positive(one: Record, other: Record) -> bool:
    """Whether two narrations tell the same: the same text, or a verb and a noun that both have."""
    shares = not set(one.verbs).isdisjoint(other.verbs) and not set(one.nouns).isdisjoint(other.nouns)
    return shares or one.query == other.query


def _recording(record: Record) -> str:
    return record.video_uid or record.clip_uid
