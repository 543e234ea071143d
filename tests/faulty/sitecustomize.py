"""Run by every Python that has this folder on its PYTHONPATH."""

from tests.faulty import faults

faults.install()
