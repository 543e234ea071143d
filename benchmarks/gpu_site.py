"""The import path of the GPU checks: this package, its tests, and the wheels that `gpu_wheels.sh` collected.

To be imported before anything of the package. Processes that are started later inherit the path.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def extend_path() -> None:
    """Put the folders in front of the import path, here and for child processes."""
    folders = [str(ROOT), str(ROOT / "benchmarks")]
    wheels = sorted((ROOT / ".whl").glob("*.whl"))
    if wheels and importlib.util.find_spec("pydantic") is None:
        folders.append(_unpacked(wheels))
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    new = [folder for folder in folders if folder not in known]
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join([*new, *filter(None, known)])


def _unpacked(wheels: list[Path]) -> str:
    folder = tempfile.mkdtemp(prefix="wheels-")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


extend_path()
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read at cuBLAS's first use; deterministic kernels need it
