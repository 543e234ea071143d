"""Query tokens: one packed matrix that lies whole in memory, and where each query begins in it."""

import hashlib
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from groundnlq.data.store import StoreFile, accepted
from groundnlq.errors import FeatureError, Findings, sample_of
from groundnlq.files import SAFE_ID, atomic_path

IMPORTED = "import of "  # how the encoder of imported tokens is named where nobody named it


def same_encoder(one: str | None, other: str | None) -> bool:
    """Whether two names may be of one text encoder: equal, as are the hashes where both have one, or not known."""
    (name, _, digest), (other_name, _, other_digest) = ((text or IMPORTED).partition(" ") for text in (one, other))
    is_known = IMPORTED.split()[0] not in (name, other_name)
    return not is_known or (name == other_name and (digest == other_digest or not digest or not other_digest))


class TokenStore:
    """Token features of all queries: one packed matrix and where each query begins in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with StoreFile.open(self.path, "tokens") as root:
            self._matrix = torch.from_numpy(root.plain_dataset("tokens")[()])
            offsets = root.plain_dataset("offsets")[()].tolist()
            ids = root.plain_dataset("query_ids").asstr()[()].tolist()
            self.encoder = root.text("encoder")
            self.sha256 = root.text("sha256", "unknown")  # of ids and values, in order
            self._spans = dict(zip(ids, pairwise(offsets), strict=True))
        self._require_whole(offsets)
        self.query_ids, self.width = ids, self._matrix.shape[1]

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._spans

    def read(self, query_id: str) -> Tensor:
        """(L, width) float32 token features of a query."""
        if query_id not in self._spans:
            raise FeatureError(f"{self.path}: no tokens of query {query_id} -- encode its records")
        first, last = self._spans[query_id]
        return self._matrix[first:last]

    def damaged_files(self) -> list[Path]:
        """The file, if ids and values do not have the checksum that they were written with."""
        lengths = [last - first for first, last in self._spans.values()]
        digest = _digest(self.query_ids, lengths, self._matrix.numpy())
        return [] if self.sha256 in ("unknown", digest) else [self.path]

    def _require_whole(self, offsets: list[int]) -> None:
        is_matrix = self._matrix.dim() == 2 and self._matrix.dtype == torch.float32
        if not is_matrix or offsets[0] != 0 or offsets[-1] != len(self._matrix):
            raise FeatureError(f"{self.path}: damaged (tokens and offsets disagree) -- encode the text again")
        if empty := [query_id for query_id, (first, last) in self._spans.items() if last <= first]:
            raise FeatureError(f"{self.path}: no tokens in {sample_of(empty)} -- encode the text again")
        if not self._matrix.isfinite().all():
            bad = [i for i in self._spans if not self.read(i).isfinite().all()]
            raise FeatureError(f"{self.path}: NaN or Inf in tokens of {sample_of(bad)} -- encode the text again")


def write_tokens(path: str | Path, tokens: Iterable[tuple[str, Tensor]], *, encoder: str) -> int:
    """Write (query_id, (L, width) tokens) pairs atomically; returns the number of queries.

    A FeatureError names all queries whose tokens are empty, not (L, width), of another width than the first, hold NaN
    or Inf, are given twice, or that `tokens` itself raised.
    """
    findings = Findings(str(path), FeatureError)
    parts = dict(accepted(tokens, _checked, findings))
    findings.raise_if_any("encode or fetch these again; nothing was written")
    if not parts:
        raise FeatureError(f"{path}: no query to write -- check the records")
    matrix, lengths = torch.cat(list(parts.values())).numpy(), list(map(len, parts.values()))
    with atomic_path(path) as temporary, StoreFile(temporary, "w") as root:
        root["tokens"], root["offsets"] = matrix, np.cumsum([0, *lengths])
        root["query_ids"] = np.array(list(parts), dtype="S")
        root.write_texts(kind="tokens", encoder=encoder, sha256=_digest(list(parts), lengths, matrix))
    return len(parts)


def _digest(query_ids: list[str], lengths: list[int], matrix: np.ndarray) -> str:
    return hashlib.sha256(json.dumps([query_ids, lengths]).encode() + matrix.tobytes()).hexdigest()


def _checked(query_id: str, values: Tensor, width: int | None) -> Tensor:
    values = values[None] if values.dim() == 1 else values  # older published stores: a vector is one token
    width = width or values.shape[-1]
    fault = None if values.isfinite().all() else "tokens hold NaN or Inf"
    if not SAFE_ID.fullmatch(query_id):
        fault = "the id is not allowed; ids are letters, digits, '.', '_', '-'"
    elif values.dim() != 2 or len(values) == 0 or values.shape[1] != width:
        fault = f"tokens are {tuple(values.shape)}, expected (L, {width}), L >= 1"
    if fault:
        raise FeatureError(f"query {query_id!s:.80}: {fault}")
    return values.float()
