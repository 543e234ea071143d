from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groundnlq.data.dataset import QueryDataset, _pad_length, clip_batches, jitter, shuffled_batches
from groundnlq.data.grid import StepGrid
from groundnlq.errors import FeatureError

GRID = StepGrid(fps=30.0, snippet_stride_frames=15.0, half_window="consistent")  # two steps a second


class Store(dict):
    """Stands in for features and tokens: id -> (length, width) tensor; counts what is read."""

    def __init__(self, lengths, width):
        super().__init__({uid: torch.full((n, width), float(n)) for uid, n in lengths.items()})
        self.num_steps, self.reads = lengths, []

    def read(self, uid):
        self.reads.append(uid)
        return self[uid]


def record(query_id, clip_uid, moments=((1.0, 2.0),), duration=10.0):
    return SimpleNamespace(query_id=query_id, clip_uid=clip_uid, moments_sec=moments, duration_sec=duration)


def dataset(**options):
    records = [record("q0", "a"), record("q1", "b"), record("q2", "a", moments=((9.0, 12.0),)), record("q3", "a", ())]
    clips, tokens = Store({"a": 20, "b": 31}, 3), Store({"q0": 4, "q1": 2, "q2": 6, "q3": 1}, 5)
    return QueryDataset(records, clips, tokens, GRID, row_multiple=8, **options), clips


def test_a_clip_that_several_queries_share_is_read_once():
    data, clips = dataset()
    batch = data.batch([0, 1, 2])
    assert clips.reads == ["a", "b"]
    assert batch.clip_uids == ("a", "b")
    assert batch.clip_index.tolist() == [0, 1, 0]
    assert batch.query_ids == ("q0", "q1", "q2")


def test_every_clip_and_query_has_a_padded_row_and_nothing_behind_the_valid_ones():
    data, _ = dataset()
    batch = data.batch([0, 1, 2])
    assert batch.video.shape == (2, 32, 3)
    assert batch.video_mask.sum(1).tolist() == [20, 31]
    assert batch.text_mask.sum(1).tolist() == [4, 2, 6]
    assert batch.text.shape == (3, 7, 5)
    assert batch.video[~batch.video_mask].abs().sum() == 0
    assert batch.text[~batch.text_mask].abs().sum() == 0


def test_moments_are_cut_at_the_clip_and_put_on_the_grid():
    data, _ = dataset()
    batch = data.batch([0, 2, 3])
    torch.testing.assert_close(batch.moments_grid, torch.tensor([[[1.5, 3.5]], [[17.5, 19.5]], [[0.0, 0.0]]]))
    assert data.batch([3]).moments_grid.shape == (1, 0, 2)


def test_clips_too_long_for_training_are_all_named():
    with pytest.raises(FeatureError, match=r"1 clips are longer than max_seq_len = 24 steps: b "):
        dataset(max_seq_len=24)


def test_padding_always_leaves_a_row():
    for n in range(1, 200):
        padded = _pad_length(n, 8)
        assert n < padded <= n + 8
        assert padded % 8 == 0


def test_jitter_always_contains_the_annotated_moment_and_grows_it_by_whole_multiples():
    random = np.random.default_rng(0)
    moments = np.tile([[10.0, 10.6]], (500, 1))
    jittered = jitter(moments, 10, random)
    scale = (jittered[:, 1] - jittered[:, 0]) / 0.6
    assert set(scale.round(6)) == set(map(float, range(1, 11)))
    assert (jittered[:, 0] <= 10.0 + 1e-9).all()
    assert (jittered[:, 1] >= 10.6 - 1e-9).all()


def test_jitter_depends_on_seed_epoch_and_index_only():
    one, _ = dataset(jitter_max_scale=10, seed=1)
    same, _ = dataset(jitter_max_scale=10, seed=1)
    other, _ = dataset(jitter_max_scale=10, seed=2)
    first = one.batch([0, 1], epoch=3).moments_grid
    later = same.batch([1, 0], epoch=3).moments_grid
    assert torch.equal(first[0], later[1])
    assert torch.equal(first[1], later[0])
    assert not torch.equal(first[0], one.batch([0], epoch=4).moments_grid[0])
    assert not torch.equal(first[0], other.batch([0], epoch=3).moments_grid[0])


def test_batches_hold_every_sample_once_with_little_padding():
    lengths = np.random.default_rng(0).integers(100, 1000, 400).tolist()
    batches = shuffled_batches(lengths, 4, seed=0, epoch=1)
    assert sorted(i for batch in batches for i in batch) == list(range(400))
    assert batches == shuffled_batches(lengths, 4, seed=0, epoch=1)
    assert batches != shuffled_batches(lengths, 4, seed=0, epoch=2)
    spread = [max(lengths[i] for i in b) / min(lengths[i] for i in b) for b in batches]
    assert np.mean(spread) < 1.1


def test_the_lengths_are_looked_at_once_however_many_windows_they_fill():
    looks = []

    class Lengths(list):
        def __array__(self, *_, **__):
            looks.append(len(self))
            return np.array(list(self))

        def __getitem__(self, index):
            looks.append(1)
            return super().__getitem__(index)

    lengths = [(7 * i) % 50 + 1 for i in range(3000)]
    assert shuffled_batches(Lengths(lengths), 2, seed=0, epoch=0) == shuffled_batches(lengths, 2, seed=0, epoch=0)
    assert sum(looks) <= len(lengths)  # 30 windows of 100


def test_clip_batches_group_by_clip_in_record_order():
    records = [record(f"q{i}", uid) for i, uid in enumerate("abacaab")]
    assert clip_batches(records, max_queries=3) == [[0, 2, 4], [5], [1, 6], [3]]
