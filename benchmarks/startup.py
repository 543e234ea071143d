"""Seconds until `import groundnlq` and `groundnlq --help` are done, each in a new process.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "import groundnlq": ["-c", "import groundnlq"],
    "groundnlq --help": ["-m", "groundnlq", "--help"],
    "groundnlq predict --help": ["-m", "groundnlq", "predict", "--help"],
}


def main() -> None:
    for name, arguments in CASES.items():
        times = []
        for _ in range(11):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        print(f"{name:26s} least {min(times):.3f} s, median {sorted(times)[5]:.3f} s")


if __name__ == "__main__":
    main()
