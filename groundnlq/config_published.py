"""YAML files of the published program, read as our configuration.

Every key is either translated, held to the one value that the kit has, or ignored by name; anything else is
a typing error. Paths are among the ignored: where files lie is `data.folder` and its neighbours here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from groundnlq.errors import ConfigError, Findings, closest

SECTIONS = ("dataset", "model", "opt", "loader", "train_cfg", "test_cfg")
MARKS = frozenset(SECTIONS) - {"model"}  # `model` is a section of our own files, too

# Two keys with one meaning here must agree.
TRANSLATED = {
    "init_rand_seed": "train.seed",
    "dataset.feat_stride": "data.snippet_stride_frames",
    "dataset.num_frames": "data.snippet_stride_frames",
    "dataset.default_fps": "data.fps",
    "dataset.input_vid_dim": "model.video_dim",
    "dataset.input_txt_dim": "model.text_dim",
    "dataset.max_seq_len": "model.max_seq_len",
    "model.embd_dim": "model.width",
    "model.fpn_dim": "model.width",
    "model.head_dim": "model.width",
    "model.n_head": "model.num_heads",
    "model.n_mha_win_size": "model.window",
    "model.regression_range": "model.regression_ranges_grid",
    "opt.learning_rate": "train.learning_rate",
    "opt.weight_decay": "train.weight_decay",
    "opt.backbone_lr_weight": "train.backbone_rate_factor",
    "loader.batch_size": "train.batch_size",
    "train_cfg.init_loss_norm": "train.initial_loss_normaliser",
    "train_cfg.clip_grad_l2norm": "train.clip_grad_norm",
    "train_cfg.center_sample_radius": "train.center_radius",
    "train_cfg.label_smoothing": "train.label_smoothing",
    "train_cfg.loss_weight": "train.regression_weight",
    "train_cfg.droppath": "model.drop_path",
    "test_cfg.pre_nms_thresh": "decode.min_score",
    "test_cfg.min_score": "decode.min_score",
    "test_cfg.pre_nms_topk": "decode.pre_nms_topk",
    "test_cfg.max_seg_num": "decode.top_k",
    "test_cfg.nms_method": "decode.nms",
    "test_cfg.nms_sigma": "decode.sigma",
    "test_cfg.iou_threshold": "decode.iou_threshold",
    "test_cfg.duration_thresh": "decode.min_duration_grid",
}
COMPUTED = {
    "model.backbone_arch",
    "opt.epochs",
    "opt.warmup",
    "opt.warmup_epochs",
    "test_cfg.multiclass_nms",
    "test_cfg.voting_thresh",
}
# What the published results used, and all that the kit has; another value would train another model.
FIXED = {
    "dataset.num_classes": 1,
    "dataset.downsample_rate": 1,
    "dataset.force_upsampling": False,
    "model.fpn_type": "identity",
    "model.use_abs_pe": True,
    "model.use_rel_pe": False,
    "model.scale_factor": 2,
    "model.embd_kernel_size": 3,
    "model.embd_with_ln": True,
    "model.fpn_with_ln": True,
    "model.head_kernel_size": 3,
    "model.head_num_layers": 3,
    "model.head_with_ln": True,
    "opt.type": "AdamW",
    "opt.schedule_type": "cosine",
    "train_cfg.center_sample": "radius",
    "train_cfg.cls_prior_prob": 0.01,
    "train_cfg.dropout": 0.0,
}
IGNORED = {
    *("dataset_name", "model_name", "devices", "output_folder", "train_split", "val_split"),
    *(f"dataset.{name}" for name in ("json_file", "feat_folder", "video_feat_dir", "text_feat_dir")),
    *(f"dataset.{name}" for name in ("file_prefix", "file_ext", "crop_ratio", "trunc_thresh")),
    *("model.max_buffer_len_factor", "model.backbone_type", "train_cfg.head_empty_cls"),
    *("opt.momentum", "opt.schedule_steps", "opt.schedule_gamma", "opt.eta_min"),
    *("loader.num_workers", "test_cfg.ext_score_file", "test_cfg.test_bs"),
}
KNOWN = sorted({*TRANSLATED, *COMPUTED, *FIXED, *IGNORED})


def is_published(tree: Mapping[str, Any]) -> bool:
    """Does a YAML mapping have the published program's sections?"""
    return not MARKS.isdisjoint(tree)


def translate(tree: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Our tree of plain dictionaries, and the published keys that have no meaning here.

    >>> translate({"opt": {"epochs": 6, "warmup_epochs": 4}, "loader": {"num_workers": 8}}, "ft.yaml")
    ({'train': {'epochs': 10, 'warmup_epochs': 4}}, ['loader.num_workers'])

    Raises:
        ConfigError: unknown keys (each with its closest known one), values that the kit does not have and
            keys that contradict each other, all in one message.
    """
    findings = Findings(where, ConfigError)
    given = dict(_flat(tree, findings))
    for key in sorted(given.keys() - set(KNOWN)):
        findings.add(f"unknown key {key}{closest(key, KNOWN)}")
    for key in sorted(given.keys() & FIXED.keys()):
        if given[key] != FIXED[key]:
            findings.add(f"{key}: {given[key]!r} is not supported, only {FIXED[key]!r}")
    ours: dict[str, Any] = {}
    voting = dict(_voting(given))
    computed = (*_architecture(given, findings), *_epochs(given, findings), *voting.items())
    for key, value in (*_translated(given), *computed):
        if ours.setdefault(key, value) != value:
            others = [k for k, target in TRANSLATED.items() if target == key and k in given]
            findings.add(f"{' and '.join(others)} differ, but are one number here ({key})")
    findings.raise_if_any("mend the keys, or write the file in the kit's own layout")
    return _nested(ours), sorted(given.keys() & (IGNORED if voting else IGNORED | {"test_cfg.voting_thresh"}))


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


def _translated(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((TRANSLATED[key], value) for key, value in given.items() if key in TRANSLATED)


def _architecture(given: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, Any]]:
    parts = ("embed_layers", "text_layers", "stem_layers", "cross_levels", "self_levels")
    numbers = given.get("model.backbone_arch", ())
    if "model.backbone_arch" in given and (not isinstance(numbers, list) or len(numbers) != len(parts)):
        findings.add(f"model.backbone_arch: five counts ({', '.join(parts)}) expected, got {numbers!r:.60}")
        return iter(())
    return ((f"model.num_{part}", count) for part, count in zip(parts, numbers, strict=False))


def _epochs(given: Mapping[str, Any], findings: Findings) -> Iterator[tuple[str, Any]]:
    """There `epochs` come after the warm-up; here they include it."""
    warmup = given.get("opt.warmup_epochs", 0) if given.get("opt.warmup", True) else 0
    rest = given.get("opt.epochs", 0)
    if not isinstance(warmup, int) or not isinstance(rest, int):
        findings.add(f"opt: whole epochs expected, got epochs {rest!r:.40}, warmup_epochs {warmup!r:.40}")
    elif "opt.epochs" in given:
        yield "train.warmup_epochs", warmup
        yield "train.epochs", warmup + rest
    elif warmup:
        findings.add("opt.warmup_epochs stands without opt.epochs")


def _voting(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The published program votes only where suppression knows no classes; its own runs never did."""
    if "test_cfg.voting_thresh" in given and not given.get("test_cfg.multiclass_nms", True):
        yield "decode.voting_iou", given["test_cfg.voting_thresh"]


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in sorted(flat.items()):
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return tree
