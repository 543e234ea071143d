"""Official annotation files, read as they really are.

They have dirt (null texts, another version for the test split, ends beyond the clip, a stray prefix on a tenth of the
val questions). What is odd is counted; what would train or score wrongly is refused, all findings in one error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from groundnlq.data.records import Record, read_records
from groundnlq.data.schema import Bounded, Id, Number, Text, entries, expected, read_json
from groundnlq.errors import DataError, Findings

KNOWN_VERSIONS = {"1", "1.0", "2", "2.0", "2.1"}
NEGATIVE_TOLERANCE_SEC = 1e-3  # official times start at -4e-7 now and then
_Seconds = Annotated[Bounded, expected("a number")]
_STRAY_PREFIX = re.compile(r"^\s*(query text|[a-z] text( \(optional\))?)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Clip:
    """An annotated excerpt of a video."""

    clip_uid: Id
    video_start_sec: _Seconds
    video_end_sec: _Seconds
    video_uid: Text = ""

    def __post_init__(self) -> None:
        if self.duration_sec <= 0:
            times = f"{self.video_end_sec:g} s, not after its start at {self.video_start_sec:g} s"
            raise ValueError(f"clip {self.clip_uid} ends at {times}")

    @property
    def duration_sec(self) -> float:
        return self.video_end_sec - self.video_start_sec


@dataclass(frozen=True)
class NlqFile:
    """What an official file holds; `dirt` counts its oddities by a readable name."""

    path: Path
    version: str
    records: list[Record]
    clips: list[Clip]
    dirt: dict[str, int]


class _Video(BaseModel, frozen=True):
    video_uid: Text = ""


class _Annotation(BaseModel, frozen=True):
    annotation_uid: Id


class _Query(BaseModel, frozen=True):
    query: Text | None = None
    template: Text | None = None
    clip_start_sec: Number | None = None
    clip_end_sec: Number | None = None


def clean_query(text: str) -> str:
    """A question without the dirt of the annotation form.

    >>> clean_query("Query Text:  where did I put\\tthe  knife ? ")
    'where did I put the knife ?'
    """
    return " ".join(_STRAY_PREFIX.sub("", text).split())


def read_nlq(path: str | Path, clean_text: bool = True) -> NlqFile:
    """Read an official NLQ file (train, val, or test without moments; versions 1 and 2).

    Queries without text are left out but counted in every query's index, as the submission needs it. A DataError has
    all faults of the file in one message, each with its JSON path.
    """
    path = Path(path)
    reader, tree = _NlqReader(path, clean_text), read_json(path)
    for where, clip, entry in _clips(tree, reader.findings):
        reader.read_clip(where, clip, entry)
    version = str(tree.get("version", "")) if isinstance(tree, dict) else ""
    if version not in KNOWN_VERSIONS:
        reader.dirt[f"unknown version {version!r:.40}"] += 1
    if any(record.moments_sec for record in reader.records):  # a test file has no moments at all
        missing = "missing clip_start_sec and clip_end_sec, which other queries have"
        reader.findings.add(*(f"{where}: {missing}" for where in reader.without_moment))
    reader.findings.raise_if_any("fix the file or fetch it again")
    if not reader.records:
        raise DataError(f"{path}: no query with a text in it -- is this an NLQ annotation file?")
    return NlqFile(path, version, reader.records, reader.clips, dict(reader.dirt))


def read_clips(paths: Iterable[str | Path]) -> dict[str, Clip]:
    """Distinct clips of official train files (NLQ, moments, visual queries); the first file's times count."""
    clips: dict[str, Clip] = {}
    for path in paths:
        findings = Findings(str(path), DataError)
        for where, clip, _ in _clips(read_json(Path(path)), findings):
            if not clip.video_uid:
                findings.add(f"{where}: its video has no video_uid, which clips are found by")
            clips.setdefault(clip.clip_uid, clip)
        findings.raise_if_any("fetch the file again")
    return clips


