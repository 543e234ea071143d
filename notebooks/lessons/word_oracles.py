"""Oracles that know one word of the answer, and queries with another word; for the sample world only.

Its event log contains all events of every clip, and the event of each query. A network that uses only one
word of a query is not better than these oracles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from groundnlq.data.narrations import clean_narration
from groundnlq.data.recall import THRESHOLDS, tiou
from groundnlq.data.records import Record
from groundnlq.sample.make import read_events, read_world
from groundnlq.sample.queries import narrate
from groundnlq.sample.vocabulary import plural
from groundnlq.sample.world import Event as SampleEvent

HIT = THRESHOLDS[0]
Event = Mapping[str, Any]


class WordOracles:
    """Queries of one split of a sample world with their meaning, which is not an input of the network.

    Args:
        folder: of the sample world; records: of the split; others are left out.
    """

    def __init__(self, folder: str | Path, records: Sequence[Record], split: str = "val"):
        self.meaning = read_world(folder)["questions"][split]
        self.records = [record for record in records if record.query_id in self.meaning]
        clips = {record.clip_uid for record in self.records}
        self.events = {log["clip_uid"]: log["events"] for log in read_events(folder) if log["clip_uid"] in clips}

    def hit_rate(self, word: str) -> pd.Series:
        """For each query the hit rate of an oracle that knows one word and exact boundaries.

        It takes any event of the clip that has this word in common with the answer, with equal probability.

        Args:
            word: ``verb``, ``object`` (else container, else person) or ``nothing`` (any event).
        """
        return self._by_query(lambda record: self._share_right(record, word))

    def ceiling(self) -> pd.Series:
        """For each query 1 if its event hits its annotated moment, else 0."""
        return self._by_query(lambda record: float(self._event_of(record) is not None))

    def is_unseen(self) -> pd.Series:
        """For each query whether its object is in no training clip."""
        return self._by_query(lambda record: self.meaning[record.query_id]["is_unseen"])

    def template(self) -> pd.Series:
        """For each query its template, also where the annotation has none."""
        return self._by_query(lambda record: self.meaning[record.query_id]["template"])

    def with_swapped_objects(self, seed: int = 0) -> list[Record]:
        """The queries with an object, each with another object of the clip in its text.

        Ids and moments stay the same: a network that uses the object should now miss them.
        """
        random, swapped = np.random.default_rng(seed), []
        for record in self.records:
            named = self.meaning[record.query_id]["asked"].get("object")
            others = sorted({e["object"] for e in self.events[record.clip_uid]} - {None, named})
            if named is not None and others:
                other = others[int(random.integers(len(others)))]
                forms = {plural(named): plural(other), named: other}  # the singular last: soap is both
                text = re.sub(rf"\b({'|'.join(forms)})\b", lambda m, forms=forms: forms[m[1]], record.query)
                swapped.append(replace(record, query=text))
        return swapped

    def as_statements(self) -> list[Record]:
        """Statements of a narrator about the events that answer the queries; ids and moments stay the same.

        A network that grounds these but not the queries finds events and does not understand questions.
        """
        statements = []
        for record in self.records:
            if (event := self._event_of(record)) is not None:
                text = clean_narration(narrate(SampleEvent(**event)))
                statements.append(replace(record, query=text, raw_query=None, query_type="nlq_narration"))
        return statements

    def _by_query(self, of_record: Any) -> pd.Series:
        return pd.Series({record.query_id: of_record(record) for record in self.records})

    def _event_of(self, record: Record) -> Event | None:
        """The event that the query is about."""
        meaning = self.meaning[record.query_id]
        same = [e for e in self.events[record.clip_uid]
                if (e["verb"], e["object"]) == (meaning["verb"], meaning["object"])]  # fmt: skip
        return next((event for event in same if _hits(event, record)), None)

    def _share_right(self, record: Record, word: str) -> float:
        answer, events = self._event_of(record), self.events[record.clip_uid]
        if answer is None:
            return 0.0
        nouns = [slot for slot in ("object", "container", "person") if answer[slot] is not None]
        slot = {"verb": "verb", "object": nouns[0] if nouns else "object"}.get(word)
        candidates = [e for e in events if slot is None or e[slot] == answer[slot]]
        return float(np.mean([_hits(e, record) for e in candidates]))


def _hits(event: Event, record: Record) -> bool:
    segment = np.array([[event["start_sec"], event["end_sec"]]])
    return bool((tiou(segment, np.array(record.moments_sec[0])) > HIT).any())
