"""Look at queries one by one: choose a clip and a query, see what was answered, and why.

The picture is a matplotlib figure shown through a display handle, so that it stays in the saved notebook, in
papermill's output and in an offline page; the widgets beside it only choose what is drawn.
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

from groundnlq.analysis.candidates import FixedRun, LiveRun
from groundnlq.analysis.diagnosis import NO_MOMENT, OUTCOMES, outcome_codes
from groundnlq.analysis.free_form import Question, words_of_query
from groundnlq.data.recall import best_tiou, recall_key
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder
from groundnlq.errors import DataError, KitError
from groundnlq.view.canvas import Sheet
from groundnlq.view.controls import ALL, GROUND_TRUTH, NONE, WHOLE_CLIP, Panel, describe, places_to_go
from groundnlq.view.film import cut_video, film_strip, find_video
from groundnlq.view.listing import QueryList, by_clip
from groundnlq.view.timeline import query_timeline

MARGIN_SEC = 8.0  # shown around what one went to
PLAYED_AROUND_SEC = 1.0  # and played around it
OUTCOME_NAMES = dict(enumerate(OUTCOMES)) | {NO_MOMENT: "not annotated"}


class Explorer(Panel):
    """Widgets over the runs of one split.

    Args:
        runs: by name; all over the same records, in the same order. Of a `LiveRun` there are heat maps, live
            decoding, attention and answers to questions of one's own.
        encoder: encodes those questions; the one that encoded the queries.
        narrations: narrations of the clips, drawn as ticks where there are any.
        video_folder: has `<clip_uid>.mp4` of some clips: frames of the moment that one went to, at first of
            the first answer, and a player that begins there. Needs the extra `video`.

    Raises:
        DataError: no records or no runs, or runs over different records.
    """

    def __init__(
        self,
        runs: Mapping[str, FixedRun | LiveRun],
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
        self._own: Question | None = None
        self._outcomes = lru_cache(maxsize=8)(
            lambda name, *cuts, **rules: outcome_codes(self.runs[name], *cuts, **rules)
        )
        self._heard = lru_cache(maxsize=4)(self._hear)
        self._handle: DisplayHandle | None = None
        self._sheet = Sheet()
        self._is_setting = False
        live = [run for run in self.runs.values() if run.is_live]
        super().__init__(
            runs=list(self.runs),
            templates=sorted({record.template or NONE for record in records}),
            clips=list(self.by_clip),
            outcomes=list(OUTCOME_NAMES.values()),
            rules=live[0].rules if live else None,
            can_ask=bool(live and encoder),
            has_film=video_folder is not None,
        )
        self._connect()
        for name, run in self.runs.items():  # now, not at the turn that shows a run or more answers first
            self._codes(name)
            run.answers(**self._rules())
        self._filter()

    def _connect(self) -> None:
        self._observe((self.search, self.template, self.outcome, self.clip), self._filter)
        # a run or a number makes the outcomes others, and with them what fits the filter
        settings = (self.run, self.beside, self.keep, self.threshold, self.sigma, self.min_score)
        self._observe(settings, self._filter)
        self._observe((self.query,), self._choose)
        self._observe((self.prediction, self.attention), self._redraw)
        self._observe((self.question,), self._ask)
        self.back.on_click(lambda _: self._step(-1))
        self.on.on_click(lambda _: self._step(1))
        self.play.on_click(lambda _: self._play())

    def show(self) -> None:
        """Display the controls and the figure; the figure alone survives in a file."""
        display(self.panel)
        self._handle = display(self.figure(self._sheet), display_id=True)
        gc.unfreeze()  # what an explorer before this one left
        gc.collect()
        gc.freeze()  # else the collector walks through all that is loaded, 0.2 s long, at one turn in twenty

    def figure(self, sheet: Sheet | None = None) -> Figure:
        """What is chosen now, as a figure; of its own, or drawn on a sheet that was used before."""
        record, shown = self.record, self._shown()
        names = shown if len(shown) > 1 else [""]
        return query_timeline(
            record,
            dict(zip(names, map(self._answers, shown), strict=True)),
            dict(zip(names, map(self._level_scores, shown), strict=True)),
            others=[r for r in self.by_clip[record.clip_uid] if r is not record],
            narrations=self.narrations.get(record.clip_uid, ()),
            window_sec=self._window(),
            keep=self.keep.value,
            threshold=self.threshold.value,
            attention=self._attention(),
            film=self._frames(),
            sheet=sheet,
        )

    def go_to(self, query_id: str) -> None:
        """Look at this query, on whichever page of the list it stands.

        Raises:
            DataError: it does not fit the filters, or is none of the split's.
        """
        self.queries.choose(query_id)
        self._list()

    @property
    def record(self) -> Record:
        """The query that is looked at: the chosen one, or the one just asked."""
        return self._own.record if self._own else self.queries.record

    def recall(self, name: str, keep: int) -> float:
        """Percent of all annotated queries of which one of the first `keep` answers of a run is right."""
        is_annotated = self._codes(name) != NO_MOMENT
        best = self._decoded(name).overlaps[is_annotated, :keep].max(axis=1, initial=0.0)
        return 100 * float((best > self.threshold.value).mean()) if len(best) else np.nan

    # ---- what a change of a widget sets off

    def _filter(self) -> None:
        """Keep the queries that fit all filters; the chosen one stays if it does."""
        wanted = [code for code, name in OUTCOME_NAMES.items() if self.outcome.value in (ALL, name)]
        is_wanted = np.isin(self._codes(self.run.value), wanted)
        if self.queries.narrow(self.search.value, self.template.value, self.clip.value, is_wanted):
            self._list()
        else:
            self.summary.value = "<b>No query fits these filters.</b> The last one is still shown."

    def _list(self) -> None:
        """Offer the page of fitting queries on which the chosen one stands, and look at that one."""
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
        """A query was chosen: it is looked at, no longer the question just asked."""
        self.queries.choose(self.query.value)
        self._own = None
        self._look()

    def _ask(self) -> None:
        """A question was typed: it is looked at, over the shown clip; none leads back to the query."""
        text = self.question.value.strip()
        self._own = Question(text, self.record, self.encoder) if text else None
        try:
            self._look()
        except KitError as error:
            self._own = None
            self.summary.value = f"<b>{escape(str(error))}</b>"

    def _look(self) -> None:
        """List the answers, tell the numbers, draw the picture."""
        with self._setting():
            self.prediction.options = places_to_go(self.record, self._answers(self.run.value))
            self.prediction.value = WHOLE_CLIP
        self.summary.value = self._describe()
        self._redraw()

    def _redraw(self) -> None:
        if self._handle is not None:
            self._handle.update(self.figure(self._sheet))

    def _observe(self, controls: Sequence[widgets.Widget], act: Callable[[], None]) -> None:
        for control in controls:
            control.observe(lambda _change: None if self._is_setting else act(), "value")

    @contextmanager
    def _setting(self) -> Iterator[None]:
        """While widgets are set by the program, their changes set nothing off: one picture for one turn."""
        self._is_setting = True
        try:
            yield
        finally:
            self._is_setting = False

    # ---- what is chosen

    def _rules(self) -> dict[str, float]:
        return {"sigma": self.sigma.value, "min_score": self.min_score.value}

    def _shown(self) -> list[str]:
        """Names of the runs in the picture, the looked-at one first."""
        return list(dict.fromkeys(n for n in (self.run.value, self.beside.value) if n != NONE))

    def _decoded(self, name: str):
        return self.runs[name].answers(**self._rules(), keep=self.keep.value)

    def _codes(self, name: str) -> np.ndarray:
        return self._outcomes(name, self.threshold.value, self.keep.value, **self._rules())

    def _answers(self, name: str) -> np.ndarray:
        if self._own:
            return self._asked(name)[0][: self.keep.value]
        return self._decoded(name).of(self.queries.chosen, self.keep.value)

    def _level_scores(self, name: str) -> Sequence[np.ndarray]:
        if self._own:
            return self._asked(name)[1]
        run = self.runs[name]
        return run.level_scores(self.queries.chosen) if run.is_live else ()

    def _asked(self, name: str) -> tuple:
        return self._own.ask(self.runs[name], **self._rules())

    def _attention(self) -> tuple[list[str], np.ndarray] | None:
        name, record = self.run.value, self.record
        if not (self.attention.value and self.runs[name].is_live):
            return None
        weights = self._asked(name)[2] if self._own else self._heard(name, self.queries.chosen)
        return words_of_query(self.encoder, record.query, weights.shape[2]), weights.mean(axis=0)

    def _hear(self, name: str, place: int) -> np.ndarray:
        """Attention of a run to a query of the split; the network is asked, since none was kept."""
        run, record = self.runs[name], self.queries.records[place]
        return run.ask(record, run.dataset.tokens.read(record.query_id))[2]

    def _window(self) -> tuple[float, float] | None:
        """The part of the clip around what one went to."""
        place, record = self.prediction.value, self.record
        if place in (None, WHOLE_CLIP):
            return None
        segment = record.moments_sec[0] if place == GROUND_TRUTH else self._answers(self.run.value)[place - 1]
        start, end = float(segment[0]), float(segment[1])
        return max(0.0, start - MARGIN_SEC), min(record.duration_sec, end + MARGIN_SEC)

    def _stretch(self) -> tuple[float, float] | None:
        """Start and end of what one went to; of the first answer while the whole clip is shown."""
        place, answers = self.prediction.value or 1, self._answers(self.run.value)
        if place == GROUND_TRUTH:
            return self.record.moments_sec[0]
        return tuple(answers[place - 1, :2].tolist()) if len(answers) else None

    def _frames(self) -> tuple[np.ndarray, np.ndarray] | None:
        path = find_video(self.video_folder, self.record.clip_uid) if self.video_folder else None
        stretch = self._stretch()
        return film_strip(path, *stretch) if path and stretch else None

    def _play(self) -> None:
        """A player that begins at the moment; the video is cut, so that the page need not hold all of it."""
        path, stretch = find_video(self.video_folder, self.record.clip_uid), self._stretch()
        if path and stretch:
            self.play_video(cut_video(path, stretch[0] - PLAYED_AROUND_SEC, stretch[1] + PLAYED_AROUND_SEC))

    def _describe(self) -> str:
        """The numbers beside the picture."""
        recalls = dict.fromkeys(recall_key(k, self.threshold.value) for k in (1, self.keep.value))
        table = [["run", "outcome", "right answers", *recalls], *map(self._row, self._shown())]
        fitting = f"{len(self.queries.fitting)} of {len(self.queries.records)} queries fit the filters"
        return describe(self.record, table, f"recalls are of the whole split, as decoded now; {fitting}")

    def _row(self, name: str) -> list[str]:
        answers, keep = self._answers(name), self.keep.value
        right = int((best_tiou(answers, self.record.moments_sec) > self.threshold.value).sum())
        recalls = [f"{self.recall(name, k):.1f} %" for k in dict.fromkeys((1, keep))]
        if self._own:
            return [name, "your own question", "–", *recalls]
        outcome = OUTCOME_NAMES[self._codes(name)[self.queries.chosen]]
        return [name, outcome, f"{right} of {len(answers)}", *recalls]
