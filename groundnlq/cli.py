"""The command line: one function for each command, on click.

A command imports what it needs when it runs, so that `groundnlq --help` does not wait for torch.
"""

import math
import os
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from groundnlq import __version__, provenance
from groundnlq.data.grid import FPS, SNIPPET_STRIDE_FRAMES, clock
from groundnlq.errors import DataError, KitError, closest, sample_of

BAD_INPUT, KIT_FAULT, INTERRUPTED = 2, 3, 130
EXAMPLE = """\b
from nothing to a table of recalls:
  groundnlq sample data/sample
  groundnlq train sample_scratch --run runs/scratch
  groundnlq predict runs/scratch --records data/sample/nlq_val.jsonl --features data/sample/features.h5 \\
      --text data/sample/text.h5 --output runs/scratch/val.json
  groundnlq evaluate runs/scratch/val.json data/sample/official/nlq_val.json

help on a command: groundnlq COMMAND --help"""
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 1 for a check that found something, 2 for bad input, 3 for a fault of the kit, 75 for a run
    that was stopped and can be resumed, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    provenance.command_line[:] = ["groundnlq", *arguments]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            with program.make_context("groundnlq", arguments.copy()) as context:
                return program.invoke(context) or 0
        except click.exceptions.Exit as end:  # --help, --version
            return end.exit_code
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "groundnlq"
            message = " ".join(error.format_message().split()).rstrip(".")
            return _fail(error, f"{message[0].lower()}{message[1:]} -- see {path} --help", BAD_INPUT, path)
        except BrokenPipeError:  # the reader needs no more, as in `groundnlq presets | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print("groundnlq: interrupted; no result is half written", file=sys.stderr)
            return INTERRUPTED
        except (KitError, OSError) as error:
            return _fail(error, str(error), getattr(error, "exit_code", BAD_INPUT))
        except Exception as error:  # users get one line here, too, not a traceback
            hint = "a fault of the kit or of a library; --debug shows where"
            return _fail(error, f"unexpected {type(error).__name__}: {error} -- {hint}", KIT_FAULT)


