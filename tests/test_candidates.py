"""Cached outputs decode to what `predict` gives, with any settings, for a whole split at once."""

import numpy as np
import pytest
import torch

from groundnlq.analysis import candidates as module
from groundnlq.analysis.candidates import FixedPredictions, LivePredictions, levels_reached
from groundnlq.analysis.free_form import ask_about_clip
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record, read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.predictor import Predictor
from groundnlq.model.grounder import Grounder
from groundnlq.model.points import assign_targets, make_points
from tests.stub_network import RANGES, config_of, live_predictions
from tests.tiny_run import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_tiny_data(tmp_path_factory.mktemp("candidates") / "data")
    config = tiny_config(folder)
    records = read_records(folder / "val.jsonl")
    stores = FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")
    dataset = QueryDataset(records, *stores, config.data.grid)
    torch.manual_seed(0)
    model = Grounder(config.model).eval()
    for parameter in model.heads.parameters():  # an untrained head says the same of every point
        torch.nn.init.normal_(parameter, std=0.4)
    return LivePredictions(Predictor(model, config), dataset)


def predicted(run, settings):
    config = run.config.model_copy(update={"decode": settings})
    return Predictor(run.predictor.model, config).predict_dataset(run.dataset)


SETTINGS = {
    "soft": {},
    "sharp": {"sigma": 0.05},
    "flat, cut": {"sigma": 3.0, "min_score": 0.2},
    "nothing left": {"sigma": 0.5, "min_score": 0.999},
    "hard": {"nms": "hard"},
    "hard, loose": {"nms": "hard", "iou_threshold": 0.7, "min_score": 0.2},
    "none": {"nms": "none"},
    "none, cut": {"nms": "none", "min_score": 0.3},
    "voting": {"voting_iou": 0.5},
    "voting after hard": {"nms": "hard", "voting_iou": 0.3, "min_score": 0.2},
}


@pytest.mark.parametrize("best", [(3,), (8, 20), (500,)])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_cached_outputs_decode_to_what_predict_gives_however_few_candidates_enter(run, monkeypatch, best, settings):
    monkeypatch.setattr(module, "BEST", best)
    settings = run.settings.model_copy(update={"top_k": module.MANY, **settings})
    expected = predicted(run, settings)
    run._best_of_all.cache_clear()
    decoded = run._decode(settings)
    for index, record in enumerate(run.records):
        found = decoded.of(index)
        assert found == pytest.approx(expected[record.query_id], abs=1e-5)
        assert decoded.overlaps[index, : len(found)] == pytest.approx(best_tiou(found, record.moments_sec))
        assert (decoded.overlaps[index, len(found) :] == 0).all()


@pytest.mark.parametrize("top_k", [3, 8, 13])
def test_fewer_predictions_are_the_first_of_more(run, top_k):
    settings = run.settings.model_copy(update={"top_k": top_k})
    decoded, expected = run.decode(settings), predicted(run, settings)
    for index, record in enumerate(run.records):
        assert decoded.of(index, top_k) == pytest.approx(expected[record.query_id], abs=1e-6)


def test_a_setting_is_decoded_once(run, monkeypatch):
    calls, real = [], module.suppress
    monkeypatch.setattr(module, "suppress", lambda *a: calls.append(a) or real(*a))
    for _ in range(3):
        run.decode(run.settings.model_copy(update={"sigma": 0.33, "min_score": 0.01}))
    assert len({len(scores) for _, scores, _ in calls}) == len(calls) <= len(module.BEST) + 1


def test_level_scores_are_the_networks(run):
    outputs = run.predictor.outputs(run.dataset.batch([4]))
    scores, levels = outputs.logits[0].sigmoid(), outputs.points.level
    for level, found in enumerate(run.level_scores(4)):
        expected = scores[outputs.mask[0] & (levels == level)]
        assert found == pytest.approx(expected.numpy(), abs=1e-6)


