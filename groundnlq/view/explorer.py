"""Explorer: select a clip and a query, see the predictions and the scores of all points.

The figure is a matplotlib figure shown through a display handle, so that it stays in the saved notebook, in
papermill's output and in an offline page; the widgets only select what is drawn.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure

from groundnlq.analysis.candidates import MANY, FixedPredictions, LivePredictions, SplitPredictions
from groundnlq.analysis.free_form import ask_about_clip, words_of_query
from groundnlq.analysis.outcomes import NO_MOMENT, OUTCOMES, outcome_codes
from groundnlq.config import DecodeConfig
from groundnlq.data.recall import best_tiou, recall_key
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder
from groundnlq.errors import DataError, KitError
from groundnlq.view.canvas import Sheet
from groundnlq.view.controls import ALL, GROUND_TRUTH, NONE, WHOLE_CLIP, Panel, keep_keys
from groundnlq.view.film import cut_video, film_strips, find_video, moments_to_compare
from groundnlq.view.listing import QueryList, by_clip
from groundnlq.view.timeline import query_timeline

MARGIN_SEC, PLAYED_AROUND_SEC = 8.0, 1.0  # shown and played around the selected segment
OUTCOME_NAMES = dict(enumerate(OUTCOMES)) | {NO_MOMENT: "not annotated"}


class Explorer(Panel):
    """Widgets over the predictions of one split.

    Args:
        runs: by name; all over the same records, in the same order. `LivePredictions` have heat maps, can be
            decoded again, and show attention and answers to free-form queries.
        encoder: encodes free-form queries; the one that encoded the queries of the split.
        narrations: narrations of the clips, drawn as ticks where there are any.
        video_folder: contains `<clip_uid>.mp4` of some clips: then there are frames of the true moment and of the
            selected answer, at first of the first one, and a button that plays both. Needs the extra `video`.

    Raises:
        DataError: no records or no runs, or runs over different records.
    """

    def __init__(
        self,
        runs: Mapping[str, SplitPredictions],
        encoder: TextEncoder | None = None,
        narrations: Sequence[Record] = (),
        video_folder: str | Path | None = None,
    ):
        self.runs, self.encoder, self.video_folder = dict(runs), encoder, video_folder
        records = next(iter(self.runs.values())).records if self.runs else []
        if not records:
            raise DataError("there is nothing to explore -- give at least one run over some records")
        if any([r.query_id for r in run.records] != [r.query_id for r in records] for run in runs.values()):
            raise DataError("the runs are not over the same records -- answer one split with all of them")
        self.narrations, self.by_clip = by_clip(narrations), by_clip(records)
        self.queries = QueryList(records)
        self._free_form: Record | None = None  # the query that was typed, while it is shown
        self._runs_of_it: dict[str, SplitPredictions] = {}
        self._outcomes = lru_cache(maxsize=8)(lambda name, *how: outcome_codes(self.runs[name], *how))
        self._attention_of = lru_cache(maxsize=4)(lambda run, index: run.attention(index).mean(axis=0))
        self._handle: DisplayHandle | None = None
        self._sheet = Sheet()
        self._is_setting = False
        super().__init__(self.runs, list(OUTCOME_NAMES.values()), encoder is not None, video_folder is not None)
        self._connect()
        for name, run in self.runs.items():  # now, so that no change of a widget waits for it
            self._codes(name)
            run.decode(self._settings(name).model_copy(update={"top_k": MANY}))
        self._filter()

    def _connect(self) -> None:
        self._observe((self.search, self.template, self.outcome, self.clip), self._filter)
        # a run or a setting changes the outcomes, and so the queries that match the filter
        settings = (self.run, self.second_run, self.top_k, self.threshold, self.sigma, self.min_score)
        self._observe(settings, self._filter)
        self._observe((self.query,), self._choose)
        self._observe((self.prediction, self.attention), self._redraw)
        self._observe((self.question,), self._ask)
        self.previous.on_click(lambda _: self._step(-1))
        self.next.on_click(lambda _: self._step(1))
        self.play.on_click(lambda _: self._play())

    def show(self) -> None:
        """Display the controls and the figure; the figure alone survives in a file."""
        keep_keys()
        display(self.panel)
        self._handle = display(self.figure(self._sheet), display_id=True)
        gc.unfreeze()  # objects of an earlier explorer
        gc.collect()
        gc.freeze()  # else one change in twenty waits 0.2 s for the garbage collector

    def figure(self, sheet: Sheet | None = None) -> Figure:
        """The figure of the selected query, a new one or on a used sheet."""
        record, names = self.record, self._shown()
        labels = names if len(names) > 1 else [""]
        return query_timeline(
            record,
            dict(zip(labels, map(self._segments, names), strict=True)),
            dict(zip(labels, map(self._level_scores, names), strict=True)),
            others=[r for r in self.by_clip[record.clip_uid] if r is not record],
            narrations=self.narrations.get(record.clip_uid, ()),
            window_sec=self._window(),
            top_k=self.top_k.value,
            threshold=self.threshold.value,
            attention=self._attention(),
            films=self._films(),
            sheet=sheet,
        )

    def go_to(self, query_id: str) -> None:
        """Select this query, on any page of the list.

        Raises:
            DataError: it does not fit the filters, or is not in the split.
        """
        self.queries.choose(query_id)
        self._list()

    @property
    def record(self) -> Record:
        """The query that is shown: the selected one, or the one that was typed last."""
        return self._free_form or self.queries.record

    def recall(self, name: str, top_k: int) -> float:
        """Percent of all annotated queries with a hit among the first `top_k` predictions of a run."""
        is_annotated = self._codes(name) != NO_MOMENT
        overlaps = self.runs[name].decode(self._settings(name)).overlaps[is_annotated, :top_k]
        best = overlaps.max(axis=1, initial=0.0)
        return 100 * float((best > self.threshold.value).mean()) if len(best) else np.nan

    # ---- reactions to a change of a widget

    def _filter(self) -> None:
        """Keep the queries that match all filters; the selected one stays if it matches."""
        wanted = [code for code, name in OUTCOME_NAMES.items() if self.outcome.value in (ALL, name)]
        is_wanted = np.isin(self._codes(self.run.value), wanted)
        if self.queries.narrow(self.search.value, self.template.value, self.clip.value, is_wanted):
            self._list()
        else:
            self.summary.value = "<b>No query matches these filters.</b> The last one is still shown."

    def _list(self) -> None:
        """List the page of matching queries that contains the selected one, and show that one."""
        codes, records = self._codes(self.run.value), self.queries.records
        with self._setting():
            self.query.options = [
                (f"{records[place].query:.80}  [{OUTCOME_NAMES[codes[place]]}]", records[place].query_id)
                for place in self.queries.page
            ]
            self.query.value = self.queries.record.query_id
        self._choose()

    def _step(self, by: int) -> None:
        self.queries.step(by)
        self._list()

    def _choose(self) -> None:
        """Show the selected query in place of the one that was typed."""
        self.queries.choose(self.query.value)
        self._free_form = None
        self._look()

    def _ask(self) -> None:
        """Show the free-form query about the clip; an empty one shows the selected query again."""
        text, clip = self.question.value.strip(), self.record
        self._free_form, self._runs_of_it = None, {}
        try:
            if text:
                self._runs_of_it = {name: self._run_of(name, text, clip) for name in self.runs}
                self._free_form = next(iter(self._runs_of_it.values())).records[0]
            self._look()
        except KitError as error:
            self.summary.value = f"<b>{escape(str(error))}</b>"

    def _look(self) -> None:
        """List the predictions, show the numbers, draw the picture."""
        with self._setting():
            self.offer_segments(self.record, self._segments(self.run.value))
        recalls = dict.fromkeys(recall_key(k, self.threshold.value) for k in (1, self.top_k.value))
        table = [["run", "outcome", "hits in top k", *recalls], *map(self._row, self._shown())]
        fitting = f"{len(self.queries.fitting)} of {len(self.queries.records)} queries match the filters"
        self.summarise(self.record, table, f"recalls of the whole split with these settings; {fitting}")
        self.play_videos({})  # those of the last query
        self.play.disabled = self._video() is None
        self._redraw()

    def _redraw(self) -> None:
        if self._handle is not None:
            self._handle.update(self.figure(self._sheet))

    def _observe(self, controls: Sequence[widgets.Widget], act: Callable[[], None]) -> None:
        for control in controls:
            control.observe(lambda _change: None if self._is_setting else act(), "value")

    @contextmanager
    def _setting(self) -> Iterator[None]:
        """Changes of widgets by the program trigger nothing: one change by a person is one picture."""
        self._is_setting = True
        try:
            yield
        finally:
            self._is_setting = False

    # ---- what is selected

    def _settings(self, name: str) -> DecodeConfig:
        values = {field: getattr(self, field).value for field in ("sigma", "min_score", "top_k")}
        return self.runs[name].settings.model_copy(update=values)

    def _shown(self) -> list[str]:
        """Names of the runs in the figure, the selected one first."""
        return list(dict.fromkeys(n for n in (self.run.value, self.second_run.value) if n != NONE))

    def _codes(self, name: str) -> np.ndarray:
        return self._outcomes(name, self.threshold.value, self._settings(name))

    def _run_of(self, name: str, text: str, clip: Record) -> SplitPredictions:
        """Predictions of a run for a free-form query; those of a file have none."""
        run = self.runs[name]
        if isinstance(run, LivePredictions) and self.encoder is not None:
            return ask_about_clip(run, text, clip, self.encoder)
        return FixedPredictions([Record("own_0", clip.clip_uid, text, clip.duration_sec)], {})

    def _current(self, name: str) -> tuple[SplitPredictions, int]:
        """The predictions of a run that are shown, and the index of the query among them."""
        return (self._runs_of_it[name], 0) if self._free_form else (self.runs[name], self.queries.chosen)

    def _segments(self, name: str) -> np.ndarray:
        run, index = self._current(name)
        return run.decode(self._settings(name)).of(index, self.top_k.value)

    def _level_scores(self, name: str) -> Sequence[np.ndarray]:
        run, index = self._current(name)
        return run.level_scores(index) if isinstance(run, LivePredictions) else ()

    def _attention(self) -> tuple[list[str], np.ndarray] | None:
        run, index = self._current(self.run.value)
        if not (self.attention.value and isinstance(run, LivePredictions)):
            return None
        weights = self._attention_of(run, index)
        return words_of_query(self.encoder, self.record.query, weights.shape[1]), weights

    def _window(self) -> tuple[float, float] | None:
        """The part of the clip around the selected segment."""
        if self.prediction.value in (None, WHOLE_CLIP) or (segment := self._segment()) is None:
            return None
        return max(0.0, segment[0] - MARGIN_SEC), min(self.record.duration_sec, segment[1] + MARGIN_SEC)

    def _segment(self) -> tuple[float, float] | None:
        """Start and end of the selected segment; of the first one while the whole clip is shown."""
        rank, segments = self.prediction.value or 1, self._segments(self.run.value)
        if rank == GROUND_TRUTH:
            return self.record.moments_sec[0]
        return tuple(segments[rank - 1, :2].tolist()) if len(segments) else None

    def _video(self) -> Path | None:
        return find_video(self.video_folder, self.record.clip_uid) if self.video_folder else None

    def _compared(self) -> tuple[Record, np.ndarray, int, str]:
        """What `moments_to_compare` takes: the query, and which answer of which run."""
        name, rank = self.run.value, max(1, self.prediction.value or 1)
        return self.record, self._segments(name), rank, name if len(self._shown()) > 1 else ""

    def _films(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Frames of both moments; a video that cannot be read is told, and does not cost the picture."""
        try:
            return film_strips(self.video_folder, *self._compared()) if self.video_folder else {}
        except KitError as error:
            self.summary.value += f"<b>{escape(str(error))}</b>"
            return {}

    def _play(self) -> None:
        """Play both moments, cut out of the video."""
        if path := self._video():
            pieces, around = dict[str, bytes](), PLAYED_AROUND_SEC
            for title, (start, end) in moments_to_compare(*self._compared()).items():
                name = f"{title} (and {around:g} s before and after)"
                pieces[name] = cut_video(path, [(max(0.0, start - around), end + around)])
            self.play_videos(pieces)

    def _row(self, name: str) -> list[str]:
        segments = self._segments(name)
        num_hits = int((best_tiou(segments, self.record.moments_sec) > self.threshold.value).sum())
        recalls = [f"{self.recall(name, k):.1f} %" for k in dict.fromkeys((1, self.top_k.value))]
        if self._free_form:
            return [name, "free-form query", "–", *recalls]
        outcome = OUTCOME_NAMES[self._codes(name)[self.queries.chosen]]
        return [name, outcome, f"{num_hits} of {len(segments)}", *recalls]
