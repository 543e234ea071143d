"""Ranked moments of a split, in the challenge's submission format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundnlq.data.records import Record, is_number, read_json
from groundnlq.errors import DataError, Findings
from groundnlq.files import SAFE_ID, write_json
from groundnlq.provenance import file_identity, made_by

CHALLENGE = "ego4d_nlq_challenge"
Ranked = dict[str, np.ndarray]  # query_id -> (K, 3): start_sec, end_sec, score; best first


class Answers(Ranked):
    """Ranked moments that know what they were made of; `write_submission` writes it down beside them."""

    def __init__(self, ranked: Mapping[str, np.ndarray], made_by: Mapping[str, Any]):
        super().__init__(ranked)
        self.made_by = dict(made_by)


def origin_of(ranked: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What answers were made of, as far as they know it."""
    return ranked.made_by if isinstance(ranked, Answers) else made_by()


def write_submission(path: str | Path, ranked: Mapping[str, np.ndarray], records: Sequence[Record]) -> None:
    """Write the answers to `records`, in their order; the score is each segment's third number.

    Raises:
        DataError: records without an answer, by name: a submission never leaves queries out silently.
    """
    findings = Findings(str(path), DataError)
    for record in records:
        if record.query_id not in ranked:
            findings.add(f"query {record.query_id} has no prediction")
    findings.raise_if_any("predict all records")
    results = [
        {
            "clip_uid": record.clip_uid,
            "annotation_uid": record.annotation_uid,
            "query_idx": record.query_idx,
            "predicted_times": np.asarray(ranked[record.query_id], dtype=float).tolist(),
        }
        for record in records
    ]
    content = {"version": "1.0", "challenge": CHALLENGE, "results": results}
    write_json(path, content | {"provenance": origin_of(ranked)})


def read_submission(path: str | Path) -> Answers:
    """Read a submission; segments without a score get their rank's: 1, 1/2, 1/3 ...

    Raises:
        DataError: all faults in one message: duplicates, NaN, reversed or empty segments, missing keys.
    """
    tree, findings = read_json(Path(path)), Findings(str(path), DataError)
    results = tree.get("results") if isinstance(tree, dict) else None
    if not isinstance(results, list):
        raise DataError(f"{path}: has no list 'results' -- is this a submission file?")
    ranked: Ranked = {}
    for index, entry in enumerate(results):
        where = f"results[{index}]"
        query_id = _query_id(entry, where, findings)
        if query_id is None:
            continue
        if query_id in ranked:
            findings.add(f"{where}: query {query_id} is answered twice")
            continue
        ranked[query_id] = _segments(entry.get("predicted_times"), f"{where} ({query_id})", findings)
    findings.raise_if_any("predict again, or mend the file")
    if not ranked:
        raise DataError(f"{path}: holds no answer -- predict again")
    known = tree.get("provenance")
    return Answers(ranked, file_identity(path) | (known if isinstance(known, dict) else {}))


def _query_id(entry: Any, where: str, findings: Findings) -> str | None:
    if not isinstance(entry, dict):
        findings.add(f"{where}: an object expected, got {entry!r:.40}")
        return None
    uid, index = entry.get("annotation_uid"), entry.get("query_idx")
    if not isinstance(uid, str) or not SAFE_ID.fullmatch(uid):
        findings.add(f"{where}.annotation_uid: an id expected, got {uid!r:.60}")
    elif not isinstance(index, int) or isinstance(index, bool) or index < 0:
        findings.add(f"{where}.query_idx: a count from 0 expected, got {index!r:.40}")
    else:
        return f"{uid}_{index}"
    return None


def _segments(times: Any, where: str, findings: Findings) -> np.ndarray:
    empty = np.zeros((0, 3))
    is_list = isinstance(times, list) and all(isinstance(s, list) and len(s) in (2, 3) for s in times)
    if not is_list or not times:
        findings.add(f"{where}.predicted_times: [[start, end], ...] expected, got {times!r:.60}")
        return empty
    rows = [[*s, 1 / rank] if len(s) == 2 else s for rank, s in enumerate(times, 1)]
    numbers = [n for row in rows for n in row]
    if not all(map(is_number, numbers)):
        findings.add(f"{where}.predicted_times: finite numbers expected, got {times!r:.60}")
        return empty
    segments = np.array(rows, dtype=np.float64)
    if (segments[:, 1] < segments[:, 0]).any():
        worst = segments[segments[:, 1] < segments[:, 0]][0, :2].tolist()
        findings.add(f"{where}.predicted_times: segment {worst} ends before it starts")
    return segments
