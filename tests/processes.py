"""What tests of real processes look at: whether one still runs, and what it has brought about."""

import time
from pathlib import Path


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
    """Processes whose command line names this run folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def is_alive(group):
    """Whether a process of this group is more than a zombie, which nobody may come to bury in a container."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended while we looked
        if int(its_group) == group and state != "Z":
            return True
    return False
