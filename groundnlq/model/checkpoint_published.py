"""The published checkpoint layout: its names and shapes, to and from ours."""

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

# (published, ours); `{i}` stands for an index. Read in order, the first that fits the whole name counts.
_BLOCK = [
    ("ln1", "self_norm"),
    ("ln2", "mlp_norm"),
    ("ln3", "cross_norm"),
    ("attn.query_conv.conv", "self_attention.query_conv"),
    ("attn.key_conv.conv", "self_attention.key_conv"),
    ("attn.value_conv.conv", "self_attention.value_conv"),
    ("attn.query_norm", "self_attention.query_norm"),
    ("attn.key_norm", "self_attention.key_norm"),
    ("attn.value_norm", "self_attention.value_norm"),
    ("attn.query", "self_attention.query"),
    ("attn.key", "self_attention.key"),
    ("attn.value", "self_attention.value"),
    ("attn.proj", "self_attention.out"),
    ("cross_attn.query", "cross_attention.query"),
    ("cross_attn.key", "cross_attention.key"),
    ("cross_attn.value", "cross_attention.value"),
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
_HEADS = ("cls_head.", "reg_head.")


def _published_name(name: str) -> str:
    """The published name of one of our parameters (`heads.level_scale` has several).

    >>> _published_name("video_encoder.stem.2.cross_attention.out.bias")
    'backbone.vid_stem.2.cross_attn.proj.bias'
    """
    return _rename(name, [(ours, theirs) for theirs, ours in _RULES])


def _our_name(name: str) -> str:
    """Our name of a published parameter."""
    return _rename(name.removeprefix("module."), _RULES)


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state (or gradients by name) in the published names and shapes."""
    published: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == _LEVEL_SCALE:
            published |= {f"reg_head.scale.{i}.scale": x for i, x in enumerate(value)}
        else:
            theirs = _published_name(name)
            published[theirs] = value.reshape(_published_shape(theirs, value))
    return published


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state (with or without ``module.``) in our names and shapes.

    Raises:
        CheckpointError: names that the layout does not have, all in one message.
    """
    plain = {str(name).removeprefix("module."): value for name, value in state.items()}
    scales = sorted((n for n in plain if re.fullmatch(r"reg_head\.scale\.\d+\.scale", n)), key=_index)
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, value in plain.items():
        try:
            ours |= {_our_name(name): _our_value(value)} if name not in scales else {}
        except CheckpointError:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"parameters that GroundNLQ does not have: {sample_of(sorted(unknown))}")
    if scales:
        ours[_LEVEL_SCALE] = torch.stack([plain[name].reshape(()) for name in scales])
    return ours


def load_published(path: str | Path, preset: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Architecture and state (in our names) of a published ``.pth.tar`` file; nothing in it is run.

    Args:
        preset: gives what the shapes do not show: heads, window and length of the position table.

    Raises:
        CheckpointError: unreadable or refused file, missing or unexpected keys, other shapes; all by name.
    """
    content = load_tensors(path, CheckpointError)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: no 'state_dict' of tensors in it -- is this a published GroundNLQ checkpoint?")
    try:
        ours = from_published(state)
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
    return ModelConfig(
        video_dim=video_dim,
        text_dim=text_dim,
        width=width,
        num_heads=preset.num_heads,
        window=preset.window,
        num_embed_layers=_count(state, "video_encoder.embedding.norms.{i}.weight"),
        num_text_layers=_count(state, "query_encoder.blocks.{i}.self_norm.weight"),
        num_stem_layers=_count(state, "video_encoder.stem.{i}.self_norm.weight"),
        num_cross_levels=num_cross,
        num_self_levels=num_levels - 1 - num_cross,
        max_seq_len=preset.max_seq_len,
        regression_ranges_grid=published_ranges(num_levels),
    )


def published_ranges(num_levels: int) -> tuple[tuple[float, float], ...]:
    """Regression ranges of a pyramid of that many levels, doubling, the last one open.

    >>> published_ranges(3)
    ((0, 4), (2, 8), (4, 10000))
    """
    ranges = [(0 if level == 0 else 2**level, 2 ** (level + 2)) for level in range(num_levels)]
    return (*ranges[:-1], (ranges[-1][0], 10000))


def check_state(state: Mapping[str, Tensor], config: ModelConfig, where: str) -> None:
    """Compare names and shapes with what the architecture needs, before anything is loaded.

    Raises:
        CheckpointError: names the missing, the unexpected and the differently shaped ones.
    """
    with torch.device("meta"):
        expected = {name: value.shape for name, value in Grounder.from_config(config).state_dict().items()}
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{where}: holds no named tensors -- restore the file, or train again")
    faults = []
    if missing := expected.keys() - state.keys():
        faults.append(f"missing: {sample_of(sorted(missing))}")
    if unexpected := state.keys() - expected.keys():
        faults.append(f"unexpected: {sample_of(sorted(unexpected))}")
    for name in sorted(expected.keys() & state.keys()):
        if expected[name] != state[name].shape:
            faults.append(f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name])}")
    if faults:
        raise CheckpointError(
            f"{where}: not the weights of this architecture: {'; '.join(faults[:8])} -- check file and preset"
        )


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    stem, _, kind = name.rpartition(".")
    for old, new in rules:
        pattern = re.escape(old).replace(r"\{i\}", r"(\d+)")
        if match := re.fullmatch(pattern, stem):
            return f"{new.replace('{i}', match[1]) if match.groups() else new}.{kind}"
    raise CheckpointError(f"parameter {name!r} is not part of the GroundNLQ layout")


def _published_shape(name: str, value: Tensor) -> tuple[int, ...]:
    if value.dim() == 1:
        is_per_channel = re.search(r"norm|\.ln\d\.|drop_path", name)
        return (1, len(value), 1) if is_per_channel else (len(value),)
    return (*value.shape, 1) if value.dim() == 2 else tuple(value.shape)


def _our_value(value: Tensor) -> Tensor:
    if value.dim() == 3 and value.shape[2] == 1:  # scale or LayerNorm (1, D, 1), or linear map (out, in, 1)
        return value.reshape(-1) if value.shape[0] == 1 else value.squeeze(2)
    return value


def _index(name: str) -> int:
    return int(name.split(".")[2])


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    regex = re.escape(pattern).replace(r"\{i\}", r"\d+")
    return sum(re.fullmatch(regex, name) is not None for name in state)
