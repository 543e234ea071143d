"""Official NLQ files and the published JSON-lines records, read as they really are.

The official files have dirt (null texts, another version for the test split, ends beyond the clip, a stray
prefix on a tenth of the val questions). What is odd is counted; what would train or score wrongly is refused,
with all findings of a file in one error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundnlq.errors import DataError, Findings
from groundnlq.files import SAFE_ID, write_text

KNOWN_VERSIONS = {"1", "1.0", "2", "2.0", "2.1"}
NEGATIVE_TOLERANCE_SEC = 1e-3  # official times start at -4e-7 now and then
_STRAY_PREFIX = re.compile(r"^\s*(query text|[a-z] text( \(optional\))?)\s*:\s*", re.IGNORECASE)


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


def read_records(path: str | Path) -> list[Record]:
    """Read records in the published JSON-lines layout; blank lines and a byte-order mark are accepted.

    Raises:
        DataError: all faults of the file in one message, each with its line.
    """
    path, findings, records = Path(path), Findings(str(path), DataError), []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).split("\n"), 1):  # texts may hold other line separators
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


def read_truth(path: str | Path) -> list[Record]:
    """Records with ground truth, from an official file or from JSON lines, whichever it is.

    Raises:
        DataError: unreadable, or a file without moments (a test split), which nothing can be scored on.
    """
    first = next((line for line in _read_text(Path(path)).splitlines() if line.strip()), "")
    is_lines = first.strip().startswith("{") and '"query_id"' in first and '"videos"' not in first
    records = read_records(path) if is_lines else read_nlq(path).records
    if not any(record.moments_sec for record in records):
        raise DataError(
            f"{path}: has no moments -- a test split has no public ground truth; use train or val"
        )
    return records


def read_json(path: Path) -> Any:
    """Parse a JSON file; a key that stands twice is refused. NaN is left to the checks, which know its place.

    Raises:
        DataError: what is wrong and at which line and column.
    """
    try:
        return _loads(_read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}) -- fetch the file again") from None


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
        if raw is not None and not _is_text(raw):
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
                template=template if _is_text(template) else None,
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


def _record_of_row(row: Any, where: str, findings: Findings) -> list[Record]:
    if not isinstance(row, dict):
        findings.add(f"{where}: an object expected, got {row!r:.40}")
        return []
    text = row.get("query", row.get("narration_query"))
    query_id, clip_uid, duration = row.get("query_id"), row.get("video_id"), row.get("duration")
    faults = len(findings.messages)
    if not _is_text(text) or not text.strip():
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


def _is_text(value: Any) -> bool:
    """JSON can spell half characters, which no encoder and no file takes."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_moment(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
    return is_pair and value[0] < value[1]


def _read_text(path: Path) -> str:
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
