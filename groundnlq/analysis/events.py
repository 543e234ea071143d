"""Events of clips, and what wrong answers show: from an event log or from narrations, beside what chance would show."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel

from groundnlq.data.annotations import read_clips
from groundnlq.data.narrations import narration_records
from groundnlq.data.recall import tiou
from groundnlq.data.records import Record, read_records
from groundnlq.data.schema import Id, Number, Text, read_json_lines
from groundnlq.errors import DataError, Findings

SHOWN = {  # by the first answer; the first that applies
    "hit": "correct",
    "right event": "the right event, tIoU too low",
    "other occurrence": "right verb and object, another time",
    "verb only": "right verb, other object",
    "object only": "right object, other verb",
    "neither": "other verb, other object",
    "between events": "no event",
}
UNKNOWN = -1  # no events of the clip, or no words of the query
NUM_PLACES = 100  # starts of a random segment, evenly over the clip
_STOP = re.compile("an?|the|up|down|on|in|into|onto|of|from|to|with|and|his|her|its|my|out|off|at|by|over|under")
_PAST = """took take held hold saw see wore wear left leave kept keep bought buy brought bring gave give went go did do
made make threw throw hung hang wrote write drove drive ate eat drank drink found find got get met meet swept sweep
shook shake spoke speak lost lose"""
_IRREGULAR = dict(re.findall(r"(\w+)\s+(\w+)", _PAST))


@dataclass(frozen=True)
class Event:
    """Something that happens in a clip; of a narration `object` is the first noun, and `container` all further words.
    Classes are EgoClip's numbers, where known."""

    start_sec: Number
    end_sec: Number
    verb: Text
    object: Text | None = None
    container: Text | None = None
    person: Text | None = None
    verb_classes: tuple[int, ...] = ()
    noun_classes: tuple[int, ...] = ()

    @property
    def nouns(self) -> list[str]:
        return " ".join(filter(None, (self.object, self.container, self.person))).split()


Events = Mapping[str, Sequence[Event]]  # by clip_uid


class _Log(BaseModel, frozen=True):
    clip_uid: Id
    events: list[Event]


