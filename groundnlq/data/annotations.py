"""Official NLQ files and the published JSON-lines records, read as they really are.

The official files have dirt (null texts, another version for the test split, ends beyond the clip, a stray
prefix on a tenth of the val questions). What is odd is counted; what would train or score wrongly is refused,
with all findings of a file in one error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundnlq.data.records import Record, is_number, is_text, read_json, read_records, read_utf8
from groundnlq.errors import DataError, Findings
from groundnlq.files import SAFE_ID

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
    tree = read_json(path)
    reader = _NlqReader(path, clean_text)
    version = str(tree.get("version", "")) if isinstance(tree, dict) else ""
    for where, clip, video_uid in walk_clips(tree, reader.findings):
        reader.read_clip(where, clip, video_uid)
    if version not in KNOWN_VERSIONS:
        reader.dirt[f"unknown version {version!r:.40}"] += 1
    reader.check_moments_present()
    reader.findings.raise_if_any("mend the file or fetch it again")
    if not reader.records:
        raise DataError(f"{path}: no query with a text in it -- is this an NLQ annotation file?")
    return NlqFile(path, version, reader.records, reader.clips, dict(reader.dirt))


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


def walk_clips(tree: Any, findings: Findings) -> Iterator[tuple[str, dict, str]]:
    """(JSON path, clip, video_uid) of every clip of an official file of any task; faults go to `findings`."""
    if not isinstance(tree, dict) or not isinstance(tree.get("videos"), list):
        findings.add("has no list 'videos'; is this an official annotation file?")
        return
    for v, video in enumerate(tree["videos"]):
        where = f"videos[{v}]"
        if not isinstance(video, dict) or not isinstance(video.get("clips"), list):
            findings.add(f"{where}: has no list 'clips'")
            continue
        for c, clip in enumerate(video["clips"]):
            if isinstance(clip, dict):
                yield f"{where}.clips[{c}]", clip, str(video.get("video_uid", ""))
            else:
                findings.add(f"{where}.clips[{c}]: an object expected, got {clip!r:.40}")


def read_clip_entry(where: str, clip: dict, video_uid: str, findings: Findings) -> Clip | None:
    """The clip's own fields; faults go to `findings`."""
    uid = clip.get("clip_uid")
    if not isinstance(uid, str) or not SAFE_ID.fullmatch(uid):
        findings.add(f"{where}.clip_uid: an id of letters, digits, '.', '_', '-' expected, got {uid!r:.60}")
        return None
    start, end = clip.get("video_start_sec"), clip.get("video_end_sec")
    if not (is_number(start) and is_number(end)):
        findings.add(f"{where} (clip {uid}): video_start_sec and video_end_sec must be numbers")
        return None
    if end <= start:
        findings.add(f"{where} (clip {uid}): ends at {end} s, not after its start at {start} s")
        return None
    return Clip(uid, video_uid, float(start), float(end))


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

    def read_clip(self, where: str, clip: dict, video_uid: str) -> None:
        entry = read_clip_entry(where, clip, video_uid, self.findings)
        if entry is None or self._is_repeated(f"clip {entry.clip_uid}", where):
            return
        self.clips.append(entry)
        annotations = clip.get("annotations")
        if not isinstance(annotations, list):
            self.findings.add(f"{where}: has no list 'annotations'")
            return
        for a, annotation in enumerate(annotations):
            self._read_annotation(f"{where}.annotations[{a}]", annotation, entry)

    def _read_annotation(self, where: str, annotation: Any, clip: Clip) -> None:
        uid = annotation.get("annotation_uid") if isinstance(annotation, dict) else None
        if not isinstance(uid, str) or not SAFE_ID.fullmatch(uid):
            self.findings.add(f"{where}.annotation_uid: an id expected, got {uid!r:.60}")
            return
        queries = annotation.get("language_queries")
        if not isinstance(queries, list):
            self.findings.add(f"{where} ({uid}): has no list 'language_queries'")
            return
        if self._is_repeated(f"annotation {uid}", where):
            return
        self.dirt["annotations without queries"] += not queries
        for index, query in enumerate(queries):
            self._read_query(f"{where}.language_queries[{index}]", query, clip, f"{uid}_{index}")

    def _read_query(self, where: str, query: Any, clip: Clip, query_id: str) -> None:
        if not isinstance(query, dict):
            self.findings.add(f"{where}: an object expected, got {query!r:.40}")
            return
        raw = query.get("query")
        if raw is not None and not is_text(raw):
            self.findings.add(f"{where}.query: a text expected, got {raw!r:.40}")
            return
        text = clean_query(raw or "") if self.clean_text else raw
        if not (text or "").strip():
            self.dirt["queries without text"] += 1
            return
        self._count_text(raw)
        moment = self._read_moment(where, query, clip)
        template = query.get("template")
        self.dirt["queries without template"] += template is None
        self.records.append(
            Record(
                query_id,
                clip.clip_uid,
                text,
                clip.duration_sec,
                (moment,) if moment else (),
                template=template if is_text(template) else None,
                raw_query=raw,
            )
        )

    def _read_moment(self, where: str, query: dict, clip: Clip) -> tuple[float, float] | None:
        start, end = query.get("clip_start_sec"), query.get("clip_end_sec")
        if start is None and end is None:
            self.without_moment.append(where)
            return None
        if not (is_number(start) and is_number(end)):
            self.findings.add(
                f"{where}: clip_start_sec and clip_end_sec must be numbers, got {start!r:.40}, {end!r:.40}"
            )
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

    def _is_repeated(self, name: str, where: str) -> bool:
        first = self.seen.setdefault(name, where)
        if first != where:
            self.findings.add(f"{where}: {name} stands twice (first at {first})")
        return first != where
