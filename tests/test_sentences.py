"""A sentence about numbers says what they say, and the opposite of opposite numbers."""

import numpy as np
import pandas as pd
import pytest

from groundnlq.analysis.evaluation import evaluate
from groundnlq.data.records import Record
from notebooks.lessons.sentences import check, compared, standing

RECORDS = [Record(f"q_{i}", f"c{i % 20}", "?", 100.0, ((10.0, 20.0),)) for i in range(80)]


def run(is_right, records=RECORDS):
    moments = {True: [[10.0, 20.0, 0.5]], False: [[50.0, 60.0, 0.5]]}
    return evaluate({r.query_id: np.array(moments[bool(is_right(i))]) for i, r in enumerate(records)}, records)


def test_a_comparison_names_the_better_one_only_where_the_interval_does():
    runs = {"good": run(lambda i: i % 3), "bad": run(lambda i: False), "other": run(lambda i: (i + 1) % 3)}
    assert compared(runs, "good", "bad").startswith("**good** is better than **bad**: +66.2 points of R@1 IoU=0.3 [")
    assert compared(runs, "bad", "good").startswith("**bad** is worse than **good**: -66.2 points")
    assert "p ≤ 0.0002" in compared(runs, "good", "bad")
    for pair in (("good", "other"), ("bad", "bad")):
        assert compared(runs, *pair).startswith("Which is better")
        assert "cannot tell" in compared(runs, *pair)


def test_three_clips_cannot_tell_whatever_their_interval_says():
    few = [record for record in RECORDS if record.clip_uid in ("c0", "c1", "c2")]
    runs = {"good": run(lambda i: True, few), "bad": run(lambda i: False, few)}
    assert "cannot tell: +100.0 points of R@1 IoU=0.3 [+100.0, +100.0], p = 0.2" in compared(runs, "good", "bad")


def test_a_standing_names_what_is_outside_of_the_interval():
    table = pd.DataFrame({"R": [10.0, 48.0, 50.0, 90.0], "95 % low": 45.0, "95 % high": 55.0}, index=[*"abcd"])
    told = "**c** (50.0 [45.0, 55.0]) is above *a* (10.0); about as good as *b* (48.0); below *d* (90.0)."
    assert standing(table, "c") == told
    assert "about as good as" not in standing(table.drop("b"), "c")


def test_an_exercise_is_unsolved_solved_or_wrong(capsys):
    check(1, ..., lambda value: value == 3)
    check(2, 3, lambda value: value == 3)
    assert capsys.readouterr().out == "exercise 1: not solved yet\nexercise 2: solved\n"
    with pytest.raises(AssertionError, match="exercise 3"):
        check(3, 4, lambda value: value == 3)
