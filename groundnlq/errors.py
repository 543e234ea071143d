"""The kit's own errors: one line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class KitError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback."""

    exit_code = 2


class ConfigError(KitError):
    """A configuration or a parameter that the kit does not know, or whose value is impossible."""


class DataError(KitError):
    """An annotation, record or submission file that cannot be read as what it claims to be."""


class FeatureError(KitError):
    """Video features or query tokens that are missing, broken or of another shape than expected."""


class CheckpointError(KitError):
    """A checkpoint that is damaged, refused, or of another architecture."""


class TrainingFailed(KitError):
    """A run cannot go on; what was saved last is intact."""


class Preempted(KitError):
    """A run was asked to stop; its state is saved, and the same command continues it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: come again later


def sample_of(names: Iterable[str], at_most: int = 5) -> str:
    """The first few of many names, for a message.

    >>> sample_of(["c", "a", "b"], at_most=2)
    'c, a, ... (3 in all)'
    """
    names = list(names)
    shown = ", ".join(map(str, names[:at_most]))
    return shown if len(names) <= at_most else f"{shown}, ... ({len(names)} in all)"


def closest(name: str, known: Iterable[str]) -> str:
    """The hint that ends a message about an unknown name; dotted names also match by their last part.

    >>> closest("train.epoch", ["train.epochs", "model.width"])
    '; did you mean train.epochs?'
    """
    known = list(known)
    by_last_part = {key.rpartition(".")[2]: key for key in known}
    match = difflib.get_close_matches(name, known, n=1) or [
        by_last_part[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last_part, n=1)
    ]
    return f"; did you mean {match[0]}?" if match else ""


class Findings:
    """Collects every fault of one input, so that a person mends a file once and not fault by fault.

    >>> findings = Findings("nlq_val.json", DataError)
    >>> findings.add("videos[0]: missing 'clips'")
    >>> findings.raise_if_any("export the file again")
    Traceback (most recent call last):
    groundnlq.errors.DataError: nlq_val.json: videos[0]: missing 'clips' -- export the file again
    """

    def __init__(self, where: str, error: Callable[[str], KitError], at_most: int = 20):
        self.where, self.error, self.at_most = where, error, at_most
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        self.messages.append(message)

    def raise_if_any(self, remedy: str) -> None:
        if not self.messages:
            return
        if len(self.messages) == 1:
            message = self.messages[0]  # which may know its own remedy
            raise self.error(f"{self.where}: {message}" + ("" if " -- " in message else f" -- {remedy}"))
        shown = "".join(f"\n  - {message}" for message in self.messages[: self.at_most])
        hidden = len(self.messages) - self.at_most
        more = f"\n  - ... and {hidden} more" if hidden > 0 else ""
        raise self.error(f"{self.where}: {len(self.messages)} faults -- {remedy}{shown}{more}")
