"""Mutated and damaged files: sound results or our own error come out, in time and memory as the input has."""
# ruff: noqa: E501 -- real-shaped rows are long

import copy
import itertools
import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundnlq.analysis.evaluation import evaluate
from groundnlq.config import load_config
from groundnlq.data.annotations import Clip, read_nlq, read_truth
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.narrations import narration_records
from groundnlq.data.records import read_records
from groundnlq.data.submission import read_submission
from groundnlq.data.tokens import TokenStore, write_tokens
from groundnlq.errors import KitError
from tests.strategies import quick


def real_shaped():
    """An official file with all that occurs in the real ones: nulls, an empty annotation, odd texts."""
    query = {
        "query": "Query Text: where did I put the knife ?",
        "template": "Place: Where did I put X?",
        "slot_x": "knife",
        "verb_x": "[verb_not_applicable]",
        "slot_y": None,
        "raw_tags": ["a", None],
        "clip_start_sec": 12.5,
        "clip_end_sec": 17.25,
        "video_start_sec": 112.5,
        "video_start_frame": 3375,
    }
    clips = []
    for c in range(2):
        annotations = [
            {"annotation_uid": f"a{c}", "language_queries": [query, query | {"query": None}, {"query": ""}]},
            {"annotation_uid": f"b{c}", "language_queries": [query | {"query": "m&ms\t?", "template": None}]},
            {"annotation_uid": f"e{c}", "language_queries": []},
        ]
        times = {"video_start_sec": 100 - 4e-7, "video_end_sec": 580.02, "clip_start_sec": 0.0}
        clips.append({"clip_uid": f"c{c}", "source_clip_uid": "s"} | times | {"annotations": annotations})
    video = {"video_uid": "v0", "split": "val", "clips": clips}
    return {"version": "2.0", "date": "x", "manifest": None, "videos": [video]}


RECORD_LINES = [
    {"query": "where?", "query_id": "a_0", "duration": 480.0, "video_id": "c", "query_type": "nlq", "timestamps": [[1.0, 2.0]]},
    {"narration_query": "picks", "query_id": "c_narrator-1_7", "duration": 9.5, "video_id": "c", "query_type": "nlq_narration", "timestamps": [[1, 2]]},
]  # fmt: skip
SUBMISSION = {
    "version": "1.0",
    "challenge": "ego4d_nlq_challenge",
    "results": [
        {"clip_uid": "c", "annotation_uid": "a", "query_idx": i, "predicted_times": [[1.0, 2.0, 0.5], [3, 4, 0.1]]}
        for i in range(2)
    ],
}
NUMBERS = st.sampled_from([0, -1, 1e308, -1e308, 1e-320, 10**40, 2**63, float("nan"), float("inf"), -0.0, True])
STRINGS = st.sampled_from(["", " ", "../x", "\x00", "\ud800", "\u2028", "a" * 200, "<script>", "$\\frac$", "1", "null"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | NUMBERS | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths_of(tree, prefix=()):
    yield prefix
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from paths_of(value, (*prefix, key))


@st.composite
def mutated(draw, tree):
    """One to three changes: a value replaced, a key removed, an entry repeated, a key renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([path for path in paths_of(tree) if path]))
        target = tree
        for key in parents:
            target = target[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "rename"]))
        if kind == "replace":
            target[last] = draw(VALUES)
        elif kind == "remove":
            del target[last]
        elif kind == "repeat" and isinstance(target, list):
            target.append(copy.deepcopy(target[last]))
        elif kind == "rename" and isinstance(target, dict):
            target[draw(st.text(max_size=4))] = target.pop(last)
        if not any(paths for paths in paths_of(tree) if paths):
            break
    return tree


@st.composite
def damaged(draw, text):
    """Bytes of a file, with some cut, flipped or inserted."""
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["cut", "flip", "insert"]))
        if kind == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        else:
            data[at:at] = draw(st.binary(max_size=6))
    return bytes(data)


def require_sound(records):
    for record in records:
        assert record.query.strip()
        assert 0 < record.duration_sec < 1e16
        assert all(abs(time) < 1e16 for moment in record.moments_sec for time in moment)
        usable = any(max(start, 0) < min(end, record.duration_sec) for start, end in record.moments_sec)
        assert usable == bool(record.moments_sec and not record.oddity)
        json.dumps(vars(record) if hasattr(record, "__dict__") else record.query).encode()
    ids = [record.query_id for record in records]
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


def read_or_refuse(read, path, data):
    """The result or None; any error but our own comes out, as does memory out of proportion."""
    path.write_bytes(data)
    result, refusal = None, ""
    tracemalloc.start()
    try:
        result = read(path)
    except KitError as error:
        refusal = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result is not None or str(path) in refusal
    assert len(refusal) < 10_000
    assert peak < 2_000_000 + 100 * len(data)
    return result


@quick
@given(data=mutated(real_shaped()).map(json.dumps).flatmap(damaged))
def test_a_mutated_official_file_gives_sound_records_or_our_own_error(data, scratch):
    file = read_or_refuse(read_nlq, scratch, data)
    if file is not None:
        require_sound(file.records)


QUERY_KEYS = [*real_shaped()["videos"][0]["clips"][0]["annotations"][0]["language_queries"][0], "x"]
TIMES = st.sampled_from([-0.02, 0, 12.5, 17.25, 480.02, 1e4]) | NUMBERS


@quick
@given(
    place=st.sampled_from([("a0_0", 0, 0), ("b0_0", 0, 1), ("a1_0", 1, 0), ("b1_0", 1, 1)]),
    removed=st.sets(st.sampled_from(QUERY_KEYS)),
    changed=st.dictionaries(st.sampled_from(QUERY_KEYS), VALUES | TIMES, max_size=4),
    entry=st.just(...) | VALUES,
)
def test_one_odd_query_costs_neither_the_file_nor_another_query(place, removed, changed, entry, scratch):
    query_id, clip, annotation = place
    tree = real_shaped()
    before = records_of(tree, scratch)[0]
    queries = tree["videos"][0]["clips"][clip]["annotations"][annotation]["language_queries"]
    query = {key: value for key, value in (queries[0] | changed).items() if key not in removed}
    queries[0] = query if entry is ... else entry
    after, file = records_of(tree, scratch)
    require_sound(file.records)
    assert after | {query_id: None} == before | {query_id: None}
    is_odd = query_id not in after or bool(after[query_id].oddity)
    assert [query_id in names for names in file.odd.values() if query_id in names] == [True] * is_odd
    assert all(file.dirt[kind] == len(names) for kind, names in file.odd.items())
    hits = evaluate(dict.fromkeys(after, np.array([[12.5, 17.25, 1.0]])), file.records).hits.set_index("query_id")
    assert hits["R@1 IoU=0.5"].drop(query_id, errors="ignore").all()
    assert query_id not in after or not (is_odd and hits["mIoU"][query_id])


def records_of(tree, path):
    path.write_text(json.dumps(tree))
    file = read_nlq(path)
    return {record.query_id: record for record in file.records}, file


@quick
@given(data=mutated(RECORD_LINES).map(lambda rows: "\n".join(map(json.dumps, rows))).flatmap(damaged))
def test_mutated_records_give_sound_records_or_our_own_error(data, scratch):
    require_sound(read_or_refuse(read_records, scratch, data) or [])


@quick
@given(data=mutated(SUBMISSION).map(json.dumps).flatmap(damaged))
def test_a_mutated_submission_gives_finite_segments_or_our_own_error(data, scratch):
    for segments in (read_or_refuse(read_submission, scratch, data) or {}).values():
        assert np.isfinite(segments).all()
        assert (segments[:, 0] <= segments[:, 1]).all()


FILE_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Bytes of a feature store and of a token store."""
    folder = tmp_path_factory.mktemp("stores")
    values = np.random.default_rng(0).standard_normal((5, 9, 4))
    write_features(folder / "f.h5", [(f"c{i}", array) for i, array in enumerate(values)])
    write_tokens(folder / "t.h5", ((f"q_{i}", torch.from_numpy(v)) for i, v in enumerate(values)), encoder="x")
    return [(FeatureStore, (folder / "f.h5").read_bytes()), (TokenStore, (folder / "t.h5").read_bytes())]


@quick
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=4),
    share=st.just(1.0) | st.floats(0, 1),
)
def test_a_damaged_store_is_read_or_refused_and_never_hangs(flips, share, stores, scratch):
    for kind, whole in stores:
        data = bytearray(whole)
        for place, bit in flips:
            data[int(place * len(data))] ^= 1 << bit
        path = scratch.with_name(f"{next(FILE_NUMBERS)}.h5")  # HDF5 takes one of the same place for the same file
        path.write_bytes(data[: int(share * len(data))])
        try:
            store = kind(path)
            for name in store.clip_uids if kind is FeatureStore else store.query_ids:
                store.read(name)
            assert flips or share < 1 or not store.damaged_files()
        except KitError as error:
            assert flips or share < 1, error  # noqa: PT017 -- only what was damaged may be refused


