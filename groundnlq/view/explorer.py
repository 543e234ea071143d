"""Explorer: select a clip and a query, see the predictions and the scores of all points.

The figure is a matplotlib figure in the panel, and a copy of it beside the panel, which stays in the saved notebook, in
papermill's output and in an offline page; the widgets only select what is drawn.
"""

import csv
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

import ipywidgets as widgets
from IPython.display import display

from groundnlq.analysis.candidates import MANY, SplitPredictions
from groundnlq.analysis.events import Events
from groundnlq.data.recall import recall_key
from groundnlq.data.text import TextEncoder
from groundnlq.view.controls import keep_keys
from groundnlq.view.picture import Picture
from groundnlq.view.selection import OUTCOME_NAMES, Selection

CLICKED_SEC = 4.0  # shown and played from a clicked time on
NOTED = ["query_id", "clip_uid", "query", "run", "outcome", "shown", "note", "picture"]  # columns of the notes


class Explorer(Selection):
    """Widgets over the predictions of one split.

    Args:
        runs: by name; all over the same records, in the same order. `LivePredictions` have heat maps, can be
            decoded again, and show attention and answers to free-form queries.
        encoder: encodes free-form queries; the one that encoded the queries of the split.
        events: what happens in the clips, of an event log or of narrations; shown under the segments.
        video_folder: contains `<clip_uid>.mp4` of some clips: then there are frames of the true moment and of the
            selected answer, at first of the first one, and a button that plays both. Needs the extra `video`.
        notes: CSV file that notes are added to; pictures of what was seen lie in a folder of the same name.

    Raises:
        DataError: no records or no runs, or runs over different records.
    """

    def __init__(
        self, runs: Mapping[str, SplitPredictions], encoder: TextEncoder | None = None, events: Events | None = None,
        video_folder: str | Path | None = None, notes: str | Path | None = None,
    ):  # fmt: skip
        super().__init__(runs, encoder, events, video_folder, notes is not None)
        self.notes, self.picture = Path(notes or "notes.csv"), Picture(self._click)
        self._sheet, self._is_shown, self._is_setting = self.picture.sheet(), False, False
        self._connect()
        for name, run in self.runs.items():  # now, so that no change of a widget waits for it
            self._codes(name)
            run.decode(self._settings(name).model_copy(update={"top_k": MANY}))
        self._filter()

    def _connect(self) -> None:
        self._observe((self.search, self.template, self.outcome, self.clip, self.order), self._filter)
        # these change the outcomes, and so the queries that match the filter
        self._observe((self.run, self.second_run, self.top_k, self.threshold, self.sigma, self.min_score), self._filter)
        self._observe((self.query,), self._choose)
        self._observe((self.prediction, self.play), self._go)
        self._observe((self.attention,), self._redraw)
        self._observe((self.question,), self._ask)
        self.picture.observe(lambda _change: self._resize(), "room")
        self.previous.on_click(lambda _: self._step(-1))
        self.next.on_click(lambda _: self._step(1))
        self.keep.on_click(lambda _: self._keep_note())
        self.reset.on_click(lambda _: self._reset())

    def show(self) -> None:
        """Display the controls with the figure, and a copy of it, which alone survives in a file."""
        keep_keys()
        self._is_shown = True
        self._redraw()
        display(self.panel(self.picture))
        self.picture.show_copy()
        gc.unfreeze()  # objects of an earlier explorer
        gc.collect()
        gc.freeze()  # else one change in twenty waits 0.2 s for the garbage collector

    def go_to(self, query_id: str) -> None:
        """Select this query, on any page of the list.

        Raises:
            DataError: it does not fit the filters, or is not in the split.
        """
        self.queries.choose(query_id)
        self._list()

    # ---- reactions to a change of a widget

    def _filter(self) -> None:
        """Keep the queries that match all filters; the selected one stays if it matches."""
        text, template, clip_uid = self.search.value, self.template.value, self.clip.value
        has_any = self.queries.narrow(text, template, clip_uid, self._is_wanted(), self._order())
        self.previous.disabled = self.next.disabled = not has_any
        if has_any:
            self._list()
        else:
            with self._setting():
                self.query.options = [("No query matches these filters.", "")]
            self.count.value = f"<b>0 of {len(self.queries.records)}</b>"
            still = f"Still shown: {escape(self.record.query)}"
            self.summary.value = f"<b>No query matches these filters: change one, or reset.</b> {still}"

    def _list(self) -> None:
        """List the page of matching queries that contains the selected one, and show that one."""
        codes, records = self._codes(self.run.value), self.queries.records
        with self._setting():
            self.query.options = [
                (f"{OUTCOME_NAMES[codes[place]]}: {records[place].query:.80}", records[place].query_id)
                for place in self.queries.page
            ]
            self.query.value = self.queries.record.query_id
        self._choose()

    def _step(self, by: int) -> None:
        self.queries.step(by)
        self._list()

    def _choose(self) -> None:
        """Show the selected query in place of the one that was typed."""
        if self.query.value:  # else none matches
            self.queries.choose(self.query.value)
            self.count.value = f"{self.queries.number + 1} of {len(self.queries.fitting)}"
            self._ask_runs("")
            self._look()

    def _ask(self) -> None:
        """Show the free-form query about the clip; an empty one shows the selected query again."""
        with self._told():
            self._ask_runs(self.question.value.strip())
            self._look()

    def _look(self) -> None:
        """List the predictions, show the numbers, draw the picture."""
        with self._setting():
            self.offer_segments(self.record, self._segments(self.run.value))
        recalls = dict.fromkeys(recall_key(k, self.threshold.value) for k in (1, self.top_k.value))
        table = [["run", "outcome", "hits in top k", *(f"{key}, split" for key in recalls)]]
        self.summarise(self.record, [*table, *map(self._row, self._shown())], self._doubt())
        self.play.disabled = self._video() is None
        self._go()

    def _go(self) -> None:
        """Draw the selected part of the clip, and play it where the player is on."""
        self._redraw()
        with self._told():
            self.play_videos(self._pieces() if self.play.value else {})

    def _click(self, start_sec: float, end_sec: float, words: str) -> None:
        """Go to what was clicked in the picture, a moment of these words or a time, and play it."""
        ranks, own = dict(self.prediction.options), words.removeprefix(f"{self.run.value} ")
        with self._setting():
            self.play.value = self._video() is not None
            if own in ranks:
                self.prediction.value = ranks[own]
            else:
                self._clicked = start_sec, end_sec, words
                if not words:
                    self._clicked = start_sec, start_sec + CLICKED_SEC, f"from {start_sec:.1f} s on"
                self.offer_segments(self.record, self._segments(self.run.value), self._clicked[2])
        self._go()

    def _reset(self) -> None:
        """All filters and settings as they were at first; the run and the selected query stay."""
        with self._setting():
            for control, value in self.defaults.items():
                control.value = value
        self._filter()

    def _keep_note(self) -> None:
        """Add the note and what it is about to the table, and save the picture beside it."""
        record, (run, outcome, *_), is_new = self.record, self._row(self.run.value), not self.notes.exists()
        picture = self.notes.with_suffix("") / f"{record.query_id}_{time.strftime('%Y%m%d-%H%M%S')}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(self.picture.png)
        shown = (record.query_id, record.clip_uid, record.query, run, outcome, self.prediction.label)
        with open(self.notes, "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([*[NOTED] * is_new, (*shown, self.note.value, picture.name)])
        self.summary.value += f"<b>kept in {escape(str(self.notes))}</b>"

    def _resize(self) -> None:
        self._sheet = self.picture.sheet()
        self._redraw()

    def _redraw(self) -> None:
        if self._is_shown:
            self.picture.show(self.figure(self._sheet))

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
