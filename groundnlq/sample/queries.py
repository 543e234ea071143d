"""Questions from the 13 NLQ templates, each with the one event that answers it.

Every template is a rule that names an event by some of its attributes; a question is asked only where the
rule fits exactly one event of the clip, so each has exactly one right answer. Rules for "last time" and
"before / after" say so in their words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from groundnlq.sample.vocabulary import CATEGORY_OF, CONTAINER_VERBS, VERBS, plural
from groundnlq.sample.world import ClipLog, Event, WorldConfig


@dataclass(frozen=True)
class Question:
    """A worded question and the event that answers it; `asked` is what the rule is about."""

    template: str
    text: str
    event: Event
    asked: dict[str, str]


Rule = Callable[[ClipLog], Iterator[tuple[Event, dict[str, str]]]]


def ask(config: WorldConfig, log: ClipLog) -> list[Question]:
    """The questions of a clip, drawn with Ego4D's mix of templates; no event answers more than two.

    Those for training have no unasked objects, neither in their words nor in the event that answers them.
    """
    random = config.stream("queries", log.split, log.clip_uid)
    pool = [(template, *found) for template in TEMPLATES for found in template.rule(log)]
    if log.split == "train":
        pool = [found for found in pool if config.kind_of((*found[2].values(), found[1].object)) != "unasked"]
    questions: list[Question] = []
    uses: Counter[float] = Counter()
    while pool and len(questions) < config.queries_per_clip:
        template, event, asked = pool.pop(int(random.choice(len(pool), p=_weights(pool))))
        if uses[event.start_sec] < 2:
            uses[event.start_sec] += 1
            wording = template.wordings[int(random.integers(len(template.wordings)))]
            questions.append(Question(template.name, wording.format_map(_words(asked)), event, asked))
    return sorted(questions, key=lambda q: (q.event.start_sec, q.text))


@dataclass(frozen=True)
class _Template:
    """A template as Ego4D spells it, how often it is asked there, its rule and its wordings."""

    name: str
    weight: float
    rule: Rule
    wordings: tuple[str, ...]


def _weights(pool: list[tuple[_Template, Event, dict[str, str]]]) -> np.ndarray:
    of_template = Counter(template.name for template, *_ in pool)
    weights = np.array([template.weight / of_template[template.name] for template, *_ in pool])
    return weights / weights.sum()


def _words(asked: dict[str, str]) -> dict[str, str]:
    words = dict(asked)
    if "verb" in asked:
        words["past"], _, words["doing"] = VERBS[asked["verb"]]
    if "object" in asked:
        words["objects"] = plural(asked["object"])
    if "other_verb" in asked:
        words["other_past"], _, words["other_doing"] = VERBS[asked["other_verb"]]
    return words


def _only(log: ClipLog, **attributes: str) -> Event | None:
    """The one event with these attributes, or None."""
    found = [e for e in log.events if all(getattr(e, name) == value for name, value in attributes.items())]
    return found[0] if len(found) == 1 else None


def _unique(*names: str, verbs: tuple[str, ...] | None = None, **fixed: str) -> Rule:
    """A rule: events that are alone in the clip with their values of these attributes."""

    def rule(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
        for event in log.events:
            asked = {name: getattr(event, name) for name in names} | fixed
            fits = None not in asked.values() and (verbs is None or event.verb in verbs)
            if fits and _only(log, **asked) is event:
                yield event, asked

    return rule


def _put_somewhere(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
    """The last time an object was put; where it was put once only, "last" is true as well."""
    last = {e.object: e for e in log.events if e.verb == "put" and e.object}
    for name, event in last.items():
        yield event, {"object": name, "verb": "put", "which": "last"}


def _relative(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
    """What was done to an object right before (after) another event, which happens once."""
    for place, anchor in enumerate(log.events):
        if anchor.object is None or _only(log, verb=anchor.verb, object=anchor.object) is not anchor:
            continue
        for word, beside in (("before", place - 1), ("after", place + 1)):
            if 0 <= beside < len(log.events):
                event = log.events[beside]
                if event.object is not None and event.object != anchor.object:
                    asked = {"verb": event.verb, "object": event.object, "relation": word}
                    yield event, asked | {"other_verb": anchor.verb, "other_object": anchor.object}


def _category(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
    """The one event of a verb with an object of this kind."""
    for event in log.events:
        if event.object is not None:
            kind = CATEGORY_OF[event.object]
            alike = [e for e in log.events if e.object and CATEGORY_OF[e.object] == kind]
            if sum(e.verb == event.verb for e in alike) == 1:
                yield event, {"category": kind, "verb": event.verb}


def _person_at_work(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
    for event in log.events:
        if event.person and event.object and _only(log, verb=event.verb, object=event.object) is event:
            yield event, {"verb": event.verb, "object": event.object}


def _person_in_place(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
    for event in log.events:
        if event.person and sum(e.person is not None and e.place == event.place for e in log.events) == 1:
            yield event, {"place": event.place}


HANDLING = ("take", "wash", "wipe", "drop", "shake", "repair", "paint", "weigh")

TEMPLATES = (
    _Template(
        "Objects: Where is object X before / after event Y?",
        750,
        _relative,
        (
            "Where did I {verb} the {object} right {relation} I {other_past} the {other_object}?",
            "Where was the {object} that I {past} right {relation} {other_doing} the {other_object}?",
        ),
    ),
    _Template(
        "Place: Where did I put X?",
        725,
        _put_somewhere,
        (
            "Where did I put the {object} the last time?",
            "Where did I last put the {object}?",
            "In what place did I last put the {object}?",
        ),
    ),
    _Template(
        "Objects: Where is object X?",
        552,
        _unique("object", "verb", verbs=HANDLING),
        (
            "Where was the {object} when I {past} it?",
            "Where is the {object} that I {past}?",
            "Where was I when I {past} the {object}?",
        ),
    ),
    _Template(
        "Objects: What did I put in X?",
        546,
        _unique("container", verb="put"),
        ("What did I put in the {container}?", "What thing did I put into the {container}?"),
    ),
    _Template(
        "Objects: How many X’s? (quantity question)",
        386,
        _unique("object", "verb", verbs=HANDLING),
        ("How many {objects} did I {verb}?", "How many {objects} were there when I was {doing} them?"),
    ),
    _Template(
        "Objects: In what location did I see object X ?",
        359,
        _unique("object", verb="see"),
        ("In what location did I see the {object}?", "Where did I see the {object}?"),
    ),
    _Template(
        "Objects: What X did I Y?", 350, _category, ("What {category} did I {verb}?", "Which {category} did I {verb}?")
    ),
    _Template(
        "Objects: What X is Y?",
        332,
        _unique("object", "verb", verbs=HANDLING),
        ("What color was the {object} that I {past}?", "What color is the {object} I was {doing}?"),
    ),
    _Template(
        "Objects: State of an object",
        236,
        _unique("container", "verb", verbs=CONTAINER_VERBS),
        ("Did I {verb} the {container}?", "Was the {container} full when I {past} it?"),
    ),
    _Template(
        "People: Who did I interact with when I did activity X?",
        115,
        _person_at_work,
        ("Who did I talk to while {doing} the {object}?", "Who did I interact with when I {past} the {object}?"),
    ),
    _Template(
        "People: Who did I talk to in location X?",
        91,
        _person_in_place,
        ("Who did I talk to in the {place}?", "Whom did I meet in the {place}?"),
    ),
    _Template(
        "Objects: Where is my object X?",
        72,
        _unique("object", "container", verb="take"),
        ("Where is my {object} that I took from the {container}?",),
    ),
    _Template(
        "People: When did I talk to or interact with person with role X?",
        22,
        _unique("person"),
        ("When did I talk to the {person}?", "When did I interact with the {person}?"),
    ),
)


def narrate(event: Event, relation: str = "", other: Event | None = None) -> str:
    """A narrator's sentence about an event, in EgoClip's manner; perhaps with another event right before or after.

    >>> cup = Event(0.0, 1.0, "put", "kitchen", object="cup", container="sink")
    >>> narrate(cup)
    '#C C puts the cup in the sink'
    >>> narrate(cup, "before", Event(2.0, 3.0, "wash", "kitchen", object="pan"))
    '#C C puts the cup in the sink right before washing the pan'
    """
    says = VERBS[event.verb][1]
    if event.object is None:
        return f"#C C {says} the {event.container or event.person}"
    where = {"put": "in", "take": "from"}.get(event.verb)
    tail = f" {where} the {event.container}" if where and event.container else ""
    tail += f" and talks to the {event.person}" if event.person else ""
    tail += f" right {relation} {VERBS[other.verb][2]} the {other.object}" if other else ""
    return f"#C C {says} the {event.object}{tail}"
