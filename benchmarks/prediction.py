"""Prediction over a split of Ego4D's lengths and queries per clip, against the stand-in.

    python benchmarks/prediction.py

From stored features to ranked moments, champion model. The stand-in answers query after query, or 16 at
once, and inflates the clip for each (it pads all to the same length, so 16 queries stand for all); the kit
answers a split of 20 clips and reads a clip once for its eleven queries. A round takes a good minute.
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

from groundnlq.config import RunConfig
from groundnlq.data.dataset import Batch
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.processor import memory_kept
from groundnlq.model.decode import decode
from groundnlq.model.grounder import Grounder

CLIPS = 20  # the fewest with every length in its share
CONFIG = RunConfig(name="champion")


def answer_as_published(model: StandIn, batch: Batch, stored: bytes) -> list[torch.Tensor]:
    """All queries of the batch at once, each from its own inflated clip."""
    for _ in batch.query_ids:
        batch.video[0, : batch.video_mask.sum()] = inflate(stored)
    return decode(model(batch), CONFIG.data.grid, batch.durations_sec, CONFIG.decode)


def answer_from(store: FeatureStore, predictor: Predictor, batch: Batch) -> dict[str, np.ndarray]:
    clip = store.read(batch.clip_uids[0])
    batch.video[0, : len(clip)] = clip
    return predictor.answer(batch)


def only(batch: Batch, queries: slice) -> Batch:
    fields = ("text", "text_mask", "clip_index", "moments_grid", "query_ids", "durations_sec")
    return replace(batch, **{name: getattr(batch, name)[queries] for name in fields})


def main() -> None:
    chosen = options(rounds=3)
    model = champion().eval()
    base, ours = StandIn(model), {p: Predictor(model, CONFIG, p) for p in ("float32", "bfloat16")}
    batches = {steps: make_batch(steps, 16) for steps in CLIP_STEPS}
    batches = {steps: replace(b, clip_uids=(f"clip{steps}",)) for steps, b in batches.items()}
    clips = {b.clip_uids[0]: b.video[0, :steps].clone() for steps, b in batches.items()}
    whole, stored = batches[900], compress(clips["clip900"])
    split = [only(batches[n], slice(QUERIES_PER_CLIP)) for n in split_of(CLIPS)]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        write_features(Path(folder, "f.h5"), clips.items(), dtype="float32")
        store = FeatureStore(Path(folder, "f.h5"))

        def answer_split(predictor: Predictor) -> None:
            with memory_kept():  # as `predict` does
                for batch in split:
                    answer_from(store, predictor, batch)

        def answer_one_by_one() -> None:
            for i in range(len(whole.query_ids)):
                answer_as_published(base, only(whole, slice(i, i + 1)), stored)

        calls = {"batch 1": answer_one_by_one, "batch 16": lambda: answer_as_published(base, whole, stored)}
        calls |= {name: lambda p=predictor: answer_split(p) for name, predictor in ours.items()}
        seconds = compare(calls, chosen.rounds)
        apart = largest_difference(
            answer_from(store, ours["float32"], only(whole, slice(3))),
            answer_as_published(base, only(whole, slice(3)), stored),
        )
        shares = compare(decoding(model, split[0]), 9)
    bases = {name: seconds[name] / len(whole.query_ids) for name in ("batch 1", "batch 16")}
    for name, base_seconds in bases.items():
        show(f"stand-in, {name}", base_seconds)
        known = PUBLISHED_SEC[f"query, {name}"]
        print(f"{'':36s} known of the published program on such a machine: {known} s")
    for precision in ours:
        show(f"kit, {precision}", seconds[precision] / len(split) / QUERIES_PER_CLIP, bases)
    forward, decoded = (np.median(shares[name][:, 1]) for name in ("forward", "decode"))
    print(
        f"decoding and soft-NMS: {1e3 * decoded / QUERIES_PER_CLIP:.2f} ms a query, "
        f"{decoded / forward:.1%} of the forward pass (processor time)"
    )
    print(f"moments of kit (float32) and stand-in differ by at most {apart:.1e} s")


def split_of(num_clips: int) -> list[int]:
    """Steps of each clip of a split that has Ego4D's lengths in Ego4D's shares."""
    return [steps for steps, share in CLIP_STEPS.items() for _ in range(round(share * num_clips))]


def decoding(model: Grounder, batch: Batch) -> dict[str, Callable[[], object]]:
    """The forward pass of a clip with all its queries, and what turns it into five moments for each."""
    predictions = model(batch)
    return {
        "forward": lambda: model(batch),
        "decode": lambda: decode(predictions, CONFIG.data.grid, batch.durations_sec, CONFIG.decode),
    }


def largest_difference(ours: dict[str, np.ndarray], theirs: list[torch.Tensor]) -> float:
    pairs = zip(ours.values(), theirs, strict=True)
    return max(float(np.abs(mine[:, :2] - other.numpy()[:, :2]).max()) for mine, other in pairs)


if __name__ == "__main__":
    main()
