"""Random inputs that several tests draw; FUZZ_EXAMPLES=100000 tries that many of them a test."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from groundnlq.data.records import Record

MANY = settings.default.max_examples
shared_fixture = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
quick = settings(suppress_health_check=shared_fixture)
on_disk = settings(quick, max_examples=max(min(25, MANY), MANY // 8))

SECONDS = st.floats(0, 600, width=32)
SEGMENT = st.tuples(SECONDS, st.floats(0.015625, 120, width=32)).map(lambda s: (s[0], s[0] + s[1]))


@st.composite
def splits(draw):
    """A random ground truth and a duplicate-free submission to a part of it, segments near and far."""
    count = draw(st.integers(1, 12))
    records, ranked = [], {}
    for i in range(count):
        moment = draw(SEGMENT)
        records.append(Record(f"a{i % 3}_{i}", f"c{i % 4}", "q?", 800.0, (moment,)))
        if draw(st.booleans()) or (i == count - 1 and not ranked):
            near = st.floats(-8, 8, width=32).map(lambda x, m=moment: (m[0] + x, m[1] + x / 2))
            segment = st.one_of(SEGMENT, near.filter(lambda s: s[1] > s[0]))
            segments = draw(st.lists(segment, min_size=1, max_size=12))
            ranked[records[-1].query_id] = np.array([[*s, 1 / (r + 1)] for r, s in enumerate(segments)])
    return records, ranked
