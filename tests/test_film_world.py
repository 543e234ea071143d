"""The sample world's films: what happens is seen, when it happens, and everything can be told apart."""

import json
import re
from itertools import combinations, islice, pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from groundnlq.errors import ConfigError
from groundnlq.sample import film, make
from groundnlq.sample.make import make_sample, read_events, read_world
from groundnlq.sample.pictures import colour_of, sprite
from groundnlq.sample.queries import ask
from groundnlq.sample.vocabulary import (
    ALL_OBJECTS,
    CONTAINER_VERBS,
    CONTAINERS,
    NEEDS_CONTAINER,
    NOUN_CLASSES,
    OBJECT_VERBS,
    OBJECTS,
    PERSONS,
    PLACES,
    VERB_CLASSES,
    VERBS,
    plural,
)  # fmt: skip
from groundnlq.sample.world import ClipLog, Event, WorldConfig, simulate_clip
from groundnlq.video.frames import Video, opened
from notebooks.lessons import film_pictures

CALM = {"look_alikes": 0.0, "clutter": 0.0, "light": 0.0, "shake": 0.0, "occlusion": 0.0}
SAMPLE = Path(film.__file__).parent


def world(**changes):
    return WorldConfig.of_scale("tiny", **CALM | changes)


def clip(*events, duration=3.0, place="kitchen", things=()):
    return ClipLog("c", "v", "val", 0.0, duration, ((0.0, duration, place),), {place: tuple(things)}, events)


def event_of(verb, thing="cup", container="box", start=0.0, end=3.0):
    return Event(
        start, end, verb, "kitchen",
        object=thing if verb in OBJECT_VERBS else None,
        container=container if verb in (*NEEDS_CONTAINER, *CONTAINER_VERBS) else None,
        person="uncle" if verb == "talk" else None,
    )  # fmt: skip


def frames(config, log, count=None):
    return np.stack(list(islice(film.film_frames(config, log), count))).astype(int)


def step(config, *events, start=0):
    """The four frames of one step."""
    return frames(config, clip(*events), start + 4)[start:]


def difference(one, other):
    return np.abs(one - other).mean()