def _fail(error: Exception, message: str, code: int, path: str = "groundnlq") -> int:
    if "--debug" in provenance.command_line:
        traceback.print_exception(error)
    print(f"{path}: error: {_printable(message)}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"groundnlq: warning: {_printable(str(message))}", file=sys.stderr)


def _printable(text: str) -> str:
    """Text without terminal control characters: names and values in messages come from foreign files."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class _Group(click.Group):
    """Commands in the order of their definition; for an unknown one, the closest is named."""

    def __init__(self, name: str, summary: str, **attributes: Any):
        super().__init__(name, help=summary, context_settings=SETTINGS, no_args_is_help=False, **attributes)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}{closest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class _Command(click.Command):
    """A repeatable option takes several values at once: `--clips A B` is `--clips A --clips B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name: o for o in self.params if isinstance(o, click.Option) for name in o.opts}
        words: list[str] = []
        current = None  # the option that a word without a dash belongs to
        for word in args:
            if word.startswith("-"):
                if word in options and current is not None and words[-1] in options:
                    ctx.fail(f"option '{words[-1]}' requires an argument")
                name = word.partition("=")[0]
                current = name if name in options and not options[name].is_flag else None
            elif current and options[current].multiple and options[current].nargs == 1:
                words += [current] if words[-1] != current else []
            words.append(word)
        return super().parse_args(ctx, words)

    def invoke(self, ctx: click.Context) -> Any:
        code = super().invoke(ctx)
        if (output := ctx.params.get("output")) and _is_main_process():
            print(f"wrote {output}")
        return code


class _NotebooksCommand(_Command):
    """Its help ends with the notebooks of the project folder."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from groundnlq.notebook_runs import list_notebooks

        super().format_epilog(ctx, formatter)
        formatter.write(f"\nnotebooks and their parameters, with the defaults:\n{list_notebooks()}\n")


class _Argument(click.Argument):
    """A positional argument with a help text; click has these only from 8.5 on."""

    def __init__(self, *args: Any, help: str, **attributes: Any):
        super().__init__(*args, **attributes)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.human_readable_name, self.help or ""


def _command(name: str, example: str, cls: type[click.Command] = _Command) -> Callable[[Callable], Any]:
    """A decorator that makes a function the command `name`; of two words, the first is a group."""

    def add(function: Callable) -> click.Command:
        *group, last = name.split()
        parent: Any = program.commands[group[0]] if group else program
        summary, epilog = function.__doc__, f"\b\nexample:\n  groundnlq {name} {example}".rstrip()
        options = {"help": summary, "short_help": summary, "epilog": epilog, "context_settings": SETTINGS}
        return _DEBUG(parent.command(last, cls=cls, **options)(function))

    return add


def _param(names: str, metavar: str, help: str, *, several: bool = False, **options: Any) -> Callable:
    """A path, unless `type` says otherwise: an option where the names begin with dashes, else positional."""
    usual: dict[str, Any] = {"type": _path, "required": True, "metavar": metavar, "help": help}
    if names.startswith("-"):
        return click.option(*names.split(), multiple=several, **usual | options)
    return click.argument(names, cls=_Argument, nargs=-1 if several else 1, **usual | options)


def _path(text: str) -> Path:
    return Path(text).expanduser()  # a shell leaves the tilde of --run=~/runs/a as it is


def _words(name: str, metavar: str, help: str) -> Callable:
    return _param(name, metavar, help, several=True, required=False, type=str)


def _positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value:g} is not above 0")
    return value


def _tiou(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not 0 < value < 1:
        raise click.BadParameter(f"{value:g} is not between 0 and 1")
    return value


def _writable(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse to begin work whose result could not be written."""
    if path is not None and not ctx.resilient_parsing:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise KitError(f"cannot write {path}: {folder} may not be written -- choose another place")
    return path


_DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="show the traceback of an error")
program = _Group("groundnlq", "Find the moment that answers a question in a long first-person video.", epilog=EXAMPLE)
_DEBUG(click.version_option(__version__, message="groundnlq %(version)s")(program))
_OUTPUT = _param("--output", "FILE", "file to write, whole or not at all", callback=_writable)
_RECORDS = "records, as 'groundnlq prepare' writes them"


@_command("sample", "data/sample --seed 0")
@_param("folder", "DIR", "folder to write")
@_words("settings", "[key=value ...]", "such as objects_per_clip=6 clutter=0.8")
@click.option("--seed", default=0, help="another seed makes another world")
@click.option("--scale", default="demo", help="tiny, demo, or ego4d, the size of Ego4D")
@click.option("--official-only", is_flag=True, help="stop before preparing, importing and encoding")
def _sample(folder: Path, settings: Sequence[str], seed: int, scale: str, official_only: bool) -> None:
    """Make the sample world: official files, features, and the prepared files of both."""
    from groundnlq.sample.make import make_sample, prepare_sample

    changes: dict[str, Any] = dict(text.partition("=")[::2] for text in settings)
    counts = make_sample(folder, seed=seed, scale=scale, **changes)
    _print_counts(f"{folder}/official", counts)
    if not official_only:
        for step, counts in prepare_sample(folder).items():
            _print_counts(step, counts)
        print(f"ready: {folder} -- try 'groundnlq train sample_scratch --run runs/scratch'")


program.add_command(_Group("prepare", "Turn annotation files into records."))
program.add_command(_Group("features", "Make, import and check video features."))
program.add_command(_Group("text", "Encode and import query tokens."))


@_command("prepare nlq", "nlq_val.json --output data/ego4d/nlq_val.jsonl")
@_param("files", "JSON...", "official annotation files, v1 or v2", several=True)
@_OUTPUT
@click.option("--raw-text", is_flag=True, help="keep the questions as annotated, stray prefixes included")
def _prepare_nlq(files: Sequence[Path], output: Path, raw_text: bool) -> None:
    """Turn official NLQ files into records; irregular entries are counted and named."""
    from groundnlq.data.annotations import read_nlq
    from groundnlq.data.records import Record, with_unique_ids, write_records

    records: dict[tuple[str, str], Record] = {}
    for path in files:
        file = read_nlq(path, clean_text=not raw_text)
        if known := [r.query_id for r in file.records if r.place in records]:
            raise DataError(f"{path}: {sample_of(known)} also in an earlier file -- name each file once")
        records |= {record.place: record for record in file.records}
        _print_counts(path, {"queries": len(file.records), "clips": len(file.clips)} | +Counter(file.dirt))
        for kind, names in file.odd.items():
            print(f"  {kind}: {sample_of(names)}")
    write_records(output, with_unique_ids(list(records.values())))


@_command(
    "prepare narrations",
    "egoclip.csv --clips nlq_train.json moments_train.json vq_train.json "
    "--features data/ego4d/features.h5 --output data/ego4d/narrations.jsonl",
)
@_param("egoclip", "CSV", "EgoClip's tab-separated file")
@_param("--clips", "JSON...", "official train files", several=True, required=False)
@_param("--videos", "DIR", "in place of --clips: whole videos <video_uid>.*, each of them a clip", required=False)
@_OUTPUT
@_param("--features", "F.h5", "keep only clips with features", required=False)
@click.option("--keep-tag", is_flag=True, help="keep the leading '#C'")
@click.option("--question-mark", is_flag=True, help="end each text in '?', as questions do")
def _prepare_narrations(
    egoclip: Path, clips: Sequence[Path], videos: Path | None, output: Path, features: Path | None, **options: bool
) -> None:
    """Turn EgoClip's narrations into records for pretraining, cut to the clips of train files."""
    from groundnlq.data.annotations import Clip, read_clips
    from groundnlq.data.features import FeatureStore
    from groundnlq.data.narrations import narration_records
    from groundnlq.data.records import write_records

    available = set(FeatureStore(features).clip_uids) if features else None
    if bool(clips) == bool(videos):
        raise click.UsageError("give either --clips or --videos")
    if videos:
        from groundnlq.video.extract import Video, find_videos

        files = find_videos([videos]).items()
        found = {uid: Clip(uid, 0.0, Video.open(path).duration_sec, uid) for uid, path in files}
    else:
        found = read_clips(clips)
    records, counts = narration_records(egoclip, found, available=available, **options)
    write_records(output, records)
    _print_counts(egoclip, +Counter(counts))


@_command("prepare table", "questions.csv --features data/own/features.h5 --output data/own/questions.jsonl")
@_param("table", "CSV", "columns clip, query, start, end (seconds or m:ss); others are kept")
@_OUTPUT
@_param("--features", "F.h5", "features of the clips, for their durations", required=False)
def _prepare_table(table: Path, output: Path, features: Path | None) -> None:
    """Turn a table of your own questions into records; irregular rows are counted."""
    from groundnlq.data.features import FeatureStore
    from groundnlq.data.records import odd_moments, write_records
    from groundnlq.data.table import read_table

    records, others, counts = read_table(table, FeatureStore(features).durations_sec if features else None)
    write_records(output, records, others)
    _print_counts(table, {"queries": len(records), "clips": len({r.clip_uid for r in records})} | counts)
    if odd := odd_moments(records):
        print(f"left out of training, a miss in evaluation: {odd}")


@_command("features import", "internvideo/ egovlp/ --output data/ego4d/features.h5")
@_param("sources", "SOURCE...", "concatenated by channel, in this order", several=True)
@_OUTPUT
@click.option("--dtype", type=click.Choice(("float16", "float32")), default="float16")
@click.option("--fps", type=float, callback=_positive, help=f"of the video (default: a store's own, or {FPS:g})")
@click.option(
    "--stride", "snippet_stride_frames", type=float, callback=_positive, metavar="FRAMES",
    help=f"from one step to the next (default: a store's own, or {SNIPPET_STRIDE_FRAMES})",
)  # fmt: skip
@click.option("--window", "window_frames", type=float, callback=_positive, metavar="FRAMES",
              help="that a feature was made from (default: the stride)")  # fmt: skip
@_param("--clips", "JSON...", "official files, to cut features of whole videos to clips", several=True, required=False)
@click.option("--clips-per-file", type=int, callback=_positive, metavar="N", help="write a folder of files of N clips")
@click.option("--join", is_flag=True, help="the sources have different clips: take them together")
def _features_import(sources: Sequence[Path], output: Path, **options: Any) -> None:
    """Write one feature store from folders of .pt, .npy or .npz files, LMDB folders or HDF5 files."""
    from groundnlq.data.importers import import_features

    _print_counts("imported", import_features(sources, output, **options))


@_command(
    "features extract", "videos/ --encoder egovlp=egovlp.pth --clips nlq_val.json --output data/ego4d/features.h5"
)
@_param("videos", "VIDEO|DIR...", "videos, or folders of them", several=True)
@_param("--encoder", "NAME[=WEIGHTS]", "as egovlp=FILE; several are concatenated", several=True, type=str)
@_OUTPUT
@_param("--clips", "JSON...", "official files: which part of which video a clip is", several=True, required=False)
@click.option("--precision", type=click.Choice(("float32", "bfloat16")), default="float32")
@click.option("--dtype", type=click.Choice(("float16", "float32")), default="float16", help="of the store")
@click.option("--device", help="cpu or cuda (default: the GPU if there is one)")
@click.option(
    "--batch", "batch_size", type=int, callback=_positive, help="steps at once (default: as suits the device)"
)
@click.option("--download", is_flag=True, help="allow fetching an encoder from the hub")
def _features_extract(
    videos: Sequence[Path], encoder: Sequence[str], output: Path, clips: Sequence[Path], **options: Any
) -> None:
    """Make features of videos; the same command goes on where it was stopped."""
    from groundnlq.video.extract import extract_features

    counts = extract_features(videos, encoder, output, annotations=clips, **options)
    if _is_main_process():
        _print_counts("extracted", counts)


@_command("features check", "data/ego4d/features.h5 --records data/ego4d/nlq_val.jsonl")
@_param("features", "F.h5", "feature store")
@_param("--records", "R.jsonl...", _RECORDS, several=True)
@_param("--text", "T.h5", "also look for queries without tokens", required=False)
@click.option("--preset", help="preset or YAML file with the configured rate (default: the store's own)")
def _features_check(features: Path, records: Sequence[Path], text: Path | None, preset: str | None) -> int:
    """Check features against records: rate, missing and broken clips; exit code 1 if something is found."""
    from groundnlq.config import load_config
    from groundnlq.data.check import check_features
    from groundnlq.data.features import FeatureStore
    from groundnlq.data.records import odd_moments, read_records
    from groundnlq.data.tokens import TokenStore

    store = FeatureStore(features)
    grid = load_config(preset).data.grid if preset else store.grid
    queries = [record for path in records for record in read_records(path)]
    report = check_features(store, queries, grid, TokenStore(text) if text else None)
    print("\n".join(report.lines()))
    if odd := odd_moments(queries):
        print(f"not for training: {odd}")
    return 0 if report.ok else 1


@_command("text encode", "data/ego4d/nlq_*.jsonl --encoder clip --download --output data/ego4d/text.h5")
@_param("records", "R.jsonl...", _RECORDS, several=True)
@click.option("--encoder", required=True, help="clip (as published), sample, or a folder or hub name")
@_OUTPUT
@click.option("--download", is_flag=True, help="allow fetching the encoder from the hub")
def _text_encode(records: Sequence[Path], encoder: str, output: Path, download: bool) -> None:
    """Encode the texts of records into query tokens."""
    from groundnlq.data.text import encode_records

    _print_counts("encoded", encode_records(records, encoder, output, download=download))


@_command("text import", "narration_lmdb/ nlq_lmdb/ --encoder clip --output data/ego4d/text.h5")
@_param("sources", "SOURCE...", "LMDB folders, or as for 'features import'; written side by side", several=True)
@click.option("--encoder", help="that made them: clip (as published), sample, or another name")
@_OUTPUT
def _text_import(sources: Sequence[Path], output: Path, encoder: str | None) -> None:
    """Import query tokens from the published LMDB folders."""
    from groundnlq.data.importers import import_text

    _print_counts("imported", {"queries": import_text(sources, output, encoder)})


@_command("train", "finetune data.folder=data/ego4d train.epochs=8 --run runs/finetune")
@click.argument("config", cls=_Argument, metavar="PRESET|FILE.yaml", help="see 'groundnlq presets'")
@_words("overrides", "[key=value ...]", "changes, such as train.epochs=3")
# torchrun reads --run as an abbreviation of one of its own options
@_param("--run --run-dir", "DIR", "run directory, for all results (after torchrun, write --run-dir)")
@click.option("--processes", default=1, callback=_positive, metavar="N", help="on this machine")
@click.option("--extend", is_flag=True, help="go on with more train.epochs, train.patience_epochs, or another rate")
def _train(config: str, overrides: Sequence[str], run: Path, **options: Any) -> None:
    """Train a preset, or a YAML file of ours or of the published program; the same command resumes."""
    from groundnlq.config import load_config
    from groundnlq.engine.launch import train

    settings = load_config(config, overrides)
    result = train(settings, run, attach=False, **options)
    if not result.history or not _is_main_process():
        return
    last = result.history[-1]
    if result.resumed_from_step == last["step"]:
        print(f"{run}: this run was finished before; nothing to do (for more epochs: --extend)")
    scores = {name: f"{last[f'{name} {settings.select_by}']:.2f}" for name in ("raw", "ema")}
    _print_counts(f"epoch {last['epoch']}: loss {last['loss total']:.3f}, {settings.select_by}", scores)
    print(f"best weights: {result.best}\nlast weights: {result.last}")


@_command(
    "predict",
    "runs/finetune --records data/ego4d/nlq_val.jsonl "
    "--features data/ego4d/features.h5 --text data/ego4d/text.h5 --output val.json",
)
@_param("checkpoint", "CHECKPOINT", "checkpoint, run directory or published .pth.tar")
@_param("--records", "R.jsonl", _RECORDS)
@_param("--features", "F.h5", "feature store")
@_param("--text", "T.h5", "query tokens")
@_OUTPUT
@click.option("--preset", default="finetune", help="of a published checkpoint")
@click.option("--weights", type=click.Choice(("raw", "ema")), help="of the last step or averaged (default: the better)")
@click.option("--precision", type=click.Choice(("float32", "bfloat16")), default="float32")
@click.option("--top-k", type=int, callback=_positive, help="moments per query (default: as configured)")
@click.option("--other-encoder", is_flag=True, help="accept tokens or features of another encoder than in training")
def _predict(checkpoint: Path, records: Path, features: Path, text: Path, output: Path, **options: Any) -> None:
    """Rank moments for every query, as a submission file with scores."""
    from groundnlq.data.records import read_records
    from groundnlq.data.submission import write_submission
    from groundnlq.engine.predictor import Predictor

    queries, allowed = read_records(records), options.pop("other_encoder")
    if unnumbered := [r.query_id for r in queries if not re.search(r"._\d+$", r.query_id)]:
        raise DataError(
            f"{records}: a submission needs ids that end in _INDEX, not {sample_of(unnumbered)} -- rename them"
        )
    predictor = Predictor.load(checkpoint, **options)
    predictions = predictor.predict(queries, features, text, allow_other_encoder=allowed)
    if _is_main_process():
        write_submission(output, predictions, queries)
        _print_counts("predicted", {"queries": len(predictions)})


@_command("ask", 'kitchen.mp4 "Where did I put the scissors?" --checkpoint runs/finetune --page answer.html')
@_param("video", "VIDEO", "video file, or a clip of the run's feature store", type=str)
@_param("questions", "QUESTION...", "in English", several=True, type=str)
@_param("--checkpoint", "CHECKPOINT", "run directory, checkpoint or published .pth.tar", required=False)
@_param("--encoder", "NAME[=FILE]...", "video encoders of the training, in order (default: by the checkpoint)",
        several=True, required=False, type=str)  # fmt: skip
@click.option("--text-encoder", metavar="NAME", help="as 'text encode' takes it (default: by the checkpoint)")
@click.option("--preset", default="finetune", help="of a published checkpoint")
@click.option("--top-k", type=int, callback=_positive, help="moments per question (default: as configured)")
@click.option("--device", default="cpu", help="of the video encoders, such as cuda")
@click.option("--precision", type=click.Choice(("float32", "bfloat16")), default="float32", help="of all networks")
@click.option("--download", is_flag=True, help="allow fetching encoders from the hub")
@_param("--page", "FILE.html", "also write a page with a player", required=False, callback=_writable)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def _ask(
    video: str, questions: Sequence[str], checkpoint: Path | None, encoder: Sequence[str], text_encoder: str | None,
    page: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Find the moments of a video that answer questions; its features are made once and kept."""
    import json

    from groundnlq.data.text import TextEncoder
    from groundnlq.files import write_text
    from groundnlq.video.answer import PUBLISHED, load

    if checkpoint is None:
        raise KitError(f"no --checkpoint given -- name a run directory of 'groundnlq train', or {PUBLISHED}")
    model = load(checkpoint, video_encoder=encoder, **options)
    words = TextEncoder.load(text_encoder, options["download"]) if text_encoder else None
    answers = [model.answer_question(video, question, encoder=words) for question in questions]
    if as_json:
        print(json.dumps([{"question": a.question, "moments": [m._asdict() for m in a.moments]} for a in answers]))
    for answer in () if as_json else answers:
        print(answer.question)
        for rank, (start, end, score) in enumerate(answer.moments, 1):
            print(f"  {rank}  {clock(start)} - {clock(end)}  score {score:.3f}")
    if page:  # last, so that no fault of a picture costs the answers
        from groundnlq.view.answer_page import answer_page

        write_text(page, answer_page(video, answers))
        print(f"wrote {page}", file=sys.stderr if as_json else sys.stdout)


@_command("evaluate", "val.json nlq_val.json --output metrics.json")
@_param("predictions", "P.json|RUN", "submission file; or the run folder of a video encoder (stage one), for EgoMCQ")
@_param("truth", "[TRUTH]", "official JSON or records, of a submission file", required=False)
@_param("--raw-text", "P_raw.json", "predictions made from raw texts", required=False)
@_param("--output", "FILE", "also write the numbers, unrounded", required=False, callback=_writable)
def _evaluate(predictions: Path, truth: Path | None, raw_text: Path | None, output: Path | None) -> None:
    """Recalls of predictions, official and strict, or EgoMCQ of a video encoder, with intervals over clips."""
    from groundnlq.analysis.evaluation import evaluate
    from groundnlq.data.annotations import read_truth
    from groundnlq.data.submission import read_submission
    from groundnlq.files import write_json

    if predictions.is_dir():
        _evaluate_encoder(predictions, output)
        return
    if truth is None:
        raise click.UsageError("missing argument 'TRUTH'")
    records = read_truth(truth)
    content: dict[str, Any] = {}
    for path in filter(None, (predictions, raw_text)):
        result = evaluate(read_submission(path), records)
        counts = {"queries": len(result.hits), "unanswered": result.num_missing, "kept": result.num_kept}
        _print_counts(path, counts)
        print(f"{result.report()}\n")
        content |= result.to_json() if path is predictions else {"raw_text": result.to_json()}
    if output:
        write_json(output, content, indent=1)


def _evaluate_encoder(run: Path, output: Path | None) -> None:
    from groundnlq.analysis.intervals import ClipBootstrap
    from groundnlq.files import write_json
    from groundnlq.video.alignment import evaluate_run

    content: dict[str, Any] = {}
    for kind, (clips, hits) in evaluate_run(run).items():
        content[kind] = ClipBootstrap(clips).summary("accuracy", 100 * hits) | {"questions": len(hits)}
        accuracy, low, high, num = content[kind].values()
        print(f"EgoMCQ {kind}: {accuracy:.1f} % of {num} questions [{low:.1f}, {high:.1f}], chance 20 %")
    print("95 % intervals cover the sampling of clips, not training variance")
    if output:
        write_json(output, {"EgoMCQ": content}, indent=1)


@_command("diagnose", "runs/finetune/val.json nlq_val.json --events narrations_val.jsonl --output reports")
@_param("predictions", "P.json", "submission file, of any program")
@_param("truth", "TRUTH", "official JSON or records")
@_param("--against", "Q.json...", "other submissions, to compare with", several=True, required=False)
@_param("--events --narrations", "FILE", "what happens in the clips: a sample world's events.jsonl, records of "
        "narrations, or EgoClip's CSV", required=False)  # fmt: skip
@_param("--train", "R.jsonl", "train split, for how often words occur in training", required=False)
@_param("--ego4d", "ego4d.json", "for the scenario of each video", required=False)
@_param("--videos", "DIR", "CLIP_UID.mp4 of some clips, for frames of wrong answers", required=False)
@click.option("--threshold", default=0.3, callback=_tiou, help="tIoU above which a prediction is right")
@click.option("--top-k", default=5, callback=_positive, help="predictions that count")
@_param("--output", "DIR", "the report goes to DIR/RUN-on-DATA", callback=_writable)
def _diagnose(
    predictions: Path, truth: Path, against: Sequence[Path], videos: Path | None, output: Path, **options: Any
) -> None:
    """Say why predictions are wrong: outcomes, what wrong answers show, groups, comparisons, as page and files."""
    from groundnlq.analysis.diagnosis import Diagnosis
    from groundnlq.view.report import write_report

    if videos and not videos.is_dir():
        raise DataError(f"{videos}: no such folder -- name one with CLIP_UID.mp4")
    diagnosis = Diagnosis.of_files([predictions, *against], truth, **options)
    written = write_report(diagnosis, output, videos)
    print(f"{diagnosis.summary()}\n{len(written)} files, the page is {written[0]}")


@_command("ensemble", "a.json b.json c.json --output ensemble.json")
@_param("predictions", "P.json...", "submission files", several=True)
@_OUTPUT
def _ensemble(predictions: Sequence[Path], output: Path) -> None:
    """Combine the predictions of several runs as the published ensemble does."""
    from groundnlq.analysis.ensemble import ensemble
    from groundnlq.data.submission import read_submission, write_submission

    runs = [read_submission(path) for path in predictions]
    combined = ensemble(runs)
    write_submission(output, combined, runs[0].queries)
    _print_counts("combined", {"runs": len(predictions), "queries": len(combined)})


@_command("show", "runs/finetune/val.json")
@_param("path", "FILE", "a result of any command, or a run directory")
def _show(path: Path) -> None:
    """Print the kind, content and provenance of a file or run directory."""
    from groundnlq.show import describe

    print(describe(path))


@_command("notebooks", "03 04 --sweep train.seed=1,2,3", _NotebooksCommand)
@_words("names", "[NAME ...]", "such as 04_finetuning or 4 (default: all)")
@_param("--run", "DIR", "run directory (default: runs/demo; runs/quick)", required=False)
@click.option("-p", "--parameter", nargs=2, multiple=True, metavar="NAME VALUE", help="paths: from the project folder")
@_words("--sweep", "KEY=A,B...", "every combination of values, of settings or parameters")
@click.option("--quick", is_flag=True, help="on a tiny world, in about two minutes")
@click.option("--lab", is_flag=True, help="open JupyterLab, with copies of the notebooks in my_notebooks")
def _notebooks(names: Sequence[str], run: Path | None, parameter: Any, sweep: Any, quick: bool, lab: bool) -> None:
    """Run the notebooks in order, from annotation files to an error analysis; or open them in JupyterLab."""
    from groundnlq.notebook_runs import open_lab, run_notebooks, run_sweep

    if lab:
        open_lab()
    run = run or Path("runs/quick" if quick else "runs/demo")
    if sweep:
        print(run_sweep(names, run, dict(parameter), sweep, quick))
    else:
        run_notebooks(names, run, dict(parameter), quick=quick)


@_command("presets", "")
def _presets() -> None:
    """List the configurations that 'train' knows by name."""
    from groundnlq.config import CONFIGS, preset_names

    width = max(map(len, preset_names()))
    for name in preset_names():
        first = (CONFIGS / f"{name}.yaml").read_text("utf-8").partition("\n")[0]
        print(f"{name:{width}}  {first.removeprefix('# ')}")


def _is_main_process() -> bool:
    """False in all but one of the processes that torchrun starts; RANK alone says nothing."""
    return "WORLD_SIZE" not in os.environ or (os.environ.get("RANK") or "0") == "0"


def _print_counts(title: object, counts: Mapping[str, object]) -> None:
    print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
