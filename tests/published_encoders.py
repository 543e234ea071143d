"""Weights of the published video encoders by rule (tests/golden/README.md), in the layouts of their files."""

from __future__ import annotations

import json
import zlib

import numpy as np
import torch

from tests.golden_inputs import GOLDEN

VIDEO = json.loads((GOLDEN / "video.json").read_text())


def by_rule(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(_weight(name, shape), np.float32)) for name, shape in shapes.items()}


def egovlp_shapes(size: int, width: int, depth: int, num_frames: int, projection: int) -> dict[str, list[int]]:
    shapes = {
        "video_model.cls_token": [1, 1, width],
        "video_model.pos_embed": [1, 1 + (size // 16) ** 2, width],
        "video_model.temporal_embed": [1, num_frames, width],
        "video_model.patch_embed.proj.weight": [width, 3, 16, 16],
        "video_model.patch_embed.proj.bias": [width],
    }
    for block in (f"video_model.blocks.{i}" for i in range(depth)):
        shapes |= _linear(f"{block}.mlp.fc1", 4 * width, width) | _linear(f"{block}.mlp.fc2", width, 4 * width)
        for kind in ("attn", "timeattn"):
            shapes |= _linear(f"{block}.{kind}.qkv", 3 * width, width) | _linear(f"{block}.{kind}.proj", width, width)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= _norm(f"{block}.{norm}", width)
    return shapes | _norm("video_model.norm", width) | _linear("vid_proj.0", projection, width)


def videomae_shapes(width: int, depth: int, num_classes: int = 118) -> dict[str, list[int]]:
    shapes = {"patch_embed.proj.weight": [width, 3, 2, 16, 16], "patch_embed.proj.bias": [width]}
    for block in (f"blocks.{i}" for i in range(depth)):
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        shapes |= {f"{block}.attn.q_bias": [width], f"{block}.attn.v_bias": [width]}
        shapes |= {f"{block}.attn.qkv.weight": [3 * width, width]} | _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * width, width) | _linear(f"{block}.mlp.fc2", width, 4 * width)
    return shapes | _norm("fc_norm", width) | _linear("head", num_classes, width)


def golden_shapes(name: str) -> dict[str, list[int]]:
    """Names and shapes of a network in ``video.json``; those of the full-size ones are not listed there."""
    c = VIDEO[name]
    if name.startswith("egovlp"):
        return egovlp_shapes(c["img_size"], c["embed_dim"], c["depth"], c["num_frames"], c["projection"])
    return videomae_shapes(c["embed_dim"], c["depth"], c["verb_classes"])


def golden_frames(name: str) -> torch.Tensor:
    """(B, T, 3, H, W), already normalised; VideoMAE's are stored (B, 3, T, H, W)."""
    c = VIDEO[name]
    shape = (c["batch"], 4, 3) if name.startswith("egovlp") else (c["batch"], 3, c["all_frames"])
    values = np.random.RandomState(c["seed"]).random_sample((*shape, c["img_size"], c["img_size"]))
    frames = torch.from_numpy(values.astype(np.float32) * 4 - 2)
    return frames if name.startswith("egovlp") else frames.transpose(1, 2)


def original_egovlp(weights: dict[str, torch.Tensor]) -> dict:
    """As EgoVLP's own program saves them, but for the configuration object."""
    text = {"module.text_model.embeddings.weight": torch.ones(3), "module.txt_proj.1.weight": torch.ones(3)}
    return {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in weights.items()} | text}


def lavila_egovlp(weights: dict[str, torch.Tensor]) -> dict:
    """As LaViLa converted them: its names, half precision."""
    names = {
        name: name.replace("video_model.", "visual.").replace("vid_proj.", "image_projection.") for name in weights
    }
    text = {"module.textual.embeddings.weight": torch.ones(3), "module.text_projection.1.weight": torch.ones(3)}
    return {"state_dict": {f"module.{names[k]}": v.half() for k, v in weights.items()} | text}


def _linear(name: str, out: int, into: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [out, into], f"{name}.bias": [out]}


def _norm(name: str, width: int) -> dict[str, list[int]]:
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def _weight(name: str, shape: list[int]) -> np.ndarray:
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith(("pos_embed", "temporal_embed", "cls_token")):
        return 0.1 * z
    if name.endswith("bias"):
        return 0.02 * z
    return 1 + 0.1 * z if len(shape) == 1 else z / np.sqrt(np.prod(shape[1:])).astype(np.float32)