EGOCLIP = "\n".join(
    [
        "clip_idx\tvideo_uid\tvideo_dur\tnarration_source\tnarration_ind\tclip_start\tclip_end\tclip_text",
        *(f"{i}\tv0\t900\tnarration_pass_{1 + i % 2}\t{i}\t{110 + i}\t{112 + i}\t#C C picks {i}" for i in range(5)),
    ]
)
CLIPS = {"c0": Clip("c0", 100.0, 580.0, "v0")}


@quick
@given(data=damaged(EGOCLIP))
def test_a_damaged_table_of_narrations_gives_sound_records_or_our_own_error(data, scratch):
    found = read_or_refuse(lambda path: narration_records(path, CLIPS), scratch, data)
    if found is not None:
        records, counts = found
        require_sound(records)
        assert counts["rows"] >= len(records)


CONFIGURATION = {"base": "finetune", "model": {"width": 96, "window": 5}, "train": {"epochs": 6, "init_from": None}}


@quick
@given(data=mutated(CONFIGURATION).map(json.dumps).flatmap(damaged))  # JSON is YAML
def test_a_mutated_configuration_is_a_run_or_our_own_error(data, scratch):
    config = read_or_refuse(load_config, scratch.with_suffix(".yaml"), data)
    if config is not None:
        assert config.model.width % (2 * config.model.num_heads) == 0
        assert config.train.warmup_epochs < config.train.epochs


@quick
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data, scratch):
    for read in (read_nlq, read_records, read_truth, read_submission):
        read_or_refuse(read, scratch, data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"videos":' * 100_000,
        b'{"videos": [' + b"{}," * 50_000 + b"{}]}",
        b'{"a": "' + b"x" * 5_000_000 + b'"}',
        b'{"a": ' + b"9" * 1_000_000 + b"}",
        b"\n" * 1_000_000,
        b'{"query_id": "a"}\n' * 10_000,
    ],
    ids=["brackets", "objects", "faults", "string", "number", "blank lines", "short rows"],
)
def test_a_bomb_is_refused_in_proportion_to_its_size(data, scratch):
    for read in (read_nlq, read_records, read_submission):
        assert read_or_refuse(read, scratch, data) is None
