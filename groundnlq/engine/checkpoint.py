"""Checkpoints of plain tensors: written atomically, verified by checksum, loaded without running anything.

A training state is `step-00000120.pt` plus a manifest `step-00000120.json`, written last: a state without a
manifest, or of another checksum, was not saved completely and is passed over.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundnlq import __version__
from groundnlq.config import RunConfig, load_config, parse_config
from groundnlq.errors import CheckpointError
from groundnlq.files import atomic_path, sha256_of, write_json
from groundnlq.model.grounder import Grounder
from groundnlq.model.published import check_state, load_published

FORMAT = "groundnlq-1"


def save_state(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Commit a training state and remove all but the newest `keep` committed ones.

    Raises:
        KitError: it cannot be written; earlier states stay as they are.
    """
    path = folder / f"step-{step:08d}.pt"
    with atomic_path(path) as temporary:
        _write({"format": FORMAT, "step": step, **state}, temporary)
        manifest = {"step": step, "bytes": temporary.stat().st_size, "sha256": sha256_of(temporary)}
    write_json(path.with_suffix(".json"), manifest | {"version": __version__})
    for old in committed_states(folder)[keep:]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
    return path


def committed_states(folder: Path) -> list[Path]:
    """States that have a manifest, newest first; whether they are whole is told by `latest_state`."""
    return [path.with_suffix(".pt") for path in sorted(folder.glob("step-*.json"), reverse=True)]


def latest_state(folder: Path) -> Path | None:
    """The newest whole state, to be read by `read_checkpoint`; None where none was ever saved.

    Raises:
        CheckpointError: states are there, but none is whole; training on from nothing would lose them.
    """
    reasons = []
    for path in committed_states(folder):
        reason = _damage(path)
        if reason is None:
            return path
        reasons.append(f"{path.name}: {reason}")
        warnings.warn(f"{path} is not usable ({reason}); the one before it is taken", stacklevel=2)
    left = list(folder.glob("step-*.pt"))
    if reasons or len(left) > 1:  # a single one without manifest is the first, broken off
        listed = "; ".join(reasons) or "no manifests"
        raise CheckpointError(
            f"{folder}: no usable checkpoint ({listed}) -- restore one, or use a new folder"
        )
    return None


def save_model(
    path: Path, config: RunConfig, weights: Mapping[str, Mapping[str, Tensor]], use: str, **info: Any
) -> None:
    """Write trained weights with the configuration that made them.

    Args:
        weights: ``raw`` and ``ema`` states; `use` names the one that is better by validation.
    """
    content = {"format": FORMAT, "config": config.model_dump(mode="json"), "use": use, "info": info}
    states = {name: dict(state) for name, state in weights.items()}
    with atomic_path(path) as temporary:
        _write(content | {"weights": states}, temporary)


def load_model(
    path: str | Path, preset: str | RunConfig = "finetune", weights: str | None = None
) -> tuple[Grounder, RunConfig]:
    """A trained network in evaluation mode and the run's configuration, from our file or a published one.

    Args:
        preset: the run that a published file is of, since it has no configuration of its own: what its
            shapes do not tell (heads, window, position table) and how to decode are taken from there.
        weights: ``raw`` or ``ema``; by default what the file names as the better one.

    Raises:
        CheckpointError: damaged, refused or of another architecture.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.pt"
    content = read_checkpoint(path)
    if content.get("format") == FORMAT and "weights" in content:
        config = parse_config(content["config"], str(path))
        state = content["weights"][weights or content["use"]]
        check_state(state, config.model, str(path))
    else:
        config = preset if isinstance(preset, RunConfig) else load_config(preset)
        shape, state = load_published(
            path, config.model.max_seq_len, config.model.num_heads, config.model.window
        )
        config = config.model_copy(update={"model": shape})
    model = Grounder.from_config(config.model)
    model.load_state_dict(state)
    return model.eval(), config


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file; a file with anything but plain values is refused."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint -- train one first, or check the path") from None
    except Exception as error:  # damaged or refused: either way nothing of it was run
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: damaged, or refused as more than plain tensors ({reason:.160})"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return content


def _write(content: Mapping[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch says where it broke off; what the system said is behind it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _damage(path: Path) -> str | None:
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if path.stat().st_size != manifest["bytes"]:
            return f"{path.stat().st_size} bytes instead of {manifest['bytes']}"
        return None if sha256_of(path) == manifest["sha256"] else "its checksum differs"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
