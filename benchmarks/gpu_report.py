"""Results of the GPU checks, written to disk after every check, and how results are compared."""

from __future__ import annotations

import gc
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GRACE_SEC = 15  # that a check may need beyond the end of its part before it is interrupted


class Report:
    """One JSON file and one table, renewed after every check; a check that fails leaves its traceback.

    Parts have limits; seconds that one does not need are left to the next.

    Args:
        without: words; a check with one of them in its name is left out.
    """

    def __init__(self, folder: str | Path, about: dict[str, Any], without: tuple[str, ...] = ()):
        self.folder, self.without = Path(folder), without
        self.folder.mkdir(parents=True, exist_ok=True)
        self.content: dict[str, Any] = {"about": about, "checks": {}}
        self.part_name, self.began = "", time.monotonic()
        self.part_ends = self.began
        self._write()

    def part(self, name: str, seconds: float, act: Callable[[], object]) -> None:
        """All checks of a part; what it raises outside of its checks is recorded, too."""
        self.part_name, self.part_ends = name, self.part_ends + seconds
        try:
            act()
        except Exception as error:
            self._keep("(outside of the checks)", _failure(error), 0.0)

    def check(self, name: str, act: Callable[[], Any], needs: float = 1.0) -> Any:
        """Run a check and keep what it returns; nothing it raises ends the whole.

        Args:
            needs: seconds that must be left in the part.
        """
        left = self.part_ends - time.monotonic()
        if any(word in name for word in self.without):
            return None
        if left < needs:
            return self.skip(name, f"{left:.0f} s left, {needs:.0f} needed")
        began, found = time.monotonic(), None
        signal.signal(signal.SIGALRM, _interrupt)
        signal.alarm(int(left) + GRACE_SEC)
        try:
            found = act()
            entry = {"result": found}
        except Exception as error:
            entry = _failure(error)
        finally:
            signal.alarm(0)
        clean()
        self._keep(name, entry, time.monotonic() - began)
        return found

    def skip(self, name: str, reason: str) -> None:
        """Say why a check is left out."""
        self._keep(name, {"skipped": reason}, 0.0)

    def failures(self) -> list[str]:
        """Names of the checks that raised, or did not find what is right."""
        checks = {f"{part}: {name}": e for part, found in self.content["checks"].items() for name, e in found.items()}
        return [name for name, entry in checks.items() if "error" in entry or not _is_right(entry.get("result"))]

    def _keep(self, name: str, entry: dict[str, Any], seconds: float) -> None:
        checks = self.content["checks"].setdefault(self.part_name, {})
        checks[name] = entry | {"seconds": round(seconds, 2)}
        self.content["total_seconds"] = round(time.monotonic() - self.began, 1)
        self._write()
        print("\n".join(_lines_of(name, checks[name])), flush=True)

    def _write(self) -> None:
        text = json.dumps(self.content, indent=1, default=str)
        (self.folder / "result.json").write_text(text, encoding="utf-8")
        lines = [f"{key}: {value}" for key, value in self.content["about"].items()]
        for part, checks in self.content["checks"].items():
            lines += ["", f"== {part}"]
            lines += [line for name, entry in checks.items() for line in _lines_of(name, entry)]
        (self.folder / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def clean() -> None:
    """Free what a check left on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def excess(actual: Any, expected: Any, rtol: float, atol: float) -> float:
    """Largest difference in parts of what is allowed; at most 1 is right."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if actual.shape != expected.shape:
        raise AssertionError(f"{actual.shape} instead of {expected.shape}")
    if not actual.size:
        return 0.0
    apart = np.abs(actual - expected) / (atol + rtol * np.abs(expected))
    return float("inf") if np.isnan(apart).any() else float(apart.max())


def apart(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Norm of the difference, relative to the norm of what is expected."""
    pairs = [(a.double().cpu(), b.double().cpu()) for a, b in zip(actual, expected, strict=True)]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / max(1e-300, sum(float(b.square().sum()) for _, b in pairs))) ** 0.5


def verdict(found: dict[str, float], **more: Any) -> dict[str, Any]:
    """Whether all are within their limits, the numbers, and what else is worth saying."""
    return {"passed": all(value <= 1 for value in found.values()), "of the limit": found, **more}


def caught(error: Exception) -> dict[str, str]:
    """One of several alternatives that does not run, as a result among the others'."""
    return {"error": f"{type(error).__name__}: {error}"[:400]}


def _failure(error: Exception) -> dict[str, str]:
    text = "".join(traceback.format_exception(error))
    return {"error": f"{type(error).__name__}: {error}"[:600], "traceback": text[-4000:]}


def _interrupt(*_: object) -> None:
    raise TimeoutError("interrupted: it ran beyond the end of its part")


def _is_right(result: Any) -> bool:
    """Neither a check nor one of its alternatives has failed."""
    if not isinstance(result, dict):
        return True
    return result.get("passed", True) and "error" not in result and all(map(_is_right, result.values()))


def _lines_of(name: str, entry: dict[str, Any]) -> list[str]:
    tail = f"[{entry['seconds']:.1f} s]"
    if "skipped" in entry:
        return [f"{name}: SKIPPED, {entry['skipped']}"]
    if "error" in entry:
        return [f"{name}: ERROR {entry['error'].splitlines()[0][:300]} {tail}"]
    found = entry["result"]
    if isinstance(found, dict) and any(isinstance(value, dict | list) for value in found.values()):
        rows = [f"    {key}: {_brief(value)}" for key, value in found.items()]
        return [f"{name}: {tail}", *rows]
    return [f"{name}: {_brief(found)} {tail}"]


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_brief(item) for item in value)
    return str(value)
