"""Faults for the processes of a run, from the environment: FAULTS as JSON.

FAULTS is a list of [name, rank, step, attempt, ...]: what happens to which process when it has taken that
many steps, at which of torchrun's attempts (-1: to all, at each). Only processes that torchrun started are
concerned; the package knows nothing of it.
"""

import json
import os
import signal
import sys
import time


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_all(trainer, *_):
    """This process and torchrun; the other process of the run then loses its parent."""
    os.kill(os.getppid(), signal.SIGKILL)
    kill()


def hang(*_):
    time.sleep(600)


def sleep(trainer, seconds):
    time.sleep(seconds)


def write_nothing(*_):
    """Files beyond some kilobytes cannot be written, as on a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def unreadable(trainer):
    """The disk that holds the features fails."""

    def fail(*_):
        raise OSError(5, "Input/output error")

    trainer.task.train_set.store._open = fail


def kill_before_replace(*_):
    _kill_at_replace("step-", before=True)


def kill_before_manifest(*_):
    _kill_at_replace("step-", before=False)


def _kill_at_replace(prefix, before):
    replace = os.replace

    def replace_or_die(source, target):
        is_state = os.path.basename(target).startswith(prefix) and str(target).endswith(".pt")
        if is_state and before:
            kill()
        replace(source, target)
        if is_state:
            kill()

    os.replace = replace_or_die


def install():
    faults = json.loads(os.environ.get("FAULTS", "[]"))
    own_rank = int(os.environ.get("RANK", "-2"))
    own_attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not faults or own_rank < 0 or "groundnlq" not in sys.orig_argv:
        return
    from groundnlq.engine.trainer import Trainer

    train_step = Trainer.train_step

    def train_step_and_fault(self, micro_batches):
        train_step(self, micro_batches)
        for name, rank, step, attempt, *more in faults:
            if rank in (-1, own_rank) and step in (-1, self.step) and attempt in (-1, own_attempt):
                globals()[name](self, *more)

    Trainer.train_step = train_step_and_fault
