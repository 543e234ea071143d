"""A trained model answers a question the same way, whatever stands beside it in the file or in the batch."""

import json

import h5py
import numpy as np
import pytest
import torch

from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.records import read_records
from groundnlq.data.submission import read_submission, write_submission
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.launch import train
from groundnlq.engine.predictor import Predictor
from groundnlq.model.decode import decode
from tests.tiny_run import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A trained run, its data, and its answers to all records in the order of the file."""
    folder = make_tiny_data(tmp_path_factory.mktemp("invariance") / "data")
    run = folder.parent / "run"
    train(tiny_config(folder, epochs=8, validate_every_epochs=8), run)
    records = read_records(folder / "train.jsonl")
    return folder, run, records, answers(folder, run, records)


def answers(folder, run, records, **changes):
    inputs = {"features": folder / "features.h5", "text": folder / "text.h5"} | changes
    return Predictor.load(run).predict(records, **inputs)


def require_same(found, expected):
    """The same segments in the same order; float32 sums may round differently in another batch."""
    for query_id, segments in found.items():
        assert segments.shape == expected[query_id].shape
        np.testing.assert_allclose(segments, expected[query_id], rtol=1e-4, atol=1e-4)


def test_the_model_has_learned_something_that_could_change(world):
    _, _, records, expected = world
    firsts = np.array([expected[r.query_id][0, 0] for r in records])
    assert firsts.std() > 3  # seconds: answers differ from query to query


def test_the_position_in_the_file_does_not_matter(world):
    folder, run, records, expected = world
    mixed = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    found = answers(folder, run, mixed)
    assert list(found) == [r.query_id for r in mixed]
    require_same(found, expected)
    require_same(answers(folder, run, records[::-1]), expected)


def test_a_query_alone_is_answered_as_among_others(world):
    folder, run, records, expected = world
    for record in records[:6]:
        require_same(answers(folder, run, [record]), expected)
    require_same(answers(folder, run, records[5:16]), expected)


def test_a_longer_neighbour_and_more_padding_do_not_matter(world, tmp_path):
    folder, run, records, expected = world
    store = FeatureStore(folder / "features.h5")
    clips = {uid: store.read(uid).numpy() for uid in store.clip_uids}
    long = records[3].clip_uid
    longer = clips | {long: np.tile(clips[long], (3, 1))}
    write_features(tmp_path / "longer.h5", longer.items(), dtype="float32")
    predictor = Predictor.load(run)
    config = predictor.config
    tokens = TokenStore(folder / "text.h5")
    for neighbour, multiple in ((FeatureStore(tmp_path / "longer.h5"), 16), (store, 64), (store, 1)):
        dataset = QueryDataset(records, neighbour, tokens, config.data.grid, row_multiple=multiple)
        batch = dataset.batch([0, 3, 1])
        found = decode(predictor.outputs(batch), config.data.grid, batch.durations_sec, config.decode)
        for query_id, moments in zip(batch.query_ids, found, strict=True):
            if query_id != records[3].query_id or neighbour is store:
                require_same({query_id: moments.numpy()}, expected)


def test_how_features_lie_in_their_file_does_not_matter(world, tmp_path):
    folder, run, records, expected = world
    store = FeatureStore(folder / "features.h5")
    write_features(tmp_path / "reversed.h5", [(uid, store.read(uid)) for uid in store.clip_uids[::-1]], dtype="float32")
    require_same(answers(folder, run, records, features=tmp_path / "reversed.h5"), expected)
    with h5py.File(tmp_path / "reversed.h5", "r+") as root:
        for uid in list(root["clips"]):
            array = root["clips"][uid][()]
            del root["clips"][uid]
            root["clips"].create_dataset(uid, data=array, chunks=(7, 3), compression="gzip")
    require_same(answers(folder, run, records, features=tmp_path / "reversed.h5"), expected)


def test_twice_the_same_is_bitwise_the_same(world):
    folder, run, records, expected = world
    again = answers(folder, run, records)
    assert all(np.array_equal(again[i], expected[i]) for i in expected)


def test_the_number_of_threads_changes_no_answer(world):
    folder, run, records, expected = world
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        require_same(answers(folder, run, records), expected)
    finally:
        torch.set_num_threads(before)


def test_a_submission_on_disk_is_the_answers_to_the_last_digit(world, tmp_path):
    _, _, records, expected = world
    write_submission(tmp_path / "p.json", expected, records)
    again = read_submission(tmp_path / "p.json")
    assert all(np.array_equal(again[i], expected[i]) for i in expected)
    assert json.loads((tmp_path / "p.json").read_text())["provenance"] == expected.made_by
