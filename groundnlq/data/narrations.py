"""Narrations become queries for pretraining: EgoClip's rows, cut to the clips of the train files."""

import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from groundnlq.data.annotations import Clip
from groundnlq.data.records import Record
from groundnlq.errors import DataError
from groundnlq.files import refuse_stand_in

COLUMNS = ("video_uid", "narration_source", "narration_ind", "clip_start", "clip_end", "clip_text")
TAGS = ("tag_verb", "tag_noun")  # numbers of classes, as "[3, 17]"; a table may lack them
_TAG = re.compile(r"^\s*#\s*\w+\s+")  # "#C C picks ...": who is narrated
_CLASSES = re.compile(r"(?:\[\s*(\d{1,6}(?:\s*,\s*\d{1,6})*)?\s*\])?")


def narration_records(
    egoclip_csv: str | Path, clips: Mapping[str, Clip], *, available: Container[str] | None = None,
    keep_tag: bool = False, question_mark: bool = False,
) -> tuple[list[Record], dict[str, int]]:  # fmt: skip
    """Records of the narrations that lie within the given clips, and counts of what was left out.

    A row counts for a clip of its video when it starts strictly after the clip's start and ends strictly before its
    end; times become seconds of the clip. `available` clips have features; the others are dropped and counted.
    `keep_tag` and `question_mark`: as in `clean_narration`; how the published features were made is not known.
    """
    counts: Counter[str] = Counter()
    by_video: dict[str, list[Clip]] = {}
    for clip in clips.values():
        if available is None or clip.clip_uid in available:
            by_video.setdefault(clip.video_uid, []).append(clip)
        else:
            counts["clips without features"] += 1
    records: dict[str, Record] = {}
    num_kept = 0
    for row in _rows(Path(egoclip_csv), counts):
        text = clean_narration(row["clip_text"], keep_tag, question_mark)
        for clip in by_video.get(row["video_uid"], ()):
            if (record := _record(row, text, clip, counts)) is not None:
                num_kept += 1
                records.setdefault(record.query_id, record)
    if not records:
        raise DataError(
            f"{egoclip_csv}: none of its {counts['rows']} rows lies within the {len(clips)} clips "
            f"({counts['malformed rows']} are malformed) -- check that table and train files belong together"
        )
    found = {"narrations kept": num_kept, "narrations given twice": num_kept - len(records)}
    return list(records.values()), dict(counts) | found  # a Counter's own | drops zeros


def clean_narration(text: str, keep_tag: bool = False, question_mark: bool = False) -> str:
    """The text of a narration as it is encoded, with its ``#C`` tag or a question mark at its end if asked for.

    >>> clean_narration("#C C picks up a knife.  ")
    'C picks up a knife'
    """
    text = text if keep_tag else _TAG.sub("", text)
    text = " ".join(text.split()).rstrip(".").rstrip()
    return text + "?" if question_mark and text else text


def _classes(text: str, counts: Counter[str]) -> tuple[int, ...]:
    found = _CLASSES.fullmatch(text.strip())
    counts["malformed tags"] += found is None
    return tuple(map(int, found[1].split(","))) if found and found[1] else ()


def _record(row: Mapping[str, str], text: str, clip: Clip, counts: Counter[str]) -> Record | None:
    start, end = float(row["clip_start"]), float(row["clip_end"])
    if not (start > clip.video_start_sec and end < clip.video_end_sec):
        return None
    if not text or not end > start:
        counts["narrations without text or duration"] += 1
        return None
    narrator = row["narration_source"].rpartition("_")[2]
    query_id = f"{clip.clip_uid}_narrator-{narrator}_{row['narration_ind']}"
    moment = (start - clip.video_start_sec, end - clip.video_start_sec)
    asked = query_id, clip.clip_uid, text, clip.duration_sec, (moment,), "nlq_narration"
    verbs, nouns = (_classes(row.get(name, ""), counts) for name in TAGS)
    return Record(*asked, video_uid=clip.video_uid, verbs=verbs, nouns=nouns)


def _rows(path: Path, counts: Counter[str]) -> Iterator[dict[str, str]]:
    """Rows as they come: the real file has four million, and quotes in its texts that no CSV reader likes."""
    refuse_stand_in(path)
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:  # texts may hold a lone \r
            header = file.readline().rstrip("\r\n").split("\t")
            if missing := [name for name in COLUMNS if name not in header]:
                hint = "; is it comma-separated?" if len(header) == 1 else ""
                raise DataError(f"{path}: header lacks {', '.join(missing)}{hint} -- EgoClip's CSV is expected")
            for line in file:
                counts["rows"] += 1
                values = line.rstrip("\r\n").split("\t")
                row = dict(zip(header, values, strict=False))
                counts["rows with characters that are not UTF-8"] += "\ufffd" in line
                if len(values) == len(header) and _is_time(row["clip_start"]) and _is_time(row["clip_end"]):
                    yield row
                else:
                    counts["malformed rows"] += 1
    except OSError as error:
        raise DataError(f"{path}: {error.strerror} -- check the path") from None


def _is_time(text: str) -> bool:
    try:
        return abs(float(text)) < 1e7  # False for NaN and Inf, too
    except ValueError:
        return False
