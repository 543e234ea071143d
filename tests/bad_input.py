"""Every kind of bad input that the kit knows: what it is, what it is given to, what comes out.

`python -m tests.bad_input` writes the table as a page, docs/messages.md; test_bad_input.py runs every row.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundnlq.cli import main
from tests.bad_input_makers import AFTER, make_world
from tests.bad_input_table import TABLE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "messages.md"


@dataclass(frozen=True)
class Case:
    """A row: `make` breaks something in the working folder, then `command` is run."""

    group: str
    what: str
    make: Callable[[], Any]
    command: str
    exit_code: int
    words: tuple[str, ...]  # what the message must contain: file, id, remedy

    @property
    def name(self) -> str:
        return f"{self.group}: {self.what}"


@dataclass(frozen=True)
class Outcome:
    """What a command gave: its exit code, all it printed, and the lines that say what was found."""

    exit_code: int
    printed: str

    def message(self, words: tuple[str, ...]) -> str:
        _, mark, error = self.printed.rpartition("groundnlq: error: ")
        if mark:
            return error.strip()
        return "\n".join(line for line in self.printed.splitlines() if any(word in line for word in words))


def run(command: str) -> Outcome:
    """Run a command of the kit in this process."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        return Outcome(main(shlex.split(command)), printed.getvalue())


def cases() -> Iterator[Case]:
    """All rows, group by group."""
    for group, rows in TABLE.items():
        for what, make, command, code, *words in rows:
            yield Case(group, what, make, command, code, tuple(words))


# ---- the page

HEAD = """# Messages

Every kind of bad input that is tested, and the message that it gets. This page is made by
`python -m tests.bad_input > docs/messages.md` from the table in `tests/bad_input_table.py`.
`test_bad_input.py` runs every row, requires file, id and remedy in the message, and compares the result with
this page.

Exit codes: 0 accepted, and what is unusual is counted; 1 a check found something; 2 bad input, with nothing
written. Text from other programs is left out (…).
"""
FOREIGN = [  # words of libraries and lists that grow
    (re.compile(r"(not a readable HDF5 file|cannot be read|damaged) \([^\n]*?\)(?= --|$)"), r"\1 (…)"),
    (re.compile(r"(text encoder '[^']*':) .*?(?= --)"), r"\1 …"),
    (re.compile(r"(features are not an array of numbers) \([^\n]*\)"), r"\1 (…)"),
    (re.compile(r"(not a readable video) \([^\n]*?\)"), r"\1 (…)"),
    (re.compile(r"(cell) \d+ (failed)"), r"\1 … \2"),
    (re.compile(r"seen from (?!…)[^ ]*"), "seen from …"),
    (re.compile(r"(in use by process) \d+"), r"\1 …"),
    (re.compile(r"step-\d+\.pt: \d+ bytes instead of \d+"), "step-….pt: … bytes instead of …"),
    (re.compile(r"(there are 00_ask|presets?:? \(?align), [^)]*"), r"\1, …"),
    (re.compile(r"\[{20,}"), "[[[…"),
    (re.compile(r"\(\w{8}, now \w{8}\)"), "(…, now …)"),
]


def row(case: Case, outcome: Outcome) -> str:
    """A case's line of the page."""
    message = outcome.message(case.words)
    for pattern, words in FOREIGN:
        message = pattern.sub(words, message)
    cell = message.replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
    first, second, *_ = case.command.split()
    command = f"{first} {second}" if first in ("prepare", "features", "text") else first
    return f"| {case.what} | {command} | {outcome.exit_code} | {cell} |"


def page(outcomes: Iterator[tuple[Case, Outcome]]) -> str:
    lines, group = [HEAD.rstrip()], ""
    for case, outcome in outcomes:
        if case.group != group:
            group = case.group
            lines += [f"\n## {group[0].upper()}{group[1:]}\n", "| input | command | exit | message |"]
            lines += ["| --- " * 4 + "|"]
        lines.append(row(case, outcome))
    return "\n".join(lines) + "\n"


def outcome_of(case: Case, world: Path, folder: Path) -> Outcome:
    """Run a case in a fresh copy of the world."""
    shutil.copytree(world, folder, dirs_exist_ok=True, symlinks=True)
    with chdir(folder):
        try:
            case.make()
            outcome = run(case.command)
            return Outcome(outcome.exit_code, outcome.printed.replace(str(folder.resolve()), "…"))
        finally:
            while AFTER:
                AFTER.pop()()


def run_all() -> Iterator[tuple[Case, Outcome]]:
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch) / "world"
        make_world(world)
        for number, case in enumerate(cases()):
            yield case, outcome_of(case, world, Path(scratch) / str(number))


if __name__ == "__main__":
    sys.stdout.write(page(run_all()))
