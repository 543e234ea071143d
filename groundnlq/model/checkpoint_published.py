"""The published checkpoint layouts: their names and shapes, read as ours."""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from groundnlq.config import ModelConfig
from groundnlq.errors import CheckpointError, sample_of
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


# keys of a file under which weights lie: those of the last step, or averaged over the steps
_KEYS = {"raw": "(model_)?state_dict|model", "ema": "state_dict_ema|(model_)?ema(_state_dict)?"}
_WRAPPERS = {"module", "_orig_mod"}  # parts of names that DataParallel, AveragedModel and torch.compile add
_OURS = r"(video_encoder|query_encoder|text_map|neck\.norms|heads)\..+"


def _from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state, or one in our names, in our names and shapes; unknown names are refused together."""
    ours: dict[str, Tensor] = {}
    scales: dict[int, Tensor] = {}
    unknown = []
    for name, value in state.items():
        name = ".".join(part for part in str(name).split(".") if part not in _WRAPPERS)
        if match := re.fullmatch(r"reg_head\.scale\.(\d+)\.scale", name):
            scales[int(match[1])] = value.reshape(())
        elif our_name := _rename(name, _RULES) or (name if re.fullmatch(_OURS, name) else None):
            ours[our_name] = _our_shape(value)
        elif name != "n_averaged":  # how many steps AveragedModel has seen
            unknown.append(name)
    if unknown:
        odd = re.match(rf"(.+?\.)({_OURS}|(backbone|neck|cls_head|reg_head)\.)", unknown[0])
        hint = f" (remove the prefix {odd[1]!r})" if odd else ""
        raise CheckpointError(f"parameters that GroundNLQ does not have{hint}: {sample_of(sorted(unknown))}")
    if scales:
        ours[_LEVEL_SCALE] = torch.stack([scales[level] for level in sorted(scales)])
    return ours


def choose_weights(found: Mapping[str, Any], weights: str | None, default: str, where: str) -> Any:
    """The weights of a file that are asked for, else its default ones; an error lists what is there."""
    if (name := weights or default) not in found:
        raise CheckpointError(f"{where}: no weights {name!r} in it, only {', '.join(sorted(found))} -- ask for these")
    return found[name]


def load_published(
    content: Mapping[str, Any], where: str, preset: ModelConfig, weights: str | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Architecture and state (in our names) of what a published ``.pth.tar`` file holds, or of a bare state.

    `preset` gives what the shapes do not show: heads, window, position table, training's own. `weights` are ``raw`` (by
    default, where there are any) or ``ema``. A CheckpointError lists what is there instead, and names missing and
    unexpected keys and other shapes.
    """
    states = {str(key): value for key, value in content.items() if _is_state(value)}
    found = {what: states[key] for what, keys in _KEYS.items() for key in states if re.fullmatch(keys, key)}
    if not found and not _is_state(content):
        listed = sample_of(map(str, content)) or "nothing"
        raise CheckpointError(f"{where}: no weights in it (a 'state_dict' of tensors), only {listed} -- check the path")
    found = found or {"raw": content}
    if not weights and "raw" not in found:
        warnings.warn(f"{where}: only averaged weights in it; these are used", stacklevel=3)
    state = choose_weights(found, weights, "raw" if "raw" in found else "ema", where)
    try:
        ours = _from_published(state)
        config = _infer_config(ours, preset)
    except (CheckpointError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{where}: not a GroundNLQ checkpoint: {reason:.300} -- check the file") from None
    check_state(ours, config, where)
    return config, ours


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _infer_config(state: Mapping[str, Tensor], preset: ModelConfig) -> ModelConfig:
    """The architecture that the names and shapes of a state (in our names) show."""
    try:
        width, video_dim, _ = state["video_encoder.embedding.convs.0.weight"].shape
        text_dim, mapped = state["query_encoder.linears.0.weight"].shape[1], len(state.get("text_map.bias", ()))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint shows no GroundNLQ embedding (missing {error})") from None
    num_levels = 1 + _count(state, "video_encoder.branch.{i}.self_norm.weight")
    num_cross = _count(state, "video_encoder.branch.{i}.cross_norm.weight")
    shown = {
        "video_dim": video_dim,
        "text_dim": text_dim - mapped,
        "text_map_width": mapped,
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
