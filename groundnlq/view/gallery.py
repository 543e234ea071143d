"""Cards of queries for the pages of a report: truth, answers and events over time, and frames of both moments.

A card is HTML with a drawing in SVG: no script, and small enough for thousands on a page.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.events import SHOWN, Meaning, event_shown
from groundnlq.data.records import Record
from groundnlq.errors import KitError
from groundnlq.view.answer_page import strip_jpeg
from groundnlq.view.film import film_strips

LEFT, WIDTH = 150, 840  # of the time axis, in units of the drawing
KINDS_OF_EVENTS = ["the right event", *list(SHOWN.values())[2:-1]]
STYLE = """
article { border-top: 1px solid #bbb; margin-top: 1em } article h3 { margin: .5em 0 0; font-size: 1em }
article p { margin: .2em 0 } figure { display: inline-block; margin: .4em .8em .4em 0 } figure img { height: 76px }
figcaption, svg text { font-size: 12px } .tick { text-anchor: middle } .band { fill: #f0e442; fill-opacity: .4 }
.truth, .event1 { fill: #000 } .hit { fill: #009e73; stroke: #000 } .answer { fill: #d55e00; stroke: #000 }
.later { fill: none; stroke: #d55e00 } .event5, .event-1 { fill: #ccc; stroke: #777 }
.event2 { fill: #009e73; stroke: #000 } .event3 { fill: #56b4e9; stroke: #000 } .event4 { fill: #e69f00; stroke: #000 }
"""
CARDS = """{% macro draw(cards, kinds) %}
<p>Black, and yellow below: the true moment. Filled: the first answer, green if correct. Outlined: later answers.
{% for kind in kinds %}{{ "" if loop.index0 else "Events: " }}<svg width="14" height="11"><rect width="11" height="11"
 class="event{{ loop.index }}"/></svg> {{ kind }}{{ "." if loop.last else "," }} {% endfor %}</p>
{% for card in cards %}<article id="{{ card.id }}">
<h3>{{ card.query }} <a href="queries.html#{{ card.id }}" title="link to this query">#</a></h3>
<svg viewBox="0 0 1000 {{ card.height + 16 }}" role="img" aria-label="{{ card.query }} {{ card.texts[0] }}">
{% for name, boxes in card.rows %}<g transform="translate(0 {{ 20 * loop.index0 }})">
<text x="144" y="14" text-anchor="end">{{ name[-22:] }}</text>
{% for x, width, kind, title in boxes %}<rect class="{{ kind }}" x="{{ x }}" y="3" width="{{ width }}"
 height="{{ card.height if kind == "band" else 14 }}"><title>{{ title }}</title></rect>{% endfor %}</g>
{% endfor %}{% for x, text in card.ticks %}<text class="tick" x="{{ x }}" y="{{ card.height + 13 }}">{{ text }}</text>
{% endfor %}</svg>
{% for text in card.texts %}<p>{{ text }}</p>{% endfor %}
{% for title, picture in card.strips %}<figure><img alt="{{ title }}" src="data:image/jpeg;base64,{{ picture }}">
<figcaption>{{ title }}</figcaption></figure>{% endfor %}
</article>
{% endfor %}{% endmacro %}"""


def chosen_failures(table: pd.DataFrame, num: int) -> list[str]:
    """Ids of wrong answers: of each outcome in turn those with the highest scores; in the order of the outcomes."""
    wrong = table[table["outcome"] != "hit"].sort_values("score", ascending=False, kind="stable")
    turn = wrong.groupby("outcome", observed=True).cumcount()
    chosen = wrong.assign(turn=turn).sort_values(["turn", "outcome"], kind="stable").head(num)
    return chosen.sort_values(["outcome", "turn"])["query_id"].tolist()


def cards(
    diagnosis: Diagnosis, query_ids: Sequence[str], films: str | Path | None = None, is_short: bool = False
) -> Iterator[dict[str, Any]]:
    """What `CARDS` draws of these queries, with frames where the folder has a video of the clip; short ones are without
    the events of the clip, of which Ego4D has hundreds."""
    places = {record.query_id: place for place, record in enumerate(diagnosis.run.records)}
    for query_id, row in diagnosis.table.set_index("query_id").loc[list(query_ids)].iterrows():
        record, place = diagnosis.run.records[places[query_id]], places[query_id]
        moments = {"true moment": record.moments_sec[0]}
        moments |= {"first answer": (row["first_start_sec"], row["first_end_sec"])} if row["score"] > 0 else {}
        rows = {"true moment": [_box(record, m, kind) for kind in ("band", "truth") for m in record.moments_sec]}
        rows |= dict(_answers(diagnosis, place))
        texts, strips = [_facts(row)], list[tuple[str, str]]()
        if events := diagnosis.events.get(record.clip_uid, ()):
            names = [" ".join([event.verb, *event.nouns]) for event in events] + ["no event"]
            meaning = Meaning.of(record, diagnosis.events)
            shown = event_shown(np.array([*moments.values()]), meaning.times)
            texts.append("; ".join(f"{when}: {names[n]}" for when, n in zip(moments, shown, strict=True)))
            boxes = zip(meaning.times, meaning.kinds(), names, strict=False)
            rows |= {} if is_short else {"events": [_box(record, t, f"event{k}", name) for t, k, name in boxes]}
        try:
            found = film_strips(films, record, diagnosis.run.decode(diagnosis.settings).of(place, 1)) if films else {}
            strips = [(title, strip_jpeg(pictures)) for title, (_, pictures) in found.items()]
        except KitError as error:  # of one video; the report is made all the same
            texts.append(f"no frames: {error}")
        times = MaxNLocator(10).tick_values(0, record.duration_sec)
        yield {
            "id": query_id, "query": record.query, "rows": rows.items(), "height": 20 * len(rows),
            "ticks": [(LEFT + t * WIDTH / record.duration_sec, f"{t:g} s") for t in times if t <= record.duration_sec],
            "texts": texts, "strips": strips,
        }  # fmt: skip


def _answers(diagnosis: Diagnosis, place: int) -> Iterator[tuple[str, list[tuple]]]:
    """For each run its predictions, the first one last, so that it covers the others."""
    record = diagnosis.run.records[place]
    for name, run in {diagnosis.name: diagnosis.run, **diagnosis.others}.items():
        decoded, boxes = run.decode(diagnosis.settings), list[tuple]()
        for rank, (*times_sec, score) in enumerate(decoded.of(place, diagnosis.top_k), 1):
            overlap = decoded.overlaps[place, rank - 1]
            kind = "later" if rank > 1 else "hit" if overlap > diagnosis.threshold else "answer"
            boxes.insert(0, _box(record, times_sec, kind, f"rank {rank}, score {score:.2f}, tIoU {overlap:.2f}"))
        yield name, boxes


def _box(record: Record, times_sec: Sequence[float], kind: str, text: str = "") -> tuple[float, float, str, str]:
    """Place and width on the time axis, CSS class, and text at the pointer."""
    start, end = np.clip(times_sec, 0, record.duration_sec) * (WIDTH / record.duration_sec)
    title = f"{times_sec[0]:.1f} – {times_sec[1]:.1f} s {text}"
    return round(LEFT + float(start), 1), round(max(1.5, float(end - start)), 1), kind, title


def _facts(row: pd.Series) -> str:
    facts = [row["outcome"], *(f"shows: {SHOWN[kind]}" for kind in [row["shows"]] if kind in list(SHOWN)[1:])]
    if row["score"] > 0:
        when = f"{abs(row['distance_sec']):.1f} s {'late' if row['distance_sec'] > 0 else 'early'}"
        facts += [f"score {row['score']:.2f}, tIoU {row['first tIoU']:.2f}", when]
    return " · ".join([*facts, f"clip {row['clip_uid']}"])
