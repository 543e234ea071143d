"""Records: one query about one clip, in the published JSON-lines layout."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field

from groundnlq.data.schema import Id, Number, Text, expected, read_json_lines
from groundnlq.errors import DataError, Findings, sample_of
from groundnlq.files import write_text

_Moments = Annotated[tuple[tuple[Number, Number], ...], expected("[[start, end], ...] in seconds")]
_Class = Annotated[int, Field(strict=True, ge=0, lt=1 << 20)]
_Duration = Annotated[Number, Field(gt=0), expected("a positive number of seconds")]
SLOTS = ("slot_x", "verb_x", "slot_y")
_Classes = Annotated[tuple[_Class, ...], expected("[class number, ...]")]
OF_CLIP = "--"  # between a clip_uid and an id that occurs in several clips
_Query = Annotated[Text, Field(pattern=r"\S"), expected("a text that is not empty")]


@dataclass(frozen=True, slots=True)
class Record:
    """One query about one clip; `moments_sec` is empty in a test file, and as annotated elsewhere (see `oddity`).

    Aliases are the keys of the JSON lines; from `template` on they are keys of this kit, which the published loader
    ignores. `slot_x`, `verb_x` and `slot_y` are the words that fill the template, as the official files have them.
    """

    query_id: Id
    clip_uid: Annotated[Id, Field(validation_alias="video_id")]
    query: Annotated[_Query, Field(validation_alias=AliasChoices("query", "narration_query"))]  # is encoded
    duration_sec: Annotated[_Duration, Field(validation_alias="duration")]
    moments_sec: Annotated[_Moments, Field(validation_alias="timestamps")] = ()
    query_type: Text = "nlq"
    template: Text | None = None
    raw_query: Text | None = None  # the text as annotated, where the official file was read
    video_uid: Text | None = None  # of the whole recording
    slot_x: Text | None = None
    verb_x: Text | None = None
    slot_y: Text | None = None
    verbs: _Classes = ()  # of a narration: numbers of the classes of its verbs and nouns, as EgoClip tags them
    nouns: _Classes = ()

    @property
    def place(self) -> tuple[str, str]:
        """clip_uid and published id, ``{annotation_uid}_{query_idx}``; other clips may have the same id."""
        return self.clip_uid, self.query_id.removeprefix(self.clip_uid + OF_CLIP)

    @property
    def annotation_uid(self) -> str:
        return self.place[1].rsplit("_", 1)[0]

    @property
    def query_idx(self) -> int:
        return int(self.query_id.rsplit("_", 1)[1])

    @property
    def oddity(self) -> str:
        """Why no segment of the clip overlaps any of the moments; empty where one can, or where there are none."""
        if not self.moments_sec or any(max(s, 0) < min(e, self.duration_sec) for s, e in self.moments_sec):
            return ""
        start, end = self.moments_sec[0]
        if start < end:
            return "moments outside the clip"
        return "moments of 0 s" if start == end else "moments that end before they start"


def odd_moments(records: Iterable[Record]) -> str:
    """The number of records of each `oddity`, with a sample of their ids; empty if there are none."""
    kinds: dict[str, list[str]] = {}
    for record in records:
        kinds.setdefault(record.oddity, []).append(record.query_id)
    return ", ".join(f"{len(names)} {kind} ({sample_of(names)})" for kind, names in kinds.items() if kind)


def with_unique_ids(records: Sequence[Record]) -> list[Record]:
    """Records with an id of their own each: one that occurs in several clips gets the clip before it, because the
    official files name an annotation by its clip and its own uid. Every other id stays as published."""
    first: dict[str, str] = {}
    shared = {r.query_id for r in records if first.setdefault(r.query_id, r.clip_uid) != r.clip_uid}
    return [replace(r, query_id=r.clip_uid + OF_CLIP + r.query_id) if r.query_id in shared else r for r in records]


def read_records(path: str | Path) -> list[Record]:
    """Read records in the published JSON-lines layout; a DataError has all faults of the file, each with its line."""
    path, findings, lines_of = Path(path), Findings(str(path), DataError), dict[str, int]()
    numbered = list(read_json_lines(Record, path, findings))
    records = with_unique_ids([record for _, record in numbered])
    for (number, _), record in zip(numbered, records, strict=True):
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
        "timestamps": record.moments_sec,
        **{name: getattr(record, name) for name in ("template", "raw_query", "video_uid", *SLOTS, "verbs", "nouns")},
    }
    return {key: value for key, value in row.items() if value not in (None, ())}
