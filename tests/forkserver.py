"""Real processes in a quarter of the time: forked from a server that has imported torch and the package.

`Forked(command)` stands for `subprocess.Popen(command)` with a command `[sys.executable, "-m", module, ...]`.
The process has a pid, signals, an exit code and files of its own; only the start of a new interpreter is left
out. Python processes that it starts itself (torchrun by the kit, the ranks by torchrun) are forked likewise,
each from the process that would have started it, so that the real torchrun watches over real children.
"""

import ctypes
import hashlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import chdir
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = [
    *("groundnlq.cli", "groundnlq.engine.launch", "groundnlq.engine.predictor"),
    *("torch.distributed.launcher.api", "torch._dynamo"),  # of torchrun, and of the first optimizer
]
HIGHEST_FILE = 1024
PR_SET_NAME = 15
POLL_SEC = 0.01
STARTED_HERE = subprocess.Popen

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.forkserver", *PRELOADED])


class Forked:
    """A process forked from the server, with what the tests use of `subprocess.Popen`."""

    def __init__(self, command, env=None, cwd=None):
        self._files = [tempfile.TemporaryFile("w+b") for _ in range(2)]  # noqa: SIM115 -- what it prints
        paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in self._files]
        work = (list(command), dict(os.environ if env is None else env), str(cwd or os.getcwd()), *paths)
        self._process = _server.Process(target=_begin, args=work, daemon=True)
        with chdir(ROOT):  # whence the server, if it is not there yet, imports what it preloads
            self._process.start()
        self.args, self.pid = command, self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        for file in self._files:
            file.seek(0)
        return tuple(file.read().decode() for file in self._files)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def name_of(folder) -> str:
    """The name that a forked process of this run folder has in /proc, where its command line cannot stand."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:15]


def _begin(command, environment, folder, output, errors):
    """First steps of a process that the server has forked."""
    os.chdir(folder)
    subprocess.Popen = _started
    from torch.distributed.elastic.multiprocessing import PContext
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = _started
    if patience := environment.get("FORKED_TORCHRUN_PATIENCE_SEC"):
        PContext.close.__defaults__ = (None, int(patience))
    for number, path in ((0, os.devnull), (1, output), (2, errors)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
    _become(command, environment)


class _Child:
    """A fork of the process that starts it, as `subprocess.Popen` would have it."""

    def __init__(self, args, env=None, stdin=None, stdout=None, stderr=None, start_new_session=False):
        sys.stdout.flush()
        sys.stderr.flush()
        self.args, self.returncode = args, None
        self.pid = os.fork()
        if self.pid == 0:
            if start_new_session:
                os.setsid()
            for number, given in enumerate((stdin, stdout, stderr)):
                if given is not None:
                    is_nowhere = given == subprocess.DEVNULL
                    os.dup2(os.open(os.devnull, os.O_RDWR) if is_nowhere else given.fileno(), number)
            _become(list(args), dict(os.environ if env is None else env))

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout=None):
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(POLL_SEC)
        return self.returncode


def _started(args, *more, **options):
    """`subprocess.Popen` where a Python module is started: a fork instead."""
    is_module = args[0] == sys.executable and "-m" in args[:3]
    return (_Child if is_module else STARTED_HERE)(args, *more, **options)


def _become(command, environment):
    """Run a module as the interpreter does with `-m`, in this process, to its end."""
    code = 1
    try:
        os.closerange(3, HIGHEST_FILE)
        _reset_signals()
        os.environ.clear()
        os.environ.update(environment)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        sys.orig_argv = command
        module, *arguments = command[command.index("-m") + 1 :]
        _take_name(arguments)
        _bring_faults()
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reset_signals():
    """Handlers do not survive the start of a program."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _take_name(arguments):
    for option in ("--run-dir", "--run"):
        if option in arguments:
            name = name_of(arguments[arguments.index(option) + 1])
            ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def _bring_faults():
    """What tests/faulty does where it stands on PYTHONPATH."""
    from tests.faulty import faults

    faults.install()
