"""YAML files of the published program, read as our configuration.

Every key is either translated, held to the one value that the kit has, or ignored by name (the table is
`configs/published/keys.yaml`); anything else is a typing error. What a file leaves out has the published default.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter, ValidationError

from groundnlq.errors import ConfigError, Findings, closest
from groundnlq.files import parse_yaml

SECTIONS = ("dataset", "model", "opt", "loader", "train_cfg", "test_cfg")
PARTS = ("embed_layers", "text_layers", "stem_layers", "cross_levels", "self_levels")  # of backbone_arch


def translate(tree: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Our tree of plain dictionaries, and what to tell: keys that have no meaning here, and defaults that are used.

    A tree without a section that only the published program has is ours already.

    >>> ours, notes = translate({"opt": {"epochs": 6, "warmup_epochs": 4}, "dataset": {"num_frames": 16}}, "ft.yaml")
    >>> ours["train"]["epochs"], notes[0][:60]
    (10, 'not given, so as in the published program: init_rand_seed 12')

    A ConfigError has all unknown keys (each with its closest known one), values that the kit does not have, and keys
    that contradict each other.
    """
    if all(section == "model" or section not in tree for section in SECTIONS):
        return dict(tree), []
    findings, table = Findings(where, ConfigError), _table()
    known = sorted(key for keys in table.values() for key in keys)
    translated, fixed, given = table["translated"], table["fixed"], dict(_flat(tree, findings))
    for key in sorted(given):
        if key not in known:
            findings.add(f"unknown key {key}{closest(key, known)}")
        elif given[key] != fixed.get(key, given[key]):
            findings.add(f"{key}: {given[key]!r:.40} is not supported, only {fixed[key]!r}")
    defaults = {key: default for key, (_, default) in translated.items()} | table["computed"]
    values = {key: given.get(key, default) for key, default in defaults.items()}
    values |= {key: _checked(key, values[key], kind, findings) for key, kind in table["computed"].items()}
    ours: dict[str, Any] = {}
    renamed = [(target, values[key]) for key, (target, _) in translated.items()]
    for target, value in (*renamed, *_computed(values, findings)):
        section, _, name = target.partition(".")
        ours.setdefault(section, {})[name] = value
    findings.raise_if_any("fix the keys, or write the file in the kit's own layout")
    used = ", ".join(f"{key} {value}" for key, value in defaults.items() if key not in given)
    unused = ", ".join(sorted(given.keys() & set(table["ignored"])))
    notes = {"not given, so as in the published program: ": used, "ignored (files are named by data.*): ": unused}
    return ours, [title + keys for title, keys in notes.items() if keys]


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


def _checked(key: str, value: Any, kind: Any, findings: Findings) -> Any:
    """The value as one of this kind, of a list of equal ones (for all levels) the first; else a finding."""
    if isinstance(kind, int) and isinstance(value, list) and value and value.count(value[0]) == len(value):
        value = value[0]
    try:
        checked = TypeAdapter(type(kind)).validate_python(value)
        if not isinstance(kind, list) or len(checked) == len(kind):
            return checked
    except ValidationError:
        pass
    findings.add(f"{key}: a value like {kind} expected, got {value!r:.60}")
    return kind


def _computed(values: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, Any]]:
    """What needs more than another name."""
    if values["dataset.num_frames"] != values["dataset.feat_stride"]:
        yield "data.window_frames", values["dataset.num_frames"]  # by default the stride
    yield from ((f"model.num_{part}", n) for part, n in zip(PARTS, values["model.backbone_arch"], strict=True))
    window = values["model.n_mha_win_size"]
    yield "model.window", window if window > 1 else 0
    widths = [values[f"model.{part}_dim"] for part in ("embd", "fpn", "head")]
    if widths != widths[:1] * 3:
        findings.add(f"model.embd_dim, fpn_dim and head_dim {widths!s:.60} differ; one number here (model.width)")
    yield "model.width", widths[0]
    warmup = values["opt.warmup_epochs"] * values["opt.warmup"]
    yield "train.warmup_epochs", warmup
    yield "train.epochs", warmup + values["opt.epochs"]  # there they come after the warm-up
    yield "train.clip_grad_norm", max(values["train_cfg.clip_grad_l2norm"], 0.0)
    yield "data.jitter_max_scale", 10 if values["dataset.enable_temporal_jittering"] else 1
    before, after = values["test_cfg.pre_nms_thresh"], values["test_cfg.min_score"]
    if before > after:
        findings.add(f"test_cfg.pre_nms_thresh {before} is above min_score {after}; one number here (decode.min_score)")
    yield "decode.min_score", after  # suppression drops what is below it, so that it may be dropped before
    # votes only where suppression knows no classes; the published runs never did
    yield "decode.voting_iou", 0.0 if values["test_cfg.multiclass_nms"] else values["test_cfg.voting_thresh"]
