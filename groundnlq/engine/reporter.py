"""Progress of a run or a prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

_UNITS = {"running": "step", "predicting": "query", "decoding": "video"}  # of a progress bar, by state


class Reporter:
    """Shows nothing; base of those that show something. Under torchrun only the main process reports."""

    def status(self, status: Mapping[str, Any]) -> None:
        """Called about every second with the content of ``status.json``: ``state``, ``step``, ``total_steps``
        and, while running, ``epoch``, ``epochs``, ``loss`` (mean of the epoch so far). A prediction has the
        state ``predicting``, and its queries are the steps; for videos that are read before it is ``decoding``."""

    def epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Called after every epoch with the rows of ``metrics.jsonl`` so far."""

    def message(self, text: str) -> None:
        """Called with one line of text."""


class TerminalReporter(Reporter):
    """A progress bar where stderr is a terminal: steps of a run with their loss, queries of a prediction."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._state = ""

    def status(self, status: Mapping[str, Any]) -> None:
        state, num_done, total = status["state"], status["step"], status["total_steps"]
        if self._bar is not None and (state != self._state or num_done == total):
            self._bar.close()
            self._bar = None
        if state not in _UNITS or num_done == total:
            return
        if self._bar is None:
            self._state, options = state, {"unit": _UNITS[state], "leave": False, "disable": None}
            self._bar = tqdm(total=total, initial=num_done, desc=state, **options)
        self._bar.n = num_done
        if state == "running":
            self._bar.set_description(f"epoch {status['epoch']}/{status['epochs']}", refresh=False)
            self._bar.set_postfix(loss=f"{status['loss']:.3f}", refresh=False)
        self._bar.refresh()

    def message(self, text: str) -> None:
        tqdm.write(text)
