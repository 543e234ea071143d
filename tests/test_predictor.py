"""Prediction over a split: what is done once, what in parts, and that neither shows in the answers."""

import numpy as np
import pytest
import torch

from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine import predictor as predicting
from groundnlq.engine.predictor import Predictor
from groundnlq.model.grounder import Grounder
from tests.tiny_run import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_tiny_data(tmp_path_factory.mktemp("predict"))
    config = tiny_config(folder)
    torch.manual_seed(0)
    model = Grounder.from_config(config.model)
    records = read_records(folder / "val.jsonl")
    stores = FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")
    return model, QueryDataset(records, *stores, config.data.grid), config


def answers(world, **options):
    model, dataset, config = world
    return Predictor(model, config, **options).predict_dataset(dataset)


def calls_of(monkeypatch, owner, name):
    """The arguments of all calls of a method, which goes on working."""
    calls, method = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: calls.append(args) or method(*args))
    return calls


def test_a_clip_is_read_and_embedded_once_for_all_its_queries(world, monkeypatch):
    model, dataset, _ = world
    monkeypatch.setattr(predicting, "BYTES_AT_ONCE", (1, 1))  # every query passes alone
    reads = calls_of(monkeypatch, dataset.store, "read")
    embeds = calls_of(monkeypatch, model.video_encoder, "embed")
    texts = calls_of(monkeypatch, model.query_encoder, "forward")
    passes = calls_of(monkeypatch, model, "ground")
    answers(world)
    clips = {record.clip_uid for record in dataset.records}
    assert sorted(uid for (uid,) in reads) == sorted(clips)
    assert len(embeds) == len(texts) == len(clips)
    assert len(passes) == len(dataset.records) > len(clips)


def test_no_more_pass_at_once_than_was_set(world, monkeypatch):
    model, dataset, _ = world
    monkeypatch.setattr(predicting, "BYTES_AT_ONCE", (400, 400))
    passes = calls_of(monkeypatch, model, "ground")
    answers(world)
    rows = [clips.mask.shape[1] * len(index) for clips, index, *_ in passes]
    assert 4 * max(rows) <= 400 < 4 * 3 * dataset.lengths[0]


def test_answers_do_not_depend_on_how_many_queries_pass_at_once(world, monkeypatch):
    together = answers(world)
    monkeypatch.setattr(predicting, "BYTES_AT_ONCE", (1, 1))
    alone = answers(world)
    assert together.keys() == alone.keys()
    for query_id, moments in together.items():
        np.testing.assert_allclose(alone[query_id], moments, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_close_and_leaves_the_model_as_it_was(world):
    model, dataset, config = world
    lowered = Predictor(model, config, "bfloat16")
    assert {p.dtype for p in lowered.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    batch = dataset.batch([0, 1, 2])
    exact, rough = Predictor(model, config).outputs(batch), lowered.outputs(batch)
    torch.testing.assert_close(rough.logits.float(), exact.logits, rtol=0.05, atol=0.05)
    assert answers(world, precision="bfloat16").keys() == answers(world).keys()


def test_the_model_goes_on_in_the_mode_it_was_in_even_after_a_failure(world, monkeypatch):
    model, dataset, config = world
    model.train()
    answers(world)
    assert model.training
    monkeypatch.setattr(model.video_encoder, "embed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Predictor(model, config).outputs(dataset.batch([0]))
    assert model.training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
