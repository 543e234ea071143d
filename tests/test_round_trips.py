"""Every format is read back as it was written, and every importer changes nothing."""

import io

import h5py
import lmdb
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.importers import import_features, import_text
from groundnlq.data.records import Record, read_records, write_records
from groundnlq.data.submission import read_submission, write_submission
from groundnlq.data.tokens import TokenStore, write_tokens
from tests.strategies import SEGMENT, on_disk, splits

ID = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
FEATURES = arrays.arrays(np.float32, (5, 3), elements=st.floats(-100, 100, width=16))


@on_disk
@given(
    clips=st.dictionaries(ID, FEATURES, min_size=1, max_size=4),
    kind=st.sampled_from(["folder", "nested npy", "npz", "hdf5", "hdf5 groups", "lmdb", "ours"]),
)
def test_features_come_through_every_importer_unchanged(clips, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("import")
    source = folder / "source"
    if kind == "folder":
        source.mkdir()
        for name, array in clips.items():
            torch.save(torch.from_numpy(array), source / f"{name}.pt")
    elif kind == "nested npy":
        for number, (name, array) in enumerate(clips.items()):
            (source / str(number)).mkdir(parents=True)
            np.save(source / str(number) / f"{name}.npy", array)
    elif kind == "npz":
        source.mkdir()
        for name, array in clips.items():
            np.savez_compressed(source / f"{name}.npz", features=array, fps=np.array(30.0))
    elif kind in ("hdf5", "hdf5 groups"):
        with h5py.File(source, "w") as root:
            for name, array in clips.items():
                root[name if kind == "hdf5" else f"{name}/features"] = array
    elif kind == "lmdb":
        fill(source, {name: packed(features=array) for name, array in clips.items()})
    else:
        write_features(source, clips.items(), dtype="float32")
    counts = import_features([source], folder / "f.h5", progress=False)  # float16 holds these exactly
    store = FeatureStore(folder / "f.h5")
    assert counts["clips"] == len(clips)
    assert set(store.clip_uids) == set(clips)
    assert all(np.array_equal(store.read(name).numpy(), array) for name, array in clips.items())


def packed(**values) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **values)
    return data.getvalue()


def fill(path, entries) -> None:
    with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)


TOKENS = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-9, 9, width=32))


@on_disk
@given(tokens=st.dictionaries(ID, TOKENS, min_size=1, max_size=5), name=st.sampled_from(["token_features", "features"]))
def test_tokens_come_through_store_and_importer_unchanged(tokens, name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    with lmdb.open(str(folder / "lmdb"), map_size=1 << 22) as environment, environment.begin(write=True) as writer:
        for query_id, array in tokens.items():
            writer.put(query_id.encode(), packed(**{name: array}))
    assert import_text([folder / "lmdb"], folder / "a.h5", "x") == len(tokens)
    write_tokens(folder / "b.h5", ((i, torch.from_numpy(array)) for i, array in tokens.items()), encoder="x")
    for store in (TokenStore(folder / "a.h5"), TokenStore(folder / "b.h5")):
        assert set(store.query_ids) == set(tokens)
        assert all(np.array_equal(store.read(i).numpy(), array) for i, array in tokens.items())


RECORD = st.builds(
    Record,
    query_id=ID.map("{}_0".format),
    clip_uid=ID,
    query=TEXT,
    duration_sec=st.floats(0.5, 2000),
    moments_sec=st.lists(SEGMENT, max_size=2).map(tuple),
    query_type=st.sampled_from(["nlq", "nlq_narration"]),
    template=st.none() | TEXT,
    raw_query=st.none() | TEXT,
    video_uid=st.none() | TEXT,
)


@on_disk
@given(records=st.lists(RECORD, min_size=1, max_size=6, unique_by=lambda r: r.query_id))
def test_records_are_there_and_back(records, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "r.jsonl"
    write_records(path, records)
    assert read_records(path) == records


@on_disk
@given(split=splits())
def test_submissions_are_there_and_back(split, tmp_path_factory):
    records, ranked = split
    answered = [record for record in records if record.query_id in ranked]
    path = tmp_path_factory.getbasetemp() / "p.json"
    write_submission(path, ranked, answered)
    again = read_submission(path)
    assert again.keys() == ranked.keys()
    assert all(np.array_equal(again[i], ranked[i]) for i in ranked)
