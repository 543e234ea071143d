"""What a score on the sample world is worth: guessers that know one word, questions with a word exchanged.

Only the sample world can have these: its event log tells what happened and what each question is about.
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
from groundnlq.data.recall import tiou
from groundnlq.data.records import Record
from groundnlq.sample.make import read_events, read_world
from groundnlq.sample.queries import narrate
from groundnlq.sample.vocabulary import plural
from groundnlq.sample.world import Event as SampleEvent

HIT = 0.3
Event = Mapping[str, Any]


class Controls:
    """Questions of one split of a sample world, with what is known of them but not told to a network."""

    def __init__(self, folder: str | Path, records: Sequence[Record], split: str = "val"):
        questions = read_world(folder)["questions"][split]
        self.records = [record for record in records if record.query_id in questions]
        self.questions = {record.query_id: questions[record.query_id] for record in self.records}
        clips = {record.clip_uid for record in self.records}
        self.events = {
            log["clip_uid"]: log["events"] for log in read_events(folder) if log["clip_uid"] in clips
        }

    def guesser(self, knows: str) -> pd.Series:
        """For each query, how often a guesser with perfect boundaries is right that knows one thing only.

        It takes any of the clip's events that agree with the answer in what it knows, each as likely.

        Args:
            knows: ``verb``, ``object`` (else container, else person) or ``nothing`` (any event).
        """
        return self._by_query(lambda record: self._share_right(record, knows))

    def ceiling(self) -> pd.Series:
        """For each query 1 if the event that it was made for hits its annotated moment."""
        return self._by_query(lambda record: float(self._answer(record) is not None))

    def is_unseen(self) -> pd.Series:
        """For each query whether it is about an object that no training clip has."""
        return self._by_query(lambda record: self.questions[record.query_id]["is_unseen"])

    def template(self) -> pd.Series:
        """For each query its template, known even where the annotators left it out."""
        return self._by_query(lambda record: self.questions[record.query_id]["template"])

    def with_swapped_objects(self, seed: int = 0) -> list[Record]:
        """The questions that name an object, naming another object of the clip instead.

        The moments stay: a network that listens to the object now answers something else. Ids stay, too.
        """
        random, swapped = np.random.default_rng(seed), []
        for record in self.records:
            named = self.questions[record.query_id]["asked"].get("object")
            others = sorted({e["object"] for e in self.events[record.clip_uid]} - {None, named})
            if named is not None and others:
                other = others[int(random.integers(len(others)))]
                forms = {plural(named): plural(other), named: other}  # the singular last: soap is both
                text = re.sub(rf"\b({'|'.join(forms)})\b", lambda m, forms=forms: forms[m[1]], record.query)
                swapped.append(replace(record, query=text))
        return swapped

    def as_statements(self) -> list[Record]:
        """The questions as what a narrator says of the events that answer them; ids and moments stay.

        One who answers these but not the questions has found the event and not understood the question.
        """
        told = []
        for record in self.records:
            if (event := self._answer(record)) is not None:
                text = clean_narration(narrate(SampleEvent(**event)))
                told.append(replace(record, query=text, raw_query=None, query_type="nlq_narration"))
        return told

    def _by_query(self, of_record: Any) -> pd.Series:
        return pd.Series({record.query_id: of_record(record) for record in self.records})

    def _answer(self, record: Record) -> Event | None:
        """The event that the question is about."""
        asked = self.questions[record.query_id]
        same = [e for e in self.events[record.clip_uid]
                if (e["verb"], e["object"]) == (asked["verb"], asked["object"])]  # fmt: skip
        fits = [event for event in same if _hits(event, record)]
        return fits[0] if fits else None

    def _share_right(self, record: Record, knows: str) -> float:
        answer, events = self._answer(record), self.events[record.clip_uid]
        if answer is None:
            return 0.0
        noun = next(
            (slot for slot in ("object", "container", "person") if answer[slot] is not None), "object"
        )
        slot = {"verb": "verb", "object": noun}.get(knows)
        candidates = [e for e in events if slot is None or e[slot] == answer[slot]]
        return float(np.mean([_hits(e, record) for e in candidates]))


def _hits(event: Event, record: Record) -> bool:
    segment = np.array([[event["start_sec"], event["end_sec"]]])
    return bool((tiou(segment, np.array(record.moments_sec[0])) > HIT).any())
