"""Provenance of a result: the kit's version, the command, and the hash of every input."""

import shlex
import sys
from pathlib import Path
from typing import Any

from groundnlq import __version__
from groundnlq.files import sha256_of

command_line: list[str] = []  # of the command at work; set by groundnlq.cli


def made_by(**inputs: Any) -> dict[str, Any]:
    """Kit, command (the program's name outside of the command line) and inputs, to store with a result."""
    command = shlex.join(command_line) if command_line else Path(sys.argv[0]).name
    return {"kit": __version__, "command": command} | ({"inputs": inputs} if inputs else {})


def file_identity(path: str | Path) -> dict[str, str]:
    """A file's path as given, and the hash of its bytes."""
    return {"path": str(path), "sha256": sha256_of(path)}
