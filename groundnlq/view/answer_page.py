"""Page of the answers about one video: a player that goes to each moment, frames, and the scores over time.

One HTML file that works offline. The player has the whole video where it is short, else the parts around the answers.
"""

import base64
from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from matplotlib import image

from groundnlq.data.grid import clock
from groundnlq.data.records import Record
from groundnlq.engine.question import Answer, Moment
from groundnlq.view.film import cut_video, film_strip
from groundnlq.view.timeline import query_timeline

WHOLE_SEC, AROUND_SEC = 120.0, 5.0  # a video up to this long is shown whole, of others this much around an answer
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ name }}</title>
<style>
body { font: 15px sans-serif; max-width: 62em; margin: 1em auto; padding: 0 1em; background: #fff; color: #111 }
video, .scores { width: 100%; max-height: 26em; background: #fff } .scores { max-height: none }
button { display: flex; align-items: center; gap: 1em; width: 100%; margin: 3px 0; padding: 4px 8px; font: inherit;
 text-align: left; color: inherit; background: #f4f4f4; border: 1px solid #ccc; border-radius: 4px; cursor: pointer }
button.on { border-color: #0072b2; box-shadow: 0 0 0 1px #0072b2 } button img { height: 66px; margin-left: auto }
</style>
<h1>{{ name }}</h1>
<video controls playsinline preload="auto" src="data:video/mp4;base64,{{ movie }}"></video>
<p><output></output>{% if not is_whole %} &nbsp; (only the parts around the answers are in this page){% endif %}</p>
{% for question, moments, chart in answers %}
<h2>{{ question }}</h2>
{% for moment in moments %}
<button type="button" data-start="{{ moment.start_sec }}" data-end="{{ moment.end_sec }}">
<b>{{ loop.index }}</b> {{ moment.start }} – {{ moment.end }} <span>score {{ "%.2f"|format(moment.score) }}</span>
<img alt="frames of answer {{ loop.index }}" src="data:image/jpeg;base64,{{ moment.film }}"></button>
{% endfor %}
<img class="scores" alt="scores over time" src="data:image/png;base64,{{ chart }}">
{% endfor %}
<script>
const pieces = {{ pieces|tojson }}, player = document.querySelector("video"); // [start, end, place in the player]
const clock = s => Math.floor(s / 60) + ":" + (s % 60).toFixed(1).padStart(4, "0");
const placeOf = s => { const p = pieces.findLast(p => p[0] <= s) ?? pieces[0]; return p[2] + Math.max(0, s - p[0]) };
const timeAt = c => { const p = pieces.findLast(p => p[2] <= c) ?? pieces[0]; return p[0] + c - p[2] };
player.ontimeupdate = () => {
  document.querySelector("output").value = "at " + clock(timeAt(player.currentTime)) + " of the video" };
for (const button of document.querySelectorAll("button")) button.onclick = () => {
  document.querySelectorAll("button").forEach(b => b.classList.toggle("on", b === button));
  player.currentTime = placeOf(+button.dataset.start); player.play() };
</script>
</html>
"""


def answer_page(video: str | Path, answers: Sequence[Answer]) -> str:
    """HTML of the answers to one or several questions about a video; texts and names are escaped."""
    video = Path(video)
    pieces = _place_pieces([moment for answer in answers for moment in answer.moments], answers[0].duration_sec)
    return Environment(autoescape=True).from_string(PAGE).render(
        name=video.name,
        movie=_text(cut_video(video, [piece[:2] for piece in pieces])),
        is_whole=pieces[0][:2] == (0.0, answers[0].duration_sec),
        pieces=pieces,
        answers=[(answer.question, [_row(video, m) for m in answer.moments], _chart(answer)) for answer in answers],
    )  # fmt: skip


def _place_pieces(moments: Sequence[Moment], duration_sec: float) -> list[tuple[float, float, float]]:
    """Parts of a video for the player: start and end in the video, and where the part begins in the player, seconds."""
    if duration_sec <= WHOLE_SEC:
        return [(0.0, duration_sec, 0.0)]
    spans: list[tuple[float, float]] = []
    for moment in sorted(moments):
        start_sec, end_sec = max(0.0, moment.start_sec - AROUND_SEC), min(duration_sec, moment.end_sec + AROUND_SEC)
        if spans and start_sec <= spans[-1][1]:
            start_sec, end_sec = spans[-1][0], max(spans.pop()[1], end_sec)
        spans.append((start_sec, end_sec))
    places = accumulate((end - start for start, end in spans), initial=0.0)
    return [(*span, place) for span, place in zip(spans, places, strict=False)]


def _row(video: Path, moment: Moment) -> dict[str, Any]:
    film = strip_jpeg(film_strip(video, moment.start_sec, moment.end_sec, 5, 66)[1])
    return moment._asdict() | {"start": clock(moment.start_sec), "end": clock(moment.end_sec), "film": film}


def strip_jpeg(pictures: np.ndarray) -> str:
    """Pictures (F, H, W, 3) side by side as a JPEG, in base64."""
    picture = BytesIO()
    image.imsave(picture, np.concatenate(list(pictures), axis=1), format="jpeg")
    return _text(picture.getvalue())


def _chart(answer: Answer) -> str:
    record, picture = Record("own_0", "video", answer.question, answer.duration_sec), BytesIO()
    query_timeline(record, np.array(answer.moments), answer.level_scores).savefig(picture, format="png", dpi=110)
    return _text(picture.getvalue())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
