"""Where a result comes from: the kit's version, the command, and the hash of every input."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundnlq import __version__
from groundnlq.files import sha256_of

_command_line: list[str] = []


def note_command(arguments: Sequence[str]) -> None:
    """Remember the command line that results are made by; called once, by `groundnlq` itself."""
    _command_line[:] = ["groundnlq", *arguments]


def made_by(**inputs: Any) -> dict[str, Any]:
    """Kit, command and inputs, to be stored with a result; the program's name where no verb is at work."""
    command = shlex.join(_command_line) if _command_line else Path(sys.argv[0]).name
    return {"kit": __version__, "command": command} | ({"inputs": inputs} if inputs else {})


def file_identity(path: str | Path) -> dict[str, str]:
    """A file's path as given, and the hash of its bytes."""
    return {"path": str(path), "sha256": sha256_of(path)}
