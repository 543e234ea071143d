"""Look at queries one by one: choose a clip and a query, see what was answered, and why.

The picture is a matplotlib figure shown through a display handle, so that it stays in the saved notebook, in
papermill's output and in an offline page; the widgets beside it only choose what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure

from groundnlq.analysis.timeline import query_timeline
from groundnlq.data.annotations import Record
from groundnlq.data.recall import best_tiou
from groundnlq.data.submission import Ranked
from groundnlq.errors import DataError

ALL = "(all)"
WHOLE_CLIP, GROUND_TRUTH = 0, -1  # where one can go to, besides a rank
MARGIN_SEC = 8.0  # shown around what one went to
ScoresOf = Callable[[Record], Sequence[np.ndarray]]


class Explorer:
    """Widgets over records and predictions of one split.

    Args:
        runs: ranked predictions by the name of the run.
        scores_of: for each run a function that gives a record's scores, an array per pyramid level.
        outcomes: for each run the table of `diagnosis.diagnose`, to filter by outcome.
        narrations: narrations of the clips, drawn as ticks where there are any.

    Raises:
        DataError: no records or no runs.
    """

    def __init__(
        self,
        records: Sequence[Record],
        runs: Mapping[str, Ranked],
        scores_of: Mapping[str, ScoresOf] | None = None,
        outcomes: Mapping[str, pd.DataFrame] | None = None,
        narrations: Sequence[Record] = (),
    ):
        if not records or not runs:
            raise DataError("there is nothing to explore -- give records and at least one run's predictions")
        self.records = {record.query_id: record for record in records}
        self.runs, self.scores_of = dict(runs), dict(scores_of or {})
        self.narrations, self.by_clip = _by_clip(narrations), _by_clip(records)
        self.outcomes = {
            name: dict(zip(table["query_id"], table["outcome"].astype(str), strict=True))
            for name, table in (outcomes or {}).items()
        }
        self._overlaps = {name: _overlaps(ranked, records) for name, ranked in self.runs.items()}
        self._scores: dict[tuple[str, str], Sequence[np.ndarray]] = {}
        self._handle: DisplayHandle | None = None
        self._is_setting = False
        self._make_widgets()
        self._filter()

    def _make_widgets(self) -> None:
        wide = {"layout": widgets.Layout(width="95%"), "style": {"description_width": "7em"}}
        later = wide | {"continuous_update": False}
        templates = sorted({r.template or "(none)" for r in self.records.values()})
        outcomes = sorted({outcome for known in self.outcomes.values() for outcome in known.values()})
        most = max(overlaps.shape[1] for overlaps in self._overlaps.values())
        self.search = widgets.Text(description="text has", placeholder="knife", **later)
        self.template = widgets.Dropdown(description="template", options=[ALL, *templates], **wide)
        self.outcome = widgets.Dropdown(description="outcome", options=[ALL, *outcomes], **wide)
        self.clip = widgets.Dropdown(description="clip", options=[ALL, *self.by_clip], **wide)
        self.query = widgets.Dropdown(description="query", **wide)
        self.run = widgets.Dropdown(description="run", options=list(self.runs), **wide)
        self.keep = widgets.IntSlider(min(5, most), 1, most, description="answers k", **later)
        self.threshold = widgets.FloatSlider(
            0.3, min=0.1, max=0.9, step=0.1, readout_format=".1f", description="tIoU over", **later
        )
        self.prediction = widgets.Select(description="go to", rows=7, **wide)
        self.summary = widgets.HTML()
        for control in (self.search, self.template, self.outcome, self.clip, self.run):
            control.observe(self._unless_setting(self._filter), "value")
        for control in (self.query, self.keep, self.threshold):
            control.observe(self._unless_setting(self._choose), "value")
        self.prediction.observe(self._unless_setting(self._redraw), "value")

    @property
    def panel(self) -> widgets.Widget:
        """The controls, for `display`."""
        half = widgets.Layout(width="50%")
        left = [self.search, self.template, self.outcome, self.clip, self.query]
        right = [self.run, self.keep, self.threshold, self.prediction]
        columns = [widgets.VBox(left, layout=half), widgets.VBox(right, layout=half)]
        return widgets.VBox([widgets.HBox(columns), self.summary])

    def show(self) -> None:
        """Display the controls and the figure; the figure alone survives in a file."""
        display(self.panel)
        self._handle = display(self.figure(), display_id=True)

    def figure(self) -> Figure:
        """What is chosen now, as a figure."""
        record, name = self.records[self.query.value], self.run.value
        return query_timeline(
            record,
            self._answers(record),
            self._scores_for(name, record),
            others=[r for r in self.by_clip[record.clip_uid] if r is not record],
            narrations=self.narrations.get(record.clip_uid, ()),
            window_sec=self._window(record),
            keep=self.keep.value,
            threshold=self.threshold.value,
        )

    def recall(self) -> float:
        """Percent of all annotated queries of which one of the first k answers of this run is right."""
        best = self._overlaps[self.run.value][:, : self.keep.value].max(axis=1, initial=0.0)
        return 100 * float((best > self.threshold.value).mean()) if len(best) else np.nan

    # ---- what a change of a widget sets off

    def _filter(self) -> None:
        """Keep the queries that fit all filters; the chosen one stays if it does."""
        known, text = self.outcomes.get(self.run.value, {}), self.search.value.lower()
        fitting = [
            (f"{r.query:.80}  [{known[query_id]}]" if query_id in known else f"{r.query:.80}", query_id)
            for query_id, r in self.records.items()
            if text in r.query.lower()
            and self.template.value in (ALL, r.template or "(none)")
            and self.outcome.value in (ALL, known.get(query_id))
            and self.clip.value in (ALL, r.clip_uid)
        ]
        if not fitting:
            self.summary.value = "<b>No query fits these filters.</b> The last one is still shown."
            return
        chosen, ids = self.query.value, {query_id for _, query_id in fitting}
        with self._setting():
            self.query.options = fitting
            self.query.value = chosen if chosen in ids else fitting[0][1]
        self._choose()

    def _choose(self) -> None:
        """A query, a run or a setting was chosen: list its answers, tell its numbers, draw it."""
        record = self.records[self.query.value]
        ranked = self._answers(record)[: self.keep.value]
        overlaps = best_tiou(ranked, record.moments_sec)
        options = [("the whole clip", WHOLE_CLIP)]
        if record.moments_sec:
            options.append(("ground truth", GROUND_TRUTH))
        for rank, ((start, end, score), overlap) in enumerate(zip(ranked, overlaps, strict=True), 1):
            right = f", tIoU {overlap:.2f}" if record.moments_sec else ""
            options.append((f"{rank}: {start:.1f} – {end:.1f} s, score {score:.2f}{right}", rank))
        with self._setting():
            self.prediction.options = options
            self.prediction.value = WHOLE_CLIP
        self.summary.value = self._describe(record, int((overlaps > self.threshold.value).sum()), len(ranked))
        self._redraw()

    def _redraw(self) -> None:
        if self._handle is not None:
            self._handle.update(self.figure())

    @contextmanager
    def _setting(self) -> Iterator[None]:
        """While widgets are set by the program, their changes set nothing off: one picture for one turn."""
        self._is_setting = True
        try:
            yield
        finally:
            self._is_setting = False

    def _unless_setting(self, act: Callable[[], None]) -> Callable[[object], None]:
        return lambda _change: None if self._is_setting else act()

    # ---- what is chosen

    def _answers(self, record: Record) -> np.ndarray:
        return self.runs[self.run.value].get(record.query_id, np.zeros((0, 3)))

    def _scores_for(self, name: str, record: Record) -> Sequence[np.ndarray]:
        key = (name, record.query_id)
        if key not in self._scores and name in self.scores_of:
            self._scores[key] = list(self.scores_of[name](record))
        return self._scores.get(key, ())

    def _window(self, record: Record) -> tuple[float, float] | None:
        """The part of the clip around what one went to."""
        place = self.prediction.value
        if place in (None, WHOLE_CLIP):
            return None
        segment = record.moments_sec[0] if place == GROUND_TRUTH else self._answers(record)[place - 1]
        start, end = float(segment[0]), float(segment[1])
        return max(0.0, start - MARGIN_SEC), min(record.duration_sec, end + MARGIN_SEC)

    def _describe(self, record: Record, num_hits: int, num_answers: int) -> str:
        lines = [f"<b>{escape(record.query)}</b>", f"asked of clip {escape(record.clip_uid)}"]
        if record.moments_sec:
            start, end = record.moments_sec[0]
            lines[1] += (
                f", answered at {start:.1f} – {end:.1f} s; {num_hits} of {num_answers} answers overlap "
                f"that by more than {self.threshold.value:.1f}"
            )
        outcome = self.outcomes.get(self.run.value, {}).get(record.query_id)
        lines[1] += f" <i>({escape(outcome)})</i>" if outcome else ""
        lines.append(
            f"whole split: R@{self.keep.value} IoU={self.threshold.value:.1f} is {self.recall():.1f} %; "
            f"{len(self.query.options)} of {len(self.records)} queries fit the filters"
        )
        return "<br>".join(lines)


def _by_clip(records: Sequence[Record]) -> dict[str, list[Record]]:
    clips: dict[str, list[Record]] = {}
    for record in records:
        clips.setdefault(record.clip_uid, []).append(record)
    return clips


def _overlaps(ranked: Ranked, records: Sequence[Record]) -> np.ndarray:
    """(Q, K) tIoU of every answer to every annotated query, 0 where there is none."""
    annotated = [record for record in records if record.moments_sec]
    most = max((len(segments) for segments in ranked.values()), default=0)
    table = np.zeros((len(annotated), max(1, most)))
    for row, record in zip(table, annotated, strict=True):
        best = best_tiou(ranked.get(record.query_id, np.zeros((0, 3))), record.moments_sec)
        row[: len(best)] = best
    return table
