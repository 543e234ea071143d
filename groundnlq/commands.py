"""The table of verbs: what each takes. What it does stands in `verbs`, one function each."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from groundnlq import verbs


class Verb(NamedTuple):
    """A verb, its arguments and an example; the first word of a name of two is a group."""

    name: str
    run: Callable[[argparse.Namespace], int | None]
    summary: str
    example: str
    arguments: Sequence[tuple[tuple[str, ...], dict[str, Any]]]
    more: Callable[[], str] | None = None  # said at the end of its help, and found out only then


def _arg(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _file(name: str, help: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    required = {"required": True} if name.startswith("-") else {}
    return _arg(name, type=Path, help=help, **{**required, **options})


def _flag(name: str, help: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    return _arg(name, action="store_true", help=help)


def _some(name: str, choices: Sequence[str], help: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Any of these; without a name behind it, all of them."""
    help = f"{help}: {', '.join(choices)} (none named: all)"
    return _arg(name, nargs="*", choices=choices, metavar="NAME", action=_Some, default=(), help=help)


class _Some(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, tuple(values or self.choices))


def _number(kind: type, text: str) -> Any:
    value = kind(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _count(text: str) -> int:
    return _number(int, text)


def _rate(text: str) -> float:
    return _number(float, text)


_OUTPUT = _file("--output", "file to write, whole or not at all", metavar="FILE")
_RECORDS = "records, as 'groundnlq prepare' writes them"
_PRECISION = ("float32", "bfloat16")

VERBS = (
    Verb(
        "sample",
        verbs.sample,
        "Make the sample world: official files, features, and the prepared files of both.",
        "groundnlq sample data/sample --seed 0",
        (
            _file("folder", "where it goes", metavar="DIR"),
            _arg("settings", metavar="key=value", nargs="*", help="such as objects_per_clip=6 clutter=0.8"),
            _arg("--seed", type=int, default=0, help="another seed is another world (default 0)"),
            _arg("--scale", default="demo", help="tiny, demo (default) or ego4d, the size of the real thing"),
            _flag("--official-only", "stop before 'prepare', 'features import' and 'text encode'"),
        ),
    ),
    Verb(
        "prepare nlq",
        verbs.prepare_nlq,
        "Turn official NLQ files into records; what is odd in them is counted.",
        "groundnlq prepare nlq nlq_val.json --output data/ego4d/nlq_val.jsonl",
        (
            _file("files", "official annotation files, v1 or v2", metavar="JSON", nargs="+"),
            _OUTPUT,
            _flag("--raw-text", "keep the questions as annotated, stray prefixes and all"),
        ),
    ),
    Verb(
        "prepare narrations",
        verbs.prepare_narrations,
        "Turn EgoClip's narrations into records for pretraining, cut to the clips of train files.",
        "groundnlq prepare narrations egoclip.csv --clips nlq_train.json moments_train.json vq_train.json "
        "--features data/ego4d/features.h5 --output data/ego4d/narrations.jsonl",
        (
            _file("egoclip", "EgoClip's tab-separated file", metavar="CSV"),
            _file("--clips", "official train files", metavar="JSON", nargs="+"),
            _OUTPUT,
            _file("--features", "keep only clips with features", metavar="F.h5", required=False),
            _flag("--keep-tag", "keep the leading '#C'"),
            _flag("--question-mark", "end each text in '?', as questions do"),
        ),
    ),
    Verb(
        "features import",
        verbs.features_import,
        "Write one feature store from folders of .pt files, LMDB folders or HDF5 files.",
        "groundnlq features import internvideo/ egovlp/ --output data/ego4d/features.h5",
        (
            _file("sources", "concatenated by channel, in this order", metavar="SOURCE", nargs="+"),
            _OUTPUT,
            _arg("--dtype", choices=("float16", "float32"), default="float16", help="default float16"),
            _arg("--fps", type=_rate, default=30.0, help="of the video (default 30)"),
            _arg("--stride", type=_rate, default=16.043, help="frames between two steps (default 16.043)"),
        ),
    ),
    Verb(
        "features check",
        verbs.features_check,
        "Hold features against records: rate, missing and broken clips; exit 1 if something is found.",
        "groundnlq features check data/ego4d/features.h5 --records data/ego4d/nlq_val.jsonl",
        (
            _file("features", "feature store", metavar="F.h5"),
            _file("--records", _RECORDS, metavar="R.jsonl", nargs="+"),
            _file("--text", "also look for queries without tokens", metavar="T.h5", required=False),
            _arg("--preset", help="preset or YAML file with the configured rate (default: the store's own)"),
        ),
    ),
    Verb(
        "text encode",
        verbs.text_encode,
        "Encode the texts of records into query tokens.",
        "groundnlq text encode data/ego4d/nlq_*.jsonl --encoder clip --download --output data/ego4d/text.h5",
        (
            _file("records", _RECORDS, metavar="R.jsonl", nargs="+"),
            _arg("--encoder", required=True, help="clip (as published), sample, or a folder or hub name"),
            _OUTPUT,
            _flag("--download", "allow fetching the encoder from the hub"),
        ),
    ),
    Verb(
        "text import",
        verbs.text_import,
        "Import query tokens from the published LMDB.",
        "groundnlq text import clip_text_lmdb/ --output data/ego4d/text.h5",
        (_file("source", "LMDB folder", metavar="LMDB"), _OUTPUT),
    ),
    Verb(
        "train",
        verbs.train,
        "Train a preset, or a YAML file of ours or of the published program; the same command resumes.",
        "groundnlq train finetune data.folder=data/ego4d train.epochs=8 --run runs/finetune",
        (
            _arg("config", metavar="PRESET|FILE.yaml", help="see 'groundnlq presets'"),
            _arg("overrides", metavar="key=value", nargs="*", help="changes, such as train.epochs=3"),
            # torchrun takes --run, in front of which it stands, for an abbreviation of an option of its own
            _arg(
                *("--run", "--run-dir"),
                type=Path,
                required=True,
                metavar="DIR",
                help="run folder: checkpoints, metrics, configuration (behind torchrun write --run-dir)",
            ),
            _arg("--processes", type=_count, default=1, metavar="N", help="on this machine (default 1)"),
        ),
    ),
    Verb(
        "predict",
        verbs.predict,
        "Rank moments for every query, as a submission file with scores.",
        "groundnlq predict runs/finetune --records data/ego4d/nlq_val.jsonl "
        "--features data/ego4d/features.h5 --text data/ego4d/text.h5 --output val.json",
        (
            _file("checkpoint", "checkpoint, run folder or published .pth.tar", metavar="CHECKPOINT"),
            _file("--records", _RECORDS, metavar="R.jsonl"),
            _file("--features", "feature store", metavar="F.h5"),
            _file("--text", "query tokens", metavar="T.h5"),
            _OUTPUT,
            _arg("--preset", default="finetune", help="of a published checkpoint (default finetune)"),
            _arg("--precision", choices=_PRECISION, default="float32", help="default float32"),
            _arg("--top-k", type=_count, help="moments per query (default: as configured, 5)"),
            _flag("--other-encoder", "take tokens of another encoder than the checkpoint was trained with"),
        ),
    ),
    Verb(
        "evaluate",
        verbs.evaluate,
        "Recalls of predictions, official and strict, with intervals over clips.",
        "groundnlq evaluate val.json nlq_val.json --output metrics.json",
        (
            _file("predictions", "submission file", metavar="P.json"),
            _file("truth", "official JSON or records", metavar="TRUTH"),
            _file("--raw-text", "predictions made from raw texts", metavar="P_raw.json", required=False),
            _file("--output", "also write the numbers, unrounded", metavar="FILE", required=False),
        ),
    ),
    Verb(
        "ensemble",
        verbs.ensemble,
        "Combine the predictions of several runs as the published ensemble does.",
        "groundnlq ensemble a.json b.json c.json --output ensemble.json",
        (_file("predictions", "submission files", metavar="P.json", nargs="+"), _OUTPUT),
    ),
    Verb(
        "show",
        verbs.show,
        "Say what a file or run folder is and what it was made of.",
        "groundnlq show runs/finetune/val.json",
        (_file("path", "a result of any verb", metavar="FILE"),),
    ),
    Verb(
        "study",
        verbs.study,
        "Hold what the sample world is said to teach to several seeds: a table of claims; hours; resumable.",
        "groundnlq study runs/study --seeds 11 12 13 --curves --compared",
        (
            _file("folder", "where worlds, runs and tables go", metavar="DIR"),
            _arg("overrides", metavar="key=value", nargs="*", help="changes of every run, as for 'train'"),
            _arg("--seeds", type=int, nargs="+", required=True, metavar="N", help="worlds and weights"),
            _arg("--scale", default="demo", help="of the worlds (default demo)"),
            _arg("--val-clips", type=_count, default=100, help="clips that are scored (default 100)"),
            _some("--curves", ("steps", "passes"), "also the recall over narrations, with equal"),
            _some("--compared", ("no-jitter", "star", "half-window", "raw"), "also these settings, paired"),
            _arg("--jobs", type=_count, default=1, help="networks trained side by side (default 1)"),
        ),
    ),
    Verb(
        "notebooks",
        verbs.notebooks,
        "Run the notebooks in order, from annotation files to an error analysis.",
        "groundnlq notebooks --run runs/tiny -p scale tiny -p data_folder data/tiny",
        (
            _arg("names", metavar="NAME", nargs="*", help="such as 03_finetuning or 03 (default: all)"),
            _file("--run", "run folder; the executed notebooks lie in DIR/notebooks", metavar="DIR"),
            _arg(
                *("-p", "--parameter"),
                action="append",
                nargs=2,
                default=[],
                metavar=("name", "value"),
                help="a parameter of the notebooks; paths are seen from the project folder",
            ),
        ),
        verbs.list_notebooks,
    ),
    Verb("presets", verbs.presets, "List what 'train' knows by name.", "groundnlq presets", ()),
)
