"""What the controls of the explorer select: a query, its predictions, a part of the clip, and frames of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from groundnlq.analysis.candidates import FixedPredictions, LivePredictions, SplitPredictions
from groundnlq.analysis.events import Events
from groundnlq.analysis.free_form import ask_about_clip, random_questions, words_of_query
from groundnlq.analysis.outcomes import NO_MOMENT, OUTCOMES, outcome_codes
from groundnlq.config import DecodeConfig
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record
from groundnlq.data.text import TextEncoder
from groundnlq.errors import DataError, KitError
from groundnlq.view.canvas import Sheet
from groundnlq.view.controls import ALL, CLICKED, GROUND_TRUTH, LOST, NONE, ORDERS, WHOLE_CLIP, WON, Panel
from groundnlq.view.film import cut_video, find_video, moments_to_compare, strips_of
from groundnlq.view.listing import QueryList, by_clip
from groundnlq.view.timeline import query_timeline

MARGIN_SEC, PLAYED_AROUND_SEC = 8.0, 1.0  # shown and played around the selected segment
NONSENSE = random_questions(40)
OUTCOME_NAMES = dict(enumerate(OUTCOMES)) | {NO_MOMENT: "not annotated"}


class Selection(Panel):
    """The controls over the predictions of one split, and what they select; see `Explorer` for the arguments."""

    def __init__(
        self, runs: Mapping[str, SplitPredictions], encoder: TextEncoder | None, events: Events | None,
        video_folder: str | Path | None, has_notes: bool,
    ):  # fmt: skip
        self.runs, self.encoder, self.events, self.video_folder = dict(runs), encoder, events or {}, video_folder
        records = next(iter(self.runs.values())).records if self.runs else []
        if not records:
            raise DataError("there is nothing to explore -- give at least one run over some records")
        if any([r.query_id for r in run.records] != [r.query_id for r in records] for run in runs.values()):
            raise DataError("the runs are not over the same records -- answer one split with all of them")
        self.by_clip, self.queries = by_clip(records), QueryList(records)
        self._free_form: Record | None = None  # the query that was typed, while it is shown
        self._runs_of_it: dict[str, SplitPredictions] = {}
        self._clicked: tuple[float, float, str] = 0.0, 0.0, ""  # the moment that was clicked last, and its words
        self._outcomes = lru_cache(maxsize=8)(lambda name, *how: outcome_codes(self.runs[name], *how))
        self._attention_of = lru_cache(maxsize=4)(lambda run, index: run.attention(index).mean(axis=0))
        self._nonsense_of = lru_cache(maxsize=64)(self._nonsense)
        names, has_film = list(OUTCOME_NAMES.values()), video_folder is not None
        super().__init__(self.runs, names, encoder is not None, has_film, has_notes)

    @property
    def record(self) -> Record:
        """The query that is shown: the selected one, or the one that was typed last."""
        return self._free_form or self.queries.record

    def figure(self, sheet: Sheet | None = None) -> Figure:
        """The figure of the selected query, a new one or on a used sheet."""
        record, names = self.record, self._shown()
        labels = names if len(names) > 1 else [""]
        ranked = dict(zip(labels, map(self._segments, names), strict=True))
        scored = dict(zip(labels, map(self._level_scores, names), strict=True))
        others = [r for r in self.by_clip[record.clip_uid] if r is not record]
        return query_timeline(
            record, ranked, scored, others, self.events.get(record.clip_uid, ()), self._window(), self.top_k.value,
            self.threshold.value, self._attention(), self._films(), sheet,
        )  # fmt: skip

    def recall(self, name: str, top_k: int) -> float:
        """Percent of all annotated queries with a hit among the first `top_k` predictions of a run."""
        is_annotated = self._codes(name) != NO_MOMENT
        overlaps = self.runs[name].decode(self._settings(name)).overlaps[is_annotated, :top_k]
        best = overlaps.max(axis=1, initial=0.0)
        return 100 * float((best > self.threshold.value).mean()) if len(best) else np.nan

    # ---- queries

    def _is_wanted(self) -> np.ndarray:
        """(Q,) whether queries have the selected outcome."""
        codes, wanted, second = self._codes(self.run.value), self.outcome.value, self.second_run.value
        if wanted in (WON, LOST):
            is_hit, is_other = codes == 0, (codes if second == NONE else self._codes(second)) == 0
            return is_hit & ~is_other if wanted == WON else is_other & ~is_hit
        return np.isin(codes, [code for code, name in OUTCOME_NAMES.items() if wanted in (ALL, name)])

    def _order(self) -> np.ndarray:
        """(Q,) what the list is sorted by, the lowest first."""
        decoded, codes = self.runs[self.run.value].decode(self._settings(self.run.value)), self._codes(self.run.value)
        keys = (0 * codes, -decoded.ranked[:, 0, 2], decoded.overlaps[:, 0], codes)
        return dict(zip(ORDERS, keys, strict=True))[self.order.value]

    def _settings(self, name: str) -> DecodeConfig:
        values = {field: getattr(self, field).value for field in ("sigma", "min_score", "top_k")}
        return self.runs[name].settings.model_copy(update=values)

    def _shown(self) -> list[str]:
        """Names of the runs in the figure, the selected one first."""
        return list(dict.fromkeys(n for n in (self.run.value, self.second_run.value) if n != NONE))

    def _codes(self, name: str) -> np.ndarray:
        return self._outcomes(name, self.threshold.value, self._settings(name))

    def _row(self, name: str) -> list[str]:
        """What the table says of a run."""
        segments = self._segments(name)
        num_hits = int((best_tiou(segments, self.record.moments_sec) > self.threshold.value).sum())
        recalls = [f"{self.recall(name, k):.1f} %" for k in dict.fromkeys((1, self.top_k.value))]
        if self._free_form:
            return [name, "free-form query", "–", *recalls]
        outcome = OUTCOME_NAMES[self._codes(name)[self.queries.chosen]]
        return [name, outcome, f"{num_hits} of {len(segments)}", *recalls]

    # ---- predictions

    def _ask_runs(self, text: str) -> None:
        """Ask all runs about the clip of the selected query; an empty text is no question."""
        clip, self._free_form, self._runs_of_it = self.record, None, {}
        if text:
            self._runs_of_it = {name: self._run_of(name, text, clip) for name in self.runs}
            self._free_form = next(iter(self._runs_of_it.values())).records[0]

    def _run_of(self, name: str, text: str, clip: Record) -> SplitPredictions:
        """Predictions of a run for a free-form query; those of a file have none."""
        run = self.runs[name]
        if isinstance(run, LivePredictions) and self.encoder is not None:
            return ask_about_clip(run, [text], clip, self.encoder)
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

    def _doubt(self) -> str:
        """For a typed question, how many questions without meaning have as high a best score; else empty."""
        doubts = ""
        for name in self._shown() if self._free_form else ():
            run, _ = self._current(name)
            if isinstance(run, LivePredictions):
                best, nonsense = run.decode().ranked[0, 0, 2], self._nonsense_of(name, self.record.clip_uid)
                as_high = int((nonsense >= best).sum())
                verdict = "<b>no better than nonsense</b>: " if 2 * as_high >= len(nonsense) else ""
                doubts += f"{escape(name)}: {verdict}{as_high} of {len(nonsense)} questions of random letters about "
                doubts += f"this clip score {best:.2f} or more<br>"
        return doubts

    def _nonsense(self, name: str, clip_uid: str) -> np.ndarray:
        """(N,) the best score of each question without meaning about a clip."""
        run, clip = self.runs[name], self.by_clip[clip_uid][0]
        assert isinstance(run, LivePredictions)
        assert self.encoder is not None
        return ask_about_clip(run, NONSENSE, clip, self.encoder).decode().ranked[:, 0, 2]

    # ---- a part of the clip

    def _window(self) -> tuple[float, float] | None:
        """The part of the clip around the selected segment."""
        if self.prediction.value in (None, WHOLE_CLIP) or (segment := self._segment()) is None:
            return None
        return max(0.0, segment[0] - MARGIN_SEC), min(self.record.duration_sec, segment[1] + MARGIN_SEC)

    def _segment(self) -> tuple[float, float] | None:
        """Start and end of the selected segment; of the first one while the whole clip is shown."""
        rank, segments = self.prediction.value or 1, self._segments(self.run.value)
        if rank in (GROUND_TRUTH, CLICKED):
            return self.record.moments_sec[0] if rank == GROUND_TRUTH else self._clicked[:2]
        return tuple(segments[rank - 1, :2].tolist()) if len(segments) else None

    def _video(self) -> Path | None:
        return find_video(self.video_folder, self.record.clip_uid) if self.video_folder else None

    def _moments(self) -> dict[str, tuple[float, float]]:
        """Start and end by title of the true moment, and of the selected answer or of what was clicked."""
        name, rank, segments = self.run.value, self.prediction.value or 1, self._segments(self.run.value)
        if rank == CLICKED:
            start, end, words = self._clicked
            return moments_to_compare(self.record, segments[:0]) | {words: (start, end)}
        return moments_to_compare(self.record, segments, max(1, rank), name if len(self._shown()) > 1 else "")

    def _films(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Frames of both moments, unless they are played."""
        with self._told():
            return {} if self.play.value else strips_of(self._video(), self._moments())
        return {}

    def _pieces(self) -> dict[str, bytes]:
        """Both moments, cut out of the video."""
        path, around = self._video(), PLAYED_AROUND_SEC
        spans = {f"{title} (and {around:g} s before and after)": span for title, span in self._moments().items()}
        return {title: cut_video(path, [(max(0.0, a - around), b + around)]) for title, (a, b) in spans.items() if path}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What is wrong with a video or a question is shown, and does not cost the picture."""
        try:
            yield
        except KitError as error:
            self.summary.value += f"<b>{escape(str(error))}</b>"
