"""Features and tokens are read from what people really have, and what is not a feature is named."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.grid import StepGrid
from groundnlq.data.importers import import_features, import_text
from groundnlq.data.tokens import IMPORTED, TokenStore
from groundnlq.errors import FeatureError
from tests.bad_input_makers import Payload

X = torch.arange(80.0).reshape(20, 4)


def imported(*sources, **options) -> FeatureStore:
    import_features(sources, "f.h5", progress=False, dtype="float32", **options)
    return FeatureStore("f.h5")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pt").mkdir()


def save_npz(path: str, **arrays) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "value",
    [
        X, X.half(), X.bfloat16(), X.double(), torch.nn.Parameter(X), X[None], X[:, None], X[..., None, None],
        {"features": X}, {"feats": X, "fps": torch.tensor(30.0)}, {"anything": X, "times": torch.arange(20.0)},
        X.T.contiguous().T,
    ],
    ids=["float32", "half", "bfloat16", "double", "parameter", "batch of one", "middle axis", "pixels", "dictionary",
         "dictionary with more", "only array of two axes", "column order"],
)  # fmt: skip
def test_a_tensor_file_of_any_layout_gives_its_features(value):
    torch.save(value, "pt/c0.pt")
    assert torch.equal(imported("pt").read("c0"), X)


def test_a_clip_of_one_step_keeps_its_width():
    torch.save(X[:1, None], "pt/c0.pt")  # (1, 1, 4): one step, not four
    assert imported("pt").num_steps == {"c0": 1}


@pytest.mark.parametrize("name", ["c0.npy", "c0.npz", "deep/er/c0.pth"])
def test_arrays_and_nested_folders_are_read(name):
    path = Path("pt", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    saves = {".npy": np.save, ".npz": save_npz, ".pth": lambda path, x: torch.save(torch.from_numpy(x), path)}
    if path.suffix == ".npz":
        save_npz(path, arr_0=X.numpy())
    else:
        saves[path.suffix](path, X.numpy())
    assert torch.equal(imported("pt").read("c0"), X)


def test_what_holds_no_features_is_named_and_left_out():
    torch.save(X, "pt/c0.pt")
    torch.save({"fps": 30}, "pt/metadata.pt")
    torch.save([X, X], "pt/list.pt")
    np.savez("pt/two.npz", a=X.numpy(), b=X.numpy())  # which of them?
    Path("pt/README").write_text("hello")
    with pytest.warns(UserWarning, match=r"pt: left out, no features: README, list\.pt, metadata\.pt, two\.npz"):
        assert imported("pt").clip_uids == ["c0"]


def test_a_damaged_file_is_an_error_not_a_stray_one():
    torch.save(X, "pt/c0.pt")
    Path("pt/c1.pt").write_bytes(Path("pt/c0.pt").read_bytes()[:300])
    Path("pt/c2.npy").write_bytes(b"\x93NUMPY")
    Path("pt/c3.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FeatureError, match="3 faults") as caught:
        imported("pt")
    assert all(f"pt/c{i}" in str(caught.value) for i in (1, 2, 3))
    assert not Path("f.h5").exists()


@pytest.mark.parametrize("name", ["c0.npy", "c0.npz"])
def test_arrays_of_objects_are_refused_with_a_remedy_and_not_run(name):
    objects = np.array([Payload()], dtype=object)
    np.save("pt/c0.npy", objects) if name == "c0.npy" else np.savez("pt/c0.npz", features=objects)
    with pytest.raises(FeatureError, match=r"c0\.np.*: refused, not plain numbers, .*save an array") as caught:
        imported("pt")
    assert "allow_pickle" not in str(caught.value)
    assert not Path("harm").exists()


def test_a_pickle_under_the_name_of_an_array_is_not_run():
    Path("pt/c0.npy").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(FeatureError, match="refused, not plain numbers"):
        imported("pt")
    assert not Path("harm").exists()


def test_a_pointer_in_place_of_an_array_is_called_one_and_hides_no_other_fault():
    Path("pt/c0.npy").write_text("version https://git-lfs.github.com/spec/v1\n")
    Path("pt/c1.npy").write_text("hello")
    with pytest.raises(FeatureError, match="2 faults") as caught:
        imported("pt")
    assert "pt/c0.npy: a pointer of Git LFS" in str(caught.value)


def test_two_files_of_one_clip_are_named():
    for folder in ("verb", "noun"):
        Path("pt", folder).mkdir()
        torch.save(X, f"pt/{folder}/c0.pt")
    with pytest.raises(FeatureError, match=r"noun/c0\.pt.*name folders to concatenate singly"):
        imported("pt")
    assert imported("pt/verb", "pt/noun").width == 8


def test_sources_of_different_clips_are_joined_when_asked():
    for folder, clip in (("trainval", "c0"), ("test", "c1")):
        Path(folder).mkdir()
        torch.save(X, f"{folder}/{clip}.pt")
    with pytest.raises(FeatureError, match=r"no clip is in all of trainval, test .*--join"):
        imported("trainval", "test")
    store = imported("trainval", "test", join=True)
    assert store.clip_uids == ["c0", "c1"]
    assert torch.equal(store.read("c1"), X)
    torch.save(X, "test/c0.pt")
    with pytest.raises(FeatureError, match="c0 is given twice"):
        imported("trainval", "test", join=True)


def test_hdf5_with_a_group_per_clip_is_read():
    with h5py.File("groups.h5", "w") as root:
        for clip in ("train/c0", "val/c1"):
            root[f"{clip}/features"], root[f"{clip}/times"] = X.numpy(), np.arange(20)
    store = imported("groups.h5")
    assert store.clip_uids == ["c0", "c1"]
    assert torch.equal(store.read("c1"), X)
    with h5py.File("groups.h5", "a") as root:
        root["val/c0/features"] = X.numpy()
    with pytest.raises(FeatureError, match="expected one dataset or group per clip"):
        imported("groups.h5")


def test_an_hdf5_file_whose_groups_contain_each_other_comes_to_an_end():
    with h5py.File("loop.h5", "w") as root:
        root["c0/features"] = X.numpy()
        root["c0/again"] = root["/"]
    assert imported("loop.h5").clip_uids == ["c0"]


def test_a_packed_archive_is_called_one():
    with tarfile.open("features", "w:gz") as archive:
        archive.add("pt")
    with pytest.raises(FeatureError, match="features: is a packed archive -- name the extracted archive"):
        imported("features")


# ---- rate


def test_a_store_that_is_imported_again_keeps_its_rate_unless_another_is_given():
    write_features("s.h5", [("c0", X)], attributes={"fps": 25.0, "snippet_stride_frames": 8.0, "window_frames": 32.0})
    assert imported("s.h5").grid == StepGrid(25.0, 8.0, window_frames=32.0)
    assert imported("s.h5", snippet_stride_frames=4.0).grid == StepGrid(25.0, 4.0, window_frames=32.0)


def test_the_window_is_written_only_where_it_was_given():
    torch.save(X, "pt/c0.pt")
    assert imported("pt").rate == {"fps": 30.0, "snippet_stride_frames": 16.043}
    assert imported("pt", window_frames=32.0).rate["window_frames"] == 32.0


# ---- whole videos


def clips_file(*clips: tuple[str, str, float, float], path: str = "nlq.json") -> str:
    videos = [
        {"video_uid": video, "clips": [{"clip_uid": clip, "video_start_sec": start, "video_end_sec": end}]}
        for clip, video, start, end in clips
    ]
    Path(path).write_text(json.dumps({"videos": videos}))
    return path


def video_of(num_steps: int) -> torch.Tensor:
    """The feature of a step is its number."""
    return torch.arange(float(num_steps))[:, None].expand(-1, 2).contiguous()


def test_a_clip_is_cut_out_of_its_video_to_the_nearest_step():
    """Oracle: the middle of each step, counted from the clip's start, lies within half a step of the video's time."""
    torch.save(video_of(1000), "pt/v0.pt")
    given = [("a", "v0", 0.0, 480.0), ("b", "v0", 100.3, 250.9), ("overlapping", "v0", 240.0, 400.0)]
    rate = {"fps": 30.0, "snippet_stride_frames": 16.0, "window_frames": 32.0}
    store, grid = imported("pt", clips=[clips_file(*given)], **rate), StepGrid(**rate)
    for clip, _, start, end in given:
        steps = store.read(clip)[:, 0].numpy()
        off = grid.to_sec(steps) - (start + grid.to_sec(np.arange(len(steps))))
        assert abs(off).max() <= grid.step_sec / 2
        assert len(steps) == round(((end - start) * 30 - 32) / 16 + 1)


def test_clips_without_features_of_their_time_are_named_and_left_out():
    torch.save(video_of(100), "pt/v0.pt")
    file = clips_file(("a", "v0", 0.0, 30.0), ("behind", "v0", 60.0, 90.0), ("nowhere", "v9", 0.0, 30.0))
    with pytest.warns(UserWarning, match="left out, no features of their time in their video: behind, nowhere"):
        assert imported("pt", clips=[file], snippet_stride_frames=16.0).clip_uids == ["a"]


def test_a_source_without_any_of_the_clips_or_videos_says_so():
    torch.save(video_of(100), "pt/other.pt")
    with pytest.raises(FeatureError, match="pt: has no clip and no video of the annotations"):
        imported("pt", clips=[clips_file(("a", "v0", 0.0, 30.0))])


def test_a_start_just_before_zero_is_the_start():
    torch.save(video_of(100), "pt/v0.pt")
    store = imported("pt", clips=[clips_file(("a", "v0", -0.4, 30.0))], snippet_stride_frames=16.0)
    assert store.read("a")[0, 0] == 0


def test_a_source_of_clips_goes_with_a_source_of_videos():
    Path("clips").mkdir()
    torch.save(video_of(100), "pt/v0.pt")
    torch.save(torch.full((56, 1), 7.0), "clips/a.pt")
    store = imported("pt", "clips", clips=[clips_file(("a", "v0", 10.0, 40.0))], snippet_stride_frames=16.0)
    assert store.read("a")[0].tolist() == [19.0, 19.0, 7.0]


def test_a_damaged_video_is_named_though_it_is_only_cut():
    torch.save(video_of(100), "pt/v0.pt")
    Path("pt/v1.pt").write_bytes(Path("pt/v0.pt").read_bytes()[:300])
    file = clips_file(("a", "v0", 0.0, 30.0), ("b", "v1", 0.0, 30.0))
    with pytest.raises(FeatureError, match=r"pt/v1\.pt: damaged"):
        imported("pt", clips=[file], snippet_stride_frames=16.0)


# ---- tokens


def tokens_in(folder: str, *query_ids: str) -> str:
    import lmdb

    with lmdb.open(folder, map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for query_id in query_ids:
            np.savez("entry.npz", token_features=np.full((3, 4), len(query_id), "f4"))
            transaction.put(query_id.encode(), Path("entry.npz").read_bytes())
    return folder


def test_several_sources_of_tokens_become_one_store_of_the_named_encoder():
    sources = [tokens_in("narrations", "n_0", "n_1"), tokens_in("questions", "question_0")]
    assert import_text(sources, "t.h5", "clip") == 3
    store = TokenStore("t.h5")
    assert store.encoder == "clip-vit-base-patch32"
    assert store.read("question_0").tolist() == [[10.0] * 4] * 3
    import_text(sources, "t.h5", "some/folder/my-bert")
    assert TokenStore("t.h5").encoder == "my-bert"


def test_tokens_without_a_name_of_their_encoder_say_so():
    with pytest.warns(UserWarning, match="another text encoder is not noticed -- give --encoder"):
        import_text([tokens_in("a", "q_0"), tokens_in("b", "q_1")], "t.h5")
    assert TokenStore("t.h5").encoder == f"{IMPORTED}a+b"


def test_a_query_in_two_sources_is_named():
    with pytest.raises(FeatureError, match="q_0 is given twice"):
        import_text([tokens_in("a", "q_0"), tokens_in("b", "q_0")], "t.h5", "clip")
