"""Make the weights that come with the package, from a run over the sample world: a video encoder and a network.

make demo
python -m benchmarks.ready_made runs/demo data/sample

Weights are rounded to 16 bits. Recalls are measured with the rounded ones, on films of the val split, and stored with
them, as is EgoMCQ before rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from groundnlq.analysis.evaluation import evaluate
from groundnlq.config import RunConfig
from groundnlq.data.records import read_records
from groundnlq.engine.checkpoint import save_model, trained_state
from groundnlq.provenance import file_identity
from groundnlq.video.alignment import evaluate_run
from groundnlq.video.answer import load
from groundnlq.video.encoders import READY, load_encoder
from groundnlq.video.extract import extract_features

FOLDERS: dict[str, str] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="with the runs align and finetune")
    parser.add_argument("data", type=Path, help="the sample world that they were trained on")
    parser.add_argument("--output", type=Path, default=READY.parent, help="folder to write (default: the package's)")
    options = parser.parse_args()
    FOLDERS.update({str(options.run): "runs/demo", str(options.data): "data/sample"})
    encoder, network = options.output / "encoder.pt", options.output / "network.pt"
    found = evaluate_run(options.run / "align")
    answers = {kind: round(100 * float(right.mean()), 1) for kind, (_, right) in found.items()}
    _export(options.run / "align" / "best.pt", encoder, EgoMCQ=answers)
    name = {"video_encoder": load_encoder(str(encoder)).name}
    _export(options.run / "finetune" / "best.pt", network, **name)
    scores = _recalls(network, encoder, options.data)
    _export(options.run / "finetune" / "best.pt", network, **name, recalls=scores)
    size = sum(path.stat().st_size for path in (encoder, network)) / 2**20
    print(f"{encoder}, {network}: {size:.1f} MB\nEgoMCQ of val {answers}\nrecalls of val {scores}")


def _export(path: Path, output: Path, **about: Any) -> None:
    config, state, info = trained_state(path)
    about = _portable({"config": config.model_dump(mode="json"), "info": info | about | {"from": file_identity(path)}})
    half = {name: x.half() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in state.items()}
    save_model(output, RunConfig.parse(about["config"], str(path)), {"ema": half}, "ema", **about["info"])


def _portable(value: Any) -> Any:
    """The same with the folders of README's commands in place of those of this machine."""
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    for folder, name in FOLDERS.items():
        value = value.replace(folder, name) if isinstance(value, str) else value
    return value


def _recalls(network: Path, encoder: Path, data: Path) -> dict[str, float]:
    truth = read_records(data / "nlq_val.jsonl")
    films = [data / "official" / "clips" / f"{uid}.mp4" for uid in dict.fromkeys(r.clip_uid for r in truth)]
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features.h5"
        extract_features(films, [str(encoder)], features)
        ranked = load(network, top_k=5).predict(truth, features, data / "text.h5")
        return {key: round(value, 1) for key, value in evaluate(ranked, truth).strict.items()}


if __name__ == "__main__":
    main()
