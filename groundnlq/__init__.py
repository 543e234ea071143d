"""GroundNLQ kit: find the moment that answers a question in a long first-person video.

>>> import groundnlq
>>> model = groundnlq.load("runs/finetune")  # doctest: +SKIP
>>> model.ask("kitchen.mp4", "Where did I put the scissors?")  # doctest: +SKIP
>>> groundnlq.evaluate("val.json", "nlq_val.json")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundnlq.analysis.evaluation import evaluate
    from groundnlq.video.answer import load

__version__ = "0.2.0"
__all__ = ["__version__", "evaluate", "load"]
_HOMES = {"evaluate": "groundnlq.analysis.evaluation", "load": "groundnlq.video.answer"}


def __getattr__(name: str) -> Any:
    """`load` and `evaluate`, imported at their first use: they need torch and pandas."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
