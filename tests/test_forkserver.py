"""A forked process is a process like any other: the fault matrix is believed only because of that."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forkserver import Forked


def calendar(*arguments):
    """Some module that prints, and ends with exit codes of its own."""
    return [sys.executable, "-m", "calendar", *arguments]


def test_its_output_and_exit_code_are_those_of_a_new_interpreter(tmp_path):
    for arguments in (("2026", "2"), ("2026", "13"), ("--no-such-option",)):
        forked = Forked(calendar(*arguments), cwd=tmp_path)
        output, errors = forked.communicate(timeout=60)
        new = subprocess.run(calendar(*arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (forked.returncode, output) == (new.returncode, new.stdout)
        assert errors.splitlines()[-1:] == new.stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_a_process_of_its_own_and_dies_of_signals(tmp_path, number):
    forked = Forked([sys.executable, "-m", "http.server", "0", "--directory", str(tmp_path)])
    assert forked.pid not in (os.getpid(), os.getppid())
    assert forked.poll() is None
    forked.send_signal(number)
    assert forked.wait(timeout=60) == -number
    assert not Path(f"/proc/{forked.pid}").exists()
