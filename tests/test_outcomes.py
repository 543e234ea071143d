"""Outcomes and oracle gains are those of a slow program that follows their definitions, on random small cases."""

from itertools import pairwise

import numpy as np
import pytest

from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.events import Event
from groundnlq.analysis.outcomes import COPY, FLOOR, OUTCOMES, diagnose, outcome_codes
from groundnlq.config import DecodeConfig
from groundnlq.data.records import Record
from groundnlq.errors import ConfigError
from tests.stub_network import live_predictions

LENGTH = 60.0


def overlap(a, b):
    inter = min(a[1], b[1]) - max(a[0], b[0])
    return max(0.0, inter) / (max(a[1], b[1]) - min(a[0], b[0]))


def union_overlap(a, b, floor=0.0):
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inter / (a[1] - a[0] + b[1] - b[0] + 2 * floor - inter)


def half(a, b):
    inter = min(a[1], b[1]) - max(a[0], b[0])
    return inter > 0 and inter >= 0.5 * min(a[1] - a[0], b[1] - b[0])


def picked(candidates, nms, k, sigma=0.75, iou_threshold=0.1, min_score=0.001):
    """The first k of candidates (start, end, score) above the minimum score, one after the other."""
    left, found = [c for c in candidates if c[2] > min_score], []
    while left and len(found) < k:
        best = max(left, key=lambda c: c[2])
        found.append(best)
        left.remove(best)
        if nms == "soft":
            left = [(s, e, p * np.exp(-(union_overlap(best, (s, e), 1e-6) ** 2) / sigma)) for s, e, p in left]
            left = [c for c in left if c[2] > min_score]
        elif nms == "hard":
            left = [c for c in left if union_overlap(best, c) < iou_threshold]
    return found


def naive(candidates, moment, others, threshold, settings):
    """The outcome of a query, from its candidates; `others` are moments and events of the clip."""
    k, floor = settings.top_k, settings.min_score
    how = {"sigma": settings.sigma, "iou_threshold": settings.iou_threshold, "min_score": floor}
    answers = picked(candidates, settings.nms, k, **how) or [max(candidates, key=lambda c: c[2])]
    strangers = [other for other in others if not half(other, moment)]

    def is_right(segment):
        return overlap(segment, moment) > threshold

    def is_on_moment(segment):
        return is_right(segment) or (
            overlap(segment, moment) >= FLOOR
            and all(overlap(segment, other) < overlap(segment, moment) for other in strangers)
        )

    has_copies = settings.nms != "hard" or settings.iou_threshold > COPY
    tests = {
        "hit": is_right(answers[0]),
        "ranking within k": any(map(is_right, answers)),
        "suppressed": any(map(is_right, picked(candidates, "none", k, min_score=floor))),
        "duplicate": has_copies and any(map(is_right, picked(candidates, "hard", k, 1, COPY, floor))),
        "localisation": any(map(is_on_moment, answers)),
        "ranking beyond k": any(is_right(c) for c in candidates if c[2] > floor),
        "below threshold": any(map(is_right, candidates)),
        "missed": True,
    }
    return next(name for name, holds in tests.items() if holds), answers, [is_on_moment(a) for a in answers]


def random_case(random, index):
    """Records of a clip, candidates near and far from their moments, events."""
    records, candidates = [], {}
    starts = np.cumsum(random.uniform(4, 14, 4))
    for place, start in enumerate(starts):
        moment = (float(start), float(start + random.uniform(2, 6)))
        record = Record(f"a{index}_{place}", f"c{index}", "?", LENGTH, (moment,))
        centre = np.where(random.random(8) < 0.6, np.mean(moment), random.uniform(0, 55, 8))
        begin = np.clip(centre + random.normal(0, 3, 8) - 2, 0, 50)
        rows = [begin, begin + random.uniform(0.5, 9, 8), random.uniform(0.02, 0.98, 8)]
        if random.random() < 0.4:  # copies of the best one
            best, copies = int(np.argmax(rows[2])), random.integers(8, size=3)
            for row, spread in zip(rows, (0.05, 0.05, 0.02), strict=True):
                row[copies] = row[best] - random.uniform(0, spread, 3)
        records.append(record)
        candidates[record.query_id] = [tuple(map(float, row)) for row in np.float32(np.transpose(rows))]
    edges = np.sort(random.uniform(0, LENGTH, 8))
    return records, candidates, [Event(float(a), float(b), "put", "cup") for a, b in pairwise(edges)]


SETTINGS = {
    "soft": {},
    "soft, sharp, cut": {"sigma": 0.1, "min_score": 0.3},
    "hard": {"nms": "hard", "iou_threshold": 0.1},
    "hard, loose, cut": {"nms": "hard", "iou_threshold": 0.8, "min_score": 0.5},
    "none": {"nms": "none", "min_score": 0.2},
}


