"""Make a sample world and prepare it, along exactly the path of real data; no licence and no download is needed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from groundnlq.data.annotations import read_clips, read_nlq
from groundnlq.data.narrations import narration_records
from groundnlq.data.records import write_records
from groundnlq.data.text import encode_records
from groundnlq.errors import DataError
from groundnlq.files import acquire_lock, write_json, write_text
from groundnlq.sample.official import write_official
from groundnlq.sample.queries import ask
from groundnlq.sample.world import ClipLog, WorldConfig, simulate_clip

ENCODER = "sample"  # the video encoder that comes with the package, trained on another sample world
# narration records -> files that name their clips; those of val are for measuring the first stage
NARRATED = {"narrations": ("nlq_train", "moments_train", "vq_train"), "narrations_val": ("nlq_val",)}
_HOURS_PER_PROCESS = 0.5  # of film; a helper process takes a second to start


def make_sample(
    folder: str | Path, *, seed: int = 0, scale: str = "demo", progress: bool = True, **changes: Any
) -> dict[str, int]:
    """Write the official files and films of a sample world under ``folder/official``; returns counts of what it has.

    A folder that already holds this very world is left as it is; another world there is a DataError, an unknown scale
    or field a ConfigError.

    Args:
        scale: ``tiny`` (seconds; for tests), ``demo``, or ``ego4d`` (its numbers and lengths of clips).
        changes: any field of `WorldConfig`, such as ``num_train_clips=40`` or ``clutter=0.9``.
    """
    config, official = WorldConfig.of_scale(scale, seed=seed, **changes), Path(folder) / "official"
    with _alone(folder, made := official / "world.json"):  # written last: it says that all else is there
        if made.exists():
            world = read_world(folder)
            if world["config"] == config.model_dump():
                return world["counts"]
            raise DataError(
                f"{official.parent}: holds another sample world -- choose another folder or delete this one"
            )
        logs = {
            split: [simulate_clip(config, split, index) for index in range(getattr(config, f"num_{split}_clips"))]
            for split in ("train", "narrated", "val", "test")
        }
        questions = {split: [ask(config, log) for log in logs[split]] for split in ("train", "val", "test")}
        meanings = write_official(official, config, logs, questions)
        every = [log for split_logs in logs.values() for log in split_logs]
        write_text(official / "events.jsonl", "".join(json.dumps(asdict(log)) + "\n" for log in every))
        _film(official, config, every, progress)
        counts = {f"{split} clips": len(split_logs) for split, split_logs in logs.items()}
        counts |= {f"{split} questions": sum(map(len, of_split)) for split, of_split in questions.items()}
        counts["events"] = sum(len(log.events) for log in every)
        kinds = {"unseen_objects": config.unseen_objects, "unasked_objects": config.unasked_objects}
        world = {"config": config.model_dump(), "counts": counts} | kinds
        write_json(made, world | {"questions": meanings})
        return counts


def read_world(folder: str | Path) -> dict[str, Any]:
    """What `make_sample` wrote about its world: config, counts, kinds of objects, meaning of each question."""
    path = Path(folder) / "official" / "world.json"
    if not path.exists():
        raise DataError(f"{path}: no sample world here -- make one with 'groundnlq sample {folder}'")
    return json.loads(path.read_text(encoding="utf-8"))


def read_events(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The event log, one clip at a time."""
    with open(Path(folder) / "official" / "events.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def prepare_sample(folder: str | Path, encoder: str = ENCODER, progress: bool = True) -> dict[str, Any]:
    """Prepare the official files for training, through the same readers and extraction as real data.

    Files that are there already are kept. Returns what each step counted. The `encoder` makes features of the films, as
    `video.encoders.load_encoder` takes it; by default the one that comes with the package; "" makes none.
    """
    folder, report = Path(folder), dict[str, Any]()
    official = folder / "official"
    with _alone(folder, folder / ("features.h5" if encoder else "text.h5")):
        for split, name in (("train", "nlq_train"), ("val", "nlq_val"), ("test", "nlq_test_unannotated")):
            output = folder / f"nlq_{split}.jsonl"
            if not output.exists():
                file = read_nlq(official / f"{name}.json")
                write_records(output, file.records)
                report[name] = file.dirt
        for name, tasks in NARRATED.items():
            if not (folder / f"{name}.jsonl").exists():
                clips = read_clips([official / f"{task}.json" for task in tasks])
                records, report[name] = narration_records(official / "egoclip.csv", clips)
                write_records(folder / f"{name}.jsonl", records)
        if not (folder / "text.h5").exists():
            names = ("nlq_train", "nlq_val", "nlq_test", *NARRATED)
            paths = [folder / f"{name}.jsonl" for name in names]
            report["text"] = encode_records(paths, "sample", folder / "text.h5", progress=progress)
        if encoder and not (folder / "features.h5").exists():
            from groundnlq.video.extract import extract_features

            films, output = [official / "clips"], folder / "features.h5"
            report["features"] = extract_features(films, [encoder], output, progress=progress)
        return report


def _alone(folder: str | Path, last: Path) -> Any:
    """A lock against another program that makes the same world; none if `last` is there: nothing will be written."""
    return nullcontext() if last.exists() else acquire_lock(Path(folder) / ".lock")


def _film(official: Path, config: WorldConfig, logs: list[ClipLog], progress: bool) -> None:
    """Films of all clips; a long world is filmed by several processes. Films that are there already are kept."""
    from groundnlq.sample.film import write_films

    for half_written in (official / "clips").glob(".*.tmp"):  # by a process that was killed
        half_written.unlink()
    hours = sum(log.duration_sec for log in logs if not (official / "clips" / f"{log.clip_uid}.mp4").exists()) / 3600
    count = max(1, min(os.cpu_count() or 1, int(hours / _HOURS_PER_PROCESS)))
    command = [sys.executable, "-m", "groundnlq.sample.film", str(official), config.model_dump_json(), str(count)]
    helpers = [subprocess.Popen([*command, str(number)]) for number in range(1, count)]
    try:
        for part, name in ((logs[::count], "filming"), (logs, "filmed")):  # its own share; what a helper left
            films = write_films(official / "clips", config, part)
            for _ in tqdm(films, name, len(part), unit="clip", disable=None if progress else True):
                pass
            for helper in helpers:
                helper.wait()
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
