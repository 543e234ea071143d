"""A free-form query: a question that was typed, about the clip of a record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from groundnlq.analysis.candidates import LivePredictions
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import same_encoder
from groundnlq.errors import DataError


def ask_about_clip(run: LivePredictions, text: str, clip: Record, encoder: TextEncoder) -> LivePredictions:
    """The predictions of a run's network for a question, as those of a split of one query; a KitError where it cannot
    be encoded, or not as the queries were."""
    there = run.dataset.tokens
    if not same_encoder(encoder.name, there.encoder) or encoder.width != there.width:
        raise DataError(
            f"the queries were encoded by {there.encoder} ({there.width} wide), this question would be by "
            f"{encoder.name} ({encoder.width} wide) -- give the explorer the encoder of the queries"
        )
    (tokens,) = encoder.encode([text])
    record = Record("own_0", clip.clip_uid, text, clip.duration_sec)
    store: Any = SimpleNamespace(read=lambda query_id: tokens, encoder=encoder.name, width=encoder.width)
    dataset = QueryDataset([record], run.dataset.store, store, run.config.data.grid)
    return LivePredictions(run.predictor, dataset)


def words_of_query(encoder: TextEncoder | None, text: str, num_tokens: int) -> list[str]:
    """The word piece of each token of a query; numbers where the encoder is not known."""
    if encoder is not None:
        pieces = encoder.tokenizer.tokenize(encoder.prepare(text))
        if len(pieces) == num_tokens:
            return [piece.replace("</w>", "") for piece in pieces]
    return [f"token {number}" for number in range(1, num_tokens + 1)]
