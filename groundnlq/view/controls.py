"""The explorer's controls: the browser's own, in the theme's own colours, so that keyboard and dark themes
need nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import ipywidgets as widgets
import numpy as np

from groundnlq.analysis.candidates import KEEP
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record

ALL, NONE = "(all)", "(none)"
WHOLE_CLIP, GROUND_TRUTH = 0, -1  # where one can go to, besides a rank
SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
MIN_SCORES = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WIDE = {"layout": widgets.Layout(width="95%"), "style": {"description_width": "7em"}}
LATER = WIDE | {"continuous_update": False}  # acts when it is let go, or at Enter


class Panel:
    """All controls, each an attribute; what they do is the explorer's.

    Args:
        runs, templates, clips, outcomes: what can be chosen.
        rules: ``sigma`` and ``min_score`` at first; None where nothing can be decoded anew.
        can_ask, has_film: whether there is an encoder for questions, and a folder of videos.
    """

    def __init__(
        self,
        runs: Sequence[str],
        templates: Sequence[str],
        clips: Sequence[str],
        outcomes: Sequence[str],
        rules: Mapping[str, float] | None,
        can_ask: bool,
        has_film: bool,
    ):
        off, rules = rules is None, rules or {"sigma": 0.75, "min_score": 0.001}
        self.search = widgets.Text(description="text has", placeholder="knife", **LATER)
        self.template = widgets.Dropdown(description="template", options=[ALL, *templates], **WIDE)
        self.outcome = widgets.Dropdown(description="outcome", options=[ALL, *outcomes], **WIDE)
        self.clip = widgets.Dropdown(description="clip", options=[ALL, *clips], **WIDE)
        self.query = widgets.Select(description="query", rows=6, **WIDE)
        self.back, self.on = _button("◀ previous"), _button("next ▶")
        ask = "your own question about this clip, then Enter"
        self.question = widgets.Text(description="ask", placeholder=ask, disabled=not can_ask, **LATER)
        self.run = widgets.Dropdown(description="run", options=runs, **WIDE)
        self.beside = widgets.Dropdown(description="beside it", options=[NONE, *runs], **WIDE)
        self.keep = widgets.IntSlider(5, 1, KEEP, description="answers k", **LATER)
        self.threshold = widgets.FloatSlider(
            0.3, min=0.1, max=0.9, step=0.1, readout_format=".1f", description="tIoU over", **LATER
        )
        self.sigma = _slider("NMS sigma", SIGMAS, rules["sigma"], off)
        self.min_score = _slider("min. score", MIN_SCORES, rules["min_score"], off)
        self.prediction = widgets.Select(description="go to", rows=6, **WIDE)
        self.attention = widgets.Checkbox(description="attention to words", disabled=off, **WIDE)
        self.summary = widgets.HTML()
        self.play, self.player = _button("▶ play the moment", "12em"), widgets.Output()
        self._film = [self.play, self.player] if has_film else []

    @property
    def panel(self) -> widgets.Widget:
        """The controls, for `display`."""
        half = widgets.Layout(width="50%")
        steps = widgets.HBox([self.back, self.on], layout=widgets.Layout(margin="0 0 0 7.5em"))
        left = [self.search, self.template, self.outcome, self.clip, self.query, steps, self.question]
        right = [self.run, self.beside, self.keep, self.threshold, self.sigma, self.min_score]
        right += [self.prediction, self.attention]
        columns = [widgets.VBox(left, layout=half), widgets.VBox(right, layout=half)]
        return widgets.VBox([widgets.HBox(columns), self.summary, *self._film])

    def play_video(self, piece: bytes) -> None:
        """Replace what is played by this MP4."""
        self.player.outputs = ()
        self.player.append_display_data(
            widgets.Video(value=piece, format="mp4", autoplay=True, loop=False, height=240)
        )


def places_to_go(record: Record, answers: np.ndarray) -> list[tuple[str, int]]:
    """What stands in the list "go to", with the numbers of each answer (K, 3), and what it stands for."""
    options = [("the whole clip", WHOLE_CLIP)]
    if record.moments_sec:
        options.append(("ground truth", GROUND_TRUTH))
    overlaps = best_tiou(answers, record.moments_sec)
    for rank, ((start, end, score), overlap) in enumerate(zip(answers, overlaps, strict=True), 1):
        right = f", tIoU {overlap:.2f}" if record.moments_sec else ""
        options.append((f"{rank}: {start:.1f} – {end:.1f} s, score {score:.2f}{right}", rank))
    return options


def describe(record: Record, table: Sequence[Sequence[str]], note: str) -> str:
    """HTML of a query, of where its moment is, and of a table; no text of theirs is ever run."""
    where = f"asked of clip {escape(record.clip_uid)}"
    if record.moments_sec:
        where += ", answered at {:.1f} – {:.1f} s".format(*record.moments_sec[0])
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table)
    return (
        f"<div style='line-height:1.5'><b>{escape(record.query)}</b><br>{where}"
        f"<table cellpadding=4>{rows}</table>{escape(note)}</div>"
    )


def _button(text: str, width: str = "8em") -> widgets.Button:
    return widgets.Button(description=text, layout=widgets.Layout(width=width))


def _slider(name: str, values: Sequence[float], value: float, is_off: bool) -> widgets.SelectionSlider:
    options = [(f"{v:g}", v) for v in sorted({*values, value})]
    return widgets.SelectionSlider(description=name, options=options, value=value, disabled=is_off, **LATER)
