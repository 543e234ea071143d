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
from groundnlq.engine.launch import train
from groundnlq.engine.reporter import Reporter
from groundnlq.model.decode import decode

VAL_QUERIES, TRAIN_QUERIES, EPOCHS = 4552, 13847, 10  # of Ego4D NLQ
GRAPHS = "bfloat16, graphs"
BATCHES = (2, 32, 4)  # the published fine-tuning; a large one; a GPU's share of the published pretraining


def check_fast(setting: Setting) -> None:
    """All checks."""
    report, steps, asked = setting.report, {}, {}
    card = report.check("the card's rates", lambda: ceilings(setting)) or {}
    peak, tflop = card.get("bfloat16 TFLOP/s", 0.0), {}
    for size in (2, 4) if setting.is_quick else BATCHES:
        for kind in (*PRECISIONS[::-1], GRAPHS):
            name = f"step of batch {size}, {kind}"
            steps[size, kind] = report.check(name, lambda s=size, k=kind: step(setting, s, k, peak, tflop), 6)
    if not report.check("(a split is written)", lambda: str(write_split(setting)), 5):
        return
    for precision in PRECISIONS:
        asked[precision] = report.check(
            f"prediction, {precision}", lambda p=precision: prediction(setting, p, peak, tflop), 6
        )
    report.check("parts of answering a clip", lambda: parts_of_answering(setting), 3)
    report.check("a whole fine-tuning, extrapolated", lambda: fine_tuning(steps, asked))
    for size in (2, 32):
        for kind in ("bfloat16", GRAPHS):
            report.check(f"trainer, batch {size}, {kind}", lambda s=size, k=kind: whole_run(setting, s, k), 12)


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


def step(setting: Setting, size: int, kind: str, peak: float, tflop: dict[Any, float]) -> dict[str, Any]:
    """The trainer's own step on clips of 900 steps, one query each; the batch comes from the CPU."""
    device, batch, is_used = setting.device, setting.given(size), kind == GRAPHS
    learner = setting.learner(kind.split(",")[0], cuda_graphs=is_used)

    def once() -> None:
        learner.step([batch], 1e-6, seed=0)

    rounds = setting.rounds if size < 32 else max(2, setting.rounds // 2)
    with in_tf32(kind == "tf32"):
        taken, gib = peak_gib(lambda: milliseconds(once, device, rounds), device)
        kernels = kernel_times(once, device)
    if size not in tflop and not is_used:  # in a graph there is nothing to count
        tflop[size] = count_tflop(once)
    return {"rates": rates(taken, kernels, tflop[size], peak), "GiB": gib, **longest(kernels)}


def write_split(setting: Setting) -> Path:
    """A store of clips of Ego4D's lengths, eleven queries each."""
    number = 20 if setting.is_quick else 60
    clips = [steps for steps, share in CLIP_STEPS.items() for _ in range(round(share * number))]
    return setting.make_split([n // 15 for n in clips] if setting.is_quick else clips, QUERIES_PER_CLIP)


def prediction(setting: Setting, precision: str, peak: float, tflop: dict[Any, float]) -> dict[str, Any]:
    """The kit's prediction over the split, from the store; then eight clips of one length, to see kernels and reading.

    A clip of each length passes before. `again` is the same split once more, when no shape is new.
    """
    dataset, device, predictor = setting.open_split(), setting.device, setting.predictor(precision)
    clips = list(range(0, len(dataset), QUERIES_PER_CLIP))
    lengths = [dataset.lengths[i] for i in clips]
    each_length = setting.open_split([clips[lengths.index(length)] for length in sorted(set(lengths))])
    few = setting.open_split(
        [i for i in range(len(dataset)) if dataset.lengths[i] == lengths[0]][: 8 * QUERIES_PER_CLIP]
    )
    with in_tf32(precision == "tf32"):
        first = _seconds(lambda: predictor.predict_dataset(each_length))
        taken = _seconds(lambda: predictor.predict_dataset(dataset))
        again = 0.0 if setting.is_quick else _seconds(lambda: predictor.predict_dataset(dataset))
        kernels = kernel_times(lambda: predictor.predict_dataset(few), device, 1)
        taken_few = milliseconds(lambda: predictor.predict_dataset(few), device, 3, 1)
        if "prediction" not in tflop:
            tflop["prediction"] = count_tflop(lambda: predictor.predict_dataset(few))
    is_gpu = device.type == "cuda"
    reading = statistics.median(_seconds(lambda: few.batch(range(len(few)), for_gpu=is_gpu)) for _ in range(3))
    queries = len(dataset)
    whole = {"queries": queries, "seconds": taken, "queries/s": queries / taken, "again, s": again}
    whole |= {"first clip of each length, s": first, "reading by itself, share": 1e3 * reading / taken_few}
    whole[f"s for {VAL_QUERIES}"] = taken * VAL_QUERIES / queries
    alone = rates(taken_few, kernels, tflop["prediction"], peak)
    return {"split": whole, "8 clips": alone, **longest(kernels)}


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


def whole_run(setting: Setting, size: int, kind: str) -> dict[str, Any]:
    """One epoch of the kit's own trainer over the split: steps a second and the share of waiting for data."""
    records = "few.jsonl" if size < 32 else "train.jsonl"
    options = {"epochs": 1, "warmup_epochs": 0, "batch_size": size, "precision": "bfloat16", "learning_rate": 1e-6}
    options["cuda_graphs"] = kind == GRAPHS
    tree = {
        "name": "speed",
        "model": {"scale_init": 0.5} | setting.narrow,
        "data": {"folder": str(setting.folder / "split"), "train_records": [records], "val_records": ["val.jsonl"]},
        "train": options,
    }
    began = time.perf_counter()
    result = train(RunConfig.parse(tree, "speed"), setting.folder / f"speed-{size}-{kind}", reporter=Reporter())
    row = result.history[-1]
    keys = ("steps_per_second", "data_wait_share", "seconds", "val_seconds", "peak_memory_mb")
    found = {key: row[key] for key in keys} | {"queries/s": row["steps_per_second"] * size}
    return found | {"outside the steps, s": time.perf_counter() - began - row["seconds"]}


def fine_tuning(steps: dict[Any, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Minutes of Ego4D's fine-tuning: its steps, and two networks' validation after every epoch."""
    found = {}
    for kind in (*PRECISIONS, GRAPHS):
        one_step, split = steps[2, kind], asked[kind.split(",")[0]]
        if one_step and split:
            training = EPOCHS * TRAIN_QUERIES / 2 * one_step["rates"]["wall ms"] / 6e4
            validation = EPOCHS * 2 * split["split"][f"s for {VAL_QUERIES}"] / 60
            found[kind] = {"steps, min": training, "validation, min": validation}
            found[kind]["together, min"] = training + validation
    return found
