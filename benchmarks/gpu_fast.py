"""How fast: the card's own rates, training steps of the published batches, prediction from a store."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import gpu_site  # noqa: F401  (first: the import path)
import torch
from gpu_setting import CHAMPION, PRECISIONS, Setting, in_tf32
from gpu_timing import count_tflop, kernel_times, longest, milliseconds, peak_gib, rates
from timing import CLIP_STEPS, QUERIES_PER_CLIP

from groundnlq.config import RunConfig
from groundnlq.data.dataset import QueryDataset, clip_batches
from groundnlq.engine.launch import train
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter
from groundnlq.model.decode import decode

VAL_QUERIES, TRAIN_QUERIES, EPOCHS = 4552, 13847, 10  # of Ego4D NLQ
BATCHES = (2, 32, 4)  # the published fine-tuning; a large one; a GPU's share of the published pretraining


def check_fast(setting: Setting) -> None:
    """All checks."""
    report, steps, asked = setting.report, {}, {}
    card = report.check("the card's rates", lambda: ceilings(setting)) or {}
    peak, tflop = card.get("bfloat16 TFLOP/s", 0.0), {}
    for size in (2, 4) if setting.is_quick else BATCHES:
        for precision in PRECISIONS[::-1]:
            name = f"step of batch {size}, {precision}"
            steps[size, precision] = report.check(name, lambda s=size, p=precision: step(setting, s, p, peak, tflop), 6)
    if not report.check("(a split is written)", lambda: str(write_split(setting)), 5):
        return
    for precision in PRECISIONS:
        asked[precision] = report.check(
            f"prediction, {precision}", lambda p=precision: prediction(setting, p, peak, tflop), 6
        )
    report.check("parts of answering a clip", lambda: parts_of_answering(setting), 3)
    report.check("a whole fine-tuning, extrapolated", lambda: fine_tuning(steps, asked))
    report.check("trainer, batch 2, bfloat16", lambda: whole_run(setting, 2), 15)
    report.check("trainer, batch 32, bfloat16", lambda: whole_run(setting, 32), 15)


def ceilings(setting: Setting) -> dict[str, float]:
    """TFLOP/s of a large product in each precision, and TB/s of a copy on the device."""
    device, size = setting.device, 256 if setting.is_quick else 8192
    found = {}
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        with in_tf32(precision == "tf32"):
            taken = milliseconds(lambda a=a, b=b: a @ b, device, 5, 2)
        found[f"{precision} TFLOP/s"] = 2 * size**3 / taken / 1e9
    source = torch.randn(2**20 if setting.is_quick else 2**28, device=device)
    target = torch.empty_like(source)
    taken = milliseconds(lambda: target.copy_(source), device, 5, 2)
    return found | {"copy TB/s": 2 * source.nbytes / taken / 1e9}


def step(setting: Setting, size: int, precision: str, peak: float, tflop: dict[Any, float]) -> dict[str, Any]:
    """The trainer's own step on clips of 900 steps, one query each; the batch comes from the CPU."""
    device, batch, learner = setting.device, setting.batch(size), setting.learner(precision)

    def once() -> None:
        learner.step([batch], 1e-6, seed=0)

    rounds = setting.rounds if size < 32 else max(2, setting.rounds // 2)
    with in_tf32(precision == "tf32"):
        taken, gib = peak_gib(lambda: milliseconds(once, device, rounds), device)
        kernels = kernel_times(once, device)
    if size not in tflop:
        tflop[size] = count_tflop(once)
    return {"rates": rates(taken, kernels, tflop[size], peak), "GiB": gib, **longest(kernels)}


def write_split(setting: Setting) -> Path:
    """A store of clips of Ego4D's lengths, eleven queries each."""
    number = 20 if setting.is_quick else 60
    clips = [steps for steps, share in CLIP_STEPS.items() for _ in range(round(share * number))]
    return setting.make_split([n // 15 for n in clips] if setting.is_quick else clips, QUERIES_PER_CLIP)


def prediction(setting: Setting, precision: str, peak: float, tflop: dict[Any, float]) -> dict[str, Any]:
    """The kit's prediction over the split, from the store; then clips alone, to see kernels and reading.

    A clip of each length passes before. `again` is the same split once more, when no length is new.
    """
    dataset, device, predictor = setting.open_split(), setting.device, setting.predictor(precision)
    batches = clip_batches(dataset.records)
    each_length, few = {dataset.lengths[part[0]]: part for part in batches}.values(), batches[:8]
    with in_tf32(precision == "tf32"):
        first = _seconds(lambda: _answer(predictor, dataset, each_length))
        taken = _seconds(lambda: predictor.predict_dataset(dataset))
        again = 0.0 if setting.is_quick else _seconds(lambda: predictor.predict_dataset(dataset))
        kernels = kernel_times(lambda: _answer(predictor, dataset, few), device, 1)
        taken_few = milliseconds(lambda: _answer(predictor, dataset, few), device, 3, 1)
        if "prediction" not in tflop:
            tflop["prediction"] = count_tflop(lambda: _answer(predictor, dataset, few))
    reading = statistics.median(_seconds(lambda: [dataset.batch(part) for part in few]) for _ in range(3))
    queries = len(dataset)
    whole = {"queries": queries, "seconds": taken, "queries/s": queries / taken, "again, s": again}
    whole |= {"first clip of each length, s": first, "reading, share": 1e3 * reading / taken_few}
    whole[f"s for {VAL_QUERIES}"] = taken * VAL_QUERIES / queries
    alone = rates(taken_few, kernels, tflop["prediction"], peak)
    return {"split": whole, f"{len(few)} clips": alone, **longest(kernels)}


def _answer(predictor: Predictor, dataset: QueryDataset, batches: Any) -> None:
    for indices in batches:
        predictor.answer(dataset.batch(indices))  # its moments lie on the CPU: nothing is left to wait for


def _seconds(act: Any) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def parts_of_answering(setting: Setting) -> dict[str, float]:
    """Milliseconds of a clip with its eleven queries in bfloat16: to the device, network, decoding."""
    predictor, device = setting.predictor("bfloat16"), setting.device
    batch = setting.batch(QUERIES_PER_CLIP, 1)
    moved = batch.to(device, dtype=torch.bfloat16)
    outputs = predictor.outputs(moved)
    acts = {
        "to the device": lambda: batch.to(device, dtype=torch.bfloat16),
        "network": lambda: predictor.outputs(moved),
        "decoding": lambda: decode(outputs, CHAMPION.data.grid, batch.durations_sec, CHAMPION.decode),
        "all": lambda: predictor.answer(batch),
    }
    found = {name: milliseconds(act, device, setting.rounds) for name, act in acts.items()}
    kernels = {f"{name}, kernels": kernel_times(act, device).get("kernels_ms", 0.0) for name, act in acts.items()}
    return found | kernels


def whole_run(setting: Setting, size: int) -> dict[str, Any]:
    """One epoch of the kit's own trainer over the split: steps a second and the share of waiting for data."""
    records = "few.jsonl" if size < 32 else "train.jsonl"
    options = {"epochs": 1, "warmup_epochs": 0, "batch_size": size, "precision": "bfloat16", "learning_rate": 1e-6}
    tree = {
        "name": "speed",
        "model": {"scale_init": 0.5} | setting.narrow,
        "data": {"folder": str(setting.folder / "split"), "train_records": [records], "val_records": ["val.jsonl"]},
        "train": options,
    }
    began = time.perf_counter()
    result = train(RunConfig.parse(tree, "speed"), setting.folder / f"speed-{size}", reporter=Reporter())
    row = result.history[-1]
    keys = ("steps_per_second", "data_wait_share", "seconds", "val_seconds", "peak_memory_mb")
    found = {key: row[key] for key in keys} | {"queries/s": row["steps_per_second"] * size}
    return found | {"outside the steps, s": time.perf_counter() - began - row["seconds"]}


def fine_tuning(steps: dict[Any, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Minutes of Ego4D's fine-tuning: its steps, and two networks' validation after every epoch."""
    found = {}
    for precision in PRECISIONS:
        one_step, split = steps[2, precision], asked[precision]
        if one_step and split:
            training = EPOCHS * TRAIN_QUERIES / 2 * one_step["rates"]["wall ms"] / 6e4
            validation = EPOCHS * 2 * split["split"][f"s for {VAL_QUERIES}"] / 60
            found[precision] = {"steps, min": training, "validation, min": validation}
            found[precision]["together, min"] = training + validation
    return found
