"""Stage one: its loss and validation against golden values and oracles, its frames, and that it learns."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundnlq.cli import main
from groundnlq.config import AlignConfig, RunConfig, load_config
from groundnlq.data.features import FeatureStore
from groundnlq.data.narrations import narration_records
from groundnlq.data.records import Record, read_records, write_records
from groundnlq.data.submission import read_submission  # noqa: F401
from groundnlq.engine.checkpoint import load_model, read_checkpoint, trained_state
from groundnlq.engine.distributed import World
from groundnlq.engine.launch import train
from groundnlq.engine.reporter import Reporter
from groundnlq.errors import CheckpointError, ConfigError, DataError, FeatureError
from groundnlq.video import alignment, frame_cache
from groundnlq.video.egonce import EgoNCE, egomcq, egonce, is_positive, questions
from groundnlq.video.encoders import load_encoder
from groundnlq.video.extract import features_of
from groundnlq.video.frame_cache import FrameCache
from groundnlq.video.frames import Video
from groundnlq.video.narrated import NarratedFrames, _frame_times, wanted_frames
from groundnlq.video.towers import SmallEncoder, Towers
from groundnlq.view.plots import loss_curve
from tests.tiny_encoders import egovlp_file
from tests.tiny_films import COLOURS, DIRECTIONS, SHAPES, films_config, make_tiny_films
from tests.tiny_run import same_weights, weights_of

pytest.importorskip("av", reason="PyAV is not installed")
GOLDEN = np.load(Path(__file__).parent / "golden" / "video.npz")
NARRATION = Record("a", "c", "C turns", 60.0, ((10.0, 14.0),), "nlq_narration", verbs=(1,), nouns=(2,))
EVERY_FRAME = {"frames_per_moment": 0}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return make_tiny_films(tmp_path_factory.mktemp("films"), num_clips=24, num_val=6)


@pytest.fixture(scope="module")
def trained(films, tmp_path_factory):
    return train(films_config(films, epochs=6, batch_size=32), tmp_path_factory.mktemp("run"), reporter=Reporter())


class Said(Reporter):
    def __init__(self):
        self.messages, self.states = [], []

    def message(self, text):
        self.messages.append(text)

    def status(self, status):
        self.states.append(status["state"])


# ---- the loss


def golden(name):
    return torch.from_numpy(GOLDEN[f"egonce/{name}"]).float()


def golden_positives():
    verbs, nouns = golden("verbs"), golden("nouns")
    return torch.eye(len(verbs), dtype=torch.bool) | ((verbs @ verbs.T > 0) & (nouns @ nouns.T > 0))


def both_ways(similarity, positives):
    return (egonce(similarity, positives) + egonce(similarity.T, positives.T)) / len(similarity)


def test_egonce_and_its_gradient_are_the_published_ones():
    similarity = golden("similarity").requires_grad_()
    loss = both_ways(similarity, golden_positives())
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden("loss"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(similarity.grad, golden("gradient"), rtol=1e-4, atol=1e-5)


def test_with_the_row_itself_as_its_only_positive_egonce_is_infonce():
    similarity = golden("similarity")
    loss = both_ways(similarity, torch.eye(len(similarity), dtype=torch.bool))
    torch.testing.assert_close(loss, golden("infonce"), rtol=1e-4, atol=1e-5)
    assert abs(float(loss - golden("loss"))) > 0.1


def test_positives_of_a_batch_are_those_of_the_golden_tags_and_repeated_narrations():
    verbs, nouns = golden("verbs"), golden("nouns")
    tags = torch.cat([torch.arange(len(verbs))[:, None], verbs, nouns], dim=1)
    loss = EgoNCE(0.05, verbs.shape[1], World())
    assert torch.equal(loss.positives(tags, tags), golden_positives())
    tags[1, 1:], tags[0, 1:] = 0, 0
    assert loss.positives(tags[:2], tags[:2]).tolist() == [[True, False], [False, True]]
    tags[1, 0] = tags[0, 0]  # the same narration twice, without tags
    assert loss.positives(tags[:2], tags[:2]).all()


def test_the_loss_of_a_batch_is_egonce_of_the_cosines_and_counts_its_rows():
    torch.manual_seed(0)
    videos, texts = torch.randn(5, 8) * 7, torch.randn(5, 8) / 3
    tags = torch.cat([torch.arange(5.0)[:, None], torch.zeros(5, 4)], dim=1)
    terms, count = EgoNCE(0.05, 2, World())((videos, texts), type("Batch", (), {"tags": tags}))
    cosines = torch.nn.functional.cosine_similarity(texts[:, None], videos[None], dim=2)
    expected = both_ways(cosines, torch.eye(5, dtype=torch.bool))
    torch.testing.assert_close(sum(terms.values()) / count.float(), expected)
    assert count == 5


# ---- its validation


def narrations(num_clips=6, each=10):
    random = np.random.default_rng(1)
    return [
        replace(NARRATION, query_id=f"c{clip}_{i}", clip_uid=f"c{clip}", query=f"C does {clip} {i}",
                verbs=(int(random.integers(3)),), nouns=(int(random.integers(3)),))
        for clip in range(num_clips) for i in range(each)
    ]  # fmt: skip


def test_wrong_choices_of_egomcq_are_of_the_same_or_of_other_videos_and_no_positives():
    records = narrations()
    asked = questions(records)
    assert asked.keys() == {"inter", "intra"}
    assert sum(is_positive(records[0], other) for other in records) > 1  # there is something to avoid
    for kind, choices in asked.items():
        assert len(choices) > 30
        for own, *others in choices.tolist():
            assert len({own, *others}) == 5
            assert not any(is_positive(records[own], records[other]) for other in others)
            assert {records[other].clip_uid == records[own].clip_uid for other in others} == {kind == "intra"}


def test_choices_of_egomcq_depend_on_the_seed_alone():
    records = narrations()
    first, same, other = questions(records), questions(list(records)), questions(records, seed=1)
    assert all(np.array_equal(first[kind], same[kind]) for kind in first)
    assert not np.array_equal(first["intra"], other["intra"])


def test_too_few_or_too_equal_narrations_are_not_asked_about():
    assert questions(narrations(num_clips=1)).keys() == {"intra"}
    assert questions(narrations(num_clips=6, each=1)).keys() == {"inter"}
    assert questions([replace(record, query="C waits") for record in narrations()]) == {}


def test_egomcq_is_right_with_an_oracle_a_fifth_of_the_time_by_chance_and_never_by_a_tie():
    records = narrations(40)
    choices = questions(records)["intra"]
    random = np.random.default_rng(0)
    perfect, other = (random.standard_normal((2, len(records), 16)) for _ in range(2))
    assert egomcq(perfect[0], perfect[0], choices).mean() == 1
    assert 0.13 < egomcq(perfect[0], other[0], choices).mean() < 0.27
    assert egomcq(np.ones((len(records), 4)), perfect[0][:, :4], choices).mean() == 0


# ---- which frames


def test_without_a_window_a_frame_is_drawn_in_each_quarter_of_the_moment():
    align = AlignConfig()
    middles = _frame_times(NARRATION, align, None)
    assert middles.tolist() == [315, 345, 375, 405]  # of 300 ... 420
    drawn = np.stack([_frame_times(NARRATION, align, np.random.default_rng(i)) for i in range(200)])
    assert ((drawn - 300) // 30 == np.arange(4)).all()
    assert np.ptp(drawn, axis=0).min() > 25


def test_with_a_window_frames_lie_around_a_time_of_the_moment_as_extraction_spreads_them():
    align = AlignConfig(window_frames=16)
    assert _frame_times(NARRATION, align, None).tolist() == [354, 358, 362, 366]
    drawn = np.stack([_frame_times(NARRATION, align, np.random.default_rng(i)) for i in range(200)])
    assert np.allclose(np.diff(drawn, axis=1), 4)
    assert drawn.mean(1).min() >= 300
    assert drawn.mean(1).max() <= 420
    assert np.ptp(drawn.mean(1)) > 100


@given(st.floats(0, 50), st.floats(0.1, 20), st.sampled_from([None, 16.0]), st.integers(0, 99))
def test_every_time_that_may_be_drawn_has_a_wanted_frame_at_most_an_interval_before(start, length, window, seed):
    record = replace(NARRATION, moments_sec=((start, start + length),))
    align = AlignConfig(window_frames=window, frames_per_moment=0)
    wanted = wanted_frames([record], align)["c"]
    times = _frame_times(record, align, np.random.default_rng(seed)).astype(int)
    last = wanted[(np.searchsorted(wanted, times, side="right") - 1).clip(0)]
    assert ((times - last >= 0) & (times - last <= 4)).all()


def test_a_bounded_number_of_frames_of_a_moment_is_spread_over_it():
    wanted = wanted_frames([NARRATION], AlignConfig(frames_per_moment=8))["c"]
    assert len(wanted) == 8
    assert (wanted[0], wanted[-1]) == (300, 420)
    assert np.ptp(np.diff(wanted)) <= 4


# ---- the cache of frames


@pytest.fixture
def cached(films, tmp_path):
    """Folder of a cache, and a way to open it."""
    records = read_records(films / "val.jsonl")
    wanted = wanted_frames(records, films_config(films).align)
    places = {uid: (films / "videos" / f"{uid}.mp4", numbers) for uid, numbers in wanted.items()}

    def opened(max_bytes=1e9, side=32, some=places):
        cache = FrameCache(tmp_path / "frames", some, side, max_bytes)
        return cache, cache.fill(World(), Reporter())

    return tmp_path / "frames", places, opened


def decoded(path, numbers, side=32):
    frames = Video.open(path).frames(sorted(set(numbers)), {side}, [])
    return {number: pictures[side] for number, pictures in frames}


def test_cached_frames_are_those_that_are_decoded(cached):
    _, places, opened = cached
    cache, faults = opened()
    assert faults == {}
    for uid, (path, numbers) in places.items():
        asked = numbers[[3, 40, 40, 7]]
        expected = decoded(path, asked.tolist())
        assert np.array_equal(cache.read(uid, asked + 3), np.stack([expected[n] for n in asked.tolist()]))


def test_a_filled_cache_decodes_nothing_again_and_another_size_does(cached, monkeypatch):
    folder, places, opened = cached
    opened()
    opens = []
    monkeypatch.setattr(frame_cache.Video, "open", lambda path: opens.append(path) or Video.open.__wrapped__(path))
    before = sorted(folder.iterdir())
    cache, _ = opened()
    assert cache.read("c20", places["c20"][1][:2]).shape == (2, 32, 32, 3)
    assert opens == []
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"no array", None], ids=["empty", "other", "truncated"])
def test_damaged_frames_are_made_again(cached, content):
    folder, places, opened = cached
    cache, _ = opened()
    uid, path = "c20", cache.paths["c20"]
    whole = path.read_bytes()
    for begins_anew in (True, False):  # found when a run begins, or while it trains
        path.unlink()  # others may have mapped it
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        cache = opened()[0] if begins_anew else FrameCache(folder, cache.wanted, 32, 1e9)
        cache.paths = {uid: path}
        cache.read(uid, places[uid][1][:1])
        assert path.read_bytes() == whole


def test_what_has_no_room_is_decoded_at_every_use_and_gives_the_same_frames(cached):
    folder, places, opened = cached
    opened()
    one = max(path.stat().st_size for path in folder.iterdir())
    shutil.rmtree(folder)
    small, faults = opened(max_bytes=2.5 * one)
    assert faults == {}
    assert len(small.uncached) == len(places) - 2
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2.5 * one
    asked = places["c20"][1][[5, 6, 90]]
    opened_whole = opened()[0]
    assert all(np.array_equal(small.read(uid, asked), opened_whole.read(uid, asked)) for uid in places)


def test_files_of_other_runs_make_room_the_longest_unused_first(cached):
    folder, _, opened = cached
    folder.mkdir()
    for age, name in enumerate(["new", "old"]):
        (folder / f"{name}.npy").write_bytes(bytes(300_000))
        os.utime(folder / f"{name}.npy", (1e9 - age, 1e9 - age))
    cache, _ = opened(max_bytes=9e9)
    ours = sum(path.stat().st_size for path in cache.paths.values())
    for path in cache.paths.values():
        path.unlink()
    cache, _ = opened(max_bytes=ours + 400_000)
    assert cache.uncached == set()
    assert {path.name for path in folder.glob("*.npy")} == {"new.npy", *(p.name for p in cache.paths.values())}


# ---- videos that are missing or broken


@pytest.fixture
def faulty(films, tmp_path):
    folder = shutil.copytree(films, tmp_path / "faulty")
    (folder / "videos" / "c0.mp4").unlink()
    (folder / "videos" / "c1.mp4").write_bytes(b"no film")
    shutil.copy(folder / "videos" / "c2.mp4", folder / "videos" / "c3.mp4")
    longer = [
        replace(r, duration_sec=99.0, moments_sec=((80.0, 82.0),)) if r.query_id == "c4_0" else r
        for r in read_records(folder / "train.jsonl")
    ]
    write_records(folder / "train.jsonl", longer)
    return folder


def test_missing_broken_and_short_videos_are_all_named_in_one_error(faulty):
    with pytest.raises(DataError) as found:
        alignment.task(films_config(faulty), World())
    message = str(found.value)
    assert "3 faults" in message
    assert "leave_out_incomplete" in message
    assert all(
        part in message for part in ("c0: no such video", "c1.mp4: not a readable video", "c4.mp4: ends at 16.0")
    )


def test_clips_without_a_usable_video_are_left_out_and_counted_if_asked_for(faulty):
    said, config = Said(), films_config(faulty)
    config = config.model_copy(update={"data": config.data.model_copy(update={"leave_out_incomplete": True})})
    task = alignment.task(config, World(), said)
    assert {r.clip_uid for r in task.train_set.records} == {f"c{i}" for i in range(2, 18)} - {"c4"}
    assert "3 of 24 clips without a usable video: c0, c1, c4" in said.messages[0]
    assert "decoding" in said.states


def test_narrations_without_tokens_and_too_large_batches_are_refused_before_any_work(films, tmp_path):
    records = [replace(r, query_id=f"x{r.query_id}") for r in read_records(films / "train.jsonl")]
    folder = shutil.copytree(films, tmp_path / "films")
    write_records(folder / "train.jsonl", records)
    with pytest.raises(FeatureError, match=r"144 of 192 narrations have no tokens in .*text\.h5: xc0_0, .*text encode"):
        alignment.task(films_config(folder), World())
    with pytest.raises(ConfigError, match=r"144 narrations are too few for batches of 1000 -- lower train.batch_size"):
        alignment.task(films_config(films, batch_size=1000), World())


# ---- batches


def dataset(films, is_training=True, **align):
    config = films_config(films, {"short_side": 32} | align)
    records = read_records(films / "train.jsonl")
    wanted = wanted_frames(records, config.align)
    places = {uid: (films / "videos" / f"{uid}.mp4", numbers) for uid, numbers in wanted.items()}
    cache = FrameCache(Path(os.environ["GROUNDNLQ_CACHE"]) / "frames", places, 32, 1e9)
    cache.fill(World(), Reporter())
    text = {r.query_id: torch.ones(1 + len(r.query) % 3, 4) for r in records}
    return NarratedFrames(records, config, cache, lambda r: text[r.query_id], (4, 8), is_training)


def test_a_sample_depends_on_seed_epoch_and_index_only(films):
    every = dataset(films, crop=[0.5, 1], flip=True)
    together, again = every.batch([3, 4, 5], epoch=2), every.batch([5], epoch=2)
    assert torch.equal(together.frames[2], again.frames[0])
    assert not torch.equal(every.batch([5], epoch=3).frames, again.frames)
    calm = dataset(films, is_training=False, crop=[0.5, 1], flip=True)
    assert torch.equal(calm.batch([5], epoch=2).frames, calm.batch([5], epoch=3).frames)


def test_crops_and_flips_are_the_same_for_all_frames_of_a_sample(films):
    every = dataset(films, crop=[0.5, 1], flip=True, window_frames=0.01)  # four times the same frame
    frames = torch.stack([every.frames(index) for index in range(12)]).float()
    assert (frames == frames[:, :1]).all()
    whole = torch.stack([dataset(films, window_frames=0.01).frames(index) for index in range(12)]).float()
    assert (whole - frames).abs().mean() > 5


def test_tags_of_a_batch_have_a_one_for_every_class_and_none_beyond_those_of_training(films):
    every = dataset(films)
    every.records[0] = replace(every.records[0], verbs=(0, 3, 9), nouns=(7, 40))
    tags = every.batch([0]).tags[0]
    assert tags.nonzero().flatten().tolist() == [1, 4, 1 + 4 + 7]
    assert every.batch([9]).tags[0, 0] == 9


def test_scene_negatives_double_the_batch_with_another_narration_of_the_same_minute(films):
    every = dataset(films, scene_negatives=True)
    batch = every.batch([0, 1, 17], epoch=1)
    assert len(batch.frames) == len(batch.tags) == len(batch.text) == len(batch.query_ids) == 6
    assert batch.query_ids[:3] == ("c0_0", "c0_1", "c2_1")
    for one, other in zip(batch.query_ids[:3], batch.query_ids[3:], strict=True):
        assert one != other
        assert one.split("_")[0] == other.split("_")[0]
    assert {every.neighbour(0, epoch) for epoch in range(60)} == set(range(1, 8))
    assert len(dataset(films, is_training=False, scene_negatives=True).batch([0, 1]).frames) == 2


def test_a_scene_negative_lies_within_a_minute_where_one_does(films):
    every = dataset(films)
    every._scenes = {"c0": [(0.0, 0), (50.0, 1), (70.0, 2)], "c1": [(0.0, 8)]}
    assert {every.neighbour(0, epoch) for epoch in range(30)} == {1}
    assert every.neighbour(8, 0) == 9  # alone in its clip: any other, but never itself


# ---- the network


def small(**align):
    torch.manual_seed(0)
    return SmallEncoder((8, 16, 16), 4, 16).eval()


def test_a_feature_of_the_small_encoder_does_not_depend_on_its_batch_and_hears_the_order_of_frames():
    model, frames = small().train(), torch.randn(6, 4, 3, 32, 32)
    torch.testing.assert_close(model(frames)[2:3], model(frames[2:3]), rtol=1e-4, atol=1e-5)
    assert (model(frames.flip(1)) - model(frames)).abs().max() > 1e-2


def test_an_activation_keeps_its_size_from_layer_to_layer_at_the_start():
    torch.manual_seed(0)
    x, sizes = torch.randn(4, 3, 64, 64), []
    for layer in SmallEncoder((24, 48, 96, 96), 4, 16).of_frames:
        x = layer(x).detach()
        sizes.append(float(x.square().mean().sqrt()))
    assert min(sizes) > 0.4  # borders are padded with zeros
    assert max(sizes) < 2


def test_the_samples_encoder_has_at_most_850_000_parameters():
    align = load_config("sample_align").align
    model = SmallEncoder(align.channels, align.num_frames, align.width)
    assert sum(p.numel() for p in model.parameters()) <= 850_000


def test_standardised_features_have_unit_variance_and_training_does_not_see_it():
    model, frames = small(), torch.randn(64, 4, 3, 32, 32)
    with torch.inference_mode():
        before = model(frames)
        model.standardise(before)
        assert torch.equal(model(frames), before)
        features = model.features(frames)
    torch.testing.assert_close(features.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(16), atol=1e-4, rtol=0)


def test_both_towers_of_the_published_shape_learn_and_none_of_their_parameters_is_left_out(films, tmp_path):
    config = films_config(films, SPACE_TIME | {"text_encoder": tiny_text_model(tmp_path)}, batch_size=8)
    task = alignment.task(config, World())
    batch = task.train_set.batch(list(range(8)))
    assert batch.text.dtype == torch.int64
    terms, _ = task.loss(task.model(batch), batch)
    sum(terms.values()).backward()
    assert [name for name, p in task.model.named_parameters() if p.grad is None] == []
    frozen = task.model.text_map(
        task.model.text_model(batch.text, batch.text_mask.long()).last_hidden_state[:, 0].relu()
    )
    torch.testing.assert_close(task.model.text(batch.text, batch.text_mask), frozen, rtol=0, atol=0.5)  # but dropout


SPACE_TIME = {
    "encoder": "space-time", "size": 32, "short_side": 36, "patch": 16, "hidden": 64, "depth": 2, "num_heads": 1,
    "width": 8, "window_frames": None, "frames_per_moment": 8, "crop": [0.5, 1],
}  # fmt: skip


def tiny_text_model(folder):
    from transformers import DistilBertConfig, DistilBertModel, DistilBertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "c", "the", *DIRECTIONS, *COLOURS, *SHAPES]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    model = DistilBertModel(DistilBertConfig(vocab_size=len(words), dim=16, n_layers=1, n_heads=2, hidden_dim=32))
    model.save_pretrained(folder / "text")
    DistilBertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "text")
    return str(folder / "text")


def test_the_mean_of_frozen_tokens_is_over_the_valid_ones():
    towers = Towers(films_config(Path("x")).align, 4)
    text, mask = torch.randn(2, 5, 4), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    expected = towers.text_map(torch.stack([text[0].mean(0), text[1, :2].mean(0)]))
    torch.testing.assert_close(towers.text(text, mask), expected)


def test_a_run_starts_from_published_weights_or_from_another_run(films, trained, tmp_path):
    shape = SPACE_TIME | {"width": 8, "init_from": str(egovlp_file(tmp_path))}
    task = alignment.task(films_config(films, shape), World())
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    assert "weights loaded" in task.initialise()
    expected = load_encoder(f"egovlp={tmp_path / 'egovlp.pth'}").model.state_dict()
    found = task.model.video.state_dict()
    found["temporal_embed"] = found["temporal_embed"][:, :4]  # of which the file has 4, and the network 16
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(task.model.text_map.weight, before["text_map.weight"])
    further = alignment.task(films_config(films, {"init_from": str(trained.run_dir)}), World())
    further.initialise()
    assert torch.equal(further.model.text_map.weight, trained_state(trained.run_dir)[1]["text_map.weight"])
    other = alignment.task(films_config(films, {"init_from": str(trained.run_dir), "width": 24}), World())
    with pytest.raises(CheckpointError, match=r"of another shape: .*set the same align"):
        other.initialise()


# ---- learning, and what it leaves


def test_stage_one_learns_what_happens_to_what_in_seconds(trained):
    last = trained.history[-1]
    assert last["raw EgoMCQ intra"] > 55
    assert last["raw EgoMCQ inter"] > 55
    assert last["loss total"] < 0.6 * trained.history[0]["loss total"]
    assert last["ema EgoMCQ mean"] == pytest.approx((last["ema EgoMCQ inter"] + last["ema EgoMCQ intra"]) / 2)


def test_raw_and_averaged_weights_are_exported_with_the_deviations_of_their_own_features(trained):
    weights = weights_of(trained.last)
    raw, averaged = weights["raw video.scale"], weights["ema video.scale"]
    assert not torch.equal(raw, averaged)
    assert all((scale != 1).all() for scale in (raw, averaged))


def test_shuffled_narrations_teach_nothing(tmp_path):
    folder = make_tiny_films(tmp_path / "shuffled", num_clips=24, num_val=6, shuffled=True)
    last = train(films_config(folder, epochs=6, batch_size=32), tmp_path / "run", reporter=Reporter()).history[-1]
    assert last["raw EgoMCQ mean"] < 40


def test_a_run_that_is_interrupted_in_the_middle_ends_bitwise_as_a_calm_one(films, trained, tmp_path, monkeypatch):
    """With scene negatives, crops and flips, and a state at every step."""
    from groundnlq.engine.trainer import Trainer

    align = {"scene_negatives": True, "crop": [0.5, 1], "flip": True}
    config = films_config(films, align, epochs=2, batch_size=16, checkpoint_every_steps=1)
    calm = train(config, tmp_path / "calm", reporter=Reporter())
    step = Trainer.train_step

    def fail_once(self, batches):
        if self.step == 11 and not monkeypatch.failed:
            monkeypatch.failed = True
            raise RuntimeError("power cut")
        step(self, batches)

    monkeypatch.failed = False
    monkeypatch.setattr(Trainer, "train_step", fail_once)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "cut", reporter=Reporter())
    cut = train(config, tmp_path / "cut", reporter=Reporter())
    assert cut.resumed_from_step == 11
    assert same_weights(calm.last, cut.last)
    assert same_weights(calm.best, cut.best)


def test_a_run_is_not_resumed_with_other_videos(films, tmp_path):
    folder = shutil.copytree(films, tmp_path / "films")
    config = films_config(folder, epochs=1, batch_size=32)
    train(config, tmp_path / "run", reporter=Reporter())
    shutil.copy(folder / "videos" / "c1.mp4", folder / "videos" / "c0.mp4")
    with pytest.raises(CheckpointError, match="begun with other videos"):
        train(config, tmp_path / "run", reporter=Reporter())


def test_bfloat16_trains_and_its_loss_is_near_that_of_float32(films, trained, tmp_path):
    config = films_config(films, epochs=1, batch_size=32, precision="bfloat16")
    row = train(config, tmp_path / "run", reporter=Reporter()).history[0]
    assert row["loss total"] == pytest.approx(trained.history[0]["loss total"], rel=0.05)
    assert row["loss total"] != trained.history[0]["loss total"]


def test_the_trained_encoder_makes_features_of_a_film_that_are_those_of_training(films, trained):
    encoder = load_encoder(str(trained.run_dir))
    assert (encoder.width, encoder.num_frames, encoder.window_frames, encoder.stride_frames) == (16, 4, 16, 24)
    assert encoder.name.startswith("films sha256:")
    step_sec = 24 / 30
    features = features_of(films / "videos" / "c20.mp4", [encoder])
    assert features.shape == (20, 16)
    assert features.std() == pytest.approx(1, abs=0.3)
    config, state, _ = trained_state(trained.run_dir)
    towers = Towers(config.align, 16)
    towers.load_state_dict(state)
    every = dataset(films, is_training=False)
    moments = [((t * step_sec, (t + 1) * step_sec),) for t in (0, 7, 15)]
    every.records = [replace(every.records[0], clip_uid="c0", moments_sec=moment) for moment in moments]
    batch = every.batch([0, 1, 2])
    mean, deviation = (255 * torch.tensor(encoder.about[name]) for name in ("mean", "deviation"))
    pixels = ((batch.frames - mean) / deviation).movedim(-1, 2)
    expected = towers.video.features(pixels).detach()
    features = features_of(films / "videos" / "c0.mp4", [encoder])
    torch.testing.assert_close(features[[0, 7, 15]], expected, rtol=1e-3, atol=1e-3)


def test_the_name_of_a_trained_encoder_tells_its_weights_and_nothing_else(films, trained, tmp_path):
    name = load_encoder(str(trained.run_dir)).name
    content = read_checkpoint(trained.best)
    content["info"]["step"] = -1
    other = "ema" if content["use"] == "raw" else "raw"
    content["weights"][other] = content["weights"][content["use"]]
    torch.save(content, tmp_path / "moved.pt")
    assert load_encoder(str(tmp_path / "moved.pt")).name == name
    content["weights"][content["use"]]["video.output.bias"][0] += 1e-3
    torch.save(content, tmp_path / "other.pt")
    assert load_encoder(str(tmp_path / "other.pt")).name != name


def test_a_video_encoder_is_not_taken_for_a_grounding_network(trained):
    with pytest.raises(CheckpointError, match=r"a video encoder, of stage one -- use it as --encoder"):
        load_model(trained.run_dir)


def test_a_checkpoint_that_is_not_of_an_encoder_is_refused_by_name(trained, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: no such checkpoint"):
        load_encoder(str(tmp_path / "none.pt"))
    content = read_checkpoint(trained.best)
    del content["weights"][content["use"]]["video.output.bias"]
    torch.save(content, tmp_path / "part.pt")
    with pytest.raises(FeatureError, match=r"part\.pt: not as configured: .*output\.bias"):
        load_encoder(str(tmp_path / "part.pt"))
    content["config"]["align"] = None
    torch.save(content, tmp_path / "grounding.pt")
    with pytest.raises(FeatureError, match=r"grounding\.pt: a grounding network, not a video encoder"):
        load_encoder(str(tmp_path / "grounding.pt"))


def test_evaluation_of_a_run_is_what_its_best_validation_said(trained):
    found = alignment.evaluate_run(trained.run_dir)
    best = max(max(row["raw EgoMCQ mean"], row["ema EgoMCQ mean"]) for row in trained.history)
    assert {len(hits) for _, hits in found.values()} == {48}
    assert np.mean([100 * hits.mean() for _, hits in found.values()]) == pytest.approx(best)
    assert set(found["inter"][0]) == {f"c{i}" for i in range(18, 24)}


# ---- records


def test_classes_of_verbs_and_nouns_survive_a_round_trip_and_older_files_have_none(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [NARRATION, replace(NARRATION, query_id="b", verbs=(), nouns=(3, 4))])
    assert [(r.verbs, r.nouns) for r in read_records(path)] == [((1,), (2,)), ((), (3, 4))]
    assert path.read_text().count("verbs") == 1
    path.write_text(path.read_text().replace("[1]", '["x"]').replace("[3, 4]", "[-1]"))
    with pytest.raises(
        DataError, match=r"line 1: verbs: \[class number, \.\.\.\] expected, got \['x'\](.|\n)*line 2: nouns"
    ):
        read_records(path)


def test_tags_of_egoclip_become_classes_and_malformed_ones_are_counted(tmp_path):
    from groundnlq.data.annotations import Clip

    header = "video_uid\tnarration_source\tnarration_ind\tclip_start\tclip_end\tclip_text\ttag_verb\ttag_noun\n"
    tags = [("[3, 17]", "[ 5 ]"), ("[]", ""), ("[x]", "[1.5]"), ("None", "[[1]]")]
    rows = [f"v\tpass_1\t{i}\t{i + 1}\t{i + 2}\t#C C sits\t{verb}\t{noun}\n" for i, (verb, noun) in enumerate(tags)]
    path = tmp_path / "egoclip.csv"
    path.write_text(header + "".join(rows))
    records, counts = narration_records(path, {"c": Clip("c", 0.0, 99.0, "v")})
    assert [(r.verbs, r.nouns) for r in records] == [((3, 17), (5,)), ((), ()), ((), ()), ((), ())]
    assert counts["malformed tags"] == 4


# ---- configuration


def test_a_configuration_of_stage_one_is_read_as_it_is_written_and_compared_by_key(tmp_path):
    one = load_config("sample_align")
    one.save(tmp_path / "one.yaml")
    assert load_config(tmp_path / "one.yaml") == one
    grounding = load_config("sample_scratch")
    assert one.differing_keys(load_config("sample_align", ["align.width=64"])) == ["align.width"]
    assert "align.width" in one.differing_keys(grounding)
    assert one.differing_keys(grounding) == grounding.differing_keys(one)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("align.widht=64", "unknown key align.widht; did you mean align.width"),
        ("align.channels=[]", "the small encoder needs the channels"),
        ("align.crop=[0.9, 0.5]", "it needs 0 < smallest <= largest"),
    ],
)
def test_mistakes_in_the_section_of_stage_one_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        load_config("sample_align", [change])


def test_stage_one_without_its_section_or_with_cuda_graphs_is_refused():
    with pytest.raises(ConfigError, match="no section align"):
        alignment.task(RunConfig(name="x"), World())
    with pytest.raises(ConfigError, match="cuda_graphs"):
        alignment.task(load_config("sample_align", ["train.cuda_graphs=true"]), World())


# ---- the command line


def test_evaluate_prints_egomcq_of_a_run_with_intervals(trained, tmp_path, capsys):
    assert main(["evaluate", str(trained.run_dir), "--output", str(tmp_path / "egomcq.json")]) == 0
    printed = capsys.readouterr().out
    assert (
        len(re.findall(r"EgoMCQ (?:inter|intra): [\d.]+ % of 48 questions \[[\d.]+, [\d.]+\], chance 20 %", printed))
        == 2
    )
    content = json.loads((tmp_path / "egomcq.json").read_text())["EgoMCQ"]
    assert content["inter"]["95 % low"] < content["inter"]["accuracy"] < content["inter"]["95 % high"]
    assert main(["evaluate", str(tmp_path / "egomcq.json")]) == 2
    assert "missing argument 'TRUTH'" in capsys.readouterr().err


def test_train_and_extract_by_command_give_a_store_that_names_the_encoder(films, trained, tmp_path, capsys):
    run, store = str(trained.run_dir), tmp_path / "features.h5"
    assert main(["train", str(trained.run_dir / "config.yaml"), "--run", run]) == 0
    assert "nothing to do" in capsys.readouterr().out
    some = [str(films / "videos" / f"c{i}.mp4") for i in range(2)]
    assert main(["features", "extract", *some, "--encoder", run, "--output", str(store)]) == 0
    found = FeatureStore(store)
    assert found.encoder == load_encoder(run).name
    assert (found.width, found.grid.snippet_stride_frames) == (16, 24.0)


def test_narrations_of_whole_videos_are_prepared_from_a_folder(films, tmp_path, capsys):
    header = "video_uid\tnarration_source\tnarration_ind\tclip_start\tclip_end\tclip_text\ttag_verb\ttag_noun\n"
    rows = [f"c{i}\tpass_1\t0\t{1 + i}\t{14 + i}\t#C C sits\t[1]\t[2]\n" for i in range(4)]
    (tmp_path / "egoclip.csv").write_text(header + "".join(rows))
    command = ["prepare", "narrations", str(tmp_path / "egoclip.csv"), "--output", str(tmp_path / "n.jsonl")]
    assert main([*command, "--videos", str(films / "videos")]) == 0
    records = read_records(tmp_path / "n.jsonl")  # of 16 s each: the last two end later
    assert [(r.clip_uid, r.duration_sec, r.moments_sec) for r in records] == [
        ("c0", 16.0, ((1.0, 14.0),)), ("c1", 16.0, ((2.0, 15.0),)),
    ]  # fmt: skip
    assert main(command) == 2
    assert "either --clips or --videos" in capsys.readouterr().err


def test_the_curves_of_a_run_show_both_losses_and_egomcq(trained):
    figure = loss_curve(trained.history)
    labels = {text.get_text() for axis in figure.axes for text in axis.get_legend().get_texts()}
    assert {"total", "text to video", "video to text"} <= labels
    assert figure.axes[1].get_ylabel() == "val EgoMCQ mean [%]"
