"""Panel for questions about videos: choose a video, type questions, play the answers, keep them in a table.

The answers are shown as their page (see `answer_page`), in a frame of its own, where its player works.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, DisplayHandle, display

from groundnlq.data.text import TextEncoder
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.question import Answer
from groundnlq.errors import DataError, KitError
from groundnlq.files import VIDEO_KINDS, write_text
from groundnlq.view.answer_page import answer_page
from groundnlq.view.controls import LATER, WIDE, button, keep_keys

COLUMNS = ["clip", "query", "start", "end", "score"]  # those that 'groundnlq prepare table' reads, and the score


class VideoPanel:
    """Widgets over a folder of videos and a network that was loaded with its video encoder.

    Args:
        questions: asked at first, one or two, about the `first` video.
        table: CSV file that the kept answers are written to.
        encoder: text encoder; by default the one of the training.

    Raises:
        DataError: no video in the folder.
    """

    def __init__(
        self, predictor: Predictor, folder: str | Path, questions: Sequence[str], table: str | Path,
        encoder: str | TextEncoder | None = None, first: Path | None = None,
    ):  # fmt: skip
        self.predictor, self.table, self.encoder = predictor, Path(table), encoder
        videos = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in VIDEO_KINDS)
        if not videos:
            raise DataError(f"{folder}: no video in it ({', '.join(VIDEO_KINDS)}) -- name another folder")
        asked, second = [*questions, "", ""][:2]
        options = [(path.name, path) for path in videos]
        self.video = widgets.Dropdown(description="video", options=options, value=first or videos[0], **WIDE)
        self.question = widgets.Text(asked, description="question", **LATER)
        self.second = widgets.Text(second, description="compare with", placeholder="a second question", **LATER)
        self.rank = widgets.BoundedIntText(1, 1, 100, description="answer", layout=widgets.Layout(width="12em"))
        self.keep, self.message = button("keep this answer"), widgets.HTML()
        self.answers: list[Answer] = []
        self.kept = pd.read_csv(self.table) if self.table.exists() else pd.DataFrame(columns=COLUMNS)
        self._frame: DisplayHandle | None = None
        for control in (self.video, self.question, self.second):
            control.observe(lambda _change: self.ask(), "value")
        self.keep.on_click(lambda _: self._keep())

    def show(self) -> None:
        """Display the controls and the page of the answers."""
        last = widgets.HBox([self.rank, self.keep, self.message])
        keep_keys()
        display(widgets.VBox([self.video, self.question, self.second, last]))
        self._frame = display(HTML(""), display_id=True)
        self.ask()

    def ask(self) -> None:
        """Answer the typed questions about the selected video; what is wrong with them is shown as a message."""
        asked = [text for text in (self.question.value.strip(), self.second.value.strip()) if text]
        self.message.value = "looking ..."
        try:
            video = self.video.value
            self.answers = [self.predictor.answer_question(video, text, encoder=self.encoder) for text in asked]
            self._show(answer_page(video, self.answers) if asked else "")
            self.message.value = ""
        except KitError as error:
            self.message.value = f"<b>{escape(str(error))}</b>"

    def _show(self, page: str) -> None:
        if self._frame is not None:
            style = "width: 100%; height: 900px; border: 1px solid #ccc; background: #fff"
            frame = f'<iframe title="answers" style="{style}" srcdoc="{escape(page)}"></iframe>'
            self._frame.update(HTML(f"<div>{frame}</div>"))

    def _keep(self) -> None:
        """Add the answer of this rank to every question to the table, and write it."""
        chosen = [(a.question, a.moments[: self.rank.value][-1]) for a in self.answers]
        rows = [(self.video.value.stem, text, *(round(x, 3) for x in moment)) for text, moment in chosen]
        self.kept = pd.DataFrame([*self.kept.itertuples(index=False), *rows], columns=COLUMNS).drop_duplicates()
        write_text(self.table, self.kept.to_csv(index=False))
        self.message.value = f"{len(self.kept)} answers in {escape(str(self.table))}"
