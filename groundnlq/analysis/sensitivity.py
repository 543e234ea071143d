"""Sensitivity to the kind of query: recall of each group, and its change from one run to another."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from groundnlq.analysis.events import Events, Meaning, stem
from groundnlq.analysis.intervals import holm, paired_summary, share_summary, sign_flip_p
from groundnlq.analysis.outcomes import RIGHT
from groundnlq.data.annotations import clean_query
from groundnlq.data.records import Record
from groundnlq.errors import DataError

RELATIONS = ("last", "first", "before", "after", "how many")
QUESTIONS = ("how many", "who", "whom", "what", "where", "when", "which", "how", "did")
MOST_GROUPS, SMALLEST = 12, 10  # of a kind with one group for each word: number of groups, queries of one


def kinds_of_query(
    records: Sequence[Record], train: Sequence[Record] = (), events: Events | None = None,
    scenarios: Mapping[str, str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """For each annotated query, by its id, the group that it belongs to under each kind; groups in order. Kinds that
    need records of the `train` split, `events` of the clips, or `scenarios` by video_uid are left out without them.
    """
    annotated = [record for record in records if record.moments_sec]
    moments = np.array([record.moments_sec[0] for record in annotated]).reshape(-1, 2)
    durations = np.array([record.duration_sec for record in annotated])
    lengths = moments[:, 1] - moments[:, 0]
    num_words = [len(record.query.split()) for record in annotated]
    num_same = Counter((r.clip_uid, r.query.lower()) for r in annotated)
    kinds = {
        "template": pd.Categorical([record.template or "(none)" for record in annotated]),
        "moment length": _cut(lengths, (1, 2, 4, 8, 16), "s"),
        "share of the clip": _cut(100 * lengths / durations, (0.5, 1, 2, 4, 8), "%"),
        "position in the clip": _cut(100 * moments.mean(axis=1) / durations, (20, 40, 60, 80), "%"),
        "clip length": _cut(durations, _quartiles(durations, 10), "s"),
        "query length": _cut(num_words, _quartiles(num_words, 1), "words", 1),
        "same question in the clip": _one_of(
            [num_same[r.clip_uid, r.query.lower()] > 1 for r in annotated], "asked twice or more", "asked once"
        ),
        "text as annotated": _one_of(
            [_has_prefix(r.raw_query or r.query) for r in annotated], "with a stray prefix", "without prefix"
        ),
    }  # fmt: skip
    texts = [f" {' '.join(re.findall(r'[a-z]+', record.query.lower()))} " for record in annotated]
    for kind, known in (("question word", QUESTIONS), ("relation", RELATIONS)):
        found = [next((word for word in known if f" {word} " in text), "(none)") for text in texts]
        kinds[kind] = pd.Categorical(found, [*known, "(none)"])
    kinds |= _word_kinds(annotated, train, events)
    origins = {"video": [r.video_uid or "" for r in annotated], "annotator": [r.annotation_uid for r in annotated]}
    if len({*zip(*origins.values(), strict=True)}) == len({*origins["video"]}) == len({*origins["annotator"]}):
        del origins["annotator"]  # one a video
    if scenarios:
        origins["scenario"] = [scenarios.get(video_uid, "") for video_uid in origins["video"]]
    kinds |= {kind: _most_frequent(labels) for kind, labels in origins.items() if any(labels)}
    return pd.DataFrame(kinds, index=[record.query_id for record in annotated])


def _word_kinds(annotated: list[Record], train: Sequence[Record], events: Events | None) -> dict[str, pd.Categorical]:
    """Groups by verb and noun, by how often these are in training, and by how often they happen in the clip."""
    kinds, meanings = dict[str, pd.Categorical](), [Meaning.of(record, events or {}) for record in annotated]
    counts = Counter(stem(word) for record in train for word in _words_of(record.query))
    for kind, alike in (("verb", "has_verb"), ("noun", "has_noun")):
        label = {stem(getattr(m, kind)): getattr(m, kind).lower() for m in meanings}  # one form of each word
        words = [label[stem(getattr(meaning, kind))] for meaning in meanings]
        if any(words):
            kinds[kind] = _most_frequent(words)
            if train:
                kinds[f"{kind} in training"] = _cut([counts[stem(w)] for w in words], (1, 5, 20, 80), "queries", 1)
            if events:
                others = [int((getattr(m, alike) & ~m.is_true).sum()) for m in meanings]
                kinds[f"other events of this {kind}"] = _cut(others, (1, 2, 3, 6), "", 1)
    if train:
        seen = {word for record in train for word in _words_of(record.query)}
        is_new = [not _words_of(record.query) <= seen for record in annotated]
        kinds["words"] = _one_of(is_new, "one unseen in training", "all known")
    return kinds


def sensitivity(table: pd.DataFrame, kinds: pd.DataFrame) -> pd.DataFrame:
    """R@1 [%] of each group of each kind with its 95 % interval, and R@k.

    ``p`` is for no difference from the rest of the split: a score test with random signs of clips (Kline and Santos
    2012); ``p (Holm)`` is corrected for the number of groups. `table` is what `outcomes.diagnose` gives.
    """
    rows, hit = {}, table["outcome"] == "hit"
    for key, part in _groups(table, kinds):
        score = (table.index.isin(part.index) - len(part) / len(table)) * (hit - hit.mean())
        recall = share_summary("R@1", part["clip_uid"], part["outcome"] == "hit")
        found = 100 * part["outcome"].isin(RIGHT).mean()
        rows[key] = recall | {"R@k": found, "queries": len(part), "p": sign_flip_p(table["clip_uid"], score)}
    return _frame(rows)


def paired_difference(one: pd.DataFrame, other: pd.DataFrame, kinds: pd.DataFrame) -> pd.DataFrame:
    """R@1 of `other` minus `one` in points, over all queries and in each group, compared query by query.

    Each with its 95 % interval (bootstrap over clips), the smallest that is `detectable`, queries won and lost, ``p``
    by random signs of clips and ``p (Holm)``, corrected for the number of rows. Other queries are a DataError.
    """
    if set(one["query_id"]) != set(other["query_id"]):
        raise DataError("the two runs are not about the same queries -- answer one split with both")
    hits = other.set_index("query_id")["outcome"].reindex(one["query_id"]).eq("hit").to_numpy(float)
    table = one.assign(change=100 * (hits - (one["outcome"] == "hit").to_numpy(float)))
    parts = [(("all", "all queries"), table), *_groups(table, kinds)]
    return _frame({key: paired_summary(part["clip_uid"], part["change"]) for key, part in parts})


def _groups(table: pd.DataFrame, kinds: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for kind in kinds:
        of_query = kinds[kind].reindex(table["query_id"]).set_axis(table.index)
        if of_query.nunique() < 2:  # the whole split again
            continue
        for group, part in table.groupby(of_query, observed=True):
            yield (kind, str(group)), part


def _frame(rows: dict[tuple[str, str], dict]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(list(rows), names=["kind", "group"]))
    return frame.assign(**{"p (Holm)": holm(frame["p"].to_numpy())})


def _cut(values: ArrayLike, edges: Sequence[float], unit: str, whole: int = 0) -> pd.Categorical:
    """Groups from edge to edge, the upper one excluded; of `whole` numbers the last one in is named."""
    names = [f"{a:g} – {b - whole:g} {unit}" if b - whole > a else f"{a:g} {unit}" for a, b in pairwise(edges)]
    lowest = f"0 {unit}" if whole and edges[0] == 1 else f"under {edges[0]:g} {unit}"
    names = [" ".join(name.split()) for name in (lowest, *names, f"{edges[-1]:g} {unit} or more")]
    return pd.cut(np.asarray(values, float), [-np.inf, *edges, np.inf], labels=names, right=False)


def _has_prefix(text: str) -> bool:
    return clean_query(text) != " ".join(text.split())


def _words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _quartiles(values: ArrayLike, step: float) -> list[float]:
    """Edges near the quartiles, rounded up to whole steps so that they read well."""
    quartiles = np.percentile(np.asarray(values), [25, 50, 75]) if np.size(values) else [step]
    return sorted({float(step * np.ceil(q / step)) for q in quartiles})


def _most_frequent(labels: Sequence[str]) -> pd.Categorical:
    often = [label for label, n in Counter(labels).most_common(MOST_GROUPS) if label and n >= SMALLEST]
    return pd.Categorical([label if label in often else "(other)" for label in labels], [*often, "(other)"])


def _one_of(is_first: Sequence[bool], first: str, second: str) -> pd.Categorical:
    return pd.Categorical([first if yes else second for yes in is_first], [second, first])
