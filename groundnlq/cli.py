"""The command line: arguments in, an exit code out. The verbs stand in `commands`."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from groundnlq import __version__
from groundnlq.commands import VERBS, Verb
from groundnlq.errors import KitError
from groundnlq.files import require_writable
from groundnlq.provenance import note_command

BAD_INPUT, KIT_FAULT, INTERRUPTED = 2, 3, 130
DESCRIPTION = "Find the moment that answers a question in a long first-person video."
WALK = """from nothing to a table of recalls:
  groundnlq sample data/sample
  groundnlq train sample_scratch --run runs/scratch
  groundnlq predict runs/scratch --records data/sample/nlq_val.jsonl --features data/sample/features.h5 \\
      --text data/sample/text.h5 --output runs/scratch/val.json
  groundnlq evaluate runs/scratch/val.json data/sample/official/nlq_val.json

each verb explains itself: groundnlq VERB --help"""
GROUPS = {
    "prepare": "Turn annotation files into records: nlq, narrations.",
    "features": "Video features: import, check.",
    "text": "Query tokens: encode, import.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        0; 1 for a check that found something; 2 for bad input; 3 for a fault of the kit; 75 for a run that
        was asked to stop and can go on; 130 for Ctrl-C.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            arguments = parse(argv)
            if getattr(arguments, "output", None):
                require_writable(arguments.output)
            note_command(sys.argv[1:] if argv is None else argv)
            return arguments.verb(arguments) or 0
        except BrokenPipeError:  # the reader has enough, as in `groundnlq presets | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print("groundnlq: interrupted; no result is half written", file=sys.stderr)
            return INTERRUPTED
        except (KitError, OSError) as error:
            return _say(error, str(error), getattr(error, "exit_code", BAD_INPUT), argv)
        except Exception as error:  # whatever it is, a user is not the one to read a traceback
            hint = "a fault of the kit or of what it runs on; --debug shows where"
            return _say(error, f"unexpected {type(error).__name__}: {error} -- {hint}", KIT_FAULT, argv)


def _say(error: Exception, message: str, code: int, argv: Sequence[str] | None) -> int:
    if "--debug" in (sys.argv[1:] if argv is None else argv):
        traceback.print_exception(error)
    print(f"groundnlq: error: {_plain(message)}", file=sys.stderr)
    return code


def _plain(text: str) -> str:
    """Without what would steer a terminal: names and values in messages come from foreign files."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of a verb; an open-ended list may go on behind an option, which argparse alone refuses."""
    parser = build_parser()
    arguments, left = parser.parse_known_args(argv)
    if left and (arguments.open_list is None or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        setattr(arguments, arguments.open_list, [*getattr(arguments, arguments.open_list), *left])
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = _parser_of(_Parser, "groundnlq", DESCRIPTION, WALK, [common])
    parser.add_argument("--version", action="version", version=f"groundnlq {__version__}")
    top = parser.add_subparsers(metavar="VERB", required=True)
    groups: dict[str, Any] = {}
    for verb in VERBS:
        group, _, name = verb.name.rpartition(" ")
        if group and group not in groups:
            parent = top.add_parser(group, help=GROUPS[group], description=GROUPS[group], allow_abbrev=False)
            groups[group] = parent.add_subparsers(metavar="VERB", required=True)
        _add(groups.get(group, top), name, verb, common)
    return parser


def _add(actions: Any, name: str, verb: Verb, common: argparse.ArgumentParser) -> None:
    epilog = f"example:\n  {verb.example}"
    parser = _parser_of(actions.add_parser, name, verb.summary, epilog, [common], help=verb.summary)
    open_list = None
    for names, options in verb.arguments:
        parser.add_argument(*names, **options)
        is_open = options.get("nargs") == "*" and not names[0].startswith("-")
        open_list = names[0] if is_open else open_list
    parser.set_defaults(verb=verb.run, open_list=open_list)
    parser.more = verb.more


def _parser_of(
    make: Callable, name: str, description: str, epilog: str, parents: list, **options: Any
) -> Any:
    return make(
        name,
        description=description,
        epilog=epilog,
        parents=parents,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


class _Parser(argparse.ArgumentParser):
    more: Callable[[], str] | None = None

    def format_help(self) -> str:
        return super().format_help() + (self.more() if self.more else "")

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} -- see {self.prog} --help\n")


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"groundnlq: warning: {_plain(str(message))}", file=sys.stderr)
