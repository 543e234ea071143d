"""What happens in a clip, in rows under the segments: an event log, or narrations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from groundnlq.analysis.events import Event, Meaning
from groundnlq.data.records import Record
from groundnlq.view.canvas import draw_boxes, name_rows
from groundnlq.view.style import GREEN, ORANGE, SKY, plain

EVENT_ROWS, LETTER_INCH = 3, 0.078  # width of a letter
KINDS = (("", "0.5"), (", same object", ORANGE), (", same verb", SKY), (", same verb and object", GREEN))


def draw_events(axis: Axes, record: Record, events: Sequence[Event], wide_inch: float) -> None:
    """Events in rows that are `wide_inch` wide, those in colour that have the verb or the object of the query. A text
    stands where a row has room for it, and first for these."""
    meaning, (first_sec, last_sec) = Meaning.of(record, {record.clip_uid: events}), axis.get_xlim()
    kinds = 2 * (meaning.has_verb & (meaning.verb != "")) + (meaning.has_noun & (meaning.noun != ""))
    letter_sec = LETTER_INCH * (last_sec - first_sec) / wide_inch
    taken = [list[tuple[float, float]]() for _ in range(EVENT_ROWS)]
    for index in np.argsort(-kinds, kind="stable").tolist():
        event, (words, color) = events[index], KINDS[kinds[index]]
        start, name = max(event.start_sec, first_sec), f"{event.verb} {event.object or event.container or event.person}"
        if start > min(event.end_sec, last_sec):
            continue
        for text in (plain(name, 30), ""):
            end = max(event.end_sec, start + letter_sec * len(text))
            row = next((row for row, spans in enumerate(taken) if all(end <= a or start >= b for a, b in spans)), -1)
            if row >= 0:
                break
        taken[row].append((start, end))
        axis.text(start, row % EVENT_ROWS, text, fontsize=9, va="center", clip_on=True)
        words = f"{name}, {event.start_sec:.1f} – {event.end_sec:.1f} s{words}"
        span, low = (event.start_sec, event.end_sec), row % EVENT_ROWS - 0.42
        draw_boxes(axis, span, low, low + 0.84, facecolor=to_rgba(color, 0.45), urls=[words])
    name_rows(axis, ["events", *[""] * (EVENT_ROWS - 1)])