@pytest.mark.parametrize("with_events", [False, True])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_outcomes_and_gains_are_those_of_the_definitions(settings, with_events):
    random, seen = np.random.default_rng(3), set()
    settings = DecodeConfig(top_k=2, **settings)
    cases = [random_case(random, index) for index in range(12)]
    records = [record for case in cases for record in case[0]]
    candidates = {query_id: rows for case in cases for query_id, rows in case[1].items()}
    events = {case[0][0].clip_uid: case[2] for case in cases} if with_events else {}
    run = live_predictions(records, candidates)
    diagnosis = Diagnosis("run", run, threshold=0.5, settings=settings, events=events)
    table = diagnosis.table.set_index("query_id")
    first, anywhere = [], []
    for record in records:
        others = [r.moments_sec[0] for r in records if r.clip_uid == record.clip_uid]
        others += [(e.start_sec, e.end_sec) for e in events.get(record.clip_uid, ())]
        expected, answers, lies = naive(candidates[record.query_id], record.moments_sec[0], others, 0.5, settings)
        row = table.loc[record.query_id]
        assert row["outcome"] == expected
        assert row[["first_start_sec", "first_end_sec"]].tolist() == pytest.approx(answers[0][:2], abs=1e-4)
        seen.add(expected)
        first.append(lies[0])
        anywhere.append(any(lies))
    gains = diagnosis.oracle_gains
    for name in set(OUTCOMES) - {"hit"}:
        assert gains.loc[name, "gain"] == pytest.approx(100 * (table["outcome"] == name).mean())
    boundaries = gains.loc["oracle: boundaries"]
    assert boundaries[["R@1", "R@k"]].tolist() == pytest.approx([100 * np.mean(first), 100 * np.mean(anywhere)])
    assert {"hit", "ranking within k", "localisation"} <= seen


def test_the_random_cases_have_every_outcome_that_candidates_can_have():
    random, seen = np.random.default_rng(3), set()
    for index in range(30):
        records, candidates, _ = random_case(random, index)
        for changes in SETTINGS.values():
            run = live_predictions(records, candidates)
            codes = outcome_codes(run, 0.5, DecodeConfig(top_k=2, **changes))
            seen |= {list(OUTCOMES)[code] for code in codes}
    assert seen == set(OUTCOMES) - {"unreachable"}


def test_outcomes_of_a_file_are_those_of_the_definitions():
    random = np.random.default_rng(5)
    for index in range(30):
        records, candidates, _ = random_case(random, index)
        ranked = {name: np.array(rows) for name, rows in candidates.items()}
        table = diagnose(FixedPredictions(records, ranked), 0.5, DecodeConfig(top_k=2)).set_index("query_id")
        for record in records:
            ordered = [(s, e, 1 / rank) for rank, (s, e, _) in enumerate(candidates[record.query_id], 1)]
            others = [r.moments_sec[0] for r in records]
            settings = DecodeConfig(top_k=2, nms="none", min_score=0.0)
            expected, *_ = naive(ordered, record.moments_sec[0], others, 0.5, settings)
            assert table.loc[record.query_id, "outcome"] == expected
            right = [overlap(row, record.moments_sec[0]) > 0.5 for row in ordered]
            rank = table.loc[record.query_id, "right rank"]
            assert rank == right.index(True) + 1 if any(right) else np.isnan(rank)


def test_an_answer_on_the_neighbouring_event_is_not_a_fault_of_localisation():
    records = [Record("a_0", "c", "?", 64.0, ((10.0, 14.0),)), Record("a_1", "c", "?", 64.0, ((14.0, 24.0),))]
    ranked = {"a_0": np.array([[12.6, 23.0, 0.9]]), "a_1": np.array([[40.0, 44.0, 0.9]])}
    beside = diagnose(FixedPredictions(records, ranked))["outcome"][0]
    alone = diagnose(FixedPredictions(records[:1], ranked))["outcome"][0]
    event = {"c": [Event(14, 24, "put", "cup"), Event(10.2, 13.9, "wash", "pan")]}
    by_event = diagnose(FixedPredictions(records[:1], ranked), events=event)["outcome"][0]
    assert [beside, alone, by_event] == ["missed", "localisation", "missed"]


@pytest.mark.parametrize("threshold", [0.0, 1.0, 3.0, -0.3, float("nan")])
def test_a_threshold_outside_of_0_to_1_is_refused_before_any_work(threshold):
    with pytest.raises(ConfigError, match="not between 0 and 1"):
        Diagnosis("run", None, threshold=threshold)  # there is nothing to work with
