"""Questions from the 13 NLQ templates, each with the one event that answers it.

Every template is a rule that names an event by some of its attributes. Where it fits several events of the clip, the
question says whether the first or the last of them is meant, so each has exactly one right answer. What comes right
before or after something else is asked for, too. So a question needs order and context, and not its words alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from groundnlq.sample.vocabulary import CONTAINER_VERBS, VERBS, plural
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

    def is_fit(event: Event, asked: dict[str, str]) -> bool:
        return log.split != "train" or config.kind_of((*asked.values(), event.object)) != "unasked"

    pool = [found for found in pool if is_fit(*found[1:])]
    contexts = [(event, asked) for event, asked in _beside(log) if is_fit(event, asked)]
    questions: list[Question] = []
    uses: Counter[float] = Counter()
    while pool and len(questions) < config.queries_per_clip:
        template, event, asked = pool.pop(int(random.choice(len(pool), p=_weights(pool))))
        if uses[event.start_sec] < 2:
            uses[event.start_sec] += 1
            wording = template.wordings[int(random.integers(len(template.wordings)))]
            beside = [context for other, context in contexts if other is event]
            if beside and "relation" not in asked and random.random() < config.context:  # it says which of several, too
                asked = {k: v for k, v in asked.items() if k != "which"} | beside[int(random.integers(len(beside)))]
            questions.append(Question(template.name, _worded(wording, asked), event, asked))
    return sorted(questions, key=lambda q: (q.event.start_sec, q.text))


class _Template:
    """A template as Ego4D spells it, how often it is asked there, its rule and its wordings."""

    def __init__(self, name: str, weight: float, rule: Rule, *wordings: str):
        self.name, self.weight, self.rule, self.wordings = name, weight, rule, wordings


def _weights(pool: list[tuple[_Template, Event, dict[str, str]]]) -> np.ndarray:
    of_template = Counter(template.name for template, *_ in pool)
    weights = np.array([template.weight / of_template[template.name] for template, *_ in pool])
    return weights / weights.sum()


def _worded(wording: str, asked: dict[str, str]) -> str:
    """The question in words; what comes before or after is said at its end, unless the wording has a place for it."""
    text = wording.format_map(_words(asked))
    if "which" in asked:
        text = text.replace("?", f" the {asked['which']} time?")
    if "relation" in asked and "{relation}" not in wording:
        text = text.replace("?", " right {relation} I {other_past} the {other_object}?".format_map(_words(asked)))
    return text


def _words(asked: dict[str, str]) -> dict[str, str]:
    words = dict(asked)
    if "verb" in asked:
        words["past"], _, words["doing"] = VERBS[asked["verb"]]
    if "object" in asked:
        words["objects"] = plural(asked["object"])
    if "other_verb" in asked:
        words["other_past"], _, words["other_doing"] = VERBS[asked["other_verb"]]
    return words


def _named(*names: str, verbs: Sequence[str] = (), needs: str = "verb") -> Rule:
    """A rule: events by their values of these attributes, if they have all of them, and the one that it `needs`.

    Where several events of the clip have the same values, the first and the last of them can be asked for.
    """

    def rule(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
        alike: dict[tuple[str, ...], list[Event]] = {}
        for event in log.events:
            values = tuple(getattr(event, name) for name in names)
            if None not in values and getattr(event, needs) and (not verbs or event.verb in verbs):
                alike.setdefault(values, []).append(event)
        for values, events in alike.items():
            asked = dict(zip(names, values, strict=True))
            if len(events) == 1:
                yield events[0], asked
            else:
                yield events[0], asked | {"which": "first"}
                yield events[-1], asked | {"which": "last"}

    return rule


def _beside(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
    """What comes right before (after) another event, which happens once."""
    happens = Counter((event.verb, event.object) for event in log.events)
    for place, anchor in enumerate(log.events):
        if anchor.object is None or happens[anchor.verb, anchor.object] > 1:
            continue
        for word, beside in (("before", place - 1), ("after", place + 1)):
            if 0 <= beside < len(log.events) and log.events[beside].object != anchor.object:
                other = {"other_verb": anchor.verb, "other_object": anchor.object}
                yield log.events[beside], {"relation": word} | other


def _relative(log: ClipLog) -> Iterator[tuple[Event, dict[str, str]]]:
    """What was done to an object right before (after) another event."""
    for event, asked in _beside(log):
        if event.object is not None:
            yield event, {"verb": event.verb, "object": event.object} | asked


_HANDLING = ("take", "wash", "wipe", "drop", "shake", "repair", "paint", "weigh")

TEMPLATES = (  # in the order of their weights
    _Template("Objects: Where is object X before / after event Y?", 750, _relative,
              "Where did I {verb} the {object} right {relation} I {other_past} the {other_object}?",
              "Where was the {object} that I {past} right {relation} {other_doing} the {other_object}?"),
    _Template("Place: Where did I put X?", 725, _named("object", "verb", verbs=("put",)),
              "Where did I put the {object}?", "In what place did I put the {object}?"),
    _Template("Objects: Where is object X?", 552, _named("object", "verb", verbs=_HANDLING),
              "Where was the {object} when I {past} it?",
              "Where is the {object} that I {past}?", "Where was I when I {past} the {object}?"),
    _Template("Objects: What did I put in X?", 546, _named("container", "verb", verbs=("put",)),
              "What did I put in the {container}?", "What thing did I put into the {container}?"),
    _Template("Objects: How many X’s? (quantity question)", 386, _named("object", "verb", verbs=_HANDLING),
              "How many {objects} did I {verb}?", "How many {objects} were there when I was {doing} them?"),
    _Template("Objects: In what location did I see object X ?", 359, _named("object", "verb", verbs=("see",)),
              "In what location did I see the {object}?", "Where did I see the {object}?"),
    _Template("Objects: What X did I Y?", 350, _named("category", "verb"),
              "What {category} did I {verb}?", "Which {category} did I {verb}?"),
    _Template("Objects: What X is Y?", 332, _named("object", "verb", verbs=_HANDLING),
              "What color was the {object} that I {past}?", "What color is the {object} I was {doing}?"),
    _Template("Objects: State of an object", 236, _named("container", "verb", verbs=CONTAINER_VERBS),
              "Did I {verb} the {container}?", "Was the {container} full when I {past} it?"),
    _Template("People: Who did I interact with when I did activity X?", 115, _named("verb", "object", needs="person"),
              "Who did I talk to while {doing} the {object}?", "Who did I interact with when I {past} the {object}?"),
    _Template("People: Who did I talk to in location X?", 91, _named("place", needs="person"),
              "Who did I talk to in the {place}?", "Whom did I meet in the {place}?"),
    _Template("Objects: Where is my object X?", 72, _named("object", "container", "verb", verbs=("take",)),
              "Where is my {object} that I took from the {container}?"),
    _Template("People: When did I talk to or interact with person with role X?", 22, _named("person"),
              "When did I talk to the {person}?", "When did I interact with the {person}?"),
)  # fmt: skip


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
