"""YAML files of the published program, read as our configuration.

Every key is either translated, held to the one value that the kit has, or ignored by name (the table is
`configs/published/keys.yaml`); anything else is a typing error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from groundnlq.errors import ConfigError, Findings, closest
from groundnlq.files import parse_yaml

SECTIONS = ("dataset", "model", "opt", "loader", "train_cfg", "test_cfg")
PARTS = ("embed_layers", "text_layers", "stem_layers", "cross_levels", "self_levels")  # of backbone_arch


def translate(tree: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Our tree of plain dictionaries, and the published keys that have no meaning here.

    A tree without a section that only the published program has is ours already.

    >>> translate({"opt": {"epochs": 6, "warmup_epochs": 4}, "loader": {"num_workers": 8}}, "ft.yaml")
    ({'train': {'warmup_epochs': 4, 'epochs': 10}}, ['loader.num_workers'])

    A ConfigError has all unknown keys (each with its closest known one), values that the kit does not have, and keys
    that contradict each other.
    """
    if all(section == "model" or section not in tree for section in SECTIONS):
        return dict(tree), []
    findings, table = Findings(where, ConfigError), _table()
    known = sorted(key for keys in table.values() for key in keys)
    translated, fixed, given = table["translated"], table["fixed"], dict(_flat(tree, findings))
    for key in sorted(given.keys() - set(known)):
        findings.add(f"unknown key {key}{closest(key, known)}")
    for key in sorted(given.keys() & fixed.keys()):
        if given[key] != fixed[key]:
            findings.add(f"{key}: {given[key]!r} is not supported, only {fixed[key]!r}")
    ours: dict[str, Any] = {}
    renamed = ((translated[key], value) for key, value in given.items() if key in translated)
    for target, value in (*renamed, *_architecture(given, findings), *_epochs(given, findings), *_voting(given)):
        section, _, name = target.partition(".")
        if ours.setdefault(section, {}).setdefault(name, value) != value:
            others = [key for key in given if translated.get(key) == target]
            findings.add(f"{' and '.join(others)} differ, but are one number here ({target})")
    findings.raise_if_any("fix the keys, or write the file in the kit's own layout")
    data = ours.get("data", {})
    if data.get("window_frames") == data.get("snippet_stride_frames"):  # as None says here
        data.pop("window_frames", None)
    used = {"test_cfg.voting_thresh"} if "voting_iou" in ours.get("decode", ()) else set()
    return ours, sorted(given.keys() & {*table["ignored"], "test_cfg.voting_thresh"} - used)


@cache
def _table() -> dict[str, Any]:
    path = files("groundnlq") / "configs" / "published" / "keys.yaml"
    return parse_yaml(path.read_text("utf-8"), str(path))


def _flat(tree: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if key in SECTIONS and not isinstance(value, Mapping):
            findings.add(f"{key}: a section of keys expected, got {value!r:.40}")
        elif key in SECTIONS:
            yield from ((f"{key}.{name}", entry) for name, entry in value.items())
        elif isinstance(value, Mapping):
            findings.add(f"unknown section {key!r}{closest(str(key), SECTIONS)}")
        else:
            yield str(key), value


def _architecture(given: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, Any]]:
    if "model.backbone_arch" not in given:
        return
    numbers = given["model.backbone_arch"]
    if isinstance(numbers, list) and len(numbers) == len(PARTS):
        yield from ((f"model.num_{part}", count) for part, count in zip(PARTS, numbers, strict=True))
    else:
        findings.add(f"model.backbone_arch: five counts ({', '.join(PARTS)}) expected, got {numbers!r:.60}")


def _epochs(given: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, Any]]:
    """There `epochs` come after the warm-up; here they include it."""
    warmup = given.get("opt.warmup_epochs", 0) if given.get("opt.warmup", True) else 0
    rest = given.get("opt.epochs", 0)
    if not isinstance(warmup, int) or not isinstance(rest, int):
        findings.add(f"opt: whole epochs expected, got epochs {rest!r:.40}, warmup_epochs {warmup!r:.40}")
    elif "opt.epochs" in given:
        yield from (("train.warmup_epochs", warmup), ("train.epochs", warmup + rest))
    elif warmup:
        findings.add("opt.warmup_epochs stands without opt.epochs")


def _voting(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The published program votes only where suppression knows no classes; its own runs never did."""
    if "test_cfg.voting_thresh" in given and not given.get("test_cfg.multiclass_nms", True):
        yield "decode.voting_iou", given["test_cfg.voting_thresh"]
