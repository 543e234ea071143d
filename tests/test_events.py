"""What wrong answers show, and what chance would: by a slow program, on a sample world, on narrations."""

import json
from dataclasses import replace

import numpy as np
import pytest

from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.events import NUM_PLACES, SHOWN, Event, Meaning, read_events, stem
from groundnlq.data.annotations import read_nlq
from groundnlq.data.records import Record, read_records, write_records
from groundnlq.errors import DataError
from groundnlq.sample.make import make_sample
from tests.test_outcomes import half, overlap

VERBS, NOUNS = ["put", "take", "wash"], ["cup", "pan", "knife"]
DURATION = 60.0


def random_clip(random):
    """Events of a clip, and a query about each of the first three, by its words."""
    starts, events, records = np.cumsum(random.uniform(2, 8, 9)), [], []
    for start in starts:
        verb, noun = str(random.choice(VERBS)), str(random.choice(NOUNS))
        events.append(Event(float(start), float(start + random.uniform(1, 6)), verb, noun, "sink"))
    for index, event in enumerate(events[:3]):
        moment = (event.start_sec - 0.2, event.end_sec + 0.1)
        words = {"verb_x": event.verb, "slot_x": f"the {event.object}"} if random.random() < 0.7 else {}
        records.append(Record(f"a_{index}", "c", "?", DURATION, (moment,), template=f"T{index % 2}", **words))
    return events, records


def kind(event, true, moment):
    if half((event.start_sec, event.end_sec), moment):
        return "right event"
    same = (event.verb == true.verb, event.object == true.object)
    return {(True, True): "other occurrence", (True, False): "verb only", (False, True): "object only"}.get(
        same, "neither"
    )


def naive_shown(segment, events, true, moment):
    inside = [e for e in events if half(segment, (e.start_sec, e.end_sec))]
    if not inside:
        return "between events"
    return kind(max(inside, key=lambda e: overlap(segment, (e.start_sec, e.end_sec))), true, moment)


def places_of(answer, moment):
    length = answer[1] - answer[0]
    starts = [(DURATION - length) * place / (NUM_PLACES - 1) for place in range(NUM_PLACES)]
    return [(s, s + length) for s in starts if not overlap((s, s + length), moment) > 0.3]


def test_answers_and_chance_are_those_of_a_slow_program():
    random, seen = np.random.default_rng(0), set()
    for _ in range(12):
        events, records = random_clip(random)
        starts = [random.choice([random.uniform(0, 50), r.moments_sec[0][1] - 0.6]) for r in records]
        ranked = {r.query_id: np.array([[s, s + random.uniform(1, 9), 0.5]])
                  for r, s in zip(records, starts, strict=True)}  # fmt: skip
        diagnosis = Diagnosis("run", FixedPredictions(records, ranked), events={"c": events})
        table, chances = diagnosis.table.set_index("query_id"), []
        for record, true in zip(records, events, strict=False):
            answer, moment = tuple(ranked[record.query_id][0, :2]), record.moments_sec[0]
            if overlap(answer, moment) > 0.3:
                assert table.loc[record.query_id, "shows"] == "hit"
                continue
            expected = naive_shown(answer, events, true, moment)
            assert table.loc[record.query_id, "shows"] == expected
            seen.add(expected)
            others = [kind(e, true, moment) for e in events if not half((e.start_sec, e.end_sec), moment)]
            places = [naive_shown(place, events, true, moment) for place in places_of(answer, moment)]
            chances.append([[drawn.count(name) / len(drawn) for name in SHOWN] for drawn in (others, places)])
        shown = diagnosis.shown["run"]
        expected = 100 * np.mean(chances, axis=0)[:, 1:]  # without hits
        assert pytest.approx(expected) == shown[["random event", "random segment"]].to_numpy().T
        assert shown["wrong answers"].sum() == pytest.approx(100)
    assert seen == set(SHOWN) - {"hit"}


def test_confusion_and_distances_are_those_of_a_slow_program():
    random = np.random.default_rng(1)
    _, records = random_clip(random)
    wrong = {r.query_id: np.array([[*records[(i + 1) % 3].moments_sec[0], 0.5]]) for i, r in enumerate(records)}
    diagnosis = Diagnosis("run", FixedPredictions(records, wrong))
    counts, near = {}, []
    for record in records:
        answer, moment = tuple(wrong[record.query_id][0, :2]), record.moments_sec[0]
        places = places_of(answer, moment)
        near.append([abs(np.mean(place) - np.mean(moment)) <= 10 for place in places])
        for template in ("T0", "T1", "(all)"):
            own = [r.moments_sec[0] for r in records if r is not record and template in (r.template, "(all)")]
            hits = [any(overlap(place, other) > 0.3 for other in own) for place in (answer, *places)]
            pair = (record.template if template != "(all)" else template, template)
            counts[pair] = counts.get(pair, 0) + np.array([hits[0], np.mean(hits[1:])])
    for pair, expected in counts.items():
        if pair in diagnosis.confusion.index:
            assert diagnosis.confusion.loc[pair].tolist() == pytest.approx(expected)
        else:
            assert (expected == 0).all()  # no other query has this template
    assert diagnosis.confusion.loc[("(all)", "(all)"), "wrong answers"] == 3
    by_chance = diagnosis.distances.loc["within 10 s", "by chance"]
    assert by_chance == pytest.approx(100 * np.mean([np.mean(row) for row in near]))
    assert "100 % of the wrong answers hit another query's moment" in diagnosis.summary()


