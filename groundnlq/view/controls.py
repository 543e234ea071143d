"""Controls of the explorer: widgets in the style of the browser, so that keyboard and dark themes work."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from IPython.display import Javascript, display

from groundnlq.analysis.candidates import MANY, LivePredictions, SplitPredictions
from groundnlq.data.recall import THRESHOLDS
from groundnlq.data.records import Record
from groundnlq.view.timeline import segments_in_words

ALL, NONE = "(all)", "(none)"
WON, LOST = "won against the second run", "lost against the second run"
WHOLE_CLIP, GROUND_TRUTH, CLICKED = 0, -1, -2  # values of "go to" besides a rank
ORDERS = ("as in the file", "score, highest first", "tIoU, lowest first", "outcome")
SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
MIN_SCORES = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WIDE = {"layout": widgets.Layout(width="95%"), "style": {"description_width": "6em"}}
LATER = WIDE | {"continuous_update": False}  # acts when it is released, or at Enter


class Panel:
    """All controls, each an attribute; their actions are in the explorer.

    Args:
        runs: predictions by name, over the same records.
        outcomes: names to filter by.
        can_ask, has_film, has_notes: whether there is an encoder for free-form queries, a folder of videos, a file.
    """

    def __init__(
        self, runs: Mapping[str, SplitPredictions], outcomes: Sequence[str],
        can_ask: bool, has_film: bool, has_notes: bool,
    ):  # fmt: skip
        live = [run for run in runs.values() if isinstance(run, LivePredictions)]
        first, is_off = next(iter([*live, *runs.values()])), not live
        records, settings = first.records, first.settings
        templates = sorted({record.template or NONE for record in records})
        self.clip_names = {uid: f"clip {n}" for n, uid in enumerate(dict.fromkeys(r.clip_uid for r in records), 1)}
        clips = [(name, uid) for uid, name in self.clip_names.items()]
        self.search = widgets.Text(description="search", placeholder="words of a query, or an id", **WIDE)
        self.template = widgets.Dropdown(description="template", options=[ALL, *templates], **WIDE)
        self.outcome = widgets.Dropdown(description="outcome", options=[ALL, *outcomes, WON, LOST], **WIDE)
        self.clip = widgets.Dropdown(description="clip", options=[(ALL, ALL), *clips], **WIDE)
        self.order = widgets.Dropdown(description="order", options=ORDERS, **WIDE)
        self.query = widgets.Select(description="query", rows=6, **WIDE)
        self.previous, self.next, self.count = button("◀ previous", "7.8em"), button("next ▶", "5.8em"), widgets.HTML()
        hint = "a question about this clip, then Enter"
        self.question = widgets.Text(description="ask", placeholder=hint, disabled=is_off or not can_ask, **LATER)
        self.run = widgets.Dropdown(description="run", options=list(runs), **WIDE)
        self.second_run = widgets.Dropdown(description="second run", options=[NONE, *runs], **WIDE)
        max_k = max(MANY, settings.top_k)
        self.top_k = widgets.IntSlider(settings.top_k, 1, max_k, description="top k", **LATER)
        self.threshold = widgets.FloatSlider(
            THRESHOLDS[0], min=0.1, max=0.9, step=0.1, readout_format=".1f", description="tIoU >", **LATER
        )
        self.sigma = _slider("NMS sigma", SIGMAS, settings.sigma, is_off)
        self.min_score = _slider("min. score", MIN_SCORES, settings.min_score, is_off)
        self.prediction = widgets.Select(description="go to", rows=6, **WIDE)
        narrow, wide = widgets.Layout(width="8em"), widgets.Layout(width="13em")
        self.attention = widgets.Checkbox(description="attention", indent=False, disabled=is_off, layout=narrow)
        self.play = widgets.ToggleButton(description="▶ play the moments", layout=wide)
        self.note = widgets.Text(description="note", placeholder="what is to be remembered", **LATER)
        self.keep, self.reset = button("keep note and picture", "13em"), button("reset", "6em")
        self.summary, self.player = widgets.HTML(), widgets.HBox()
        self._film, self._note, self._keep = [self.play] * has_film, [self.note] * has_notes, [self.keep] * has_notes
        self._found = [self.search, self.template, self.outcome, self.clip, self.order]
        self._set = [self.second_run, self.top_k, self.threshold, self.sigma, self.min_score]
        self.defaults = {c: c.value for c in (*self._found, self.question, *self._set, self.attention)}

    def panel(self, picture: widgets.Widget) -> widgets.Widget:
        """The controls beside the picture, for `display`."""
        rows = ([self.previous, self.next, self.count], [self.attention, *self._film], [*self._keep, self.reset])
        steps, shown, kept = (widgets.HBox(row, layout=widgets.Layout(margin="0 0 0 2em")) for row in rows)
        asked, looked = [self.query, steps, self.question, self.run], [self.prediction, shown, *self._note, kept]
        left = widgets.VBox([*self._found, *asked, *self._set, *looked], layout=widgets.Layout(flex="0 0 24em"))
        wide = widgets.Layout(flex="1 1 0", min_width="30em")
        right = widgets.VBox([self.summary, self.player, picture], layout=wide)
        both = widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap"))
        both.add_class("groundnlq-panel")
        return both

    def play_videos(self, pieces: Mapping[str, bytes]) -> None:
        """Play these MP4s side by side, each under its title, in place of the last ones."""
        low, last = widgets.Layout(max_width="95%", max_height="150px"), self.player.children
        self.player.children = [
            widgets.VBox([widgets.HTML(escape(title)), widgets.Video(value=piece, loop=False, layout=low)])
            for title, piece in pieces.items()
        ]
        for column in last:
            for widget in (*column.children, column):
                widget.close()

    def offer_segments(self, record: Record, segments: np.ndarray, clicked: str = "") -> None:
        """List the clip, the ground truth, predictions (K, 3) with their numbers, and what was clicked, under "go to";
        the last is selected if there is one."""
        options = [("the whole clip", WHOLE_CLIP)]
        if record.moments_sec and not record.oddity:  # else there is nothing to see
            options.append(("ground truth", GROUND_TRUTH))
        options += zip(segments_in_words(record, segments), range(1, len(segments) + 1), strict=True)
        options += [(clicked, CLICKED)] if clicked else []
        self.prediction.options, self.prediction.value = options, CLICKED if clicked else WHOLE_CLIP

    def summarise(self, record: Record, table: Sequence[Sequence[str]], note: str) -> None:
        """Show a query, its ground truth and a table as HTML; all texts are escaped."""
        where = f"<span title='{escape(record.clip_uid)}'>{self.clip_names[record.clip_uid]}</span>"
        if record.moments_sec:
            where += ", ground truth {:.1f} – {:.1f} s".format(*record.moments_sec[0])
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table)
        self.summary.value = (
            f"<div style='line-height:1.4'><b>{escape(record.query)}</b> {where}"
            f"<table cellpadding=0 style='border-spacing: 9px 0'>{rows}</table>{note}</div>"
        )


def keep_keys() -> None:
    """Show a script by which keys that are pressed on a control stay there: for JupyterLab, an `x` on a list or button
    is a command, which cuts the cell."""
    display(Javascript(filename=str(Path(__file__).with_name("keys.js"))))


def button(text: str, width: str = "10em") -> widgets.Button:
    return widgets.Button(description=text, layout=widgets.Layout(width=width))


def _slider(name: str, values: Sequence[float], value: float, is_off: bool) -> widgets.SelectionSlider:
    options = [(f"{v:g}", v) for v in sorted({*values, value})]
    return widgets.SelectionSlider(description=name, options=options, value=value, disabled=is_off, **LATER)
