"""What tests of real processes look at: whether one still runs, and what it has brought about."""

import time
from pathlib import Path

from tests.forkserver import name_of


def wait_for(condition, what, process=None, seconds=120):
    """Wait for something that must come about; how long it takes is not what is tested.

    It fails at once when the process that is to bring it about has ended.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        assert process is None or process.poll() is None, f"it ended before {what}"
        time.sleep(0.05)


def processes_of(folder):
    """Processes whose command line, or the name that a forked one has in its place, tells this run folder."""
    return [pid for pid, state, name, _ in _processes() if state != "Z" and _is_of(folder, pid, name)]


def _is_of(folder, pid, name):
    try:
        return name == name_of(folder) or str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it ended while we looked


def is_alive(group):
    """Whether a process of this group is more than a zombie, which nobody may come to bury in a container."""
    return any(its_group == group and state != "Z" for _, state, _, its_group in _processes())


def _processes():
    """Number, state, name and group of every process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            start, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue  # it ended while we looked
        state, _parent, group = rest.split()[:3]
        yield int(path.parent.name), state, start.partition("(")[2], int(group)