def test_an_answer_comes_from_the_level_whose_point_gives_its_segment(run):
    best = run.candidates(2)[run.candidates(2)[:, 2].argmax()]
    assert run.level_of(2, run.decode().of(2)[0]) == int(best[3])
    assert run.level_of(2, np.array([0.123, 0.456, 0.5])) == -1


class Encoder:
    """Gives each text the tokens of a query."""

    width, as_clip_query = 8, False

    def __init__(self, tokens, query_id):
        self.name, self.encode = tokens.encoder, lambda texts: [tokens.read(query_id) for _ in texts]


def test_a_free_form_query_is_answered_as_the_same_query_and_its_attention_sums_to_one(run):
    record = run.records[5]
    encoder = Encoder(run.dataset.tokens, record.query_id)
    asked = ask_about_clip(run, ["Where is it?"], record, encoder)
    assert [r.query for r in asked.records] == ["Where is it?"]
    assert asked.decode().of(0) == pytest.approx(run.decode().of(5), abs=1e-5)
    assert [len(s) for s in asked.level_scores(0)] == [len(s) for s in run.level_scores(5)]
    layers, num_tokens = run.config.model.num_stem_layers, len(run.dataset.tokens.read(record.query_id))
    for attention in (asked.attention(0), run.attention(5)):
        assert attention.shape == (layers, run.dataset.store.num_steps[record.clip_uid], num_tokens)
        assert attention.sum(axis=2) == pytest.approx(1)
    assert run.predictor.model.video_encoder.stem[0].cross_attention._forward_pre_hooks == {}


def test_ranks_of_right_candidates_are_by_score_alone_and_end_at_the_cut():
    records = [Record(f"a_{i}", "c", "?", 64.0, ((10.0, 14.0),)) for i in range(3)]
    right, wrong = (10, 15, 0.2), (30, 35, 0.9)
    run = live_predictions(records, {"a_0": [right, wrong], "a_1": [wrong], "a_2": [wrong, wrong, right]})
    rank, found = run.right_ranks(0.3, 0.001)
    assert rank.tolist() == [2, np.inf, 3]
    assert found.tolist() == [True, False, True]
    rank, found = run.right_ranks(0.3, 0.5)
    assert np.isinf(rank).all()
    assert found.any()
    assert not run.right_ranks(0.9, 0.0)[1].any()


def test_a_file_has_its_predictions_and_nothing_else():
    records = [Record("a_0", "c", "?", 64.0, ((10.0, 14.0),)), Record("a_1", "c", "?", 64.0)]
    decoded = FixedPredictions(records, {"a_0": np.array([[10.0, 14.0, 0.0], [20.0, 30.0, 0.0]])}).decode()
    assert decoded.of(0)[:, :2].tolist() == [[10, 14], [20, 30]]  # a score of 0 is a prediction, too
    assert decoded.overlaps[0].tolist() == [1, 0]
    assert len(decoded.of(1)) == 0


@pytest.mark.parametrize("half_window", ["consistent", "legacy"])
@pytest.mark.parametrize("center_radius", [0.5, 1.5, 4.0])
def test_levels_reached_are_those_that_training_gives_positive_points(half_window, center_radius):
    config = config_of(train={"center_radius": center_radius})
    data = config.data.model_copy(update={"half_window": half_window})
    config, grid = config.model_copy(update={"data": data}), data.grid
    random = np.random.default_rng(1)
    for _ in range(40):
        start, length = random.uniform(0, 60), np.exp(random.normal(1, 1.3))
        one = Record("a_0", "c", "?", 64.0, ((start, start + length),))
        num_steps = int(64 / grid.step_sec)
        points = make_points(tuple(-(-num_steps // 2**level) for level in range(4)), tuple(map(tuple, RANGES)))
        seen = torch.tensor([[start, min(64.0, start + length)]], dtype=torch.float32)
        labels, _ = assign_targets(points, grid.to_grid(seen), center_radius)
        assert set(points.level[labels > 0].tolist()) <= levels_reached(one, config)
