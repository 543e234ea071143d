"""What the first notebook draws is what the files say."""

import json

import numpy as np
import pytest

from groundnlq.data.annotations import read_nlq
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record, read_records
from groundnlq.errors import DataError
from groundnlq.sample.make import read_events
from notebooks.lessons import inspection

GRID = StepGrid(fps=30.0, snippet_stride_frames=15.0, half_window="consistent")


def record(start, end, duration=100.0, number=0):
    return Record(f"a_{number}", "c", "Where?", duration, ((start, end),))


def test_an_official_entry_is_the_one_that_the_reader_made_the_record_of(tiny_world):
    file = read_nlq(tiny_world / "official" / "nlq_val.json")
    for one in file.records[::5]:
        entry = inspection.official_entry(file.path, one.query_id)
        assert entry["query"]["query"] == one.raw_query
        assert (entry["query"]["clip_start_sec"], entry["query"]["clip_end_sec"]) == one.moments_sec[0]
        assert entry["clip"]["clip_uid"] == one.clip_uid
        assert "annotations" not in entry["clip"]
        json.dumps(entry)
    with pytest.raises(DataError, match="another split"):
        inspection.official_entry(file.path, "nobody_0")


def test_of_two_clips_with_the_same_ids_the_entry_of_the_right_one_is_shown(tmp_path):
    clips = [
        {"clip_uid": name, "annotations": [{"annotation_uid": "a", "language_queries": [{"query": f"{name}?"}]}]}
        for name in ("c0", "c1")
    ]
    path = tmp_path / "nlq.json"
    path.write_text(json.dumps({"videos": [{"video_uid": "v", "clips": [{"annotations": []}, *clips]}]}))
    shown = [inspection.official_entry(path, f"{name}--a_0")["query"]["query"] for name in ("c0", "c1")]
    assert shown == ["c0?", "c1?"]


@pytest.mark.parametrize(("start", "end"), [(10.1, 12.3), (0.0, 0.4), (50.2, 99.9), (99.0, 99.8)])
def test_the_grid_is_drawn_where_it_is(start, end):
    axis = inspection.step_figure(record(start, end), GRID).axes[0]
    boxes = {t.get_text(): t.get_position()[0] for t in axis.texts if t.get_text().isdigit()}  # number -> middle
    assert len(boxes) <= inspection.MAX_STEPS
    assert all(middle == pytest.approx(GRID.to_sec(int(number))) for number, middle in boxes.items())
    written = next(t for t in axis.texts if "starts" in t.get_text())
    assert f"{start:.2f} s = step {GRID.to_grid(start):.2f}" in written.get_text()
    assert axis.get_xlim()[0] <= start <= axis.get_xlim()[1]


def test_the_title_has_the_hit_rate_of_the_first_constant_segment():
    train = [record(20.0 + i % 3, 30.0 + i % 3, number=i) for i in range(15)]
    train += [record(70.0, 71.0, number=20 + i) for i in range(5)]
    axis = inspection.bias_figure(train).axes[0]
    assert "75.0 %" in axis.get_title(loc="left")
    numbers = [t for t in axis.texts if t.get_text() == "1"]
    assert numbers[0].get_position()[0] == pytest.approx(0.26, abs=0.04)


def test_a_narrated_event_is_the_one_of_the_sentence(tiny_world, tmp_path):
    logs = {log["clip_uid"]: log["events"] for log in read_events(tiny_world)}
    for one in read_records(tiny_world / "narrations.jsonl")[::40]:
        start, end = inspection.narrated_event(tiny_world, one)
        event = next(e for e in logs[one.clip_uid] if e["start_sec"] == start)
        assert event["end_sec"] == end
        assert (event["object"] or event["container"] or event["person"]) in one.query
        assert abs(np.mean(one.moments_sec[0]) - (start + end) / 2) < end - start
    assert inspection.narrated_event(tmp_path, one) is None
    question = read_records(tiny_world / "nlq_train.jsonl")[0]
    assert inspection.narrated_event(tiny_world, question) is None


def test_what_a_query_names_is_marked(tiny_world):
    log = next(read_events(tiny_world))
    named = next(e["object"] for e in log["events"] if e["object"])
    figure = inspection.new_figure()
    axis = figure.subplots()
    inspection.draw_events(axis, log, f"Where did I put the {named}?")
    marked = {round(bar.get_x(), 3) for bar in axis.patches if bar.get_hatch() and bar.get_y() > 0.5}
    assert marked == {round(e["start_sec"], 3) for e in log["events"] if e["object"] == named}
