"""Agreement of annotators, by two loops."""

import numpy as np
import pytest

from groundnlq.analysis.agreement import agreement
from groundnlq.data.records import Record
from groundnlq.view.report import readable
from tests.test_outcomes import half, overlap

TEXTS = ["Where did I put the knife?", "where did I put a knives", "Where did I put the cup?", "What did I wash first?"]
WORDS = [0, 0, 1, 2]  # which of them have the same words


def test_pairs_and_their_agreement_are_those_of_two_loops():
    random, records, meant = np.random.default_rng(0), [], {}
    for clip in range(8):
        for number in range(6):
            text, start = int(random.integers(4)), float(random.uniform(0, 30))
            record = Record(
                f"{'ab'[number % 2]}{clip}_{number}", f"c{clip}", TEXTS[text], 60.0, ((start, start + 9.0),)
            )
            records.append(record)
            meant[record.query_id] = WORDS[text]
    records.append(Record("z_0", "c0", TEXTS[0], 60.0))  # not annotated
    pairs = {"same words": [], "same words, two annotators": [], "same time": []}
    for place, one in enumerate(records[:-1]):
        for other in records[place + 1 : -1]:
            if one.clip_uid == other.clip_uid:
                moments = one.moments_sec[0], other.moments_sec[0]
                if meant[one.query_id] == meant[other.query_id]:
                    pairs["same words"].append(overlap(*moments))
                    if one.query_id[0] != other.query_id[0]:
                        pairs["same words, two annotators"].append(overlap(*moments))
                if half(*moments):
                    pairs["same time"].append(overlap(*moments))
    found = agreement(records, 0.3)
    assert [*found.index] == [*pairs]
    for kind, overlaps in pairs.items():
        row = found.loc[kind]
        assert row["pairs"] == len(overlaps)
        assert row["mean tIoU"] == pytest.approx(np.mean(overlaps))
        assert row["agree"] == pytest.approx(100 * np.mean([value > 0.3 for value in overlaps]))
        assert readable(found).loc[kind, "pairs"] == str(len(overlaps))
        assert row["95 % low"] <= row["agree"] <= row["95 % high"]


def test_without_such_pairs_there_is_no_table():
    assert agreement(
        [Record("a_0", "c", "?", 60.0, ((1.0, 2.0),)), Record("b_0", "d", "?", 60.0, ((1.0, 2.0),))], 0.3
    ).empty