def test_a_seed_gives_the_same_frames_and_another_seed_another_camera():
    log = simulate_clip(world(shake=0.3), "val", 0)
    one, again, other = (frames(world(shake=0.3, seed=seed), log, 20) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert difference(one, other) > 1


def test_a_frame_does_not_depend_on_how_often_pictures_were_drawn_before():
    log = simulate_clip(world(), "val", 0)
    first = frames(world(), log, 12)
    sprite.cache_clear()
    assert np.array_equal(first, frames(world(), log, 12))


@pytest.mark.parametrize("start", [0, 2, 5])
def test_every_step_within_an_event_tells_verbs_apart(start):
    steps = {verb: step(world(), event_of(verb), start=start) for verb in VERBS}
    apart = {(a, b): difference(steps[a], steps[b]) for a, b in combinations(steps, 2)}
    assert min(apart.values()) > 2, min(apart, key=apart.get)


@pytest.mark.parametrize("verb", OBJECT_VERBS)
@pytest.mark.parametrize("start", [0, 4])
def test_every_step_within_an_event_shows_its_object(verb, start):
    """Of two objects in the same colour, so that it is the shape that tells."""
    config = world(look_alikes=1.0)
    hammer, ladder = (step(config, event_of(verb, thing), start=start) for thing in ("hammer", "ladder"))
    changed = np.abs(hammer - ladder).max(axis=-1) > 40
    assert changed.mean(axis=(1, 2)).min() > 0.015


@pytest.mark.parametrize("verb", [*NEEDS_CONTAINER, *CONTAINER_VERBS])
def test_every_step_within_an_event_shows_its_container(verb):
    steps = [step(world(), event_of(verb, container=name), start=2) for name in CONTAINERS]
    assert min(difference(a, b) for a, b in combinations(steps, 2)) > 2


def test_things_differ_in_shape_even_where_all_have_one_colour():
    names = (*ALL_OBJECTS, *CONTAINERS, *PERSONS)
    shapes = [np.asarray(sprite(name, (32, 32), (250, 120, 20), (60, 20, 0)), float) for name in names]
    apart = {(a, b): np.abs(x - y).mean() for (a, x), (b, y) in combinations(zip(names, shapes, strict=True), 2)}
    assert min(apart.values()) > 12, min(apart, key=apart.get)


def test_persons_and_places_differ():
    persons = [step(world(), Event(0.0, 3.0, "wash", "kitchen", object="cup", person=name)) for name in PERSONS]
    assert min(difference(a, b) for a, b in combinations(persons, 2)) > 0.5
    places = [frames(world(), clip(place=place), 1) for place in PLACES]
    assert min(difference(a, b) for a, b in combinations(places, 2)) > 10


@pytest.mark.parametrize(("verb", "half", "sign"), [("put", slice(0, 4), 1), ("take", slice(4, 8), -1)])
def test_an_object_that_is_put_goes_down_and_one_that_is_taken_goes_up(verb, half, sign):
    seen = frames(world(), clip(event_of(verb)), 8)[half]
    is_cup = np.abs(seen - colour_of("cup")).max(axis=-1) < 10
    heights = [np.nonzero(mask)[0].mean() for mask in is_cup]
    assert all(sign * (after - before) > 1 for before, after in pairwise(heights))


def test_an_event_is_seen_at_its_time_and_at_no_other():
    quiet, busy = clip(), clip(event_of("wash", start=1.0, end=2.0))
    differs = [difference(a, b) > 0 for a, b in zip(*(frames(world(), log) for log in (quiet, busy)), strict=True)]
    assert differs == [1.0 <= n / 7.5 < 2.0 for n in range(23)]


def test_the_place_changes_when_the_person_walks():
    log = ClipLog("c", "v", "val", 0.0, 2.0, ((0.0, 0.8, "garden"), (0.8, 2.0, "office")),
                  {"garden": (), "office": ()}, ())  # fmt: skip
    seen = frames(world(), log)
    steps = [difference(a, b) for a, b in pairwise(seen)]
    assert int(np.argmax(steps)) + 1 == 6  # the first frame at or after 0.8 s is number 6


@pytest.mark.parametrize("name", film_pictures.SETTINGS)
def test_every_setting_of_the_film_changes_what_is_seen_and_nothing_else(name):
    events = [Event(0.0, 2.0, "shake", "kitchen", object="wrench")]
    low, high = film_pictures.SETTINGS[name]
    easy, hard = (world(**{name: value}) for value in (low, high))
    log = clip(*events, duration=2.0, things=("cup", "shirt", "ball", "map", "egg", "soap"))
    assert difference(frames(easy, log), frames(hard, log)) > 0.5
    assert simulate_clip(easy, "val", 0) == simulate_clip(hard, "val", 0)


def test_look_alikes_are_the_share_of_a_category_with_one_colour():
    for share in (0.0, 0.3, 1.0):
        colours = [colour_of(name, share) for name in OBJECTS["tool"]]
        alike = sum(colours.count(colour) for colour in set(colours) if colours.count(colour) > 1)
        assert alike == pytest.approx(share * len(colours), abs=1)


def test_no_thing_is_darker_than_its_lines_allow():
    for name in (*ALL_OBJECTS, *CONTAINERS, *PERSONS):
        r, g, b = colour_of(name)
        assert 0.3 * r + 0.59 * g + 0.11 * b > 75


@pytest.mark.parametrize("size", [96, 128, 160])
def test_an_mp4_has_the_frames_at_their_times(tmp_path, size):
    config, log = world(frame_size=size, shake=0.3), clip(event_of("wash"), duration=3.0)
    film._write_film(tmp_path / "c.mp4", config, log)
    video, drawn = Video.open(tmp_path / "c.mp4"), frames(config, log)
    assert video.duration_sec == pytest.approx(23 / 7.5)
    read = {number: picture[size] for number, picture in video.frames(range(0, 92, 4), [size], [])}
    for number, picture in read.items():
        right, *wrong = (difference(picture.astype(int), drawn[(number // 4 + late) % 23]) for late in (0, -1, 1))
        assert right < 9
        assert right < 0.8 * min(wrong)


def test_an_mp4_can_be_entered_every_two_seconds_and_browsers_play_it(tmp_path):
    film._write_film(tmp_path / "c.mp4", world(), clip(duration=8.0))
    with opened(tmp_path / "c.mp4") as (container, stream):
        keys = [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.is_keyframe]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert max(np.diff([*keys, 8.0])) <= 2.01


def test_films_that_are_there_are_kept_and_the_others_are_made(tmp_path):
    logs = [ClipLog(f"c{i}", "v", "val", 0.0, 1.0, ((0.0, 1.0, "office"),), {"office": ()}, ()) for i in range(3)]
    (tmp_path / "c1.mp4").write_bytes(b"made before")
    assert len(list(film.write_films(tmp_path, world(), logs))) == 3
    assert (tmp_path / "c1.mp4").read_bytes() == b"made before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c0.mp4", "c1.mp4", "c2.mp4"]


def test_a_film_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    def broken(config, log):
        yield np.zeros((96, 96, 3), np.uint8)
        raise RuntimeError("stopped")

    monkeypatch.setattr(film, "film_frames", broken)
    with pytest.raises(RuntimeError, match="stopped"):
        film._write_film(tmp_path / "c.mp4", world(), clip())
    assert not list(tmp_path.iterdir())


def test_helper_processes_share_the_clips(tmp_path, monkeypatch):
    logs = [simulate_clip(world(clip_length_sec=30), "val", index) for index in range(3)]
    short = [log.__class__(**vars(log) | {"duration_sec": 1.0}) for log in logs]
    lines = [json.dumps(make.asdict(log)) for log in short]
    (tmp_path / "events.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(film.signal, "signal", lambda *_: None)
    film.main(str(tmp_path), world().model_dump_json(), "2", "1")
    assert [path.stem for path in (tmp_path / "clips").iterdir()] == [logs[1].clip_uid]


def test_clips_are_filmed_by_real_processes_and_what_a_killed_one_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "_HOURS_PER_PROCESS", 1e-3)
    monkeypatch.setattr(make.os, "cpu_count", lambda: 2)
    own, _write_film = [], film._write_film
    monkeypatch.setattr(film, "_write_film", lambda path, *rest: own.append(path.stem) or _write_film(path, *rest))
    logs = [ClipLog(f"c{i}", "v", "val", 0.0, 2.0, ((0.0, 2.0, "office"),), {"office": ()}, ()) for i in range(4)]
    lines = [json.dumps(make.asdict(log)) + "\n" for log in logs]
    (tmp_path / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / ".c0.mp4.1.tmp").write_bytes(b"half")
    make._film(tmp_path, world(), logs, progress=False)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["c0.mp4", "c1.mp4", "c2.mp4", "c3.mp4"]
    assert own == ["c0", "c2"]


def test_what_helpers_leave_is_filmed_in_the_end(tmp_path, monkeypatch):
    """Helpers that end at once, as killed ones do."""
    monkeypatch.setattr(make, "_HOURS_PER_PROCESS", 1e-3)
    monkeypatch.setattr(make.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(make.sys, "executable", "/bin/true")
    logs = [ClipLog(f"c{i}", "v", "val", 0.0, 2.0, ((0.0, 2.0, "office"),), {"office": ()}, ()) for i in range(4)]
    make._film(tmp_path, world(), logs, progress=False)
    assert len(list((tmp_path / "clips").iterdir())) == 4


def test_a_film_of_any_length_is_drawn_frame_by_frame():
    log = clip(duration=1e7)
    start = perf_counter()
    assert len(frames(world(), log, 3)) == 3
    assert perf_counter() - start < 5  # all of them would take days


def test_every_clip_of_a_world_has_its_film(tiny_world):
    made = {path.stem: path for path in (tiny_world / "official" / "clips").glob("*.mp4")}
    durations = {log["clip_uid"]: log["duration_sec"] for log in read_events(tiny_world)}
    assert made.keys() == durations.keys()
    one = min(made)
    assert 0 <= Video.open(made[one]).duration_sec - durations[one] < 1 / 7.5


def test_sheets_have_all_words_small_files_and_a_licence():
    about = json.loads((SAMPLE / "sprites.json").read_text(encoding="utf-8"))
    assert {*ALL_OBJECTS, *CONTAINERS, *PERSONS} <= set(about["names"])
    assert about["places"] == list(PLACES)
    assert (SAMPLE / "sprites.png").stat().st_size + (SAMPLE / "places.png").stat().st_size < 100_000
    assert "SIL OPEN FONT LICENSE" in (SAMPLE / "sprites_OFL.txt").read_text(encoding="utf-8")


def test_the_package_takes_its_pictures_along():
    import tomllib

    root = SAMPLE.parents[1]
    tool = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packed = {path for pattern in tool["package-data"]["groundnlq"] for path in (root / "groundnlq").glob(pattern)}
    assert {path for path in SAMPLE.iterdir() if path.suffix in (".png", ".json", ".txt")} <= packed


def test_training_questions_are_never_about_unasked_objects_but_narrations_are():
    config = WorldConfig.of_scale("demo")
    unasked, unseen = config.unasked_objects, config.unseen_objects
    assert (len(unasked), len(unseen), set(unasked) & set(unseen)) == (16, 10, set())
    logs = [simulate_clip(config, "train", index) for index in range(80)]
    forms = "|".join(form for name in unasked for form in (name, plural(name)))
    for log in logs:
        for question in ask(config, log):
            assert question.event.object not in (*unasked, *unseen)
            assert not re.search(rf"\b({forms})\b", question.text)
    narrated = {event.object for log in logs for event in log.events}
    assert narrated >= set(unasked)
    assert not narrated & set(unseen)


def test_val_questions_are_of_all_three_kinds_and_say_so(tiny_world):
    told, config = read_world(tiny_world), WorldConfig.of_scale("tiny")
    assert told["unasked_objects"] == list(config.unasked_objects)
    meanings = told["questions"]
    assert {m["kind"] for m in meanings["val"].values()} >= {"asked", "unasked", "unseen"}
    assert {m["kind"] for m in meanings["train"].values()} <= {"asked", None}
    for meaning in meanings["val"].values():
        assert meaning["is_unseen"] == (meaning["kind"] == "unseen")


def test_narrations_have_the_class_numbers_of_their_verb_and_main_noun(tiny_world):
    official = tiny_world / "official"
    classes = json.loads((official / "egoclip_classes.json").read_text(encoding="utf-8"))
    assert (tuple(classes["verbs"]), tuple(classes["nouns"])) == (VERB_CLASSES, NOUN_CLASSES)
    rows = [line.split("\t") for line in (official / "egoclip.csv").read_text(encoding="utf-8").splitlines()[1:]]
    whole = [row for row in rows if len(row) == 11]
    for row in whole:
        (verb,), (noun,) = (json.loads(tag) for tag in row[-2:])
        assert row[8].startswith(f"#C C {VERBS[classes['verbs'][verb]][1]} the {classes['nouns'][noun]}")
    assert len(whole) > 100


def test_narrations_of_val_clips_have_records_of_their_own(tiny_world):
    of = {name: (tiny_world / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("narrations", "narrations_val")}
    clips = {name: {json.loads(line)["video_id"] for line in text.splitlines()} for name, text in of.items()}
    splits = {log["clip_uid"]: log["split"] for log in read_events(tiny_world)}
    assert {splits[uid] for uid in clips["narrations_val"]} == {"val"}
    assert {splits[uid] for uid in clips["narrations"]} == {"train", "narrated"}


def test_settings_of_the_film_have_limits(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)frame_size=100.*light=2.*motion_speed=0"):
        make_sample(tmp_path, scale="tiny", frame_size=100, light=2, motion_speed=0)


def test_contact_sheets_show_every_verb_setting_and_kind():
    labels = [axis.get_ylabel() for axis in film_pictures.verb_figure(world(), 2).axes]
    assert labels == list(VERBS)
    labels = [axis.get_title(loc="left") for axis in film_pictures.setting_figure(world(), ["light"]).axes]
    assert labels == ["light=0", "light=1"]
    titles = {axis.get_title() for axis in film_pictures.kind_figure(world(), 4).axes}
    assert len(titles & set(ALL_OBJECTS)) == 12
