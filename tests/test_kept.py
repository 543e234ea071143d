"""Kept scores decode to what `predict` gives, at any setting, for a whole split at once."""

import numpy as np
import pytest
import torch

from groundnlq.analysis import candidates as kept
from groundnlq.analysis.candidates import FixedRun, LiveRun, levels_reached
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.grid import StepGrid
from groundnlq.data.recall import best_tiou
from groundnlq.data.records import Record, read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.predictor import Predictor
from groundnlq.model.grounder import Grounder
from groundnlq.model.points import assign_targets, make_points
from tests.said import RANGES, live_run
from tests.tiny_run import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_tiny_data(tmp_path_factory.mktemp("kept") / "data")
    config = tiny_config(folder)
    records = read_records(folder / "val.jsonl")
    stores = FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")
    dataset = QueryDataset(records, *stores, config.data.grid)
    torch.manual_seed(0)
    model = Grounder.from_config(config.model).eval()
    for parameter in model.heads.parameters():  # an untrained head says the same of every point
        torch.nn.init.normal_(parameter, std=0.4)
    return LiveRun(model, config, dataset, progress=False)


def predicted(run, settings):
    return Predictor(run.model, run.config.model_copy(update={"decode": settings})).predict_dataset(
        run.dataset
    )


@pytest.mark.parametrize("best", [(3,), (8, 20), (500,)])
@pytest.mark.parametrize(("sigma", "min_score"), [(0.75, 0.001), (0.05, 0.001), (3.0, 0.2), (0.5, 0.999)])
def test_kept_scores_decode_to_what_predict_gives_however_few_candidates_enter(
    run, monkeypatch, best, sigma, min_score
):
    monkeypatch.setattr(kept, "BEST", best)
    rules = run.config.decode.model_copy(update={"top_k": 10, "sigma": sigma, "min_score": min_score})
    expected = predicted(run, rules)
    answers = run._decode(sigma, min_score, kept.KEEP)
    for index, record in enumerate(run.records):
        found = answers.of(index)
        assert found == pytest.approx(expected[record.query_id], abs=1e-6)
        assert answers.overlaps[index, : len(found)] == pytest.approx(best_tiou(found, record.moments_sec))
        assert (answers.overlaps[index, len(found) :] == 0).all()


def test_fewer_answers_are_the_first_of_more(run):
    answers = run.answers(**run.rules)
    rules = run.config.decode.model_copy(update={"top_k": 3})
    expected = predicted(run, rules)
    for index, record in enumerate(run.records):
        assert answers.of(index, 3) == pytest.approx(expected[record.query_id], abs=1e-6)


def test_a_setting_is_decoded_once(run, monkeypatch):
    calls = []
    monkeypatch.setattr(kept, "soft_nms", lambda *a: calls.append(a) or kept_soft_nms(*a))
    for _ in range(3):
        run.answers(0.33, 0.01)
    assert len({len(call[0]) for call in calls}) == len(calls) <= len(kept.BEST) + 1


kept_soft_nms = kept.soft_nms


def test_level_scores_are_the_networks(run):
    expected = kept.level_scores(Predictor(run.model, run.config).outputs(run.dataset.batch([4])))
    for one, other in zip(run.level_scores(4), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_an_answer_comes_from_the_level_whose_point_gives_its_segment(run):
    best = run.candidates(2)[run.candidates(2)[:, 2].argmax()]
    assert run.level_of(2, run.answers(**run.rules).of(2)[0]) == int(best[3])
    assert run.level_of(2, np.array([0.123, 0.456, 0.5])) == -1


def test_a_question_of_ones_own_is_answered_as_the_same_query_and_its_attention_sums_to_one(run):
    record = run.records[5]
    tokens = run.dataset.tokens.read(record.query_id)
    ranked, scores, attention = run.ask(record, tokens, **run.rules)
    assert ranked == pytest.approx(run.answers(**run.rules).of(5), abs=1e-5)
    assert [len(s) for s in scores] == [len(s) for s in run.level_scores(5)]
    layers = run.config.model.num_stem_layers
    assert attention.shape == (layers, run.dataset.store.num_steps[record.clip_uid], len(tokens))
    assert attention.sum(axis=2) == pytest.approx(1)
    assert run.model.video_encoder.stem[0].cross_attention._forward_pre_hooks == {}


def test_right_candidates_are_told_by_score_and_cut():
    records = [Record(f"a_{i}", "c", "?", 64.0, ((10.0, 14.0),)) for i in range(3)]
    right, wrong = (10, 15, 0.2), (30, 35, 0.9)
    run = live_run(records, {"a_0": [right, wrong], "a_1": [wrong], "a_2": [wrong, wrong, right]})
    assert [mask.tolist() for mask in run.right_candidates(0.3, 0.001)] == [[True, False, True]] * 2
    assert [mask.any() for mask in run.right_candidates(0.3, 0.5)] == [False, True]
    assert not run.right_candidates(0.9, 0.0)[1].any()


def test_a_file_has_its_answers_and_nothing_else():
    records = [Record("a_0", "c", "?", 64.0, ((10.0, 14.0),)), Record("a_1", "c", "?", 64.0)]
    answers = FixedRun(records, {"a_0": np.array([[10.0, 14.0, 0.0], [20.0, 30.0, 0.0]])}).answers()
    assert answers.of(0)[:, :2].tolist() == [[10, 14], [20, 30]]  # a score of 0 is an answer, too
    assert answers.overlaps[0].tolist() == [1, 0]
    assert len(answers.of(1)) == 0


@pytest.mark.parametrize("half_window", ["consistent", "legacy"])
def test_levels_reached_are_those_that_training_gives_positive_points(half_window):
    grid = StepGrid(half_window=half_window)
    random = np.random.default_rng(1)
    for _ in range(40):
        start, length = random.uniform(0, 60), np.exp(random.normal(1, 1.3))
        one = Record("a_0", "c", "?", 64.0, ((start, start + length),))
        num_steps = int(64 / grid.step_sec)
        points = make_points([-(-num_steps // 2**level) for level in range(4)], RANGES)
        seen = torch.tensor([[start, min(64.0, start + length)]], dtype=torch.float32)
        labels, _ = assign_targets(points, grid.to_grid(seen), 1.5)
        assert set(points.level[labels > 0].tolist()) <= levels_reached(one, grid, RANGES)
