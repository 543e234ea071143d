"""The sample's text encoder, MiniLM (a BERT), without `transformers`, whose import takes longer than an answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional


class MiniLM:
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


class WordPieces:
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
