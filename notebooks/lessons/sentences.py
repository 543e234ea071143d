"""Sentences that the numbers choose, and the checks of exercises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from groundnlq.analysis.evaluation import KEY, Evaluation, compare
from groundnlq.analysis.intervals import HIGH, LOW, p_text


def say(*sentences: str) -> None:
    """Show sentences in a notebook, each as an item; empty ones are left out."""
    from IPython.display import Markdown, display

    display(Markdown("\n".join(f"- {sentence}" for sentence in sentences if sentence)))


def compared(evaluations: Mapping[str, Evaluation], one: str, other: str, key: str = KEY) -> str:
    """Whether `one` is better than `other`, and by how much; that it is unknown where the interval contains 0, or where
    p is 0.05 or more, since the interval of a few clips is too narrow."""
    found = compare(evaluations[other], evaluations[one], key)
    interval = (
        f"{found['difference']:+.1f} points of {key} [{found[LOW]:+.1f}, {found[HIGH]:+.1f}], {p_text(found['p'])}"
    )
    if found[LOW] <= 0 <= found[HIGH] or found["p"] >= 0.05:
        return f"Which is better, **{one}** or **{other}**, these queries cannot tell: {interval}."
    return f"**{one}** is {'better' if found['difference'] > 0 else 'worse'} than **{other}**: {interval}."


def standing(table: pd.DataFrame, name: str) -> str:
    """Which rows of a table of recalls with intervals are outside of the interval of the row called `name`."""
    others, (low, high) = table.iloc[:, 0].drop(name), table.loc[name, [LOW, HIGH]]
    parts = {"above": others[others < low], "about as good as": others[others.between(low, high)]}
    parts["below"] = others[others > high]
    texts = [
        f"{place} {', '.join(f'*{n}* ({v:.1f})' for n, v in rows.items())}"
        for place, rows in parts.items()
        if len(rows)
    ]
    return f"**{name}** ({table.loc[name].iloc[0]:.1f} [{low:.1f}, {high:.1f}]) is {'; '.join(texts)}."


def differing(differences: pd.DataFrame, one: str, other: str) -> str:
    """In which groups `one` is better than `other` and in which it is worse, of `scoring.group_differences`."""
    is_sure, points = differences["p (Holm)"] < 0.05, differences["difference"]
    parts = {"better": points[is_sure & (points > 0)], "worse": points[is_sure & (points < 0)]}
    texts = [
        f"{word} in {', '.join(f'*{n}* ({v:+.0f})' for n, v in rows.items())}"
        for word, rows in parts.items()
        if len(rows)
    ]
    rest = f"in {'all' if is_sure.sum() == 0 else 'the other'} {(~is_sure).sum()} groups the difference may be chance"
    return f"**{one}** against **{other}**: {'; '.join([*texts, rest])}."


def check(number: int, answer: Any, is_right: Callable[[Any], Any]) -> None:
    """Say whether an exercise is solved; ``...`` is not solved yet, and a wrong answer is an AssertionError."""
    if answer is ...:
        print(f"exercise {number}: not solved yet")
        return
    assert is_right(answer), f"exercise {number}: this is not the answer yet"
    print(f"exercise {number}: solved")
