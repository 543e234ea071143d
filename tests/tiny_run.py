"""A run small enough for seconds: a dozen clips whose moments a network of width 16 can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from groundnlq.config import ModelConfig, RunConfig
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.records import Record, write_records
from groundnlq.data.tokens import write_tokens
from groundnlq.model.grounder import Grounder

NUM_STEPS, WIDTH, KINDS = 40, 8, 3


def make_tiny_data(folder: Path, num_clips: int = 12) -> Path:
    """Clips of noise with three stretches, each of its own direction; a query's token names the direction."""
    random = np.random.default_rng(0)
    directions = np.eye(WIDTH)[:KINDS] * 3
    clips, records, tokens = {}, [], {}
    for c in range(num_clips):
        features = random.standard_normal((NUM_STEPS, WIDTH)) * 0.1
        starts = random.permutation([2, 14, 27])
        for kind in range(KINDS):
            start, length = int(starts[kind]), int(random.integers(5, 9))
            features[start : start + length] += directions[kind]
            query_id = f"a{c}_{kind}"
            # one step a second; a step describes the second around its middle
            moment = (float(start), float(start + length))
            records.append(Record(query_id, f"c{c}", f"kind {kind}?", float(NUM_STEPS), (moment,)))
            tokens[query_id] = torch.from_numpy(np.stack([directions[kind], np.ones(WIDTH)])).float()
        clips[f"c{c}"] = features
    folder.mkdir(parents=True, exist_ok=True)
    split = 3 * (num_clips * 2 // 3)
    write_records(folder / "train.jsonl", records[:split])
    write_records(folder / "val.jsonl", records[split:])
    write_features(folder / "features.h5", clips.items(), dtype="float32")
    write_tokens(folder / "text.h5", tokens.items(), encoder="directions")
    return folder


def with_lengths(folder: Path, shortest: int) -> Path:
    """The tiny data with clips of other lengths, each four steps longer than the last, as float16."""
    store = FeatureStore(folder / "features.h5")
    clips = {uid: torch.cat([store.read(uid)] * 2)[: shortest + 4 * i] for i, uid in enumerate(store.clip_uids)}
    write_features(folder / "features.h5", clips.items(), dtype="float16")
    return folder


def tiny_config(folder: Path, **train) -> RunConfig:
    tree = {
        "name": "tiny",
        "model": {
            "video_dim": WIDTH,
            "text_dim": WIDTH,
            "width": 16,
            "num_heads": 2,
            "window": 5,
            "num_embed_layers": 1,
            "num_text_layers": 1,
            "num_stem_layers": 1,
            "num_self_levels": 2,
            "max_seq_len": 64,
            "regression_ranges_grid": [[0, 4], [2, 8], [4, 10000]],
            "scale_init": 0.5,
        },
        "data": {
            "folder": str(folder),
            "train_records": ["train.jsonl"],
            "val_records": ["val.jsonl"],
            "fps": 1.0,
            "snippet_stride_frames": 1.0,
            "half_window": "consistent",
        },
        "train": {
            "epochs": 3,
            "warmup_epochs": 1,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "ema_decay": 0.9,
            "initial_loss_normaliser": 10.0,
            **train,
        },
    }
    return RunConfig.parse(tree, "tiny")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of an exported model, raw and averaged."""
    content = torch.load(path, weights_only=True)["weights"]
    return {f"{kind} {name}": value for kind, state in content.items() for name, value in state.items()}


def same_weights(one: Path, other: Path) -> bool:
    """Bitwise equality of two exported models."""
    left, right = weights_of(one), weights_of(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


SMALL_RANGES = ((0, 4), (2, 8), (4, 10000))


def small_network(num_stem_layers: int) -> Grounder:
    """Three levels over features and tokens of width 8, untrained, always the same."""
    torch.manual_seed(0)
    shape = {"video_dim": 8, "text_dim": 8, "width": 16, "num_heads": 2, "window": 5, "scale_init": 0.5}
    layers = {"num_text_layers": 1, "num_self_levels": 2, "max_seq_len": 128}
    layers |= {"num_stem_layers": num_stem_layers, "regression_ranges_grid": SMALL_RANGES}
    return Grounder(ModelConfig(**shape, **layers)).eval()
