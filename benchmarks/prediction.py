"""Prediction over a split of Ego4D's lengths and queries per clip, against the stand-in.

    python benchmarks/prediction.py

From stored features to ranked moments, champion model. The stand-in answers query after query, or 16 at
once, and inflates the clip for each; the kit reads a clip once for its eleven queries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from standin import StandIn, compress, inflate
from timing import CLIP_STEPS, PUBLISHED_SEC, QUERIES_PER_CLIP, champion, compare, make_batch, options, show

from groundnlq.config import DataConfig, DecodeConfig
from groundnlq.data.dataset import Batch
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.engine.memory import memory_kept
from groundnlq.engine.predict import answer, evaluating, in_precision
from groundnlq.model.decode import decode
from groundnlq.model.grounder import Grounder

DATA, RULES = DataConfig(), DecodeConfig()


def answer_as_published(model: StandIn, batch: Batch, stored: bytes) -> list[torch.Tensor]:
    """All queries of the batch at once, each from its own inflated clip."""
    for _ in batch.query_ids:
        batch.video[0, : batch.video_mask.sum()] = inflate(stored)
    return decode(model(batch), DATA.grid, batch.durations_sec, **RULES.model_dump())


def answer_from(store: FeatureStore, model: Grounder, batch: Batch) -> dict[str, np.ndarray]:
    clip = store.read(batch.clip_uids[0])
    batch.video[0, : len(clip)] = clip
    return answer(model, batch, DATA, RULES)


def only(batch: Batch, queries: slice) -> Batch:
    fields = ("text", "text_mask", "clip_index", "moments_grid", "query_ids", "durations_sec")
    return replace(batch, **{name: getattr(batch, name)[queries] for name in fields})


def main() -> None:
    chosen = options(rounds=3)
    model = champion().eval()
    base, models = StandIn(model), {p: in_precision(model, p) for p in ("float32", "bfloat16")}
    batches = {steps: make_batch(steps, 16) for steps in CLIP_STEPS}
    batches = {steps: replace(b, clip_uids=(f"clip{steps}",)) for steps, b in batches.items()}
    clips = {b.clip_uids[0]: b.video[0, :steps].clone() for steps, b in batches.items()}
    whole, stored = batches[900], compress(clips["clip900"])
    with tempfile.TemporaryDirectory() as folder, evaluating(model):
        write_features(Path(folder, "f.h5"), clips.items(), dtype="float32")
        store = FeatureStore(Path(folder, "f.h5"))
        published = {
            "published, batch 1": lambda: answer_as_published(base, only(whole, slice(1)), stored),
            "published, batch 16": lambda: answer_as_published(base, whole, stored),
        }
        calls = {}
        for precision, ours in models.items():
            for steps, batch in batches.items():
                part = only(batch, slice(QUERIES_PER_CLIP))
                calls[f"{precision} {steps}"] = lambda m=ours, b=part: answer_from(store, m, b)
        seconds = compare(published, chosen.rounds)
        with memory_kept():  # as `predict` does
            seconds |= compare(calls, chosen.rounds)
        apart = largest_difference(
            answer_from(store, model, only(whole, slice(3))),
            answer_as_published(base, only(whole, slice(3)), stored),
        )
        shares = compare(decoding(model, only(whole, slice(QUERIES_PER_CLIP))), 9)
    bases = {"batch 1": seconds["published, batch 1"]}
    bases["batch 16"] = tuple(s / 16 for s in seconds["published, batch 16"])
    known = (PUBLISHED_SEC["query, batch 1"], PUBLISHED_SEC["query, batch 16"])
    print(f"seconds per query; known of the published program on such a machine: {known[0]}, {known[1]}")
    for name, base_seconds in bases.items():
        show(f"stand-in, {name}", base_seconds)
    for precision in models:
        mean = [
            sum(share * seconds[f"{precision} {steps}"][i] for steps, share in CLIP_STEPS.items())
            / QUERIES_PER_CLIP
            for i in (0, 1)
        ]
        show(f"kit, {precision}", (mean[0], mean[1]), bases)
        print(f"{'':44s} {known[0] / mean[0]:.1f} x and {known[1] / mean[0]:.1f} x the known wall seconds")
    share = shares["decode"][1] / shares["forward"][1]
    ms = 1e3 * shares["decode"][1] / QUERIES_PER_CLIP
    print(f"decoding and soft-NMS: {ms:.2f} ms a query, {share:.1%} of the forward pass (processor time)")
    print(f"moments of kit (float32) and stand-in differ by at most {apart:.1e} s")


def decoding(model: Grounder, batch: Batch) -> dict[str, Callable[[], object]]:
    """The forward pass of a clip with all its queries, and what turns it into five moments for each."""
    predictions = model(batch)
    return {
        "forward": lambda: model(batch),
        "decode": lambda: decode(predictions, DATA.grid, batch.durations_sec, **RULES.model_dump()),
    }


def largest_difference(ours: dict[str, np.ndarray], theirs: list[torch.Tensor]) -> float:
    pairs = zip(ours.values(), theirs, strict=True)
    return max(float(np.abs(mine[:, :2] - other.numpy()[:, :2]).max()) for mine, other in pairs)


if __name__ == "__main__":
    main()
