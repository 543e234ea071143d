"""Records: one query about one clip, in the published JSON-lines layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, Field

from groundnlq.data.schema import Id, Number, Text, expected, read_json_lines
from groundnlq.errors import DataError, Findings
from groundnlq.files import write_text


def _forward(moment: tuple[float, float]) -> tuple[float, float]:
    if moment[0] >= moment[1]:
        raise ValueError("start < end")
    return moment


_Moment = Annotated[tuple[Number, Number], AfterValidator(_forward)]
_Moments = Annotated[tuple[_Moment, ...], expected("[[start, end], ...] with start < end")]
_Duration = Annotated[Number, Field(gt=0), expected("a positive number of seconds")]
_Query = Annotated[Text, Field(pattern=r"\S"), expected("a text that is not empty")]


@dataclass(frozen=True, slots=True)
class Record:
    """One query about one clip; `moments_sec` is empty in a test file.

    Aliases are the keys of the JSON lines; `template` and `raw_query` are keys of this kit, which the published loader
    ignores.
    """

    query_id: Id
    clip_uid: Annotated[Id, Field(validation_alias="video_id")]
    query: Annotated[_Query, Field(validation_alias=AliasChoices("query", "narration_query"))]  # is encoded
    duration_sec: Annotated[_Duration, Field(validation_alias="duration")]
    moments_sec: Annotated[_Moments, Field(validation_alias="timestamps")] = ()
    query_type: Text = "nlq"
    template: Text | None = None
    raw_query: Text | None = None  # the text as annotated, where the official file was read

    @property
    def annotation_uid(self) -> str:
        return self.query_id.rsplit("_", 1)[0]

    @property
    def query_idx(self) -> int:
        return int(self.query_id.rsplit("_", 1)[1])


def read_records(path: str | Path) -> list[Record]:
    """Read records in the published JSON-lines layout; a DataError has all faults of the file, each with its line."""
    path, findings, records = Path(path), Findings(str(path), DataError), []
    lines_of: dict[str, int] = {}
    for number, record in read_json_lines(Record, path, findings):
        records.append(record)
        if (first := lines_of.setdefault(record.query_id, number)) != number:
            findings.add(f"line {number}: duplicate query_id {record.query_id} (first at line {first})")
    findings.raise_if_any("write it again with 'groundnlq prepare'")
    if not records:
        raise DataError(f"{path}: holds no record -- write it again with 'groundnlq prepare'")
    return records


def write_records(
    path: str | Path, records: Iterable[Record], others: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write records in the published JSON-lines layout, atomically; `others` are further keys by query id."""
    rows = (dict((others or {}).get(record.query_id, {})) | _row(record) for record in records)
    write_text(path, "\n".join(map(json.dumps, rows)))


def identity_of(records: Sequence[Record]) -> dict[str, Any]:
    """How many records, and a hash of what is asked about which clip; the same from either layout."""
    asked = json.dumps([(r.query_id, r.clip_uid, r.query, r.duration_sec, r.moments_sec) for r in records])
    return {"queries": len(records), "sha256": hashlib.sha256(asked.encode()).hexdigest()}


def _row(record: Record) -> dict[str, Any]:
    row = {
        "query" if record.query_type == "nlq" else "narration_query": record.query,
        "query_id": record.query_id,
        "duration": record.duration_sec,
        "video_id": record.clip_uid,
        "query_type": record.query_type,
        "timestamps": record.moments_sec or None,
        "template": record.template,
        "raw_query": record.raw_query,
    }
    return {key: value for key, value in row.items() if value is not None}
