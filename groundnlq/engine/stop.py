"""Signals that ask a run to stop: noted at once, obeyed at the end of a step, when the state can be saved."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1


@dataclass
class StopRequest:
    """The signal that asked for a stop; 0 while none did."""

    signal_number: int = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""
    stop = StopRequest()

    def note(number: int, _frame: object) -> None:
        if stop.signal_number == signal.SIGINT == number:
            raise KeyboardInterrupt
        stop.signal_number = number

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_parent(number: int) -> None:
    """Have the system send this signal to this process when its parent dies (Linux; elsewhere nothing).

    A process that torchrun started would otherwise train on when torchrun is killed, beside the next start.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() == 1:  # it died before the call above
        os.kill(os.getpid(), number)
