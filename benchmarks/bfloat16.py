"""What bfloat16 does to the recalls of trained models: both precisions on the same records.

    python benchmarks/bfloat16.py data/sample runs/demo/pretrain runs/demo/scratch runs/demo/finetune

One query more or less moves a recall of the demo's 540 by 0.19 points, of a study's 900 by 0.11. A checkpoint
may stand for a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from groundnlq.data.recall import recalls
from groundnlq.data.records import read_records
from groundnlq.engine.predictor import Predictor


def main() -> None:
    folder, *runs = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    records = read_records(folder / "nlq_val.jsonl")
    changes = []
    for run in runs:
        stores = folder / "features.h5", folder / "text.h5"
        exact, rough = (
            Predictor.load(run, precision=precision, top_k=10).predict(records, *stores)
            for precision in ("float32", "bfloat16")
        )
        same = np.mean([np.abs(exact[q][0, :2] - rough[q][0, :2]).max() < 0.5 for q in exact])
        table, other = recalls(exact, records), recalls(rough, records)
        changes.append({key: other[key] - value for key, value in table.items()})
        print(f"{run}: {len(records)} queries, {same:.1%} of first answers within 0.5 s of float32's")
        for key, value in table.items():
            print(f"    {key:14s} {value:6.2f} -> {other[key]:6.2f}  ({changes[-1][key]:+.2f})")
    mean = {key: np.mean([change[key] for change in changes]) for key in changes[0]}
    print("mean change: " + ", ".join(f"{key} {value:+.2f}" for key, value in mean.items()))


if __name__ == "__main__":
    main()
