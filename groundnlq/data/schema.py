"""Strict JSON: texts and numbers that are safe to compute with, and faults that name their place."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, Strict, TypeAdapter, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from groundnlq.errors import DataError, Findings
from groundnlq.files import SAFE_ID, refuse_stand_in

Model = TypeVar("Model")


def expected(what: str | None) -> WrapValidator:
    """Words for a type: what its own checks refuse is an error ``<what> expected, got <value>``; None without words."""

    def check(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValidationError:
            if what is None:
                return None
            context = {"what": what, "got": f"{value!r:.60}"}
            raise PydanticCustomError("expected", "{what} expected, got {got}", context) from None

    return WrapValidator(check)


def _whole(text: str) -> str:
    text.encode()  # JSON can spell half characters, which no encoder and no file takes
    return text


Text = Annotated[str, Strict(), AfterValidator(_whole), expected("a text")]
_safe = Field(pattern=f"^{SAFE_ID.pattern}$")
Id = Annotated[str, Strict(), _safe, expected("an id of letters, digits, '.', '_', '-'")]
_in_range = Field(gt=-1e15, lt=1e15)  # finite, and so small that no arithmetic on it overflows
Bounded = Annotated[float, Strict(), _in_range]  # takes integers, too
_Integer = Annotated[int, Strict(), _in_range]
Number = Annotated[_Integer | Bounded, expected("a number")]  # integers stay integers
LENIENT = expected(None)
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def entries(
    kind: type[Model], parent: Any, key: str, where: str, findings: Findings, odd: list[str] | None = None
) -> Iterator[tuple[str, Model, Any]]:
    """(JSON path, entry as a `kind`, entry as it stands) of a list within `parent`; faulty ones are left out and go to
    `findings`, one by one, so that none hides another, or to `odd` where that is given."""
    values = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(values, list):
        findings.add(f"{where}: has no list {key!r}" if where else f"has no list {key!r}; is it the right file?")
        return
    for index, value in enumerate(values):
        place = f"{where}.{key}[{index}]".removeprefix(".")
        if (entry := _checked(kind, value, place, ".", findings.messages if odd is None else odd)) is not None:
            yield place, entry, value


def read_json(path: Path) -> Any:
    """Parse a JSON file; a duplicate key is refused. NaN is left to the models, which know its place."""
    try:
        return _loads(_read_utf8(path))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}) -- fetch the file again") from None


def read_json_lines(kind: type[Model], path: Path, findings: Findings) -> Iterator[tuple[int, Model]]:
    """(Line number, entry as a `kind`) of a file with one JSON value a line; faults go to `findings`."""
    for number, line in enumerate(_read_utf8(path).split("\n"), 1):  # texts may hold other line separators
        if line.strip():
            try:
                value = _loads(line)
            except ValueError as error:
                findings.add(f"line {number}: not valid JSON ({error})")
                continue
            if (entry := _checked(kind, value, f"line {number}", ": ", findings.messages)) is not None:
                yield number, entry


def _checked(kind: type[Model], value: Any, where: str, separator: str, messages: list[str]) -> Model | None:
    """`value` as a `kind`; None where it has faults, which are one message. `separator` stands between `where` and the
    path within."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False):
            keys = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in fault["loc"])
            place = separator.join(filter(None, (where, keys.lstrip("."))))
            words = fault["msg"].removeprefix("Value error, ")
            if fault["type"] in ("model_type", "dataclass_type"):
                words = f"an object expected, got {value!r:.60}"
            faults.append(f"{place}: {'missing' if fault['type'] == 'missing' else words}")
        messages.append("; ".join(faults))
        return None


def _read_utf8(path: Path) -> str:
    refuse_stand_in(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        seen_from = "" if path.is_absolute() else f", seen from {Path.cwd()}"
        raise DataError(f"{path}: {error.strerror} -- check the path{seen_from}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}) -- save it as UTF-8") from None


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        raise ValueError(f"duplicate key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r}")
    return tree
