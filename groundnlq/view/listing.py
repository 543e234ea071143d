"""The list of queries: those that fit the filters, the chosen one, and the page that it stands on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groundnlq.data.records import Record
from groundnlq.errors import DataError
from groundnlq.view.controls import ALL, NONE

PAGE = 200  # queries offered at once: a browser takes longer to list thousands than anybody reads them


class QueryList:
    """At first all queries fit, and the first one is chosen.

    Attributes:
        fitting: places among the records, ascending; never empty.
        chosen: the place that is looked at.
    """

    def __init__(self, records: Sequence[Record]):
        self.records, self.fitting, self.chosen = records, np.arange(len(records)), 0
        self._place = {record.query_id: place for place, record in enumerate(records)}
        self._texts = [record.query.lower() for record in records]

    @property
    def record(self) -> Record:
        return self.records[self.chosen]

    def narrow(self, text: str, template: str, clip_uid: str, is_wanted: np.ndarray) -> bool:
        """Keep the queries that fit; the chosen one stays chosen if it does.

        Args:
            text: a part of the query, in any case; template, clip_uid: one of them, or `ALL`.
            is_wanted: (Q,) bool, a further filter.

        Returns:
            whether any fits; if none does, nothing changes.
        """
        text = text.lower()
        fitting = []
        for place in np.flatnonzero(is_wanted).tolist():
            record = self.records[place]
            if template in (ALL, record.template or NONE) and clip_uid in (ALL, record.clip_uid):
                fitting += [place] if text in self._texts[place] else []
        if fitting:
            self.fitting = np.array(fitting)
            self.chosen = self.chosen if self.chosen in self.fitting else fitting[0]
        return bool(fitting)

    def choose(self, query_id: str) -> None:
        """Look at this query.

        Raises:
            DataError: it does not fit, or is not in the split.
        """
        place = self._place.get(query_id, -1)
        if place not in self.fitting:
            raise DataError(f"query {query_id} is not among those that fit the filters -- clear them")
        self.chosen = place

    def step(self, by: int) -> None:
        """Look at the query so many further on among those that fit, around the ends."""
        self.chosen = int(self.fitting[(self._number + by) % len(self.fitting)])

    @property
    def page(self) -> list[int]:
        """Places of at most `PAGE` fitting queries, the chosen one among them."""
        first = self._number // PAGE * PAGE
        return self.fitting[first : first + PAGE].tolist()

    @property
    def _number(self) -> int:
        return int(np.searchsorted(self.fitting, self.chosen))
