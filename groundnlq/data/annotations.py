"""Official annotation files, read as they really are.

They have dirt (null texts, another version for the test split, ends beyond the clip, a stray prefix on a
tenth of the val questions). What is odd is counted; what would train or score wrongly is refused, with all
findings of a file in one error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, model_validator

from groundnlq.data.records import Record, read_records
from groundnlq.data.schema import Id, Number, Text, checked, read_json, read_utf8
from groundnlq.errors import DataError, Findings

KNOWN_VERSIONS = {"1", "1.0", "2", "2.0", "2.1"}
NEGATIVE_TOLERANCE_SEC = 1e-3  # official times start at -4e-7 now and then
_STRAY_PREFIX = re.compile(r"^\s*(query text|[a-z] text( \(optional\))?)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Clip:
    """An annotated excerpt of a video."""

    clip_uid: str
    video_uid: str
    video_start_sec: float
    video_end_sec: float

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


# The layout, level by level. Lists are checked entry by entry, so that one fault does not hide another.


class _File(BaseModel, frozen=True):
    version: Any = ""
    videos: list[Any]


class _Video(BaseModel, frozen=True):
    video_uid: Text = ""
    clips: list[Any]


class _Clip(BaseModel, frozen=True):
    clip_uid: Id
    video_start_sec: Number
    video_end_sec: Number

    @model_validator(mode="after")
    def _check(self) -> _Clip:
        if self.video_end_sec <= self.video_start_sec:
            times = f"{self.video_end_sec} s, not after its start at {self.video_start_sec} s"
            raise ValueError(f"clip {self.clip_uid} ends at {times}")
        return self


class _NlqClip(_Clip, frozen=True):
    annotations: list[Any]


class _Annotation(BaseModel, frozen=True):
    annotation_uid: Id
    language_queries: list[Any]


class _Query(BaseModel, frozen=True):
    query: Text | None = None
    template: Text | None = None
    clip_start_sec: Number | None = None
    clip_end_sec: Number | None = None


_Entry = TypeVar("_Entry", bound=BaseModel)
_AnyClip = TypeVar("_AnyClip", bound=_Clip)


def clean_query(text: str) -> str:
    """A question without the dirt of the annotation form.

    >>> clean_query("Query Text:  where did I put\\tthe  knife ? ")
    'where did I put the knife ?'
    """
    return " ".join(_STRAY_PREFIX.sub("", text).split())


def read_nlq(path: str | Path, clean_text: bool = True) -> NlqFile:
    """Read an official NLQ file (train, val, or test without moments; versions 1 and 2).

    Queries without text are left out but counted in every query's index, as the submission needs it.

    Raises:
        DataError: all faults of the file in one message, each with its JSON path.
    """
    path = Path(path)
    reader = _NlqReader(path, clean_text)
    file = _read_file(path)
    for where, entry, clip in _clips(file, _NlqClip, reader.findings):
        reader.read_clip(where, entry, clip)
    version = str(file.version)
    if version not in KNOWN_VERSIONS:
        reader.dirt[f"unknown version {version!r:.40}"] += 1
    reader.check_moments_present()
    reader.findings.raise_if_any("fix the file or fetch it again")
    if not reader.records:
        raise DataError(f"{path}: no query with a text in it -- is this an NLQ annotation file?")
    return NlqFile(path, version, reader.records, reader.clips, dict(reader.dirt))


def read_clips(paths: Iterable[str | Path]) -> dict[str, Clip]:
    """Distinct clips of official train files (NLQ, moments, visual queries); the first file's times count.

    Raises:
        DataError: all faults of a file in one message.
    """
    clips: dict[str, Clip] = {}
    for path in paths:
        findings = Findings(str(path), DataError)
        for where, _, clip in _clips(_read_file(Path(path)), _Clip, findings):
            if not clip.video_uid:
                findings.add(f"{where}: its video has no video_uid, which narrations are joined by")
            clips.setdefault(clip.clip_uid, clip)
        findings.raise_if_any("fetch the file again")
    return clips


def read_truth(path: str | Path) -> list[Record]:
    """Records with ground truth, from an official file or from JSON lines, whichever it is.

    Raises:
        DataError: unreadable, or a file without moments (a test split), which nothing can be scored on.
    """
    first = next((line for line in read_utf8(Path(path)).splitlines() if line.strip()), "")
    is_lines = first.strip().startswith("{") and '"query_id"' in first and '"videos"' not in first
    records = read_records(path) if is_lines else read_nlq(path).records
    if not any(record.moments_sec for record in records):
        raise DataError(
            f"{path}: has no moments -- a test split has no public ground truth; use train or val"
        )
    return records


def _read_file(path: Path) -> _File:
    findings = Findings(str(path), DataError)
    file = checked(_File, read_json(path), "", findings)
    findings.raise_if_any("is this an official annotation file?")
    assert file is not None
    return file


def _clips(file: _File, kind: type[_AnyClip], findings: Findings) -> Iterator[tuple[str, _AnyClip, Clip]]:
    """(JSON path, entry, clip) of every clip of an official file of any task."""
    for outer, video in _each(_Video, file.videos, "videos", findings):
        for where, entry in _each(kind, video.clips, f"{outer}.clips", findings):
            times = float(entry.video_start_sec), float(entry.video_end_sec)
            yield where, entry, Clip(entry.clip_uid, video.video_uid, *times)


def _each(
    kind: type[_Entry], values: list[Any], where: str, findings: Findings
) -> Iterator[tuple[str, _Entry]]:
    for index, value in enumerate(values):
        place = f"{where}[{index}]"
        if (entry := checked(kind, value, place, findings)) is not None:
            yield place, entry


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

    def read_clip(self, where: str, entry: _NlqClip, clip: Clip) -> None:
        if self._is_duplicate(f"clip {clip.clip_uid}", where):
            return
        self.clips.append(clip)
        for place, annotation in _each(_Annotation, entry.annotations, f"{where}.annotations", self.findings):
            if not self._is_duplicate(f"annotation {annotation.annotation_uid}", place):
                self._read_annotation(place, annotation, clip)

    def _read_annotation(self, where: str, annotation: _Annotation, clip: Clip) -> None:
        self.dirt["annotations without queries"] += not annotation.language_queries
        for index, value in enumerate(annotation.language_queries):
            place = f"{where}.language_queries[{index}]"
            query = checked(_Query, value, place, self.findings)
            if query is not None:
                self._read_query(place, query, clip, f"{annotation.annotation_uid}_{index}")

    def _read_query(self, where: str, query: _Query, clip: Clip, query_id: str) -> None:
        raw = query.query or ""
        text = clean_query(raw) if self.clean_text else raw
        if not text.strip():
            self.dirt["queries without text"] += 1
            return
        self._count_text(raw)
        moment = self._read_moment(where, query, clip)
        self.dirt["queries without template"] += query.template is None
        self.records.append(
            Record(
                query_id,
                clip.clip_uid,
                text,
                clip.duration_sec,
                (moment,) if moment else (),
                template=query.template,
                raw_query=raw,
            )
        )

    def _read_moment(self, where: str, query: _Query, clip: Clip) -> tuple[float, float] | None:
        start, end = query.clip_start_sec, query.clip_end_sec
        if start is None and end is None:
            self.without_moment.append(where)
            return None
        if start is None or end is None:
            self.findings.add(f"{where}: clip_start_sec and clip_end_sec must be numbers, got {start}, {end}")
            return None
        if end <= start:
            self.findings.add(f"{where}: the moment ends at {end} s, not after its start at {start} s")
        elif start < -NEGATIVE_TOLERANCE_SEC or start >= clip.duration_sec:
            self.findings.add(
                f"{where}: the moment starts at {start} s, outside 0 ... {clip.duration_sec:g} s"
            )
        self.dirt["moments that end beyond the clip"] += end > clip.duration_sec
        self.dirt["moments shorter than 1 s"] += end - start < 1
        return (start, end)

    def _count_text(self, raw: str) -> None:
        self.dirt["texts with a stray prefix"] += bool(_STRAY_PREFIX.match(raw))
        self.dirt["texts without a question mark"] += not raw.rstrip().endswith("?")
        self.dirt["texts with stray white space"] += raw != " ".join(raw.split())

    def check_moments_present(self) -> None:
        """A test file has no moments at all; a file with some is broken where they are missing."""
        if any(record.moments_sec for record in self.records):
            for where in self.without_moment:
                self.findings.add(
                    f"{where}: missing clip_start_sec and clip_end_sec, which other queries have"
                )

    def _is_duplicate(self, name: str, where: str) -> bool:
        first = self.seen.setdefault(name, where)
        if first != where:
            self.findings.add(f"{where}: duplicate {name} (first at {first})")
        return first != where
