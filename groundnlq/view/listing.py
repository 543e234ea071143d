"""The list of queries: those that match the filters, the selected one, and its page."""

from collections.abc import Sequence

import numpy as np

from groundnlq.data.dataset import clip_batches
from groundnlq.data.records import Record
from groundnlq.errors import DataError
from groundnlq.view.controls import ALL, NONE

PAGE = 200  # queries listed at once, because a browser is slow with thousands


class QueryList:
    """Filtered list of queries; at first all match, and the first one is selected.

    Attributes:
        fitting: indices of the matching records in the order of the list; never empty.
        chosen: index of the selected record.
    """

    def __init__(self, records: Sequence[Record]):
        self.records, self.fitting, self.chosen = records, np.arange(len(records)), 0
        self._place = {record.query_id: place for place, record in enumerate(records)}
        self._texts = [f"{record.query} {record.clip_uid} {record.query_id}".lower() for record in records]

    @property
    def record(self) -> Record:
        return self.records[self.chosen]

    def narrow(self, text: str, template: str, clip_uid: str, is_wanted: np.ndarray, order: np.ndarray) -> bool:
        """Keep the queries that match; the selected one stays selected if it matches.

        Args:
            text: parts of words of the query, or of its ids, in any order and case.
            template, clip_uid: one of them, or `ALL`.
            is_wanted: (Q,) bool, a further filter; order: (Q,), the lowest is listed first.

        Returns:
            whether any matches; if none does, nothing changes.
        """
        parts, fitting = text.lower().split(), list[int]()
        for place in np.flatnonzero(is_wanted).tolist():
            record = self.records[place]
            if template in (ALL, record.template or NONE) and clip_uid in (ALL, record.clip_uid):
                fitting += [place] if all(part in self._texts[place] for part in parts) else []
        if fitting:
            self.fitting = np.array(fitting)[np.argsort(order[fitting], kind="stable")]
            self.chosen = self.chosen if self.chosen in self.fitting else fitting[0]
        return bool(fitting)

    def choose(self, query_id: str) -> None:
        """Select this query.

        Raises:
            DataError: it does not match, or is not in the split.
        """
        place = self._place.get(query_id, -1)
        if place not in self.fitting:
            raise DataError(f"query {query_id} is not among those that fit the filters -- clear them")
        self.chosen = place

    def step(self, by: int) -> None:
        """Select a later (or earlier) matching query; after the last comes the first."""
        self.chosen = int(self.fitting[(self.number + by) % len(self.fitting)])

    @property
    def page(self) -> list[int]:
        """Indices of at most `PAGE` matching queries, the selected one among them."""
        first = self.number // PAGE * PAGE
        return self.fitting[first : first + PAGE].tolist()

    @property
    def number(self) -> int:
        """The place of the selected query among the matching ones, from 0."""
        return int(np.flatnonzero(self.fitting == self.chosen)[0])


def by_clip(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each clip, clips and records in the order given."""
    groups = clip_batches(records, max(1, len(records)))
    return {records[group[0]].clip_uid: [records[index] for index in group] for group in groups}
