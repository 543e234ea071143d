"""Official annotation files, read as they really are.

They have dirt (null texts, moments of 0 s, ends beyond the clip, a stray prefix on a tenth of the val questions), and
nobody can correct a licensed file: what is odd in a query, an annotation or a clip is counted and named. A file of
another nesting is refused, all findings in one error.
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from groundnlq.data.records import SLOTS, Record, read_records, with_unique_ids
from groundnlq.data.schema import LENIENT, Bounded, Id, Number, Text, entries, expected, read_json
from groundnlq.errors import DataError, Findings, sample_of

NO_TIMES = "moments without start or end"
KNOWN_VERSIONS = {"1", "1.0", "2", "2.0", "2.1"}
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
    """What an official file holds; `dirt` counts its oddities by a readable name, `odd` names what was left out and the
    records with an `oddity`."""

    path: Path
    version: str
    records: list[Record]
    clips: list[Clip]
    dirt: dict[str, int]
    odd: dict[str, list[str]] = field(default_factory=dict)


class _Video(BaseModel, frozen=True):
    video_uid: Annotated[Text | None, LENIENT] = None
    scenarios: Annotated[tuple[Annotated[Text | None, LENIENT], ...] | None, LENIENT] = None


class _Annotation(BaseModel, frozen=True):
    annotation_uid: Id


class _Query(BaseModel, frozen=True):
    query: Annotated[Text | None, LENIENT] = None
    template: Annotated[Text | None, LENIENT] = None
    slot_x: Annotated[Text | None, LENIENT] = None
    verb_x: Annotated[Text | None, LENIENT] = None
    slot_y: Annotated[Text | None, LENIENT] = None
    clip_start_sec: Annotated[Number | None, LENIENT] = None
    clip_end_sec: Annotated[Number | None, LENIENT] = None


def clean_query(text: str) -> str:
    """A question without the dirt of the annotation form.

    >>> clean_query("Query Text:  where did I put\\tthe  knife ? ")
    'where did I put the knife ?'
    """
    return " ".join(_STRAY_PREFIX.sub("", text).split())


def read_nlq(path: str | Path, clean_text: bool = True) -> NlqFile:
    """Read an official NLQ file (train, val, or test without moments; versions 1 and 2).

    Queries without text are left out but counted in every index, as the submission needs it. Moments stay as annotated,
    also odd ones; where a time is missing, they get 0 s. A DataError has all faults of the file, with their JSON paths.
    """
    path = Path(path)
    reader, tree = _NlqReader(path, clean_text), read_json(path)
    for where, clip, entry in _clips(tree, reader.findings, reader.odd["clips left out"]):
        reader.read_clip(where, clip, entry)
    reader.findings.raise_if_any("fix the file or fetch it again")
    version = str(tree.get("version", ""))
    if version not in KNOWN_VERSIONS:
        reader.dirt[f"unknown version {version!r:.40}"] += 1
    records = with_unique_ids(reader.records)
    reader.dirt["query ids in several clips"] = sum(r.query_id != r.place[1] for r in records)
    if 2 * sum(bool(r.moments_sec) for r in records) >= len(records):
        records = [r if r.moments_sec else replace(r, moments_sec=((0.0, 0.0),)) for r in records]
    else:  # a test split
        reader.odd.pop(NO_TIMES, None)
    odd = {kind: names for kind, names in reader.odd.items() if names}
    if twice := [name for name, count in Counter(r.query_id for r in records).items() if count > 1]:
        raise DataError(f"{path}: queries twice in a clip: {sample_of(twice)} -- fetch the file again")
    if not records:
        found = "".join(f"; {kind}: {sample_of(names)}" for kind, names in odd.items())
        raise DataError(f"{path}: no query with a text in it{found} -- is this an NLQ annotation file?")
    dirt = dict(reader.dirt) | {kind: len(names) for kind, names in odd.items()}
    return NlqFile(path, version, records, list(reader.clips.values()), dirt, odd)


def read_clips(paths: Iterable[str | Path]) -> dict[str, Clip]:
    """Distinct clips of official train files (NLQ, moments, visual queries); the first file's times count. A clip
    without id, times or video is left out, and named in a warning."""
    clips: dict[str, Clip] = {}
    for path in paths:
        findings, odd = Findings(str(path), DataError), list[str]()
        for where, clip, _ in _clips(read_json(Path(path)), findings, odd):
            if clip.video_uid:
                clips.setdefault(clip.clip_uid, clip)
            else:
                odd.append(f"{where}: its video has no video_uid, which clips are found by")
        findings.raise_if_any("fetch the file again")
        if odd:
            warnings.warn(f"{path}: clips left out {len(odd)}: {sample_of(odd)}", stacklevel=2)
    return clips


def read_scenarios(path: str | Path) -> dict[str, str]:
    """The first scenario of each video of ``ego4d.json``; videos without one, or without an id, are left out."""
    findings, found = Findings(str(path), DataError), dict[str, str]()
    for _, video, _ in entries(_Video, read_json(Path(path)), "videos", "", findings, []):
        if (scenario := next(filter(None, video.scenarios or ()), "")) and video.video_uid:
            found.setdefault(video.video_uid, scenario)
    findings.raise_if_any("name Ego4D's ego4d.json")
    return found


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


def _clips(tree: Any, findings: Findings, odd: list[str]) -> Iterator[tuple[str, Clip, Any]]:
    """(JSON path, clip, entry) of every clip of an official file of any task; clips that are none go to `odd`."""
    for outer, video, value in entries(_Video, tree, "videos", "", findings):
        for where, clip, entry in entries(Clip, value, "clips", outer, findings, odd):
            yield where, replace(clip, video_uid=video.video_uid or ""), entry


class _NlqReader:
    """Collects records, dirt and findings while an official file is walked."""

    def __init__(self, path: Path, clean_text: bool):
        self.findings = Findings(str(path), DataError)
        self.clean_text = clean_text
        self.records: list[Record] = []
        self.clips: dict[str, Clip] = {}
        self.dirt: Counter[str] = Counter()
        self.odd: defaultdict[str, list[str]] = defaultdict(list)

    def read_clip(self, where: str, clip: Clip, entry: Any) -> None:
        self.clips.setdefault(clip.clip_uid, clip)
        odd = self.odd["annotations left out"]
        for _, annotation, value in entries(_Annotation, entry, "annotations", where, self.findings, odd):
            queries = value.get("language_queries")
            self.dirt["annotations without queries"] += not queries
            for index, query in enumerate(queries if isinstance(queries, list) else []):
                self._read_query(query, clip, f"{annotation.annotation_uid}_{index}")

    def _read_query(self, entry: Any, clip: Clip, query_id: str) -> None:
        query = _Query.model_validate(entry if isinstance(entry, dict) else {})
        raw = query.query or ""
        text = clean_query(raw) if self.clean_text else raw
        if not text.strip():
            self.odd["queries without text"].append(query_id)
            return
        self.dirt["texts with a stray prefix"] += bool(_STRAY_PREFIX.match(raw))
        self.dirt["texts without a question mark"] += not raw.rstrip().endswith("?")
        self.dirt["texts with stray white space"] += raw != " ".join(raw.split())
        self.dirt["queries without template"] += query.template is None
        times = [time for time in (query.clip_start_sec, query.clip_end_sec) if time is not None]
        moments = ((times[0], times[-1]),) if times else ()
        asked = query_id, clip.clip_uid, text, clip.duration_sec, moments
        more: dict[str, Any] = {name: getattr(query, name) or None for name in SLOTS}
        more |= {"template": query.template, "raw_query": raw, "video_uid": clip.video_uid}
        self.records.append(Record(*asked, **more))
        if kind := self.records[-1].oddity if len(times) == 2 else NO_TIMES:
            self.odd[kind].append(query_id)
        else:
            self.dirt["moments that begin before the clip"] += times[0] < 0
            self.dirt["moments that end beyond the clip"] += times[1] > clip.duration_sec
            self.dirt["moments shorter than 1 s"] += times[1] - times[0] < 1
