"""Annotations of one's own: a table with a row for each moment of a query becomes records."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from groundnlq.data.annotations import clean_query
from groundnlq.data.records import Record
from groundnlq.errors import DataError, Findings, sample_of
from groundnlq.files import SAFE_ID, VIDEO_KINDS

NEEDED, TIMES = ("clip", "query"), ("start", "end")
OWN = (*NEEDED, *TIMES, "duration", "template")  # columns with a meaning; all others are kept beside the records


def read_table(
    path: str | Path, durations_sec: Mapping[str, float] | None = None
) -> tuple[list[Record], dict[str, dict[str, str]], dict[str, int]]:
    """Records of a CSV table (``.tsv``: tabs) with the columns clip, query, start and end; by query id the other
    columns of the first row; counts of rows that have no query or moment.

    A clip may be named as its video file. Times are seconds or ``m:ss.s``; rows without both are queries without a
    moment. Rows with the same clip and query are the moments of one query; the n-th query of a clip is ``<clip>_n``.
    `durations_sec` are of the clips, as `FeatureStore.durations_sec`; a column ``duration`` comes before it. A
    DataError names missing columns, clips without a duration or whose name is not an id, cells that are not times.
    """
    table, findings, counts = _read(Path(path)), Findings(str(path), DataError), Counter[str]()
    queries: dict[tuple[str, str], dict[str, Any]] = {}
    for line, row in enumerate(table.to_dict("records"), 2):
        clip = row["clip"].removesuffix(Path(row["clip"]).suffix if row["clip"].lower().endswith(VIDEO_KINDS) else "")
        text = clean_query(row["query"])
        if not text:
            counts["rows without a query"] += 1
            continue
        try:
            start, end, given = (_seconds(row.get(name, "")) for name in (*TIMES, "duration"))
            duration = given or (durations_sec or {}).get(clip)
            if not SAFE_ID.fullmatch(clip):
                raise ValueError(f"clip {clip!r:.80} is not an id of letters, digits, '.', '_', '-'")
            if not duration:
                raise ValueError(f"clip {clip}: its duration is not known; add a column duration, or give features")
        except ValueError as error:
            findings.add(f"line {line}: {error}")
            continue
        query = queries.setdefault((clip, text), {"duration": duration, "moments": [], "row": row})
        if start is None and end is None:
            counts["rows without a moment"] += 1
        elif start is None or end is None:
            counts["rows with a start or an end alone"] += 1
        else:
            query["moments"].append((start, end))
    findings.raise_if_any("correct the table")
    if not queries:
        raise DataError(f"{path}: no query in it -- a table has the columns {', '.join((*NEEDED, *TIMES))}")
    return *_records(queries), dict(counts)


def _read(path: Path) -> pd.DataFrame:
    separator = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
    options: Any = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        table = pd.read_csv(path, sep=separator, **options)
        if len(table.columns) == 1 and ";" in table.columns[0]:  # as spreadsheets of some languages write it
            table = pd.read_csv(path, sep=";", **options)
    except (OSError, ValueError) as error:  # ValueError: of pandas and of decoding
        raise DataError(f"{path}: not a table that can be read ({error}) -- save it as CSV in UTF-8") from None
    table = table.rename(columns=lambda name: name.strip().lower().removesuffix("_sec")).fillna("")
    if missing := [name for name in NEEDED if name not in table]:
        raise DataError(
            f"{path}: no column {sample_of(missing)}, only {sample_of(table)} -- name them in the first row"
        )
    return table


def _seconds(text: str) -> float | None:
    """Seconds of ``83.5``, ``1:23.5`` or ``0:01:23.5``; None of an empty cell."""
    if not text.strip():
        return None
    try:
        total = 0.0
        for part in text.strip().replace(",", ".").split(":"):
            total = 60 * total + float(part)
    except ValueError:
        total = float("nan")
    if not abs(total) < 1e9:
        raise ValueError(f"{text!r:.40} is not a time; write seconds or m:ss")
    return total


def _records(queries: Mapping[tuple[str, str], Mapping[str, Any]]) -> tuple[list[Record], dict[str, dict[str, str]]]:
    records, others, number = [], {}, Counter[str]()
    for (clip, text), query in queries.items():
        query_id, row = f"{clip}_{number[clip]}", query["row"]
        number[clip] += 1
        asked = query_id, clip, text, query["duration"], tuple(query["moments"])
        records.append(Record(*asked, template=row.get("template") or None, raw_query=row["query"]))
        others[query_id] = {name: value for name, value in row.items() if name not in OWN}
    return records, others
