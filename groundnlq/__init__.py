"""GroundNLQ kit: find the moment that answers a question in a long first-person video.

>>> import groundnlq
>>> model = groundnlq.load("runs/finetune")  # doctest: +SKIP
>>> model.ask("kitchen.mp4", "Where did I put the scissors?")  # doctest: +SKIP
>>> groundnlq.evaluate("val.json", "nlq_val.json")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundnlq.analysis.evaluation import evaluate
    from groundnlq.video.answer import load

__version__ = "0.2.0"
__all__ = ["__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """`load` and `evaluate`, imported at their first use: they need torch and pandas."""
    if name == "load":
        from groundnlq.video.answer import load

        return load
    if name == "evaluate":
        from groundnlq.analysis.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
