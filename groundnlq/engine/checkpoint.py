"""Checkpoints of plain tensors: written atomically, verified by checksum, loaded without running code."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundnlq import __version__
from groundnlq.config import RunConfig, load_config
from groundnlq.engine.run_dir import RunDirectory
from groundnlq.errors import CheckpointError
from groundnlq.files import atomic_path, load_tensors, sha256_of, write_json
from groundnlq.model.checkpoint_published import check_state, choose_weights, load_published
from groundnlq.model.grounder import Grounder

FORMAT = "groundnlq-1"
READY = Path(__file__).parent.parent / "sample" / "weights" / "encoder.pt"  # stage one of the sample world, ready-made


class States:
    """Training states of a run, in a folder.

    A state is `step-00000120.pt` with a manifest `step-00000120.json`, written last: a state without a
    manifest, or of another checksum, was not saved completely and is passed over.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, state: Mapping[str, Any], keep: int) -> None:
        """Commit a state and remove all but the newest `keep` committed ones; if it cannot be written, none."""
        path = self.folder / f"step-{step:08d}.pt"
        _write(path, {"step": step, **state})
        manifest = {"step": step, "bytes": path.stat().st_size, "sha256": sha256_of(path), "version": __version__}
        write_json(path.with_suffix(".json"), manifest)
        for old in self.committed()[keep:]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)

    def committed(self) -> list[Path]:
        """States that have a manifest, newest first; `latest` tells whether they are whole."""
        return [path.with_suffix(".pt") for path in sorted(self.folder.glob("step-*.json"), reverse=True)]

    def latest(self) -> Path | None:
        """The newest whole state, to be read by `read_checkpoint`; None where none was ever saved. States of which none
        is whole are a CheckpointError: a new start would lose them."""
        reasons = []
        for path in self.committed():
            if (reason := _damage(path)) is None:
                return path
            reasons.append(f"{path.name}: {reason}")
            warnings.warn(f"{path} is not usable ({reason}); the one before it is taken", stacklevel=2)
        left = list(self.folder.glob("step-*.pt"))
        if reasons or len(left) > 1:  # a single one without manifest is the first, broken off
            listed = "; ".join(reasons) or "no manifests"
            raise CheckpointError(f"{self.folder}: no usable checkpoint ({listed}) -- restore one, or use a new folder")
        return None


def save_model(
    path: Path, config: RunConfig, weights: Mapping[str, Mapping[str, Tensor]], use: str, **info: Any
) -> None:
    """Write trained weights, ``raw`` and ``ema``, with the configuration that made them; `use` names the better."""
    states = {name: dict(state) for name, state in weights.items()}
    _write(path, {"config": config.model_dump(mode="json"), "use": use, "info": info, "weights": states})


def load_model(
    path: str | Path, preset: str | RunConfig = "finetune", weights: str | None = None
) -> tuple[Grounder, RunConfig, dict[str, Any]]:
    """A trained network in evaluation mode, its configuration, and what is known of its training: ``encoder`` (of its
    query tokens), ``video_encoder``, ``epoch``, ``step``, ``provenance``. Arguments as of `Predictor.load`."""
    path = RunDirectory.weights_of(path)
    content = read_checkpoint(path)
    if content.get("format") == FORMAT:
        config, state, info = trained_state(path, weights, content)
        if config.align:
            raise CheckpointError(f"{path}: a video encoder, of stage one -- use it as --encoder, not as a checkpoint")
        check_state(state, config.model, str(path))
    else:
        config, info = preset if isinstance(preset, RunConfig) else load_config(preset), {}
        shape, state = load_published(content, str(path), config.model, weights)
        config = config.model_copy(update={"model": shape})
    model = Grounder(config.model)
    model.load_state_dict(state)
    return model.eval(), config, info


def trained_state(
    path: str | Path, weights: str | None = None, content: Mapping[str, Any] | None = None
) -> tuple[RunConfig, dict, dict]:
    """Configuration, weights by name, and what is known of the training, from a file of ours or a run directory."""
    path = RunDirectory.weights_of(path)
    content = content or read_checkpoint(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not weights that 'groundnlq train' wrote -- name the run folder, or its best.pt"
        )
    if "weights" not in content and "optimizer" in content:
        raise CheckpointError(f"{path}: is a state to resume from -- name the run folder, best.pt or last.pt")
    try:
        config = RunConfig.parse(content["config"], str(path))
        state = choose_weights(content["weights"], weights, content["use"], str(path))
        info = dict(content.get("info", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: incomplete ({error} is missing) -- train again, or restore it") from None
    return config, state, info


def encoder_name(config: RunConfig, state: Mapping[str, Tensor]) -> str:
    """Name of the video encoder that a run of stage one trained, with a hash of its weights alone."""
    weights = {key.removeprefix("video."): state[key] for key in state if key.startswith("video.")}
    digest = hashlib.sha256(b"".join(key.encode() + weights[key].numpy().tobytes() for key in sorted(weights)))
    return f"{config.name.replace(' ', '_')} sha256:{digest.hexdigest()[:12]}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file; a file with anything but plain values is refused."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint -- train one first, or check the path")
    content = load_tensors(path, CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint -- check the path")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:  # torch says where it broke off; what the system said is behind it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _damage(path: Path) -> str | None:
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if path.stat().st_size != manifest["bytes"]:
            return f"{path.stat().st_size} bytes instead of {manifest['bytes']}"
        return None if sha256_of(path) == manifest["sha256"] else "its checksum differs"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
