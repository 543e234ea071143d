"""Controls of the explorer: widgets in the style of the browser, so that keyboard and dark themes work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import ipywidgets as widgets
import numpy as np
from IPython.display import Javascript, display

from groundnlq.analysis.candidates import MANY, LivePredictions, SplitPredictions
from groundnlq.data.recall import THRESHOLDS, best_tiou
from groundnlq.data.records import Record

_KEEP_KEYS = """window.groundnlqKeepsKeys ??= (document.addEventListener("focusin", event => {
  const control = event.target;
  if (control.closest(".jupyter-widgets") && !control.matches(":read-write"))
    control.setAttribute("data-lm-suppress-shortcuts", "true");
}), true);"""
ALL, NONE = "(all)", "(none)"
WHOLE_CLIP, GROUND_TRUTH = 0, -1  # values of "go to" besides a rank
SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
MIN_SCORES = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WIDE = {"layout": widgets.Layout(width="95%"), "style": {"description_width": "7em"}}
LATER = WIDE | {"continuous_update": False}  # acts when it is released, or at Enter


class Panel:
    """All controls, each an attribute; their actions are in the explorer.

    Args:
        runs: predictions by name, over the same records.
        outcomes: names to filter by.
        can_ask, has_film: whether there is an encoder for free-form queries, and a folder of videos.
    """

    def __init__(
        self, runs: Mapping[str, SplitPredictions], outcomes: Sequence[str],
        can_ask: bool, has_film: bool,
    ):  # fmt: skip
        live = [run for run in runs.values() if isinstance(run, LivePredictions)]
        first, is_off = next(iter([*live, *runs.values()])), not live
        records, settings = first.records, first.settings
        templates = sorted({record.template or NONE for record in records})
        clips = list(dict.fromkeys(record.clip_uid for record in records))
        self.search = widgets.Text(description="text contains", placeholder="knife", **LATER)
        self.template = widgets.Dropdown(description="template", options=[ALL, *templates], **WIDE)
        self.outcome = widgets.Dropdown(description="outcome", options=[ALL, *outcomes], **WIDE)
        self.clip = widgets.Dropdown(description="clip", options=[ALL, *clips], **WIDE)
        self.query = widgets.Select(description="query", rows=6, **WIDE)
        self.previous, self.next = button("◀ previous"), button("next ▶")
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
        self.attention = widgets.Checkbox(description="attention to words", disabled=is_off, **WIDE)
        self.summary = widgets.HTML()
        self.play, self.player = button("▶ play true and answered moment", "20em"), widgets.Output()
        self._film = [self.play, self.player] if has_film else []

    @property
    def panel(self) -> widgets.Widget:
        """The controls, for `display`."""
        half, middle = widgets.Layout(width="50%"), widgets.Layout(margin="0 0 0 7.5em")
        steps = widgets.HBox([self.previous, self.next], layout=middle)
        left = [self.search, self.template, self.outcome, self.clip, self.query, steps, self.question]
        right = [self.run, self.second_run, self.top_k, self.threshold, self.sigma, self.min_score]
        right += [self.prediction, self.attention]
        columns = widgets.HBox([widgets.VBox(side, layout=half) for side in (left, right)])
        return widgets.VBox([columns, self.summary, *self._film])

    def play_videos(self, pieces: Mapping[str, bytes]) -> None:
        """Play these MP4s side by side, each under its title, in place of the last ones."""
        self.player.outputs = ()
        wide, low = widgets.Layout(width="32em"), widgets.Layout(width="22em", max_height="200px")
        columns = []
        for title, piece in pieces.items():
            video = widgets.Video(value=piece, autoplay=True, loop=False, layout=low)
            columns.append(widgets.VBox([widgets.HTML(escape(title)), video], layout=wide))
        if columns:
            self.player.append_display_data(widgets.HBox(columns))

    def offer_segments(self, record: Record, segments: np.ndarray) -> None:
        """List the clip, the ground truth and predictions (K, 3) with their numbers under "go to"."""
        options = [("the whole clip", WHOLE_CLIP)]
        if record.moments_sec and not record.oddity:  # else there is nothing to see
            options.append(("ground truth", GROUND_TRUTH))
        overlaps = best_tiou(segments, record.moments_sec)
        for rank, ((start, end, score), overlap) in enumerate(zip(segments, overlaps, strict=True), 1):
            tiou = f", tIoU {overlap:.2f}" if record.moments_sec else ""
            options.append((f"{rank}: {start:.1f} – {end:.1f} s, score {score:.2f}{tiou}", rank))
        self.prediction.options, self.prediction.value = options, WHOLE_CLIP

    def summarise(self, record: Record, table: Sequence[Sequence[str]], note: str) -> None:
        """Show a query, its ground truth and a table as HTML; all texts are escaped."""
        where = f"clip {escape(record.clip_uid)}"
        if record.moments_sec:
            where += ", ground truth {:.1f} – {:.1f} s".format(*record.moments_sec[0])
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table)
        self.summary.value = (
            f"<div style='line-height:1.5'><b>{escape(record.query)}</b><br>{where}"
            f"<table cellpadding=4>{rows}</table>{escape(note)}</div>"
        )


def keep_keys() -> None:
    """Show a script by which keys that are pressed on a control stay there: for JupyterLab, an `x` on a list or button
    is a command, which cuts the cell."""
    display(Javascript(_KEEP_KEYS))


def button(text: str, width: str = "10em") -> widgets.Button:
    return widgets.Button(description=text, layout=widgets.Layout(width=width))


def _slider(name: str, values: Sequence[float], value: float, is_off: bool) -> widgets.SelectionSlider:
    options = [(f"{v:g}", v) for v in sorted({*values, value})]
    return widgets.SelectionSlider(description=name, options=options, value=value, disabled=is_off, **LATER)
