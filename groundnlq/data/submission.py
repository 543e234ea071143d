"""Ranked moments of a split, in the challenge's submission format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, StrictInt

from groundnlq.data.records import Record, with_unique_ids
from groundnlq.data.schema import Bounded, Id, entries, expected, read_json
from groundnlq.errors import DataError, Findings
from groundnlq.files import write_json
from groundnlq.provenance import file_identity, made_by

CHALLENGE, VERSION = EXPECTED = "ego4d_nlq_challenge", "1.0"
Ranked = dict[str, np.ndarray]  # query_id -> (K, 3): start_sec, end_sec, score; best first


class Predictions(Ranked):
    """Ranked moments that know what they were made of; `write_submission` writes it down beside them. Those of a file
    have `queries`, of which ids and clip are known."""

    def __init__(self, ranked: Mapping[str, np.ndarray], made_by: Mapping[str, Any], queries: Sequence[Record] = ()):
        super().__init__(ranked)
        self.made_by, self.queries = dict(made_by), queries

    @staticmethod
    def origin_of(ranked: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What predictions were made of, as far as they know it."""
        return ranked.made_by if isinstance(ranked, Predictions) else made_by()


def write_submission(path: str | Path, ranked: Mapping[str, np.ndarray], records: Sequence[Record]) -> None:
    """Write the predictions for `records`, in their order; the score is each segment's third number.

    A DataError names records without a prediction: a submission never leaves queries out silently.
    """
    findings = Findings(str(path), DataError)
    findings.add(*(f"query {r.query_id} has no prediction" for r in records if r.query_id not in ranked))
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
    origin = Predictions.origin_of(ranked)
    write_json(path, {"version": VERSION, "challenge": CHALLENGE, "results": results, "provenance": origin})


def _forward(segments: list[list[float]]) -> list[list[float]]:
    for start, end, *_ in segments:
        if end < start:
            raise ValueError(f"segment [{start}, {end}] ends before it starts")
    return segments


_Segment = Annotated[list[Bounded], Field(min_length=2, max_length=3)]
_finite = expected("[[start, end], ...] of finite numbers")
_Segments = Annotated[list[_Segment], Field(min_length=1), _finite, AfterValidator(_forward)]


class _Result(BaseModel, frozen=True):
    clip_uid: Id
    annotation_uid: Id
    query_idx: Annotated[StrictInt, Field(ge=0), expected("a count from 0")]
    predicted_times: _Segments


def read_submission(path: str | Path) -> Predictions:
    """Read a submission; segments without a score get their rank's: 1, 1/2, 1/3 ... A DataError has all faults, of
    which another challenge or version is one, as in the official script."""
    tree, findings = read_json(Path(path)), Findings(str(path), DataError)
    results = list(entries(_Result, tree, "results", "", findings))
    if results and (found := (tree.get("challenge"), tree.get("version"))) != EXPECTED:
        findings.add(f"challenge and version are {found!r:.120}, expected {EXPECTED}")
    places = [Record(f"{r.annotation_uid}_{r.query_idx}", r.clip_uid, "", 0.0) for _, r, _ in results]
    ranked, queries = Ranked(), with_unique_ids(places)
    for query, (where, result, _) in zip(queries, results, strict=True):
        if query.query_id in ranked:
            findings.add(f"{where}: query {query.query_id} is answered twice")
        rows = [[*s, 1 / rank][:3] for rank, s in enumerate(result.predicted_times, 1)]
        ranked[query.query_id] = np.array(rows, dtype=np.float64)
    findings.raise_if_any("predict again, or fix the file")
    if not ranked:
        raise DataError(f"{path}: holds no answer -- predict again")
    known = tree.get("provenance")
    return Predictions(ranked, file_identity(path) | (known if isinstance(known, dict) else {}), queries)