def read_truth(path: str | Path) -> list[Record]:
    """Records with ground truth, from an official file or from JSON lines, whichever it is; a DataError for a file
    without moments (a test split), which nothing can be scored on."""
    records = read_records(path) if _is_json_lines(Path(path)) else read_nlq(path).records
    if not any(record.moments_sec for record in records):
        raise DataError(f"{path}: has no moments -- a test split has no public ground truth; use train or val")
    return records


def _is_json_lines(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip("\ufeff \t\r\n")), "")
    return '"query_id"' in first and '"videos"' not in first


def _clips(tree: Any, findings: Findings) -> Iterator[tuple[str, Clip, Any]]:
    """(JSON path, clip, entry) of every clip of an official file of any task."""
    for outer, video, value in entries(_Video, tree, "videos", "", findings):
        for where, clip, entry in entries(Clip, value, "clips", outer, findings):
            yield where, replace(clip, video_uid=video.video_uid), entry


class _NlqReader:
    """Collects records, dirt and findings while an official file is walked."""

    def __init__(self, path: Path, clean_text: bool):
        self.findings = Findings(str(path), DataError)
        self.clean_text = clean_text
        self.records: list[Record] = []
        self.clips: list[Clip] = []
        self.dirt: Counter[str] = Counter()
        self.without_moment: list[str] = []
        self.seen: dict[str, str] = {}

    def read_clip(self, where: str, clip: Clip, entry: Any) -> None:
        if self._is_duplicate(f"clip {clip.clip_uid}", where):
            return
        self.clips.append(clip)
        for place, annotation, value in entries(_Annotation, entry, "annotations", where, self.findings):
            uid = annotation.annotation_uid
            if self._is_duplicate(f"annotation {uid}", place):
                continue
            queries = list(entries(_Query, value, "language_queries", place, self.findings))
            self.dirt["annotations without queries"] += not queries
            for index, (query_place, query, _) in enumerate(queries):
                self._read_query(query_place, query, clip, f"{uid}_{index}")

    def _read_query(self, where: str, query: _Query, clip: Clip, query_id: str) -> None:
        raw = query.query or ""
        text = clean_query(raw) if self.clean_text else raw
        if not text.strip():
            self.dirt["queries without text"] += 1
            return
        self.dirt["texts with a stray prefix"] += bool(_STRAY_PREFIX.match(raw))
        self.dirt["texts without a question mark"] += not raw.rstrip().endswith("?")
        self.dirt["texts with stray white space"] += raw != " ".join(raw.split())
        moments = self._read_moments(where, query, clip)
        self.dirt["queries without template"] += query.template is None
        asked = query_id, clip.clip_uid, text, clip.duration_sec, moments
        self.records.append(Record(*asked, template=query.template, raw_query=raw, video_uid=clip.video_uid))

    def _read_moments(self, where: str, query: _Query, clip: Clip) -> tuple[tuple[float, float], ...]:
        start, end = query.clip_start_sec, query.clip_end_sec
        if start is None and end is None:
            self.without_moment.append(where)
            return ()
        if start is None or end is None:
            self.findings.add(f"{where}: clip_start_sec and clip_end_sec must be numbers, got {start}, {end}")
            return ()
        if end <= start:
            self.findings.add(f"{where}: the moment ends at {end} s, not after its start at {start} s")
        elif start < -NEGATIVE_TOLERANCE_SEC or start >= clip.duration_sec:
            self.findings.add(f"{where}: the moment starts at {start} s, outside 0 ... {clip.duration_sec:g} s")
        self.dirt["moments that end beyond the clip"] += end > clip.duration_sec
        self.dirt["moments shorter than 1 s"] += end - start < 1
        return ((start, end),)

    def _is_duplicate(self, name: str, where: str) -> bool:
        first = self.seen.setdefault(name, where)
        if first != where:
            self.findings.add(f"{where}: duplicate {name} (first at {first})")
        return first != where
