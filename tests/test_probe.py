"""The linear map: it finds words where steps are related to them, and nothing where they are not."""

import numpy as np
import pandas as pd
import pytest
import torch

from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.data.tokens import TokenStore, write_tokens
from notebooks.lessons import probe
from notebooks.lessons.probe import Probe

GRID = StepGrid(fps=1.0, snippet_stride_frames=1.0, half_window="consistent")


def world(folder, is_related=True, num_clips=30):
    """Clips of noise in which each of four words shows its own direction for some steps; a query is a word
    and a token that says nothing."""
    random = np.random.default_rng(0)
    words, looks = np.eye(6)[:4], random.standard_normal((4, 8)) * 4
    clips, records, tokens = {}, [], {}
    for clip in range(num_clips):
        video = random.standard_normal((60, 8)) * 0.3
        for number, start in enumerate(random.permutation([3, 17, 31, 45])):
            length = int(random.integers(4, 8))
            shown = number if is_related else int(random.integers(4))
            video[start : start + length] += looks[shown]
            records.append(Record(f"a{clip}_{number}", f"c{clip}", "?", 60.0, ((start, start + length),)))
            tokens[f"a{clip}_{number}"] = torch.from_numpy(np.stack([words[number], np.eye(6)[5]])).float()
        clips[f"c{clip}"] = video
    write_features(folder / "features.h5", clips.items(), dtype="float32")
    write_tokens(folder / "text.h5", tokens.items(), encoder="words")
    return records, FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")


def test_what_is_linear_is_found_and_what_is_unrelated_is_not(tmp_path):
    orders = {}
    for is_related in (True, False):
        (tmp_path / str(is_related)).mkdir()
        records, *stores = world(tmp_path / str(is_related), is_related)
        linear = Probe.fit(records[:80], *stores, GRID)
        orders[is_related] = linear.separation(records[80:], *stores, GRID)
    assert orders[True]["AUC"].mean() > 0.98
    assert orders[True]["is best inside"].mean() > 0.95
    assert 0.3 < orders[False]["AUC"].mean() < 0.75


def test_the_map_is_the_ridge_regression_of_a_plain_solver(tmp_path):
    records, store, tokens = world(tmp_path)
    x, y = [], []
    for record in records:
        video = store.read(record.clip_uid).numpy().astype(float)
        (start, end), *_ = record.moments_sec
        shown = (video - video.mean(axis=0))[int(start) : int(end)].mean(axis=0)
        for token in tokens.read(record.query_id).numpy():
            x.append(token)
            y.append(shown)
    x, y = np.array(x, float), np.array(y)
    centred = x - x.mean(axis=0)
    penalty = 0.5 * (centred**2).sum(axis=0).mean() * np.eye(6)
    expected = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (y - y.mean(axis=0)))
    found = Probe.fit(records, store, tokens, GRID, ridge=0.5)
    assert found.mean_token == pytest.approx(x.mean(axis=0))
    assert found.weights == pytest.approx(expected, abs=1e-6)


def test_shares_of_the_words_sum_to_the_cosine_similarity(tmp_path):
    records, store, tokens = world(tmp_path)
    linear = Probe.fit(records, store, tokens, GRID)
    video, text = store.read("c0").numpy(), tokens.read("a0_0").numpy()
    wanted = ((text - linear.mean_token) @ linear.weights).sum(axis=0)
    seen = video - video.mean(axis=0)
    cosine = seen @ wanted / np.linalg.norm(seen, axis=1) / np.linalg.norm(wanted)
    assert linear.shares(text, video).sum(axis=1) == pytest.approx(cosine, abs=1e-5)


def test_order_is_a_slow_count_of_pairs(tmp_path):
    records, store, tokens = world(tmp_path, num_clips=3)
    linear = Probe.fit(records[:4], store, tokens, GRID)
    table = linear.separation(records, store, tokens, GRID)
    for record in records:
        similarity = linear.shares(tokens.read(record.query_id).numpy(), store.read(record.clip_uid).numpy()).sum(
            axis=1
        )
        within = probe._steps_inside(record, 60, GRID)
        pairs = [a > b for a in similarity[within] for b in similarity[~within]]
        assert table.loc[record.query_id, "AUC"] == pytest.approx(np.mean(pairs))


def test_steps_inside_a_moment_are_those_whose_middle_is_and_at_least_one():
    assert np.flatnonzero(probe._steps_inside(Record("a_0", "c", "?", 9.0, ((1.2, 4.5),)), 9, GRID)).tolist() == [
        1,
        2,
        3,
        4,
    ]
    assert np.flatnonzero(probe._steps_inside(Record("a_0", "c", "?", 9.0, ((3.6, 3.7),)), 9, GRID)).tolist() == [3]


def test_segments_have_the_median_length_lie_apart_and_are_ranked(tmp_path):
    records, *stores = world(tmp_path)
    linear = Probe.fit(records[:80], *stores, GRID)
    length = np.median([end - start for r in records for start, end in r.moments_sec])
    ranked = linear.predict(records, records[80:], *stores, GRID)
    assert ranked.keys() == {record.query_id for record in records[80:]}
    for segments in ranked.values():
        assert segments.shape == (5, 3)
        assert (np.diff(segments[:, 2]) <= 0).all()
        assert (segments[:, 1] - segments[:, 0] <= length + 1e-9).all()
        assert segments[:, :2].min() >= 0
        assert segments[:, 1].max() <= 60
        middles = np.sort(segments[:, :2].mean(axis=1)[(segments[:, 0] > 0) & (segments[:, 1] < 60)])
        assert (np.diff(middles) >= length).all()


def test_a_clip_of_few_steps_gets_as_many_segments_as_it_has_room_for(tmp_path):
    write_features(tmp_path / "features.h5", [("c", np.eye(4))], dtype="float32")
    write_tokens(tmp_path / "text.h5", [("a_0", torch.ones(1, 3))], encoder="words")
    record = Record("a_0", "c", "?", 4.0, ((0.0, 3.0),))
    stores = FeatureStore(tmp_path / "features.h5"), TokenStore(tmp_path / "text.h5")
    linear = Probe(np.zeros(3), np.ones((3, 4)))
    assert 1 <= len(linear.predict([record], [record], *stores, GRID)["a_0"]) < 5


def test_only_some_clips_are_read_where_there_are_many(tmp_path):
    records, store, tokens = world(tmp_path)
    read = []
    original = store.read
    store.read = lambda uid: read.append(uid) or original(uid)
    Probe.fit(records, store, tokens, GRID, at_most=20)
    assert len(read) == len(set(read)) == 5


def test_the_figures_say_what_they_show(tmp_path):
    records, store, tokens = world(tmp_path)
    linear = Probe.fit(records, store, tokens, GRID)
    shares = linear.shares(tokens.read("a0_0").numpy(), store.read("c0").numpy())
    figure = probe.similarity_figure(records[0], ["word", "$x$"], shares, GRID)
    heat, line = figure.axes[0], figure.axes[1]
    assert [label.get_text() for label in heat.get_yticklabels()] == ["word", r"\$x\$"]
    assert heat.images[0].get_array().shape == (2, 60)
    best = line.lines[1].get_xdata()
    assert best == pytest.approx([GRID.to_sec(int(shares.sum(axis=1).argmax()))])
    figure.savefig(tmp_path / "figure.png")
    table = pd.DataFrame({"AUC": [0.9, 0.7, 0.2], "is best inside": [True, False, False]})
    (axis,) = probe.separation_figure(table).axes
    assert "33 % of 3 queries" in axis.get_title()
