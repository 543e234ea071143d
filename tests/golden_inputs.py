"""Weights, features and batches by rule (see tests/golden/README.md): nothing but numbers is stored."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from groundnlq.config import ModelConfig
from groundnlq.data.dataset import Batch
from groundnlq.data.grid import StepGrid
from groundnlq.model.checkpoint_published import _from_published
from groundnlq.model.grounder import Grounder

GOLDEN = Path(__file__).parent / "golden"
META = json.loads((GOLDEN / "meta.json").read_text())
GRID = StepGrid(META["fps"], META["feat_stride"], "legacy")


def golden_config(name: str) -> ModelConfig:
    arch = META["archs"][name]
    published = arch["model"]
    embed, text, stem, cross, self_levels = published["backbone_arch"]
    return ModelConfig(
        video_dim=arch["dims"][0],
        text_dim=arch["dims"][1],
        width=published["embd_dim"],
        num_heads=published["n_head"],
        window=published["n_mha_win_size"],
        num_embed_layers=embed,
        num_text_layers=text,
        num_stem_layers=stem,
        num_cross_levels=cross,
        num_self_levels=self_levels,
        max_seq_len=arch["max_seq_len"],
        regression_ranges_grid=published["regression_range"],
        drop_path=META["train_cfg"]["droppath"],
    )


def published_weights(name: str) -> dict[str, torch.Tensor]:
    """The rule's weights in the published names and shapes."""
    return {key: torch.from_numpy(np.asarray(_weight(key, shape))) for key, shape in META["parameters"][name]}


def golden_model(name: str, drop_path: float | None = None) -> Grounder:
    config = golden_config(name)
    if drop_path is not None:
        config = config.model_copy(update={"drop_path": drop_path})
    model = Grounder(config)
    model.load_state_dict(_from_published(published_weights(name)))
    return model


def golden_batch(name: str, indices: list[int] | None = None) -> Batch:
    samples = META["samples"][name]
    samples = samples if indices is None else [samples[i] for i in indices]
    video_dim, text_dim = META["archs"][name]["dims"]
    return Batch.collate(
        clips=[features(s["seed"], s["video_len"], video_dim) for s in samples],
        texts=[features(s["text_seed"], s["text_len"], text_dim) for s in samples],
        clip_index=list(range(len(samples))),
        moments_grid=[GRID.to_grid(torch.tensor(s["segments_sec"])) for s in samples],
        query_ids=[str(s["seed"]) for s in samples],
        clip_uids=[str(s["seed"]) for s in samples],
        durations_sec=[s["video_len"] * GRID.step_sec for s in samples],
    )


def features(seed: int, length: int, dim: int) -> torch.Tensor:
    z = np.random.RandomState(seed).standard_normal((length, dim)).astype(np.float32)
    around = np.pad(z, ((1, 1), (0, 0)))
    return torch.from_numpy(0.5 * z + (around[:-2] + z + around[2:]) / 3)


def _weight(name: str, shape: list[int]) -> np.ndarray:
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name == "cls_head.cls_head.conv.bias":
        return -2 + 0.1 * z
    if "drop_path" in name:
        return 0.5 + 0.1 * z
    if name.startswith("reg_head.scale."):
        return np.float32(1 + 0.1 * z)
    if name.endswith("bias"):
        return 0.02 * z
    if len(shape) == 3 and shape[0] == shape[2] == 1:
        return 1 + 0.1 * z
    return z / np.sqrt(shape[1] * shape[2]).astype(np.float32)
