"""A simulated person moves through places, handles objects, talks to people: the event log of a clip.

The log is all that later steps see: questions, narrations and films are made from it. Every clip draws from random
streams of its own, named after what they decide; the number of clips in one split therefore never changes another
split.
"""

import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from groundnlq.errors import ConfigError, Findings, closest
from groundnlq.sample import vocabulary as words

SCALES: dict[str, dict[str, float]] = {
    "tiny": {
        "num_train_clips": 8, "num_narrated_clips": 4, "num_val_clips": 6, "num_test_clips": 2,
        "clip_length_sec": 45.0, "frame_size": 64,
    },
    "demo": {},
    "ego4d": {
        "num_train_clips": 1270, "num_narrated_clips": 0, "num_val_clips": 415, "num_test_clips": 333,
        "clip_length_sec": 480.0, "queries_per_clip": 11, "objects_per_clip": 18, "verbs_per_clip": 6,
    },
}  # fmt: skip
_Count = Annotated[int, Field(ge=1)]
_NotNegative = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]


class WorldConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Size and difficulty of the sample world; every setting is meant to be changed by a teacher."""

    seed: Annotated[int, Field(ge=0)] = 0
    num_train_clips: _Count = 120
    num_narrated_clips: Annotated[int, Field(ge=0)] = 240  # further clips, narrated but without questions
    num_val_clips: _Count = 60
    num_test_clips: _Count = 20
    clip_length_sec: Annotated[float, Field(ge=30)] = 75.0
    queries_per_clip: _Count = 9
    context: _Share = 0.4  # questions that say what came right before or after, beside those that ask just this
    # fewer objects or verbs: more look-alike events
    objects_per_clip: Annotated[int, Field(ge=2, le=len(words.ALL_OBJECTS) // 2)] = 4
    verbs_per_clip: Annotated[int, Field(ge=2, le=len(words.OBJECT_VERBS))] = 4
    num_unasked_objects: Annotated[int, Field(ge=0, le=len(words.ALL_OBJECTS) // 4)] = 16  # in no training question
    num_unseen_objects: Annotated[int, Field(ge=0, le=len(words.ALL_OBJECTS) // 4)] = 10  # in val and test only
    event_length_sec: Annotated[float, Field(ge=0.5, le=20)] = 3.4  # median
    pause_sec: _NotNegative = 0.6  # median between events
    frame_size: Annotated[int, Field(ge=64, le=160, multiple_of=16)] = 128  # pixels a side of the films
    look_alikes: _Share = 0.3  # objects that have the colour of another one of their category
    clutter: _Share = 0.5  # how many objects lie about that nobody touches
    light: _Share = 0.3  # how much the light changes
    shake: _Share = 0.3  # of the camera
    occlusion: _Share = 0.2  # how much hands and plants cover
    motion_speed: Annotated[float, Field(ge=0.25, le=3)] = 1.0  # movements a second

    @classmethod
    def of_scale(cls, scale: str = "demo", **changes: Any) -> Self:
        """The settings of a named scale with some changed; a ConfigError has all that are unknown or impossible."""
        if scale not in SCALES:
            raise ConfigError(f"unknown scale {scale!r} -- one of {', '.join(SCALES)}")
        findings = Findings("sample world", ConfigError)
        try:
            return cls.model_validate(SCALES[scale] | changes)
        except ValidationError as error:
            for fault in error.errors():
                name = str(fault["loc"][0])
                unknown = f"no setting {name}{closest(name, cls.model_fields)}"
                wrong = f"{name}={fault['input']}: {fault['msg']}"
                findings.add(unknown if fault["type"] == "extra_forbidden" else wrong)
        findings.raise_if_any(f"its settings are {', '.join(cls.model_fields)}")
        raise AssertionError

    def stream(self, *names: object) -> np.random.Generator:
        """The random stream of this name; no other decision draws from it."""
        return np.random.default_rng([self.seed, *(zlib.crc32(str(name).encode()) for name in names)])

    @cached_property
    def unseen_objects(self) -> tuple[str, ...]:
        """Objects that occur in val and test only, spread over the categories."""
        return self._spread("unseen", self.num_unseen_objects, words.ALL_OBJECTS)

    @cached_property
    def unasked_objects(self) -> tuple[str, ...]:
        """Objects that are narrated, but that no training question is about, spread over the categories."""
        seen = [name for name in words.ALL_OBJECTS if name not in self.unseen_objects]
        return self._spread("unasked", self.num_unasked_objects, seen)

    def _spread(self, stream: str, count: int, names: Sequence[str]) -> tuple[str, ...]:
        random = self.stream(stream)
        orders = [_draw(random, of_category, len(of_category)) for of_category in words.OBJECTS.values()]
        ranked = [name for of_rank in zip(*orders, strict=True) for name in of_rank if name in names]
        return tuple(ranked[:count])

    def kind_of(self, names: Iterable[str | None]) -> str | None:
        """What training has of the objects among these names: ``unseen``, ``unasked`` or ``asked``; None: no object."""
        named = {name for name in names if name in words.ALL_OBJECTS}
        if named & {*self.unseen_objects}:
            return "unseen"
        return "unasked" if named & {*self.unasked_objects} else "asked" if named else None


@dataclass(frozen=True)
class Event:
    """Something that happens during [start_sec, end_sec] of the clip."""

    start_sec: float
    end_sec: float
    verb: str
    place: str
    object: str | None = None
    container: str | None = None
    person: str | None = None

    @property
    def category(self) -> str | None:
        return words.CATEGORY_OF[self.object] if self.object else None


@dataclass(frozen=True)
class ClipLog:
    """All events of a clip in order, where the person was, and what lay about."""

    clip_uid: str
    video_uid: str
    split: str
    video_start_sec: float
    duration_sec: float
    stays: tuple[tuple[float, float, str], ...]  # start_sec, end_sec, place
    clutter: dict[str, tuple[str, ...]]  # place -> objects that may lie there
    events: tuple[Event, ...]

    @classmethod
    def of(cls, log: dict[str, Any]) -> Self:
        """A log as `make.read_events` gives it."""
        return cls(**log | {"events": tuple(Event(**event) for event in log["events"])})


def simulate_clip(config: WorldConfig, split: str, index: int) -> ClipLog:
    """The log of one clip; depends on seed, split and index only. Clips 2 i and 2 i + 1 are of one video."""
    random = config.stream("world", split, index)
    duration = round(config.clip_length_sec * random.uniform(0.92, 1.06), 3)
    unseen = () if split in ("val", "test") else config.unseen_objects
    known = [name for name in words.ALL_OBJECTS if name not in unseen]
    cast = _Cast(
        objects=_draw(random, known, config.objects_per_clip),
        verbs=["put", *_draw(random, words.OBJECT_VERBS[1:], config.verbs_per_clip - 1)],
        containers=_draw(random, words.CONTAINERS, 4),
        persons=_draw(random, words.PERSONS, 2),
    )
    stays = _walk(random, duration)
    return ClipLog(
        clip_uid=_uid(config, "clip", split, index),
        video_uid=_uid(config, "video", split, index // 2),
        split=split,
        video_start_sec=0.0 if index % 2 == 0 else round(config.clip_length_sec * 1.2, 3),
        duration_sec=duration,
        stays=stays,
        clutter={place: tuple(_draw(random, cast.objects, 6)) for _, _, place in stays},
        events=tuple(_act(random, config, cast, stays, duration)),
    )


class _Cast(NamedTuple):
    objects: list[str]
    verbs: list[str]
    containers: list[str]
    persons: list[str]


def _walk(random: np.random.Generator, duration: float) -> tuple[tuple[float, float, str], ...]:
    places = _draw(random, words.PLACES, int(random.integers(3, 6)))
    shares = random.dirichlet([4.0] * len(places)).cumsum()
    ends = [*np.round(shares[:-1] * duration, 3).tolist(), duration]
    return tuple(zip([0.0, *ends[:-1]], ends, places, strict=True))


def _act(random: np.random.Generator, config: WorldConfig, cast: _Cast, stays: tuple, duration: float) -> list[Event]:
    events: list[Event] = []
    done, time = set(), float(random.exponential(config.pause_sec))
    while True:
        length = float(np.clip(config.event_length_sec * random.lognormal(0, 0.6), 0.8, 20.0))
        if time + length > duration - 0.5:
            return events
        place = next(name for start, end, name in stays if start <= time < end)
        event = _event(random, cast, place, round(time, 3), round(time + length, 3))
        for _ in range(8):  # one does many things with a thing, but seldom the same thing twice
            if event.verb == "put" or (event.verb, event.object, event.container) not in done:
                break
            event = _event(random, cast, place, event.start_sec, event.end_sec)
        done.add((event.verb, event.object, event.container))
        events.append(event)
        time += length + 0.3 + float(random.exponential(config.pause_sec))


def _event(random: np.random.Generator, cast: _Cast, place: str, start: float, end: float) -> Event:
    kind = random.choice(["handle", "container", "talk"], p=[0.8, 0.08, 0.12])
    if kind == "container":
        return Event(start, end, _one(random, words.CONTAINER_VERBS), place, container=_one(random, cast.containers))
    verb = _one(random, cast.verbs)
    thing = _one(random, cast.objects)
    if kind == "talk":  # half of the talks happen over something the hands are doing
        busy = random.random() < 0.5 and verb not in words.NEEDS_CONTAINER
        doing = {"verb": verb, "object": thing} if busy else {"verb": "talk"}
        return Event(start, end, place=place, person=_one(random, cast.persons), **doing)
    container = _one(random, cast.containers) if verb in words.NEEDS_CONTAINER else None
    return Event(start, end, verb, place, object=thing, container=container)


def _draw(random: np.random.Generator, names, count: int) -> list[str]:
    return [names[i] for i in random.permutation(len(names))[:count]]


def _one(random: np.random.Generator, names) -> str:
    return names[int(random.integers(len(names)))]


def _uid(config: WorldConfig, *names: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, ("groundnlq", config.seed, *names)))))
