"""A free-form query: a question that was typed, about the clip of a record."""

import random
from collections.abc import Sequence
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any

from groundnlq.analysis.candidates import LivePredictions
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import same_encoder
from groundnlq.errors import DataError


def ask_about_clip(run: LivePredictions, texts: Sequence[str], clip: Record, encoder: TextEncoder) -> LivePredictions:
    """The predictions of a run's network for questions, as those of a split; a KitError where they cannot be encoded,
    or not as the queries were."""
    there = run.dataset.tokens
    if not same_encoder(encoder.name, there.encoder) or encoder.width != there.width:
        raise DataError(
            f"the queries were encoded by {there.encoder} ({there.width} wide), this question would be by "
            f"{encoder.name} ({encoder.width} wide) -- give the explorer the encoder of the queries"
        )
    records = [Record(f"own_{n}", clip.clip_uid, text, clip.duration_sec) for n, text in enumerate(texts)]
    tokens = dict(zip((record.query_id for record in records), encoder.encode(list(texts)), strict=True))
    store: Any = SimpleNamespace(read=tokens.__getitem__, encoder=encoder.name, width=encoder.width)
    return LivePredictions(run.predictor, QueryDataset(records, run.dataset.store, store, run.config.data.grid))


def random_questions(count: int) -> list[str]:
    """Questions without meaning: four words of random letters each, always the same ones."""
    letters = random.Random(0)
    return [" ".join("".join(letters.choices(ascii_lowercase, k=5)) for _ in range(4)) + "?" for _ in range(count)]


def words_of_query(encoder: TextEncoder | None, text: str, num_tokens: int) -> list[str]:
    """The word piece of each token of a query; numbers where the encoder is not known."""
    if encoder is not None:
        pieces = encoder.tokenizer.tokenize(encoder.prepare(text))
        if len(pieces) == num_tokens:
            return [piece.replace("</w>", "") for piece in pieces]
    return [f"token {number}" for number in range(1, num_tokens + 1)]
