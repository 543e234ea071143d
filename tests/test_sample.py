"""The sample world: the same bytes for a seed, streams that leave each other alone, settings with limits."""

import hashlib
import json
from itertools import islice

import numpy as np
import pytest
import torch

from groundnlq.data.annotations import read_clips
from groundnlq.data.features import FeatureStore
from groundnlq.data.narrations import narration_records
from groundnlq.errors import ConfigError, DataError
from groundnlq.sample.film import film_frames
from groundnlq.sample.make import make_sample, read_events
from groundnlq.sample.queries import ask
from groundnlq.sample.vocabulary import OBJECTS
from groundnlq.sample.world import WorldConfig, simulate_clip
from groundnlq.video.encoders import load_encoder

TEXTS = ("nlq_train.json", "nlq_val.json", "nlq_test_unannotated.json", "nlq_test_answers.json",
         "moments_train.json", "vq_train.json", "egoclip.csv", "egoclip_classes.json", "events.jsonl")  # fmt: skip
NUM_STEPS = 24
TINY_SEED_0 = "0beb41e0f5ab8b5250358e86075c66903a41961fddf387a2bf590c982a019733"


def test_a_seed_gives_the_same_bytes_on_every_machine(tiny_world):
    digest = hashlib.sha256()
    for name in TEXTS:
        digest.update((tiny_world / "official" / name).read_bytes())
    assert digest.hexdigest() == TINY_SEED_0


def test_features_are_those_of_the_drawn_frames_step_by_step(tiny_world):
    """A feature is what the encoder makes of the drawn frames, but for the film's loss in coding."""
    store, config = FeatureStore(tiny_world / "features.h5"), WorldConfig.of_scale("tiny")
    log = simulate_clip(config, "val", 0)
    frames = torch.from_numpy(np.stack(list(islice(film_frames(config, log), 4 * NUM_STEPS))))
    expected = load_encoder("sample").encode(frames.unflatten(0, (NUM_STEPS, 4)))
    features = store.read(log.clip_uid)[:NUM_STEPS].float()
    same = torch.cosine_similarity(features[:, None], expected[None], dim=-1)
    assert same.diagonal().mean() > 0.9
    assert (same.argmax(1) == torch.arange(NUM_STEPS)).float().mean() > 0.9  # no other step's frames fit as well


def test_another_seed_is_another_world():
    one, other = (simulate_clip(WorldConfig.of_scale("tiny", seed=seed), "val", 0) for seed in (0, 1))
    assert one.events != other.events


@pytest.mark.parametrize(
    "changes", [{"num_train_clips": 3}, {"num_narrated_clips": 9}, {"light": 0.9}, {"clutter": 0.9}]
)
def test_what_a_setting_does_not_concern_stays_as_it_was(changes):
    usual, changed = WorldConfig.of_scale("tiny"), WorldConfig.of_scale("tiny", **changes)
    for index in range(3):
        before, after = (simulate_clip(config, "val", index) for config in (usual, changed))
        assert before == after
        assert ask(usual, before) == ask(changed, after)


@pytest.mark.parametrize(("name", "few", "many"), [("objects_per_clip", 3, 12), ("verbs_per_clip", 2, 8)])
def test_fewer_objects_or_verbs_make_more_events_look_alike(name, few, many):
    kinds = []
    for value in (few, many):
        config = WorldConfig.of_scale("tiny", **{name: value})
        logs = [simulate_clip(config, "val", index) for index in range(4)]
        slot = name.split("s_")[0]
        kinds.append(sum(len({getattr(e, slot) for e in log.events}) / len(log.events) for log in logs))
    assert kinds[0] < 0.6 * kinds[1]


def test_every_question_has_the_one_answer_that_its_words_name(tiny_world):
    """Held to the event log by rules of its own: no other event fits what was asked."""
    config, kinds = WorldConfig.of_scale("tiny"), set()
    for index in range(40):
        log = simulate_clip(config, "val", index)
        for question in ask(config, log):
            assert _fitting(log.events, question.asked) == [question.event]
            kinds.add(question.template)
    assert len(kinds) >= 11


def _fitting(events, asked):
    named = {k: v for k, v in asked.items() if k in ("verb", "object", "container", "person", "place")}
    fits = [e for e in events if all(getattr(e, k) == v for k, v in named.items())]
    if "place" in asked:
        fits = [e for e in fits if e.person]
    if "category" in asked:
        fits = [e for e in fits if e.object in OBJECTS[asked["category"]]]
    if "which" in asked:
        fits = {"first": fits[:1], "last": fits[-1:]}[asked["which"]]
    if "relation" in asked:
        step = {"before": 1, "after": -1}[asked["relation"]]
        beside = [events[i + step] if 0 <= i + step < len(events) else None for i in map(events.index, fits)]
        other = (asked["other_verb"], asked["other_object"])
        fits = [e for e, b in zip(fits, beside, strict=True) if b and (b.verb, b.object) == other]
        assert sum((e.verb, e.object) == other for e in events) == 1
    return fits


def test_counts_of_narrations_name_what_did_not_occur_as_well(tiny_world):
    official = tiny_world / "official"
    records, counts = narration_records(official / "egoclip.csv", read_clips([official / "nlq_train.json"]))
    assert counts["rows with characters that are not UTF-8"] == counts["narrations given twice"] == 0
    assert counts["narrations kept"] == len(records) < counts["rows"]


def test_the_event_log_says_what_happened_when(tiny_world):
    for log in read_events(tiny_world):
        starts = [event["start_sec"] for event in log["events"]]
        assert starts == sorted(starts)
        assert all(0 <= e["start_sec"] < e["end_sec"] <= log["duration_sec"] for e in log["events"])


def test_settings_have_names_and_limits_all_faults_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)num_val_clips=1.5.*objects_per_clip=5000.*cluter; did you mean"):
        make_sample(tmp_path, scale="tiny", cluter=1, objects_per_clip=5000, num_val_clips=1.5)
    with pytest.raises(ConfigError, match="unknown scale 'huge'"):
        make_sample(tmp_path, scale="huge")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_another_world_is_left_alone(tmp_path):
    small = {"num_train_clips": 1, "num_narrated_clips": 2, "num_val_clips": 1, "num_test_clips": 1}
    make_sample(tmp_path, scale="tiny", progress=False, **small)
    before = (tmp_path / "official" / "world.json").read_bytes()
    with pytest.raises(DataError, match="another sample world"):
        make_sample(tmp_path, scale="tiny", seed=1, progress=False, **small)
    assert (tmp_path / "official" / "world.json").read_bytes() == before
    assert json.loads(before)["config"]["seed"] == 0
