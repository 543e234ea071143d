"""The sample world: a simulated first-person life in the official files' formats, made on this machine.

It needs no licence and no download, and it walks exactly the path of real data, importers included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from groundnlq.errors import ConfigError, DataError, Findings, closest
from groundnlq.files import atomic_path, write_json, write_text
from groundnlq.sample.official import meta_of, write_clips, write_egoclip, write_nlq
from groundnlq.sample.queries import ask
from groundnlq.sample.render import Camera, concept_vectors
from groundnlq.sample.vocabulary import ALL_OBJECTS, OBJECT_VERBS
from groundnlq.sample.world import ClipLog, WorldConfig, simulate_split, unseen_objects

SCALES = {
    "tiny": WorldConfig(num_train_clips=8, num_narrated_clips=4, num_val_clips=6, num_test_clips=2),
    "demo": WorldConfig(),
    "ego4d": WorldConfig(
        num_train_clips=1270,
        num_narrated_clips=0,
        num_val_clips=415,
        num_test_clips=333,
        clip_length_sec=480.0,
        queries_per_clip=11,
        objects_per_clip=18,
        verbs_per_clip=6,
        action_width=2048,
        scene_width=256,
    ),
}
SOURCES = ("action", "scene")
LIMITS = {  # what a world can have; settings not named here only have to be at least 0
    **dict.fromkeys(("num_train_clips", "num_val_clips", "num_test_clips", "queries_per_clip"), (1, inf)),
    "clip_length_sec": (30.0, inf),
    "objects_per_clip": (2, len(ALL_OBJECTS) - WorldConfig.num_unseen_objects),
    "verbs_per_clip": (2, len(OBJECT_VERBS)),
    "num_unseen_objects": (0, len(ALL_OBJECTS) // 4),
    "event_length_sec": (0.5, 20.0),
    **dict.fromkeys(("action_width", "scene_width", "fps", "snippet_stride_frames"), (1, inf)),
}


def make_sample(
    folder: str | Path, *, seed: int = 0, scale: str = "demo", progress: bool = True, **changes: Any
) -> dict[str, int]:
    """Write the official files and features of a sample world under ``folder/official``.

    A folder that already holds this very world is left as it is.

    Args:
        scale: ``tiny`` (seconds; for tests), ``demo``, or ``ego4d`` (its numbers of clips, its widths).
        changes: any field of `WorldConfig`, such as ``num_train_clips=40`` or ``feature_noise=0.2``.

    Returns:
        counts of clips, questions and narrated events.

    Raises:
        ConfigError: unknown scale or field.
        DataError: the folder holds another world.
    """
    config, official = world_config(seed, scale, **changes), Path(folder) / "official"
    made = official / "world.json"  # written last: it says that all else is there
    if made.exists():
        world = json.loads(made.read_text(encoding="utf-8"))
        if world["config"] == asdict(config):
            return world["counts"]
        raise DataError(f"{folder}: holds another sample world -- choose another folder or delete this one")
    logs = {
        "train": simulate_split(config, "train", config.num_train_clips),
        "narrated": simulate_split(config, "narrated", config.num_narrated_clips),
        "val": simulate_split(config, "val", config.num_val_clips),
        "test": simulate_split(config, "test", config.num_test_clips),
    }
    asked = {split: [(log, ask(config, log)) for log in logs[split]] for split in ("train", "val", "test")}
    write_nlq(official / "nlq_train.json", config, asked["train"], "train")
    write_nlq(official / "nlq_val.json", config, asked["val"], "val")
    withheld = official / "nlq_test_answers.json"
    write_nlq(official / "nlq_test_unannotated.json", config, asked["test"], "test", withheld)
    half = len(logs["narrated"]) // 2
    write_clips(official / "moments_train.json", logs["train"][::2] + logs["narrated"][:half])
    write_clips(official / "vq_train.json", logs["narrated"][half:] + logs["train"][:1])
    write_egoclip(official / "egoclip.csv", config, logs["train"] + logs["narrated"] + logs["val"])
    every = [log for split in logs.values() for log in split]
    write_text(official / "events.jsonl", "".join(json.dumps(log.to_json()) + "\n" for log in every))
    _film(official / "features", config, every, progress)
    counts = {f"{split} clips": len(split_logs) for split, split_logs in logs.items()}
    counts |= {f"{split} questions": sum(len(q) for _, q in pairs) for split, pairs in asked.items()}
    counts["events"] = sum(len(log.events) for log in every)
    unseen = unseen_objects(config)
    questions = {split: meta_of(pairs, unseen) for split, pairs in asked.items()}
    world = {"config": asdict(config), "counts": counts, "unseen_objects": unseen, "questions": questions}
    write_json(made, world)
    return counts


def world_config(seed: int = 0, scale: str = "demo", **changes: Any) -> WorldConfig:
    """The configuration of a named scale with some fields changed."""
    if scale not in SCALES:
        raise ConfigError(f"unknown scale {scale!r} -- one of {', '.join(SCALES)}")
    usual, findings = asdict(SCALES[scale]), Findings("sample world", ConfigError)
    for name, value in changes.items():
        if name not in usual:
            findings.add(f"no setting {name}{closest(name, usual)}")
            continue
        low, high = LIMITS.get(name, (0.0, inf))
        if not low <= value <= high or (isinstance(usual[name], int) and value != int(value)):
            kind = "a whole number" if isinstance(usual[name], int) else "a number"
            findings.add(f"{name}={value:g}: {kind} from {low:g} to {high:g} expected")
    findings.raise_if_any(f"its settings are {', '.join(usual)}")
    return replace(SCALES[scale], seed=seed, **changes)


def read_world(folder: str | Path) -> dict[str, Any]:
    """What `make_sample` wrote about its world: config, counts, unseen objects, meaning of each question."""
    path = Path(folder) / "official" / "world.json"
    if not path.exists():
        raise DataError(f"{path}: no sample world here -- make one with 'groundnlq sample {folder}'")
    return json.loads(path.read_text(encoding="utf-8"))


def read_events(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The event log, one clip at a time."""
    with open(Path(folder) / "official" / "events.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def prepare_sample(folder: str | Path, progress: bool = True) -> dict[str, Any]:
    """Prepare the official files for training, through the same readers and importers as real data.

    Files that are there already are kept. Returns what each step counted.
    """
    from groundnlq.data.annotations import read_clips, read_nlq
    from groundnlq.data.importers import import_features
    from groundnlq.data.narrations import narration_records
    from groundnlq.data.records import write_records
    from groundnlq.data.text import encode_records

    folder, report = Path(folder), {}
    official = folder / "official"
    world = read_world(folder)["config"]
    rate = {"fps": world["fps"], "snippet_stride_frames": world["snippet_stride_frames"]}
    for split, name in (("train", "nlq_train"), ("val", "nlq_val"), ("test", "nlq_test_unannotated")):
        output = folder / f"nlq_{split}.jsonl"
        if not output.exists():
            file = read_nlq(official / f"{name}.json")
            write_records(output, file.records)
            report[name] = file.dirt
    if not (folder / "features.h5").exists():
        sources = [official / "features" / source for source in SOURCES]
        report["features"] = import_features(sources, folder / "features.h5", progress=progress, **rate)
    if not (folder / "narrations.jsonl").exists():
        tasks = [official / f"{task}_train.json" for task in ("nlq", "moments", "vq")]
        records, report["narrations"] = narration_records(official / "egoclip.csv", read_clips(tasks))
        write_records(folder / "narrations.jsonl", records)
    if not (folder / "text.h5").exists():
        names = ("nlq_train", "nlq_val", "nlq_test", "narrations")
        paths = [folder / f"{name}.jsonl" for name in names]
        report["text"] = encode_records(paths, "sample", folder / "text.h5", progress=progress)
    return report


def _film(folder: Path, config: WorldConfig, logs: list[ClipLog], progress: bool) -> None:
    camera = Camera(config, concept_vectors())
    for log in tqdm(logs, desc="filming", unit="clip", disable=None if progress else True):
        for source, features in camera.film(log).items():
            with atomic_path(folder / source / f"{log.clip_uid}.pt") as temporary:
                torch.save(torch.from_numpy(features), temporary)