def test_events_between_the_answer_and_the_moment_are_counted_as_a_slow_program_does():
    random, within, by_chance = np.random.default_rng(4), [], []
    events, records, ranked = {}, [], {}
    for clip in range(6):
        events[f"c{clip}"], asked = random_clip(random)
        for number, record in enumerate(asked):
            records.append(replace(record, clip_uid=f"c{clip}", query_id=f"a{clip}_{number}"))
            start = random.uniform(0, 50)
            ranked[records[-1].query_id] = np.array([[start, start + 4.0, 0.5]])

    def between(answer, moment, own):
        low, high = sorted([sum(answer) / 2, sum(moment) / 2])
        times = [(e.start_sec, e.end_sec) for e in own]
        return sum(low < sum(t) / 2 < high and not half(t, answer) and not half(t, moment) for t in times)

    for record in records:
        answer, moment, own = tuple(ranked[record.query_id][0, :2]), record.moments_sec[0], events[record.clip_uid]
        if not overlap(answer, moment) > 0.3:
            within.append(between(answer, moment, own) <= 1)
            by_chance.append(np.mean([between(place, moment, own) <= 1 for place in places_of(answer, moment)]))
    found = Diagnosis("run", FixedPredictions(records, ranked), events=events).distances.loc[
        "events between: at most 1"
    ]
    assert found.tolist() == pytest.approx([100 * np.mean(within), 100 * np.mean(by_chance)])
    assert 0 < np.mean(within) < 1


def test_random_answers_show_what_chance_says_and_answers_that_use_the_verb_more():
    random = np.random.default_rng(2)
    records, events, blind, verbal = [], {}, {}, {}
    for clip in range(150):
        own, asked = random_clip(random)
        events[f"c{clip}"] = own
        for place, record in enumerate(asked[:1]):
            record = Record(f"q{clip}_{place}", f"c{clip}", "?", DURATION, record.moments_sec)
            records.append(record)
            start = random.uniform(0, DURATION - 3)
            blind[record.query_id] = np.array([[start, start + 3.0, 0.5]])
            alike = [e for e in own[1:] if e.verb == own[0].verb] or own[1:]
            chosen = alike[int(random.integers(len(alike)))]
            verbal[record.query_id] = np.array([[chosen.start_sec, chosen.end_sec, 0.5]])
    tables = Diagnosis("blind", FixedPredictions(records, blind), {"verbal": FixedPredictions(records, verbal)},
                       events=events).shown  # fmt: skip
    for _, row in tables["blind"].iterrows():
        assert row["95 % low"] - 2 <= row["random segment"] <= row["95 % high"] + 2
    assert tables["verbal"].loc["verb only", "95 % low"] > tables["verbal"].loc["verb only", "random event"] + 10


FORMS = (
    "wash washes washing washed, put puts putting, take took takes taking, knife knives, close closes closing closed"
)
FORMS += ", carry carries carried carrying, cup cups, dish dishes, shelf shelves, glass glasses, potato potatoes"


@pytest.mark.parametrize("forms", FORMS.split(", "))
def test_forms_of_a_word_are_one_word(forms):
    assert len({stem(word) for word in forms.split()}) == 1


def test_different_words_stay_different():
    words = "put take wash wipe cup pan knife pen string ring bread bed red tie box bowl ball bag bin book boot"
    assert len({stem(word) for word in words.split(" ")}) == len(words.split(" "))


def narration(index, text, start, **more):
    return Record(f"n_{index}", "c", text, 60.0, ((start, start + 1.0),), "nlq_narration", **more)


def test_a_narration_is_an_event_of_its_verb_and_nouns(tmp_path):
    path = tmp_path / "narrations.jsonl"
    write_records(
        path, [narration(0, "C picks up the small knife from the table", 3.0), narration(1, "man X talks", 9.0)]
    )
    (first, second), *_ = read_events(path).values()
    assert (first.start_sec, first.end_sec, first.verb, first.nouns) == (3, 4, "picks", ["small", "knife", "table"])
    assert (second.verb, second.nouns) == ("talks", [])


