"""Look at queries one by one: choose a clip and a query, see what was answered, and why.

The picture is a matplotlib figure shown through a display handle, so that it stays in the saved notebook, in
papermill's output and in an offline page; the widgets beside it only choose what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure

from groundnlq.analysis.diagnosis import NO_MOMENT, OUTCOMES, outcome_codes
from groundnlq.analysis.film import cut_video, film_strip, find_video
from groundnlq.analysis.kept import FixedRun, LiveRun
from groundnlq.analysis.panel import ALL, NONE, Panel
from groundnlq.analysis.timeline import query_timeline
from groundnlq.data.recall import best_tiou, recall_key
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder, clip_query
from groundnlq.data.tokens import TokenStore
from groundnlq.errors import DataError, KitError

WHOLE_CLIP, GROUND_TRUTH = 0, -1  # where one can go to, besides a rank
MARGIN_SEC = 8.0  # shown around what one went to
PLAYED_AROUND_SEC = 1.0  # and played around it
PAGE = 200  # queries offered at once: a browser takes longer to list thousands than anybody reads them
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
        self.records = records
        self.narrations, self.by_clip = _by_clip(narrations), _by_clip(records)
        self._place = {record.query_id: place for place, record in enumerate(records)}
        self._texts = [record.query.lower() for record in records]
        self._fitting = np.arange(len(records))
        self._asked: dict[str, tuple] = {}
        self._outcomes = lru_cache(maxsize=8)(
            lambda name, *cuts, **rules: outcome_codes(self.runs[name], *cuts, **rules)
        )
        self._own: Record | None = None
        self._handle: DisplayHandle | None = None
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
        self._handle = display(self.figure(), display_id=True)

    def figure(self) -> Figure:
        """What is chosen now, as a figure."""
        record, shown = self.record, self._shown()
        answers = {name: self._answers(name) for name in shown}
        scores = {name: self._level_scores(name) for name in shown}
        alone = next(iter(shown)) if len(shown) == 1 else None
        return query_timeline(
            record,
            answers[alone] if alone else answers,
            scores[alone] if alone else scores,
            others=[r for r in self.by_clip[record.clip_uid] if r is not record],
            narrations=self.narrations.get(record.clip_uid, ()),
            window_sec=self._window(),
            keep=self.keep.value,
            threshold=self.threshold.value,
            attention=self._attention(),
            film=self._frames(),
        )

    def go_to(self, query_id: str) -> None:
        """Look at this query, on whichever page of the list it stands.

        Raises:
            DataError: it does not fit the filters, or is none of the split's.
        """
        place = self._place.get(query_id, -1)
        if place not in self._fitting:
            raise DataError(f"query {query_id} is not among those that fit the filters -- clear them")
        self._list(place)
        self._choose()

    @property
    def record(self) -> Record:
        """The query that is looked at: the chosen one, or the one just asked."""
        return self._own or self.records[self._place[self.query.value]]

    def recall(self, name: str, keep: int) -> float:
        """Percent of all annotated queries of which one of the first `keep` answers of a run is right."""
        is_annotated = self._codes(name) != NO_MOMENT
        best = self._decoded(name).overlaps[is_annotated, :keep].max(axis=1, initial=0.0)
        return 100 * float((best > self.threshold.value).mean()) if len(best) else np.nan

    # ---- what a change of a widget sets off

    def _filter(self) -> None:
        """Keep the queries that fit all filters; the chosen one stays if it does."""
        text, codes = self.search.value.lower(), self._codes(self.run.value)
        wanted = [code for code, name in OUTCOME_NAMES.items() if self.outcome.value in (ALL, name)]
        fitting = [
            place
            for place in np.flatnonzero(np.isin(codes, wanted)).tolist()
            if text in self._texts[place]
            and self.template.value in (ALL, self.records[place].template or NONE)
            and self.clip.value in (ALL, self.records[place].clip_uid)
        ]
        if not fitting:
            self.summary.value = "<b>No query fits these filters.</b> The last one is still shown."
            return
        self._fitting = np.array(fitting)
        chosen = self._place.get(self.query.value, -1)
        self._list(chosen if chosen in self._fitting else fitting[0])
        self._choose()

    def _list(self, chosen: int) -> None:
        """Offer the page of fitting queries on which the chosen one stands."""
        first = int(np.searchsorted(self._fitting, chosen)) // PAGE * PAGE
        codes = self._codes(self.run.value)
        page = [
            (
                f"{self.records[place].query:.80}  [{OUTCOME_NAMES[codes[place]]}]",
                self.records[place].query_id,
            )
            for place in self._fitting[first : first + PAGE].tolist()
        ]
        with self._setting():
            self.query.options = page
            self.query.value = self.records[chosen].query_id

    def _step(self, by: int) -> None:
        """Go to the next or previous fitting query, around the ends."""
        now = int(np.searchsorted(self._fitting, self._place[self.query.value]))
        self._list(int(self._fitting[(now + by) % len(self._fitting)]))
        self._choose()

    def _choose(self) -> None:
        """A query was chosen: it is looked at, no longer the question just asked."""
        self._own = None
        self._look()

    def _ask(self) -> None:
        """A question was typed: it is looked at, over the shown clip; none leads back to the query."""
        clip, text = self.record, self.question.value.strip()
        self._own = Record("own_0", clip.clip_uid, text, clip.duration_sec) if text else None
        self._asked.clear()
        try:
            self._look()
        except KitError as error:
            self._own = None
            self.summary.value = f"<b>{escape(str(error))}</b>"

    def _look(self) -> None:
        """List the answers, tell the numbers, draw the picture."""
        record, answers = self.record, self._answers(self.run.value)
        overlaps = best_tiou(answers, record.moments_sec)
        options = [("the whole clip", WHOLE_CLIP)]
        if record.moments_sec:
            options.append(("ground truth", GROUND_TRUTH))
        for rank, ((start, end, score), overlap) in enumerate(zip(answers, overlaps, strict=True), 1):
            right = f", tIoU {overlap:.2f}" if record.moments_sec else ""
            options.append((f"{rank}: {start:.1f} – {end:.1f} s, score {score:.2f}{right}", rank))
        with self._setting():
            self.prediction.options = options
            self.prediction.value = WHOLE_CLIP
        self.summary.value = self._describe()
        self._redraw()

    def _redraw(self) -> None:
        if self._handle is not None:
            self._handle.update(self.figure())

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
        if self._own is not None:
            return self._ask_run(name)[0][: self.keep.value]
        return self._decoded(name).of(self._place[self.query.value], self.keep.value)

    def _level_scores(self, name: str) -> Sequence[np.ndarray]:
        if not self.runs[name].is_live:
            return ()
        if self._own is not None:
            return self._ask_run(name)[1]
        return self.runs[name].level_scores(self._place[self.query.value])

    def _ask_run(self, name: str) -> tuple:
        """What a run says of the question just asked; a file has nothing to say of it."""
        run, key = self.runs[name], f"{name} {self._rules()}"
        if not run.is_live:
            return np.zeros((0, 3)), (), None
        if key not in self._asked:
            require_same_encoder(self.encoder, run.dataset.tokens)
            (tokens,) = self.encoder.encode([self._own.query])
            self._asked[key] = run.ask(self._own, tokens, **self._rules())
        return self._asked[key]

    def _attention(self) -> tuple[list[str], np.ndarray] | None:
        run = self.runs[self.run.value]
        if not (self.attention.value and run.is_live):
            return None
        if self._own is not None:
            weights = self._ask_run(self.run.value)[2]
        else:
            weights = run.ask(self.record, run.dataset.tokens.read(self.record.query_id))[2]
        return words_of_query(self.encoder, self.record.query, weights.shape[2]), weights.mean(axis=0)

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
            piece = cut_video(path, stretch[0] - PLAYED_AROUND_SEC, stretch[1] + PLAYED_AROUND_SEC)
            video = widgets.Video(value=piece, format="mp4", autoplay=True, loop=False, height=240)
            self.player.outputs = ()
            self.player.append_display_data(video)

    def _describe(self) -> str:
        """The numbers beside the picture, as a table with a row a run."""
        record, keep, threshold = self.record, self.keep.value, self.threshold.value
        where = f"asked of clip {escape(record.clip_uid)}"
        if record.moments_sec:
            where += ", answered at {:.1f} – {:.1f} s".format(*record.moments_sec[0])
        recalls = dict.fromkeys(recall_key(k, threshold) for k in (1, keep))
        table = [["run", "outcome", "right answers", *recalls], *map(self._row, self._shown())]
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table)
        return (
            f"<div style='line-height:1.5'><b>{escape(record.query)}</b><br>{where}"
            f"<table cellpadding=4>{rows}</table>recalls are of the whole split, as decoded now; "
            f"{len(self._fitting)} of {len(self.records)} queries fit the filters</div>"
        )

    def _row(self, name: str) -> list[str]:
        answers, keep = self._answers(name), self.keep.value
        right = int((best_tiou(answers, self.record.moments_sec) > self.threshold.value).sum())
        recalls = [f"{self.recall(name, k):.1f} %" for k in dict.fromkeys((1, keep))]
        if self._own is not None:
            return [name, "your own question", "–", *recalls]
        outcome = OUTCOME_NAMES[self._codes(name)[self._place[self.query.value]]]
        return [name, outcome, f"{right} of {len(answers)}", *recalls]


def require_same_encoder(encoder: TextEncoder, tokens: TokenStore) -> None:
    """Refuse to encode a question otherwise than the queries were: the network would misread it.

    Raises:
        DataError: names both encoders. Of imported tokens nothing but the width is known.
    """
    is_other = encoder.name != tokens.encoder and not tokens.encoder.startswith("import of ")
    if is_other or encoder.width != tokens.width:
        raise DataError(
            f"the queries were encoded by {tokens.encoder} ({tokens.width} wide), this question would be by "
            f"{encoder.name} ({encoder.width} wide) -- give the explorer the encoder of the queries"
        )


def words_of_query(encoder: TextEncoder | None, text: str, num_tokens: int) -> list[str]:
    """What stands for each token of a query; numbers where that is not known."""
    if encoder is not None:
        pieces = encoder.tokenizer.tokenize(clip_query(text) if encoder.as_clip_query else text)
        if len(pieces) == num_tokens:
            return [piece.replace("</w>", "") for piece in pieces]
    return [f"token {number}" for number in range(1, num_tokens + 1)]


def _by_clip(records: Sequence[Record]) -> dict[str, list[Record]]:
    clips: dict[str, list[Record]] = {}
    for record in records:
        clips.setdefault(record.clip_uid, []).append(record)
    return clips
