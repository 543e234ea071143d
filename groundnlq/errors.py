"""The kit's errors: each message says what is wrong, where, and how to fix it."""

import difflib
from collections.abc import Callable, Iterable


class KitError(Exception):
    """Base of every error that a user can fix; the command line prints it without a traceback."""

    exit_code = 2


class ConfigError(KitError):
    """An unknown configuration key or parameter, or an impossible value."""


class DataError(KitError):
    """An annotation, record or submission file that cannot be read."""


class FeatureError(KitError):
    """Video features or query tokens that are missing, damaged or of an unexpected shape."""


class CheckpointError(KitError):
    """A checkpoint that is damaged, refused, or of another architecture."""


class TrainingFailed(KitError):
    """A run that cannot go on; its last checkpoint is intact."""


class Preempted(KitError):
    """A run was stopped on request; its state is saved, and the same command resumes it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


def sample_of(names: Iterable[object], at_most: int = 5) -> str:
    """The first few of many names, for a message.

    >>> sample_of(["c", "a", "b"], at_most=2)
    'c, a, ... (3 in all)'
    """
    names = list(names)
    shown = ", ".join(map(str, names[:at_most]))
    return shown if len(names) <= at_most else f"{shown}, ... ({len(names)} in all)"


def closest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name; dotted names also match by their last part.

    >>> closest("train.epoch", ["train.epochs", "model.width"])
    '; did you mean train.epochs?'
    """
    known = list(known)
    by_last_part = {key.rpartition(".")[2]: key for key in known}
    match = difflib.get_close_matches(name, known, n=1)
    last = difflib.get_close_matches(name.rpartition(".")[2], by_last_part, n=1)
    found = match or [by_last_part[key] for key in last]
    return f"; did you mean {found[0]}?" if found else ""


class Findings:
    """All faults of one input, reported in one error, so that a person corrects a file once.

    >>> findings = Findings("nlq_val.json", DataError)
    >>> findings.add("videos[0]: missing 'clips'")
    >>> findings.raise_if_any("export the file again")
    Traceback (most recent call last):
    groundnlq.errors.DataError: nlq_val.json: videos[0]: missing 'clips' -- export the file again
    """

    def __init__(self, where: str, error: Callable[[str], KitError], at_most: int = 20):
        self.where, self.error, self.at_most = where, error, at_most
        self.messages: list[str] = []

    def add(self, *messages: str) -> None:
        self.messages += messages

    def raise_if_any(self, remedy: str) -> None:
        if not self.messages:
            return
        if len(self.messages) == 1:
            message = self.messages[0]  # it may have a remedy of its own
            raise self.error(f"{self.where}: {message}" + ("" if " -- " in message else f" -- {remedy}"))
        shown = "".join(f"\n  - {message}" for message in self.messages[: self.at_most])
        hidden = len(self.messages) - self.at_most
        more = f"\n  - ... and {hidden} more" if hidden > 0 else ""
        raise self.error(f"{self.where}: {len(self.messages)} faults -- {remedy}{shown}{more}")
