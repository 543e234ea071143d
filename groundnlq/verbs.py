"""What each verb of the command line does: a call of the rooms' functions and a few printed lines.

Rooms are imported inside the verbs, so that `groundnlq --help` waits for none of them.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path


def sample(args: Namespace) -> None:
    from groundnlq.sample.make import make_sample, prepare_sample

    changes = dict(_setting(text) for text in args.settings)
    counts = make_sample(args.folder, seed=args.seed, scale=args.scale, **changes)
    print_counts(f"{args.folder}/official", counts)
    if not args.official_only:
        for step, counts in prepare_sample(args.folder).items():
            print_counts(step, counts)
        print(f"ready: {args.folder} -- try 'groundnlq train sample_scratch --run runs/scratch'")


def prepare_nlq(args: Namespace) -> None:
    from groundnlq.data.annotations import read_nlq
    from groundnlq.data.records import write_records
    from groundnlq.errors import DataError, sample_of

    records = {}
    for path in args.files:
        file = read_nlq(path, clean_text=not args.raw_text)
        if twice := [r.query_id for r in file.records if r.query_id in records]:
            raise DataError(f"{path}: {sample_of(twice)} also in a file before -- name each file once")
        records |= {record.query_id: record for record in file.records}
        print_counts(str(path), {"queries": len(file.records), "clips": len(file.clips)} | _found(file.dirt))
    write_records(args.output, records.values())
    _print_written(args.output)


def prepare_narrations(args: Namespace) -> None:
    from groundnlq.data.annotations import read_clips
    from groundnlq.data.features import FeatureStore
    from groundnlq.data.narrations import narration_records
    from groundnlq.data.records import write_records

    available = FeatureStore(args.features) if args.features else None
    records, counts = narration_records(
        args.egoclip,
        read_clips(args.clips),
        available=available,
        keep_tag=args.keep_tag,
        question_mark=args.question_mark,
    )
    write_records(args.output, records)
    print_counts(str(args.egoclip), _found(counts))
    _print_written(args.output)


def features_import(args: Namespace) -> None:
    from groundnlq.data.importers import import_features

    counts = import_features(
        args.sources, args.output, dtype=args.dtype, fps=args.fps, snippet_stride_frames=args.stride
    )
    print_counts("imported", counts)
    _print_written(args.output)


def features_check(args: Namespace) -> int:
    from groundnlq.data.check import check_features
    from groundnlq.data.features import FeatureStore
    from groundnlq.data.grid import StepGrid
    from groundnlq.data.records import read_records
    from groundnlq.data.tokens import TokenStore

    store = FeatureStore(args.features)
    records = [record for path in args.records for record in read_records(path)]
    if args.preset:
        from groundnlq.config import load_config

        grid = load_config(args.preset).data.grid
    else:
        rate = {
            key: store.attributes[key] for key in ("fps", "snippet_stride_frames") if key in store.attributes
        }
        grid = StepGrid(**rate)
    report = check_features(store, records, grid, TokenStore(args.text) if args.text else None)
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


def text_encode(args: Namespace) -> None:
    from groundnlq.data.text import encode_records

    print_counts("encoded", encode_records(args.records, args.encoder, args.output, download=args.download))
    _print_written(args.output)


def text_import(args: Namespace) -> None:
    from groundnlq.data.importers import import_text_lmdb

    print_counts("imported", {"queries": import_text_lmdb(args.source, args.output)})
    _print_written(args.output)


def train(args: Namespace) -> None:
    from groundnlq.config import load_config
    from groundnlq.engine.launch import train as train_run

    config = load_config(args.config, args.overrides)
    result = train_run(config, args.run, processes=args.processes, attach=False)
    if not result.history or not _is_main_process():
        return
    last = result.history[-1]
    if result.resumed_from_step == last["step"]:
        print(f"{args.run}: this run was finished before; nothing to do")
    scores = {name: f"{last[f'{name} mean R@1']:.2f}" for name in ("raw", "ema")}
    print_counts(f"epoch {last['epoch']}: loss {last['loss total']:.3f}, mean R@1", scores)
    print(f"best weights: {result.best}\nlast weights: {result.last}")


def predict(args: Namespace) -> None:
    from groundnlq.data.records import read_records
    from groundnlq.data.submission import write_submission
    from groundnlq.engine.predictor import Predictor

    records = read_records(args.records)
    options = {"preset": args.preset, "precision": args.precision, "top_k": args.top_k}
    ranked = Predictor.load(args.checkpoint, **options).predict(
        records, args.features, args.text, allow_other_encoder=args.other_encoder
    )
    if not _is_main_process():
        return
    write_submission(args.output, ranked, records)
    print_counts("predicted", {"queries": len(ranked)})
    _print_written(args.output)


def evaluate(args: Namespace) -> None:
    from groundnlq.analysis.evaluation import evaluate as score
    from groundnlq.data.annotations import read_truth
    from groundnlq.data.submission import read_submission
    from groundnlq.errors import sample_of
    from groundnlq.files import write_json

    records, content = read_truth(args.truth), {}
    for path in filter(None, (args.predictions, args.raw_text)):
        result = score(read_submission(path), records)
        counts = {"queries": len(result.hits), "unanswered": result.num_missing, "kept": result.num_kept}
        print_counts(str(path), counts)
        print(f"{result.table().to_string()}\n")
        if missing := result.hits.loc[~result.hits["is_answered"], "query_id"].tolist():
            print(f"unanswered, a miss in the strict figures: {sample_of(missing)} -- predict all records\n")
        for name, count in result.num_short.items():
            print(f"{name}: {count} answered queries have fewer moments; what is not there is a miss\n")
        if result.num_kept < 10:
            print(f"no R@10: {result.num_kept} moments per query were kept -- predict with --top-k 10\n")
        content |= result.to_json() if path is args.predictions else {"raw_text": result.to_json()}
    if args.output:
        write_json(args.output, content, indent=1)
        _print_written(args.output)


def ensemble(args: Namespace) -> None:
    from groundnlq.analysis.ensemble import ensemble as combine
    from groundnlq.data.records import Record
    from groundnlq.data.schema import read_json
    from groundnlq.data.submission import read_submission, write_submission

    combined = combine([read_submission(path) for path in args.predictions])
    answers = read_json(args.predictions[0])["results"]  # which name the clips that go with the queries
    records = [
        Record(f"{a['annotation_uid']}_{a['query_idx']}", a.get("clip_uid", ""), "", 0.0) for a in answers
    ]
    write_submission(args.output, combined, records)
    print_counts("combined", {"runs": len(args.predictions), "queries": len(combined)})
    _print_written(args.output)


def show(args: Namespace) -> None:
    from groundnlq.show import describe

    print(describe(args.path))


def study(args: Namespace) -> int:
    from benchmarks.study.claims import run_study
    from benchmarks.study.study import Study

    asked = Study(args.folder, args.scale, args.overrides, num_val_clips=args.val_clips)
    table = run_study(asked, args.seeds, args.curves, args.compared, args.jobs)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    _print_written(args.folder / "claims.csv")
    return 0 if table["holds"].all() else 1  # what is only reported has nothing to hold


def notebooks(args: Namespace) -> None:
    from groundnlq.runner import recall_table, run_notebooks

    executed = run_notebooks(args.names, args.run, dict(args.parameter))
    table = recall_table(args.run)
    if table is not None:
        print(f"\nstrict recalls, in percent:\n{table.to_string(float_format='{:.2f}'.format, na_rep='-')}\n")
    print(f"executed notebooks: {executed[0].parent}")


def list_notebooks() -> str:
    from groundnlq.runner import describe_notebooks

    return f"\nnotebooks and their parameters, with the defaults:\n{describe_notebooks()}\n"


def presets(args: Namespace) -> None:
    from importlib.resources import files

    from groundnlq.config import preset_names

    names = preset_names()
    for name in names:
        comment = (
            (files("groundnlq") / "configs" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        )
        print(f"{name:{max(map(len, names))}}  {comment.removeprefix('# ')}")


def _is_main_process() -> bool:
    """False in all but one of the processes that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def _setting(text: str) -> tuple[str, float]:
    """``name=number``, as the sample world has its settings."""
    from groundnlq.errors import ConfigError

    name, _, value = text.partition("=")
    try:
        return name, int(value) if value.lstrip("-").isdecimal() else float(value)
    except ValueError:
        raise ConfigError(f"setting {text!r} is no name=number -- such as objects_per_clip=6") from None


def print_counts(what: str, counts: Mapping[str, object]) -> None:
    """One line: what was done, and how many of what."""
    print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def _found(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _print_written(path: Path) -> None:
    print(f"wrote {path}")
