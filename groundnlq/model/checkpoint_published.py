"""The published checkpoint layout: its names and shapes, read as ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from groundnlq.config import ModelConfig
from groundnlq.errors import CheckpointError, sample_of
from groundnlq.files import load_tensors
from groundnlq.model.grounder import Grounder

# (published, ours); `{i}` stands for an index, `{role}` for query, key or value
_BLOCK = [
    ("ln1", "self_norm"),
    ("ln2", "mlp_norm"),
    ("ln3", "cross_norm"),
    ("attn.{role}_conv.conv", "self_attention.{role}_conv"),
    ("attn.{role}_norm", "self_attention.{role}_norm"),
    ("attn.{role}", "self_attention.{role}"),
    ("attn.proj", "self_attention.out"),
    ("cross_attn.{role}", "cross_attention.{role}"),
    ("cross_attn.proj", "cross_attention.out"),
    ("mlp.0", "mlp.0"),
    ("mlp.3", "mlp.2"),
    ("drop_path_attn", "attention_path"),
    ("drop_path_mlp", "mlp_path"),
]
_STACKS = [
    ("backbone.txt_stem.{i}", "query_encoder.blocks.{i}"),
    ("backbone.vid_stem.{i}", "video_encoder.stem.{i}"),
    ("backbone.branch.{i}", "video_encoder.branch.{i}"),
]
_RULES = [
    ("backbone.vid_embd.{i}.conv", "video_encoder.embedding.convs.{i}"),
    ("backbone.vid_embd_norm.{i}", "video_encoder.embedding.norms.{i}"),
    ("backbone.txt_embd.{i}.conv", "query_encoder.linears.{i}"),
    ("backbone.txt_embd_norm.{i}", "query_encoder.norms.{i}"),
    *((f"{p}.{q}", f"{ours}.{name}") for p, ours in _STACKS for q, name in _BLOCK),
    ("neck.fpn_norms.{i}", "neck.norms.{i}"),
    ("cls_head.head.{i}.conv", "heads.classification.convs.{i}"),
    ("cls_head.norm.{i}", "heads.classification.norms.{i}"),
    ("cls_head.cls_head.conv", "heads.classification.out"),
    ("reg_head.head.{i}.conv", "heads.regression.convs.{i}"),
    ("reg_head.norm.{i}", "heads.regression.norms.{i}"),
    ("reg_head.offset_head.conv", "heads.regression.out"),
]
_LEVEL_SCALE = "heads.level_scale"  # one vector here, one scalar `reg_head.scale.{i}.scale` per level there


def _from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state (with or without ``module.``) in our names and shapes; unknown names are refused together."""
    ours: dict[str, Tensor] = {}
    scales: dict[int, Tensor] = {}
    unknown = []
    for name, value in state.items():
        name = str(name).removeprefix("module.")
        if match := re.fullmatch(r"reg_head\.scale\.(\d+)\.scale", name):
            scales[int(match[1])] = value.reshape(())
        elif our_name := _rename(name, _RULES):
            ours[our_name] = _our_shape(value)
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"parameters that GroundNLQ does not have: {sample_of(sorted(unknown))}")
    if scales:
        ours[_LEVEL_SCALE] = torch.stack([scales[level] for level in sorted(scales)])
    return ours


def load_published(path: str | Path, preset: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Architecture and state (in our names) of a published ``.pth.tar`` file; nothing in it is run.

    `preset` gives what the shapes do not show: heads, window, length of the position table, training's own. A
    CheckpointError names missing and unexpected keys and other shapes.
    """
    content = load_tensors(path, CheckpointError)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: no 'state_dict' of tensors in it -- is this a published GroundNLQ checkpoint?")
    try:
        ours = _from_published(state)
        config = _infer_config(ours, preset)
    except (CheckpointError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a GroundNLQ checkpoint: {reason:.300} -- check the file") from None
    check_state(ours, config, str(path))
    return config, ours


def _infer_config(state: Mapping[str, Tensor], preset: ModelConfig) -> ModelConfig:
    """The architecture that the names and shapes of a state (in our names) show."""
    try:
        width, video_dim, _ = state["video_encoder.embedding.convs.0.weight"].shape
        text_dim = state["query_encoder.linears.0.weight"].shape[1]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint shows no GroundNLQ embedding (missing {error})") from None
    num_levels = 1 + _count(state, "video_encoder.branch.{i}.self_norm.weight")
    num_cross = _count(state, "video_encoder.branch.{i}.cross_norm.weight")
    shown = {
        "video_dim": video_dim,
        "text_dim": text_dim,
        "width": width,
        "num_embed_layers": _count(state, "video_encoder.embedding.norms.{i}.weight"),
        "num_text_layers": _count(state, "query_encoder.blocks.{i}.self_norm.weight"),
        "num_stem_layers": _count(state, "video_encoder.stem.{i}.self_norm.weight"),
        "num_cross_levels": num_cross,
        "num_self_levels": num_levels - 1 - num_cross,
        "regression_ranges_grid": _published_ranges(num_levels),
    }
    return ModelConfig(**preset.model_dump() | shown)


def _published_ranges(num_levels: int) -> tuple[tuple[float, float], ...]:
    """Regression ranges of a pyramid of that many levels, doubling, the last one open.

    >>> _published_ranges(3)
    ((0, 4), (2, 8), (4, 10000))
    """
    ranges = [(0 if level == 0 else 2**level, 2 ** (level + 2)) for level in range(num_levels)]
    return (*ranges[:-1], (ranges[-1][0], 10000))


def check_state(state: Mapping[str, Tensor], config: ModelConfig, where: str) -> None:
    """Compare names and shapes with what the architecture needs, before anything is loaded; what differs is named."""
    with torch.device("meta"):
        expected = {name: value.shape for name, value in Grounder(config).state_dict().items()}
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{where}: holds no named tensors -- restore the file, or train again")
    apart = {"missing": expected.keys() - state.keys(), "unexpected": state.keys() - expected.keys()}
    faults = [f"{what}: {sample_of(sorted(names))}" for what, names in apart.items() if names]
    for name in sorted(expected.keys() & state.keys()):
        if expected[name] != state[name].shape:
            faults.append(f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name])}")
    if faults:
        raise CheckpointError(
            f"{where}: not the weights of this architecture: {'; '.join(faults[:8])} -- check file and preset"
        )


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """The other name of a parameter by the first rule that fits.

    >>> _rename("backbone.vid_stem.2.cross_attn.proj.bias", _RULES)
    'video_encoder.stem.2.cross_attention.out.bias'
    """
    stem, _, kind = name.rpartition(".")
    for old, new in rules:
        if match := re.fullmatch(_pattern(old), stem):
            return f"{new.format(**match.groupdict())}.{kind}"
    return None


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{role\}", "(?P<role>query|key|value)")


def _our_shape(value: Tensor) -> Tensor:
    if value.dim() == 3 and value.shape[2] == 1:  # scale or LayerNorm (1, D, 1), or linear map (out, in, 1)
        return value.reshape(-1) if value.shape[0] == 1 else value.squeeze(2)
    return value


def _count(state: Mapping[str, Tensor], name: str) -> int:
    return sum(re.fullmatch(_pattern(name), key) is not None for key in state)
