"""Look at queries one by one: choose a clip and a query, see what was answered, and why.

The picture is a matplotlib figure shown through a display handle, so that it stays in the saved notebook, in
papermill's output and in an offline page; the widgets beside it only choose what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

ALL = "(all)"
ScoresOf = Callable[[Record], Sequence[np.ndarray]]


class Explorer:
    """Widgets over records and predictions of one split.

    Args:
        runs: ranked predictions by the name of the run.
        scores_of: for each run a function that gives a record's scores, an array per pyramid level.
        outcomes: the table of `diagnosis.diagnose`, to filter by outcome.
        narrations: narrations of the clips, drawn as ticks where there are any.
    """

    def __init__(
        self,
        records: Sequence[Record],
        runs: Mapping[str, Ranked],
        scores_of: Mapping[str, ScoresOf] | None = None,
        outcomes: pd.DataFrame | None = None,
        narrations: Sequence[Record] = (),
    ):
        self.records = {record.query_id: record for record in records}
        self.runs, self.scores_of = dict(runs), dict(scores_of or {})
        self.narrations, self.by_clip = _by_clip(narrations), _by_clip(records)
        known = {} if outcomes is None else dict(zip(outcomes["query_id"], outcomes["outcome"], strict=True))
        self.outcome = {query_id: str(known.get(query_id, "")) for query_id in self.records}
        self._scores: dict[tuple[str, str], Sequence[np.ndarray]] = {}
        self._handle: DisplayHandle | None = None
        self._make_widgets()
        self._filter()

    def _make_widgets(self) -> None:
        wide = {"layout": widgets.Layout(width="95%"), "style": {"description_width": "7em"}}
        later = {"continuous_update": False}
        templates = sorted({r.template or "(none)" for r in self.records.values()})
        outcomes = [o for o in dict.fromkeys(self.outcome.values()) if o]
        self.search = widgets.Text(description="text has", placeholder="knife", **later, **wide)
        self.template = widgets.Dropdown(description="template", options=[ALL, *templates], **wide)
        self.outcome_choice = widgets.Dropdown(
            description="outcome", options=[ALL, *sorted(outcomes)], **wide
        )
        self.clip = widgets.Dropdown(description="clip", options=[ALL, *self.by_clip], **wide)
        self.query = widgets.Dropdown(description="query", **wide)
        self.run = widgets.Dropdown(description="run", options=list(self.runs), **wide)
        self.keep = widgets.IntSlider(5, 1, 10, description="answers k", **later, **wide)
        self.threshold = widgets.FloatSlider(
            0.3, min=0.1, max=0.9, step=0.1, description="tIoU over", **later, **wide
        )
        self.prediction = widgets.Select(description="go to", rows=6, **wide)
        self.summary = widgets.HTML()
        for control in (self.search, self.template, self.outcome_choice, self.clip):
            control.observe(lambda _: self._filter(), "value")
        for control in (self.query, self.run, self.keep, self.threshold):
            control.observe(lambda _: self._choose(), "value")
        self.prediction.observe(lambda _: self._redraw(), "value")

    @property
    def panel(self) -> widgets.Widget:
        """The controls, for `display`."""
        left = widgets.VBox([self.search, self.template, self.outcome_choice, self.clip, self.query])
        right = widgets.VBox([self.run, self.keep, self.threshold, self.prediction])
        half = widgets.Layout(width="50%")
        left.layout = right.layout = half
        return widgets.VBox([widgets.HBox([left, right]), self.summary])

    def show(self) -> None:
        """Display the controls and the figure; the figure alone survives in a file."""
        display(self.panel)
        self._handle = display(self.figure(), display_id=True)

    def figure(self) -> Figure:
        """What is chosen now, as a figure."""
        record, name = self.records[self.query.value], self.run.value
        return query_timeline(
            record,
            self.runs[name].get(record.query_id, np.zeros((0, 3))),
            self._scores_for(name, record),
            others=[r for r in self.by_clip[record.clip_uid] if r is not record],
            narrations=self.narrations.get(record.clip_uid, ()),
            window_sec=self.prediction.value,
            keep=self.keep.value,
        )

    def _scores_for(self, name: str, record: Record) -> Sequence[np.ndarray]:
        key = (name, record.query_id)
        if key not in self._scores and name in self.scores_of:
            self._scores[key] = list(self.scores_of[name](record))
        return self._scores.get(key, ())

    def _filter(self) -> None:
        """Keep the queries that fit all four filters; the chosen one stays if it does."""
        text = self.search.value.lower()
        fitting = [
            (f"{r.query:.70}  [{self.outcome[query_id]}]", query_id)
            for query_id, r in self.records.items()
            if text in r.query.lower()
            and self.template.value in (ALL, r.template or "(none)")
            and self.outcome_choice.value in (ALL, self.outcome[query_id])
            and self.clip.value in (ALL, r.clip_uid)
        ]
        if not fitting:
            self.summary.value = "<b>No query fits these filters.</b>"
            return
        chosen = self.query.value
        self.query.options = fitting
        self.query.value = chosen if chosen in dict(fitting).values() else fitting[0][1]
        self._choose()

    def _choose(self) -> None:
        """A query, a run or a setting was chosen: list its answers, tell its numbers, draw it."""
        if self.query.value is None:
            return
        record = self.records[self.query.value]
        ranked = self.runs[self.run.value].get(record.query_id, np.zeros((0, 3)))[: self.keep.value]
        overlaps = best_tiou(ranked, record.moments_sec)
        options = [("the whole clip", None), ("ground truth", _around(record.moments_sec[0], record))]
        for rank, ((start, end, score), overlap) in enumerate(zip(ranked, overlaps, strict=True), 1):
            label = f"{rank}: {start:.1f} - {end:.1f} s, score {score:.2f}, tIoU {overlap:.2f}"
            options.append((label, _around((start, end), record)))
        self.prediction.options = options
        self.prediction.value = None
        hits = int((overlaps > self.threshold.value).sum())
        start, end = record.moments_sec[0]
        self.summary.value = (
            f"<b>{escape(record.query)}</b><br>asked of clip {escape(record.clip_uid)}, answered at "
            f"{start:.1f} - {end:.1f} s; {hits} of {len(ranked)} answers overlap it by more than "
            f"{self.threshold.value:.1f}. <i>{escape(self.outcome[record.query_id])}</i>"
        )
        self._redraw()

    def _redraw(self) -> None:
        if self._handle is not None and self.query.value is not None:
            self._handle.update(self.figure())


def _by_clip(records: Sequence[Record]) -> dict[str, list[Record]]:
    clips: dict[str, list[Record]] = {}
    for record in records:
        clips.setdefault(record.clip_uid, []).append(record)
    return clips


def _around(segment_sec: Sequence[float], record: Record, margin_sec: float = 8.0) -> tuple[float, float]:
    start, end = segment_sec[0], segment_sec[1]
    return max(0.0, start - margin_sec), min(record.duration_sec, end + margin_sec)