def test_words_of_the_file_are_found_in_narrations_and_class_numbers_only_where_both_have_them():
    moment = ((3.0, 4.0),)
    query = Record("a_0", "c", "Where did I put the knives?", 60.0, moment, verb_x="put", slot_x="the knives")
    own = [
        Event(3, 4, "puts", "knife", "", None, (7,), (5, 2)),
        Event(10, 11, "places", "knife", "", None, (7,), (5,)),
        Event(20, 21, "puts", "fork", "knife"),
        Event(30, 31, "washes", "blade", "", None, (8,), (5,)),
    ]
    meaning = Meaning.of(query, {"c": own})
    assert meaning.has_verb.tolist() == [True, True, True, False]
    assert meaning.has_noun.tolist() == [True, True, True, True]
    assert meaning.is_true.tolist() == [True, False, False, False]
    without = Meaning.of(query, {"c": [Event(e.start_sec, e.end_sec, e.verb, e.object, e.container) for e in own]})
    assert without.has_verb.tolist() == [True, False, True, False]
    assert without.has_noun.tolist() == [True, True, True, False]


def test_without_words_or_events_nothing_is_claimed():
    records = [Record("a_0", "c", "?", 60.0, ((3.0, 4.0),)), Record("b_0", "d", "?", 60.0, ((3.0, 4.0),))]
    ranked = {r.query_id: np.array([[30.0, 40.0, 0.5]]) for r in records}
    elsewhere = Diagnosis("run", FixedPredictions(records, ranked), events={"c": [Event(20, 42, "put", "cup")]})
    assert elsewhere.table["shows"].isna().all()  # no event at the moment says what the query is about
    assert elsewhere.shown == {}
    assert "chance gives" not in elsewhere.summary()


def test_log_and_narrations_of_a_sample_world_agree_about_what_answers_show(tmp_path):
    """The answer is the moment of another query of the clip, so something happens there in both."""
    few = dict.fromkeys(("num_train_clips", "num_narrated_clips", "num_test_clips"), 1)
    make_sample(tmp_path, scale="tiny", progress=False, num_val_clips=20, **few)
    world = tmp_path / "official"
    records = read_nlq(world / "nlq_val.json").records
    meanings = json.loads((world / "world.json").read_text())["questions"]["val"]
    other = {r.query_id: records[i - 1] if records[i - 1].clip_uid == r.clip_uid else records[(i + 1) % len(records)]
             for i, r in enumerate(records)}  # fmt: skip
    ranked = {r.query_id: np.array([[*other[r.query_id].moments_sec[0], 0.5]]) for r in records}
    log = read_events(world / "events.jsonl")
    told = read_events(world / "egoclip.csv", world / "nlq_val.json")
    tables = [
        Diagnosis("run", FixedPredictions(records, ranked), events=e).table.set_index("query_id") for e in (log, told)
    ]
    wrong = tables[0].index[(tables[0]["outcome"] != "hit") & tables[1]["shows"].notna()]
    agree = (tables[0].loc[wrong, "shows"].astype(str) == tables[1].loc[wrong, "shows"].astype(str)).mean()
    assert len(wrong) > 60
    assert agree > 0.75
    for query_id in wrong:  # and the log's answer is that of the words of the world
        one, two = meanings[query_id], meanings[other[query_id].query_id]
        if one["object"] and two["object"] and tables[0].loc[query_id, "shows"] != "right event":
            same = (one["verb"] == two["verb"], one["object"] == two["object"])
            names = {(True, False): "verb only", (False, True): "object only", (False, False): "neither"}
            assert tables[0].loc[query_id, "shows"] == names.get(same, "other occurrence")


def test_records_keep_the_words_of_the_official_file_and_older_ones_are_read(tiny_world, tmp_path):
    records = read_nlq(tiny_world / "official" / "nlq_val.json").records
    assert any(r.slot_x and r.verb_x for r in records)
    assert not any(r.slot_x == "" for r in records)
    write_records(tmp_path / "new.jsonl", records)
    assert read_records(tmp_path / "new.jsonl") == records
    lines = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    old = [{key: value for key, value in line.items() if key not in ("slot_x", "verb_x", "slot_y")} for line in lines]
    (tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, old)))
    assert {r.slot_x for r in read_records(tmp_path / "old.jsonl")} == {None}


@pytest.mark.parametrize(
    "text", ['{"clip_uid": "c", "events": 3}', '{"clip_uid": "c", "events": [{"verb": "put"}]}', "{"]
)
def test_a_damaged_log_is_refused_with_its_line(tmp_path, text):
    (tmp_path / "events.jsonl").write_text('{"clip_uid": "c", "events": []}\n' + text)
    with pytest.raises(DataError, match="line 2"):
        read_events(tmp_path / "events.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_events(tmp_path / "missing.jsonl")
