"""Everything about a GPU in one command: is it right, is it fast, which alternative is faster.

    sh benchmarks/gpu_wheels.sh                 # once, where there is a network
    python benchmarks/gpu.py --out DIR          # on the machine with the GPU, at most eight minutes
    python benchmarks/gpu.py --out DIR --device cpu --quick     # the same script, small, anywhere

It writes DIR/result.json and DIR/table.txt after every check, so that an interruption loses nothing. A check
that fails is recorded with its traceback, and the next one runs. What must be right comes first; nothing runs
in the background, so that times are times of one program.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_site
import torch
from gpu_fast import check_fast
from gpu_report import Report
from gpu_right import check_right
from gpu_runs import check_runs
from gpu_setting import Setting
from gpu_steps import check_steps
from gpu_video import check_video
from gpu_ways import check_ways

# Each part with the seconds after which it begins no more checks.
PARTS: dict[str, tuple[Callable[[Setting], None], float]] = {
    "right": (check_right, 110.0),
    "runs": (check_runs, 70.0),
    "fast": (check_fast, 130.0),
    "steps": (check_steps, 70.0),
    "video": (check_video, 30.0),
    "ways": (check_ways, 30.0),
}
HARD_LIMIT_SEC = 480.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: " + ", ".join(PARTS))
    parser.add_argument("--encoders", default="", help="comma-separated video encoders, as groundnlq takes them")
    parser.add_argument("--without", default="", help="comma-separated words of checks to leave out")
    chosen = parser.parse_args()
    device = torch.device("cuda", 0) if chosen.device == "cuda" else torch.device("cpu")
    report = Report(chosen.out, about(device, chosen.quick), tuple(filter(None, chosen.without.split(","))))
    prepare(device)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        encoders = tuple(filter(None, chosen.encoders.split(",")))
        run(Setting(report, device, chosen.quick, Path(folder), encoders), chosen.parts.split(","))
    failures = report.failures()
    print(f"written to {chosen.out} in {report.content.get('total_seconds', 0)} s; failed: {failures or 'nothing'}")
    return 1 if failures else 0


def prepare(device: torch.device) -> None:
    """Settings of the process: TF32 off, an end to all of it, and a CPU run that sees no GPU."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if device.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
    else:
        faulthandler.dump_traceback_later(HARD_LIMIT_SEC, exit=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of what ends child processes


def run(setting: Setting, names: list[str]) -> None:
    """The parts in turn; one that breaks off leaves the others alone."""
    patience = 1 if setting.device.type == "cuda" else 10
    for name in names:
        act, seconds = PARTS[name]
        setting.report.part(name, patience * seconds, partial(act, setting))


def about(device: torch.device, is_quick: bool) -> dict[str, Any]:
    """The machine and the versions."""
    facts: dict[str, Any] = {
        "device": f"CPU {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "TF32 by default": f"products {torch.backends.cuda.matmul.allow_tf32}, "
        f"convolutions {torch.backends.cudnn.allow_tf32}",
        "cudnn": torch.backends.cudnn.version(),
        "cores": os.cpu_count(),
        "quick": is_quick,
        "commit": _commit(),
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        facts["memory GiB"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return facts


def _commit() -> str:
    command = ["git", "-C", str(gpu_site.ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
