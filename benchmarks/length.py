"""Cost per step as clips grow from 900 to 9,000 steps: prediction of one query, champion model, float32.

python benchmarks/length.py --plot benchmarks/length.png
"""

from __future__ import annotations

import argparse
import os

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from timing import champion, compare, make_batch

from groundnlq.config import RunConfig
from groundnlq.engine.predictor import Predictor

LENGTHS = (900, 1800, 3600, 5400, 9000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", default="length.png")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    predictor = Predictor(champion(), RunConfig(name="champion"))
    batches = {str(steps): make_batch(steps, 1) for steps in LENGTHS}
    calls = {steps: lambda b=batch: predictor.answer(b) for steps, batch in batches.items()}
    seconds = compare(calls, chosen.rounds)
    cpu_ms = [1e3 * seconds[str(steps)][:, 1].min() for steps in LENGTHS]
    for steps, ms in zip(LENGTHS, cpu_ms, strict=True):
        print(f"{steps:5d} steps {ms:8.0f} ms, {1e3 * ms / steps:6.1f} microseconds a step (processor time)")
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(LENGTHS, cpu_ms, "o-", label="measured")
    axes.plot([0, 9000], [0, cpu_ms[0] / 900 * 9000], ":", color="grey", label="proportional to 900 steps")
    axes.set(xlabel="steps of the clip", ylabel="processor time of a query in ms", ylim=(0, None))
    axes.legend()
    figure.savefig(chosen.plot, dpi=100)
    print(f"load {os.getloadavg()[0]:.1f}; picture: {chosen.plot}")


if __name__ == "__main__":
    main()
