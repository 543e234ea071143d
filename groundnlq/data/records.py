"""Records: one query about one clip, in the published JSON-lines layout; JSON read strictly."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundnlq.errors import DataError, Findings
from groundnlq.files import SAFE_ID, write_text


@dataclass(frozen=True, slots=True)
class Record:
    """One query about one clip; `moments_sec` is empty in a test file."""

    query_id: str
    clip_uid: str
    query: str  # the text that is encoded
    duration_sec: float
    moments_sec: tuple[tuple[float, float], ...] = ()
    query_type: str = "nlq"
    template: str | None = None
    raw_query: str | None = None  # the text as annotated, where the official file was read

    @property
    def annotation_uid(self) -> str:
        return self.query_id.rsplit("_", 1)[0]

    @property
    def query_idx(self) -> int:
        return int(self.query_id.rsplit("_", 1)[1])


def read_records(path: str | Path) -> list[Record]:
    """Read records in the published JSON-lines layout; blank lines and a byte-order mark are accepted.

    Raises:
        DataError: all faults of the file in one message, each with its line.
    """
    path, findings, records = Path(path), Findings(str(path), DataError), []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(read_utf8(path).split("\n"), 1):  # texts may hold other line separators
        if line.strip():
            try:
                row = _loads(line)
            except ValueError as error:
                findings.add(f"line {number}: not valid JSON ({error})")
                continue
            for record in _record_of_row(row, f"line {number}", findings):
                records.append(record)
                if (first := lines_of.setdefault(record.query_id, number)) != number:
                    findings.add(
                        f"line {number}: query_id {record.query_id} stands twice (first at line {first})"
                    )
    findings.raise_if_any("write it again with 'groundnlq prepare'")
    if not records:
        raise DataError(f"{path}: holds no record -- write it again with 'groundnlq prepare'")
    return records


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records in the published JSON-lines layout, atomically."""
    write_text(path, "\n".join(json.dumps(_row_of_record(record)) for record in records))


def identity_of(records: Sequence[Record]) -> dict[str, Any]:
    """How many records, and a hash of what is asked about which clip; the same from either layout."""
    asked = json.dumps([(r.query_id, r.clip_uid, r.query, r.duration_sec, r.moments_sec) for r in records])
    return {"queries": len(records), "sha256": hashlib.sha256(asked.encode()).hexdigest()}


def read_json(path: Path) -> Any:
    """Parse a JSON file; a key that stands twice is refused. NaN is left to the checks, which know its place.

    Raises:
        DataError: what is wrong and at which line and column.
    """
    try:
        return _loads(read_utf8(path))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}) -- fetch the file again") from None


def _record_of_row(row: Any, where: str, findings: Findings) -> list[Record]:
    if not isinstance(row, dict):
        findings.add(f"{where}: an object expected, got {row!r:.40}")
        return []
    text = row.get("query", row.get("narration_query"))
    query_id, clip_uid, duration = row.get("query_id"), row.get("video_id"), row.get("duration")
    faults = len(findings.messages)
    if not is_text(text) or not text.strip():
        findings.add(f"{where}: 'query' or 'narration_query' must be a text, got {text!r:.40}")
    for name, value in (("query_id", query_id), ("video_id", clip_uid)):
        if not isinstance(value, str) or not SAFE_ID.fullmatch(value):
            findings.add(f"{where}: {name!r} must be an id, got {value!r:.60}")
    if not is_number(duration) or duration <= 0:
        findings.add(f"{where}: 'duration' must be a positive number of seconds, got {duration!r:.40}")
    moments = row.get("timestamps", [])
    if not isinstance(moments, list) or not all(_is_moment(moment) for moment in moments):
        findings.add(
            f"{where}: 'timestamps' must be [[start, end], ...] with start < end, got {moments!r:.60}"
        )
    if len(findings.messages) > faults:
        return []
    pairs = tuple((start, end) for start, end in moments)
    kind = str(row.get("query_type", "nlq"))
    return [Record(query_id, clip_uid, text, duration, pairs, kind)]


def _row_of_record(record: Record) -> dict[str, Any]:
    key = "query" if record.query_type == "nlq" else "narration_query"
    row = {
        key: record.query,
        "query_id": record.query_id,
        "duration": record.duration_sec,
        "video_id": record.clip_uid,
        "query_type": record.query_type,
    }
    return row | ({"timestamps": [list(m) for m in record.moments_sec]} if record.moments_sec else {})


def is_number(value: Any) -> bool:
    """Is it a number, finite, and small enough that no arithmetic on it overflows?"""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def is_text(value: Any) -> bool:
    """Is it a text, whole? JSON can spell half characters, which no encoder and no file takes."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_moment(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
    return is_pair and value[0] < value[1]


def read_utf8(path: Path) -> str:
    """The text of a file, a byte-order mark left out; raises DataError with the file's name."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        seen_from = "" if path.is_absolute() else f", seen from {Path.cwd()}"
        raise DataError(f"{path}: {error.strerror} -- check the path{seen_from}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}) -- save it as UTF-8") from None


def _loads(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        tree = dict(pairs)
        if len(tree) < len(pairs):
            raise ValueError(f"key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r} stands twice")
        return tree

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