def read_events(path: str | Path, truth: str | Path = "") -> Events:
    """Events by clip: of an event log (``events.jsonl`` of a sample world), of records of narrations, or of EgoClip's
    CSV, for which `truth` is the official file with the times of the clips."""
    path, events = Path(path), dict[str, list[Event]]()
    if not path.is_file():
        raise DataError(f"{path}: no such file -- name an event log, narrations or EgoClip's CSV")
    with open(path, encoding="utf-8", errors="replace") as file:
        is_log = '"events"' in file.readline()
    if is_log:
        findings = Findings(str(path), DataError)
        events = {log.clip_uid: log.events for _, log in read_json_lines(_Log, path, findings)}
        findings.raise_if_any("use the event log of 'groundnlq sample'")
        return events
    is_table = path.suffix in (".csv", ".tsv")
    for record in narration_records(path, read_clips([truth]))[0] if is_table else read_records(path):
        # "C picks up a knife": the first word after the narrated person is the verb, further ones are nouns
        verb, *others = re.sub(r"^.*?\b[A-Z]\b", "", record.query).split() or [""]
        nouns = [word.strip(",.") for word in others if not _STOP.fullmatch(word.lower())] or [""]
        rest, classes = " ".join(nouns[1:]), (record.verbs, record.nouns)
        own = [Event(*moment, verb, nouns[0], rest, None, *classes) for moment in record.moments_sec]
        events.setdefault(record.clip_uid, []).extend(own)
    return events


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A word without its ending, so that forms of a word are equal.

    >>> [stem(word) for word in ("washes", "washing", "puts", "putting", "took", "knives", "knife")]
    ['wash', 'wash', 'put', 'put', 'tak', 'knif', 'knif']
    """
    word = _IRREGULAR.get(word.lower(), word.lower())
    word = re.sub(r"^(.*[aeiouy].*)i(?:es|ed)$", r"\1y", word)
    word = re.sub(r"^(?=.*[aeiouy].*(?:ing|ed)$)(.{3,})(?:ing|ed)$|^(.{2,}?)(?:es|(?<!s)s)$", r"\1\2", word)
    word = word[:-1] if word.endswith("e") and len(word) > 3 else word
    word = word[:-1] if word[-1:] == word[-2:-1] and word[-1:] not in "aeiou" else word
    return word[:-1] + "f" if word.endswith("v") else word


@dataclass(frozen=True)
class Meaning:
    """What a query is about, and which events of its clip have that.

    ``verb`` and ``noun``: words, empty where unknown. Of the E events: ``times`` (E, 2) in seconds; (E,) bool
    ``is_true``, at the moment; ``has_verb``, ``has_noun``.
    """

    verb: str
    noun: str
    times: np.ndarray
    is_true: np.ndarray
    has_verb: np.ndarray
    has_noun: np.ndarray

    @classmethod
    def of(cls, record: Record, events: Events) -> Self:
        """Words of the official file (`verb_x`, `slot_x`), else of the event at the moment. An event has a word in
        another form, too; or, if the event at the moment has the word, the same class number. If that has the noun, its
        verb counts as the query's: "saw the cup" where the narrator says "looks at the cup"."""
        own, moments = events.get(record.clip_uid, ()), np.array(record.moments_sec).reshape(-1, 2)
        times = np.array([(e.start_sec, e.end_sec) for e in own], float).reshape(-1, 2)
        true = next((own[place] for place in event_shown(moments, times) if place >= 0), Event(0, 0, ""))
        verb = (record.verb_x or true.verb).partition(" ")[0]
        noun = _head(record.slot_x or true.object or "") or next(iter(true.nouns), "")
        is_noun = bool(noun) and stem(noun) in map(stem, true.nouns)
        forms = {stem(verb)} | ({stem(true.verb)} if is_noun else set())
        verbs = set(true.verb_classes) if stem(true.verb) in forms else set()
        nouns = set(true.noun_classes[:1]) if is_noun else set()
        has_verb = [stem(e.verb) in forms or not verbs.isdisjoint(e.verb_classes) for e in own]
        has_noun = [stem(noun) in map(stem, e.nouns) or not nouns.isdisjoint(e.noun_classes) for e in own]
        is_true: np.ndarray = np.asarray(shares_half(times[:, None], moments[None]).any(axis=1))
        return cls(verb, noun, times, is_true, np.array(has_verb, bool), np.array(has_noun, bool))

    def kinds(self) -> np.ndarray:
        """(E,) the place in `SHOWN` of a wrong answer that shows each event; `UNKNOWN` without a verb or noun."""
        if not (self.verb and self.noun):
            return np.full(len(self.times), UNKNOWN)
        return np.where(self.is_true, 1, 5 - 2 * self.has_verb - self.has_noun)

    def shown(self, segments: np.ndarray) -> np.ndarray:
        """(N,) the same for wrong answers (N, 2), in seconds."""
        kinds = np.append(self.kinds(), len(SHOWN) - 1 if len(self.times) else UNKNOWN)
        return np.where(UNKNOWN in kinds, UNKNOWN, kinds[event_shown(segments, self.times)])

    def shown_by_chance(self, record: Record, segment: np.ndarray, threshold: float) -> np.ndarray:
        """(2, 7) shares of `SHOWN` for a wrong answer by chance: any other event of the clip; any segment as long as
        this one that is not right. NaN where there is none."""
        shares = np.full((2, len(SHOWN)), np.nan)
        by_segment = self.shown(random_segments_like(segment, record, threshold))
        for row, drawn in enumerate((self.kinds()[~self.is_true], by_segment)):
            if len(drawn) and UNKNOWN not in drawn:
                shares[row] = np.bincount(drawn, minlength=len(SHOWN)) / len(drawn)
        return shares


def _head(slot: str) -> str:
    """The noun of a slot, such as *knife* of "the small knife on the table"."""
    words = re.split(r"\b(?:on|in|of|from|with|at|to|that|which)\b", slot.lower())[0].split()
    return re.sub(r"\W", "", words[-1]) if words else ""


def shares_half(segments: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Whether segments and times (..., 2), broadcast, have half of the shorter one in common."""
    inter = np.minimum(segments[..., 1], times[..., 1]) - np.maximum(segments[..., 0], times[..., 0])
    shorter = np.minimum(segments[..., 1] - segments[..., 0], times[..., 1] - times[..., 0])
    return (inter > 0) & (2 * inter >= shorter)


def event_shown(segments: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(N,) the event that each segment (N, 2) shows, -1 for none: of those that it shares half with, the one with the
    highest tIoU, of equal ones the nearest; narrations within a long segment are equally long."""
    fit = np.round(tiou(segments[:, None], times[None]), 3)
    fit += 1e-4 / (1 + np.abs(segments.mean(axis=1)[:, None] - times.mean(axis=1)[None]))
    fit = np.where(shares_half(segments[:, None], times[None]), fit, -1.0)
    best = np.column_stack([np.zeros(len(fit)), fit]).argmax(axis=1)  # the first column is for none
    return best - 1


def random_segments_like(segment: np.ndarray, record: Record, threshold: float) -> np.ndarray:
    """(N, 2) segments as long as this one, evenly over the clip; without those that are right."""
    length = min(float(segment[1] - segment[0]), record.duration_sec)
    start = np.linspace(0, record.duration_sec - length, NUM_PLACES)
    segments = np.column_stack([start, start + length])
    moments = np.array(record.moments_sec).reshape(1, -1, 2)
    return segments[~(tiou(segments[:, None], moments) > threshold).any(axis=1)]
