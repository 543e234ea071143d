"""One process at a time works in a run directory, also where the file system has no flock."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from threading import Timer

import pytest

from groundnlq.engine.run_dir import RunDirectory
from groundnlq.errors import KitError

HOLD = """
import fcntl, os, sys
def refuse(*_):
    raise OSError(int(sys.argv[2]), "no flock")
if int(sys.argv[2]):
    fcntl.flock = refuse
from groundnlq.engine.run_dir import RunDirectory
with RunDirectory(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""
NO_FLOCK = [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK]
pytestmark = pytest.mark.filterwarnings("ignore:.*flock")


def hold(folder, number=0):
    """A process that works in the folder; `number` is the error of its flock."""
    command = [sys.executable, "-c", HOLD, str(folder), str(number)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def without_flock(monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.parametrize("number", [0, *NO_FLOCK])
def test_a_second_process_is_refused_by_the_first_ones_id_until_that_is_killed(tmp_path, monkeypatch, number):
    folder, holder = RunDirectory(tmp_path / "run"), hold(tmp_path / "run", number)
    without_flock(monkeypatch, number)
    assert folder.is_held()
    with pytest.raises(KitError, match=f"in use by process {holder.pid} -- wait for it") as refused, folder.locked():
        pass
    assert (f"remove {folder.path}/.lock.marker" in str(refused.value)) == bool(number)
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    assert not folder.is_held()
    with folder.locked():
        assert folder.is_held()
    assert not folder.is_held()


@pytest.mark.parametrize("number", NO_FLOCK)
def test_a_file_system_without_flock_is_told(tmp_path, monkeypatch, number):
    without_flock(monkeypatch, number)
    with pytest.warns(UserWarning, match="flock"), RunDirectory(tmp_path).locked():
        pass


def test_another_error_of_the_file_system_is_said(tmp_path, monkeypatch):
    without_flock(monkeypatch, errno.EIO)
    with pytest.raises(KitError, match=r"cannot work here \(Input/output error\)"), RunDirectory(tmp_path).locked():
        pass


def test_what_a_dead_process_was_writing_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".best.pt.7.tmp", "checkpoints/.step-00000001.pt.7.tmp"):
        (tmp_path / name).write_bytes(b"half")
    with RunDirectory(tmp_path).locked():
        assert not list(tmp_path.rglob("*.tmp"))


def test_a_short_look_of_another_process_does_not_count_as_in_use(tmp_path):
    """`is_held` takes the lock for a moment; a run that begins right then waits for it."""
    folder = RunDirectory(tmp_path)
    with folder.locked():
        pass
    look = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(look, fcntl.LOCK_EX)
    Timer(0.05, os.close, [look]).start()
    with folder.locked():
        assert folder.is_held()
