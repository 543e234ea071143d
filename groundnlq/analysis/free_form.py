"""A question of one's own about a clip: asked of a network, and what stands for its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groundnlq.analysis.candidates import FixedRun, LiveRun
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import TokenStore
from groundnlq.errors import DataError


class Question:
    """Asked of each run once for each way of decoding."""

    def __init__(self, text: str, clip: Record, encoder: TextEncoder):
        self.record = Record("own_0", clip.clip_uid, text, clip.duration_sec)
        self.encoder = encoder
        self._said: dict[tuple, tuple] = {}

    def ask(self, run: FixedRun | LiveRun, **rules: float) -> tuple[np.ndarray, Sequence, np.ndarray | None]:
        """Moments, scores of every level and attention, as `LiveRun.ask` gives them.

        A file has nothing to say of it.

        Raises:
            KitError: the question cannot be encoded, or not as the queries were.
        """
        if not run.is_live:
            return np.zeros((0, 3)), (), None
        key = (run, *rules.items())
        if key not in self._said:
            require_same_encoder(self.encoder, run.dataset.tokens)
            (tokens,) = self.encoder.encode([self.record.query])
            self._said[key] = run.ask(self.record, tokens, **rules)
        return self._said[key]


def require_same_encoder(encoder: TextEncoder, tokens: TokenStore) -> None:
    """Refuse to encode a question otherwise than the queries were: the network would misread it.

    Raises:
        DataError: names both encoders. Of imported tokens nothing but the width is known.
    """
    is_other = encoder.name != tokens.encoder and not tokens.encoder.startswith("import of ")
    if is_other or encoder.width != tokens.width:
        raise DataError(
            f"the queries were encoded by {tokens.encoder} ({tokens.width} wide), this question would be by "
            f"{encoder.name} ({encoder.width} wide) -- give the explorer the encoder of the queries"
        )


def words_of_query(encoder: TextEncoder | None, text: str, num_tokens: int) -> list[str]:
    """What stands for each token of a query; numbers where that is not known."""
    if encoder is not None:
        pieces = encoder.tokenizer.tokenize(encoder.prepare(text))
        if len(pieces) == num_tokens:
            return [piece.replace("</w>", "") for piece in pieces]
    return [f"token {number}" for number in range(1, num_tokens + 1)]
