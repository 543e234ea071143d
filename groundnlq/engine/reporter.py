"""How a run or a prediction tells its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm


class Reporter:
    """Takes note of nothing; the base of those that show something.

    Under torchrun only the main process reports. A call that follows the processes of another reports from
    the files of the run directory, with the same arguments.
    """

    def status(self, status: Mapping[str, Any]) -> None:
        """Called about every second with the content of ``status.json``: ``state``, ``step``,
        ``total_steps``, ``epoch``, ``epochs``, ``loss`` (mean of the epoch so far)."""

    def epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Called after every epoch with the rows of ``metrics.jsonl`` so far."""

    def message(self, text: str) -> None:
        """One line of text."""

    def prediction(self, num_done: int, num_clips: int) -> None:
        """Called after every clip of a prediction or validation."""


class TerminalReporter(Reporter):
    """Progress bars: steps of the run with the epoch's loss, clips of a prediction.

    They are shown only where stderr is a terminal.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._unit = ""

    def status(self, status: Mapping[str, Any]) -> None:
        if status["state"] != "running":
            self._close()
            return
        bar = self._show("step", status["step"], status["total_steps"])
        bar.set_description(f"epoch {status['epoch']}/{status['epochs']}", refresh=False)
        bar.set_postfix(loss=f"{status['loss']:.3f}")

    def message(self, text: str) -> None:
        tqdm.write(text)

    def prediction(self, num_done: int, num_clips: int) -> None:
        self._show("clip", num_done, num_clips).set_description("predict")
        if num_done == num_clips:
            self._close()

    def _show(self, unit: str, num_done: int, total: int) -> tqdm:
        """The bar of this unit, in place of a bar of the other unit."""
        if self._bar is None or self._unit != unit:
            self._close()
            self._bar, self._unit = tqdm(unit=unit, initial=num_done, leave=False, disable=None), unit
        self._bar.total, self._bar.n = total, num_done
        return self._bar

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None
