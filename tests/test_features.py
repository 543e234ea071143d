"""The feature store reads what was written, wherever and however often it is asked."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch

from groundnlq.data.features import FeatureStore, write_features
from groundnlq.errors import FeatureError

WIDTH = 1024


def write(path, lengths, dtype="float16") -> dict[str, torch.Tensor]:
    clips = {f"c{i}": torch.randn(n, WIDTH).half().float() for i, n in enumerate(lengths)}
    write_features(path, clips.items(), dtype=dtype)
    return clips


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_clip_of_any_length_comes_back_whole(tmp_path, dtype):
    clips = write(tmp_path / "f.h5", (1, 127, 128, 129, 384, 389), dtype)
    store = FeatureStore(tmp_path / "f.h5")
    assert store.num_steps == {uid: len(values) for uid, values in clips.items()}
    for uid in sorted(clips, reverse=True):
        assert torch.equal(store.read(uid), clips[uid])


def test_threads_do_not_read_each_others_clips(tmp_path):
    clips = write(tmp_path / "f.h5", [256 + i for i in range(6)])
    store = FeatureStore(tmp_path / "f.h5")
    asked = [f"c{i % 6}" for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        for uid, values in zip(asked, pool.map(store.read, asked), strict=True):
            assert torch.equal(values, clips[uid])


def read_in_child(store, uid, path):
    np.save(path, store.read(uid).numpy())


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_process_opens_the_file_for_itself(tmp_path, way):
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {way}")
    clips = write(tmp_path / "f.h5", (20, 300))
    store = FeatureStore(tmp_path / "f.h5")
    store.read("c0")
    child = multiprocessing.get_context(way).Process(target=read_in_child, args=(store, "c1", tmp_path / "read.npy"))
    child.start()
    child.join()
    assert np.array_equal(np.load(tmp_path / "read.npy"), clips["c1"].numpy())
    assert torch.equal(store.read("c0"), clips["c0"])
    assert torch.equal(pickle.loads(pickle.dumps(store)).read("c1"), clips["c1"])


def test_a_store_stays_with_the_file_that_it_read_first(tmp_path):
    clips = write(tmp_path / "f.h5", (20, 30))
    store = FeatureStore(tmp_path / "f.h5")
    store.read("c0")
    write(tmp_path / "f.h5", (50, 60))  # under its final name in one step
    assert torch.equal(store.read("c1"), clips["c1"])


def test_a_file_that_got_shorter_is_named(tmp_path):
    write(tmp_path / "f.h5", (20, 300))
    store = FeatureStore(tmp_path / "f.h5")
    store.read("c0")
    os.truncate(tmp_path / "f.h5", os.path.getsize(tmp_path / "f.h5") // 2)
    with pytest.raises(FeatureError, match=r"f\.h5: was changed while in use -- begin again"):
        store.read("c1")


def test_a_clip_that_is_said_to_lie_behind_the_end_is_named_at_once(tmp_path):
    write(tmp_path / "f.h5", (20, 300))
    with h5py.File(tmp_path / "f.h5") as root:
        begins = root["clips/c1"].id.get_offset()
    damaged = (tmp_path / "f.h5").read_bytes()
    said = begins.to_bytes(8, "little")
    assert damaged.count(said) == 1
    (tmp_path / "f.h5").write_bytes(damaged.replace(said, (begins + 10_000).to_bytes(8, "little")))
    with pytest.raises(FeatureError, match=r"f\.h5: damaged \(.*invalid dataset size"):
        FeatureStore(tmp_path / "f.h5")


@pytest.mark.parametrize("chunks", [None, (7, 16)])
def test_a_store_that_was_replaced_is_refused_however_it_is_stored(tmp_path, chunks):
    clips = write(tmp_path / "f.h5", (20, 30))
    if chunks:
        with h5py.File(tmp_path / "f.h5", "r+") as root:
            for uid, values in clips.items():
                del root["clips"][uid]
                root["clips"].create_dataset(uid, data=values.half(), chunks=chunks, compression="gzip")
    store = FeatureStore(tmp_path / "f.h5")
    assert torch.equal(FeatureStore(tmp_path / "f.h5").read("c0"), clips["c0"])
    write(tmp_path / "f.h5", (30, 20))
    with pytest.raises(FeatureError, match=r"^[^:]*f\.h5: was changed while in use -- begin again$"):
        store.read("c1")


def test_values_that_are_no_numbers_are_refused_unread(tmp_path):
    write(tmp_path / "f.h5", (2,))
    with h5py.File(tmp_path / "f.h5", "r+") as root:
        del root["clips/c0"]
        root["clips"].create_dataset("c0", data=np.full((2, WIDTH), "x", object), dtype=h5py.string_dtype())
        root.attrs["dtype"] = np.bytes_(b"object")
    with pytest.raises(FeatureError, match=r"damaged \(values are 'object'\) -- import the features again"):
        FeatureStore(tmp_path / "f.h5")


def test_bytes_in_front_of_the_file_are_counted(tmp_path):
    clips = write(tmp_path / "f.h5", (7, 9))
    with h5py.File(tmp_path / "f.h5") as root, h5py.File(tmp_path / "g.h5", "w", userblock_size=512) as moved:
        root.copy("clips", moved)
        moved.attrs.update(root.attrs)
    store = FeatureStore(tmp_path / "g.h5")
    assert torch.equal(store.read("c1"), clips["c1"])
