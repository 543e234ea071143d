"""Check the claims about the sample world on several seeds: a table of claims; hours; resumable.

python -m benchmarks.study runs/study --seeds 11 12 13 --curves --compared
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.claims import run_study
from benchmarks.study.study import AMOUNTS, COMPARED, MOST, Study
from groundnlq.errors import KitError

NAME = "python -m benchmarks.study"
BAD_INPUT, KIT_FAULT, INTERRUPTED = 2, 3, 130  # as the exit codes of `groundnlq`


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study.

    Returns:
        0; 1 if a claim does not hold; 2 for bad input; 3 for a fault of the kit; 75 for a study that was
        stopped and can be resumed; 130 for Ctrl-C.
    """
    options = parse(argv)
    most = MOST if options.curves else 1
    study = Study(options.folder, options.scale, options.overrides, most=most, num_val_clips=options.val_clips)
    try:
        table = run_study(study, options.seeds, options.curves, options.compared, options.jobs)
    except KeyboardInterrupt:
        return _fail("interrupted; no result is half written", INTERRUPTED)
    except (KitError, OSError) as error:
        return _fail(f"error: {error}", getattr(error, "exit_code", BAD_INPUT))
    except Exception as error:
        return _fail(f"error: unexpected {type(error).__name__}: {error}", KIT_FAULT)
    print(table.to_string(index=False, float_format="{:.2f}".format))
    print(f"wrote {options.folder / 'claims.csv'}")
    return 0 if table["holds"].all() else 1  # a row that is only reported has no bound


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a study."""
    parser = argparse.ArgumentParser(
        prog=NAME, description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="where worlds, runs and tables go")
    add("overrides", metavar="key=value", nargs="*", help="changes of every run, as for 'groundnlq train'")
    add("--seeds", type=int, nargs="+", required=True, metavar="N", help="worlds and weights")
    add("--scale", default="demo", help="of the worlds (default demo)")
    add("--val-clips", type=_count, default=100, help="clips that are scored (default 100)")
    for name, choices, summary in (
        ("--curves", tuple(AMOUNTS), "also the recall over narrations, with equal"),
        ("--compared", tuple(COMPARED), "also these settings, paired"),
    ):
        summary += f": {', '.join(choices)} (none named: all)"
        add(name, nargs="*", choices=choices, metavar="NAME", action=_Some, default=(), help=summary)
    add("--jobs", type=_count, default=1, help="networks trained side by side (default 1)")
    return parser.parse_intermixed_args(argv)


class _Some(argparse.Action):
    """Any of the choices; without a name behind the option, all of them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values or self.choices or ()))


def _count(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _fail(message: str, code: int) -> int:
    print(f"{NAME}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
