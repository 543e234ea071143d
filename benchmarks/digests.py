"""Digests of tiny training runs and of the golden networks' outputs: equal before and after a refactor.

    python benchmarks/digests.py --output before.json
    ... change the code ...
    python benchmarks/digests.py --against before.json

Digests compare two versions of the code on one machine with one version of PyTorch; another processor rounds
differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
UNSTABLE = ("seconds", "steps_per_second", "data_wait_share", "peak_memory_mb", "val_seconds")
RENAMED = {"loss_normaliser": "positives"}  # log keys that had another name in 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the digests here")
    parser.add_argument("--against", type=Path, help="compare with these; exit code 1 if any differs")
    args = parser.parse_args()
    found = golden_digests()
    with tempfile.TemporaryDirectory() as folder:
        found |= run_digests(Path(folder))
    for name, digest in found.items():
        print(f"{digest[:16]}  {name}")
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    before = json.loads(args.against.read_text(encoding="utf-8")) if args.against else found
    differing = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
    print(f"differ: {', '.join(differing)}" if differing else f"all {len(found)} equal")
    return int(bool(differing))


def golden_digests() -> dict[str, str]:
    """Logits, offsets and decoded moments of the golden networks for the golden inputs."""
    import torch

    torch.set_num_threads(1)
    from groundnlq.config import DecodeConfig
    from groundnlq.model.decode import decode
    from tests.golden_inputs import GRID, golden_batch, golden_model

    found = {}
    for name in ("tiny", "tiny_star", "champion"):
        batch = golden_batch(name)
        with torch.inference_mode():
            outputs = golden_model(name).eval()(batch)
            moments = decode(outputs, GRID, batch.durations_sec, DecodeConfig())
        found[f"golden {name}: outputs"] = _digest([outputs.logits, outputs.offsets])
        found[f"golden {name}: moments"] = _digest(moments)
    return found


def run_digests(folder: Path) -> dict[str, str]:
    """Weights, averages, optimizer and log of a tiny run: one process, two, and stopped halfway."""
    from tests.tiny_run import make_tiny_data, tiny_config

    data = make_tiny_data(folder / "data")
    config = tiny_config(data, batch_size=2, checkpoint_every_steps=2, timeout_sec=60.0)
    jittered = config.model_copy(update={"data": config.data.model_copy(update={"jitter_max_scale": 3})})
    jittered.save(folder / "run.yaml")
    found = {}
    for name, processes, is_stopped in (("one process", 1, False), ("two processes", 2, False),
                                        ("stopped and resumed", 1, True)):  # fmt: skip
        run = folder / name.replace(" ", "-")
        command = [sys.executable, "-m", "groundnlq", "train", str(folder / "run.yaml"), "--run", str(run)]
        command += ["--processes", str(processes)]
        if is_stopped:
            _stop_halfway(command, run)
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
        found |= {f"{name}: {part}": digest for part, digest in _run_digest(run).items()}
    return found


def _stop_halfway(command: list[str], run: Path) -> None:
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(run.glob("checkpoints/step-*.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, "the run was to be stopped halfway"


def _run_digest(run: Path) -> dict[str, str]:
    import torch

    exported = torch.load(run / "last.pt", weights_only=True)["weights"]
    newest = max(run.glob("checkpoints/step-*.pt"))
    optimizer = torch.load(newest, weights_only=True)["optimizer"]["state"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{RENAMED.get(key, key): row[key] for key in row if key not in UNSTABLE} for row in rows]
    return {
        "weights": _digest(exported["raw"].values()),
        "averages": _digest(exported["ema"].values()),
        "optimizer": _digest(value for state in optimizer.values() for value in state.values()),
        "log": hashlib.sha256(json.dumps(log, sort_keys=True).encode()).hexdigest(),
    }


def _digest(tensors: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
