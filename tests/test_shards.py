"""A folder of feature stores is read as one store: bitwise like one file, refused where it is not whole."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch

from groundnlq.cli import main
from groundnlq.data import features
from groundnlq.data.check import check_features
from groundnlq.data.features import FeatureStore, write_features, write_shards
from groundnlq.data.records import read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.launch import train
from groundnlq.engine.predictor import Predictor, open_dataset
from groundnlq.errors import FeatureError
from groundnlq.video.extract import extract_features
from tests.odd_videos import make, regular
from tests.tiny_encoders import Colours
from tests.tiny_run import make_tiny_data, same_weights, tiny_config

NUM_CLIPS, ATTRIBUTES = 12, {"fps": 1.0, "snippet_stride_frames": 1.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny data with its features in one file and, in other order, in a folder of three."""
    folder = make_tiny_data(tmp_path_factory.mktemp("shards"), NUM_CLIPS)
    store = FeatureStore(folder / "features.h5")
    write_shards(folder / "features", sorted(store.clip_uids), store.read, clips_per_file=5, dtype="float32")
    return folder


@pytest.fixture
def shards(world, tmp_path):
    shutil.copytree(world / "features", tmp_path / "features")
    return tmp_path / "features"


def in_shards(config):
    return config.model_copy(update={"data": config.data.model_copy(update={"features": "features"})})


def test_a_folder_trains_predicts_and_checks_bitwise_as_one_file(world, tmp_path):
    config = tiny_config(world, epochs=1, warmup_epochs=0)
    runs = [train(c, tmp_path / str(number)) for number, c in enumerate((config, in_shards(config)))]
    answers, reports = [], []
    for run, name in zip(runs, ("features.h5", "features"), strict=True):
        records, tokens, store = read_records(world / "val.jsonl"), TokenStore(world / "text.h5"), world / name
        predictor = Predictor.load(run.run_dir)
        answers.append(predictor.predict_dataset(open_dataset(predictor.config, records, store)))
        reports.append(check_features(FeatureStore(store), records, config.data.grid, tokens).lines())
    assert same_weights(*(run.run_dir / "last.pt" for run in runs))
    assert {k: v.tolist() for k, v in answers[0].items()} == {k: v.tolist() for k, v in answers[1].items()}
    assert reports[0] == reports[1]


def test_a_run_on_one_file_goes_on_with_the_same_features_in_a_folder(world, tmp_path):
    config = tiny_config(world, epochs=1, warmup_epochs=0)
    done = train(config, tmp_path / "run")
    assert FeatureStore(world / "features.h5").clip_uids != FeatureStore(world / "features").clip_uids  # another order
    assert train(in_shards(config), tmp_path / "run").resumed_from_step == done.history[-1]["step"]


def copy_of(name, **changes):
    """A way to break a folder: one more file, with the content of another."""

    def add(folder):
        store = FeatureStore(folder / name)
        about = {"dtype": store.dtype, "attributes": store.attributes} | changes
        clips = [(f"new{uid}", store.read(uid)) for uid in store.clip_uids]
        if width := about.pop("width", None):
            clips = [(uid, values[:, :width]) for uid, values in clips]
        write_features(folder / "more.h5", clips, **about)

    return add


def remove(name):
    return lambda folder: (folder / name).unlink()


def link(folder):
    shutil.move(folder / "00001.h5", folder.parent / "elsewhere.h5")
    (folder / "00001.h5").symlink_to(folder.parent / "elsewhere.h5")


def truncate(folder):
    os.truncate(folder / "00002.h5", 1000)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


FAULTS = {
    "missing": (remove("00001.h5"), "2 of 3 files are there, not 00001.h5 -- finish writing or copying them"),
    "last missing": (remove("00002.h5"), "2 of 3 files are there, not 00002.h5"),
    "cut off": (truncate, "00002.h5: not a readable HDF5 file"),
    "clip twice": (lambda f: shutil.copy(f / "00001.h5", f / "more.h5"), "more.h5: c3, c4, .* also in 00001.h5"),
    "width": (copy_of("00000.h5", width=4), "more.h5: width is 4, but 8 in 00000.h5"),
    "dtype": (copy_of("00000.h5", dtype="float16"), "more.h5: dtype is float16, but float32 in 00000.h5"),
    "rate": (copy_of("00000.h5", attributes={"fps": 2.0, "num_files": 3}), "more.h5: fps is 2.0, but None in 00000.h5"),
    "another store": (copy_of("00000.h5", attributes={}), "more.h5: num_files is None, but 3 in 00000.h5"),
    "tokens": (lambda f: shutil.copy(f.parent / "text.h5", f), "text.h5: is schema 1 of 'tokens', expected"),
    "foreign": (lambda f: (f / "notes.h5").write_text("notes"), "notes.h5: not a readable HDF5 file"),
    "folder": (lambda f: (f / "notes.h5").mkdir(), "notes.h5: not a readable HDF5 file"),
    "link": (link, "00001.h5 is a link to other data, which is refused -- copy the data in"),
    "empty": (empty, "no .h5 file in it -- name a feature store"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_not_one_whole_store_is_refused_by_name(world, shards, fault):
    shutil.copy(world / "text.h5", shards.parent)
    spoil, message = FAULTS[fault]
    FeatureStore(shards)
    spoil(shards)
    with pytest.raises(FeatureError, match=f"features: .*{message}"):
        FeatureStore(shards)


def test_all_faults_of_a_folder_are_one_error(shards):
    copy_of("00000.h5", width=4, dtype="float16", attributes={"num_files": 5})(shards)
    truncate(shards)
    with pytest.raises(FeatureError) as error:
        FeatureStore(shards)
    found = [line.partition(": ")[0].strip(" -") for line in str(error.value).splitlines()[1:]]
    assert len(found) == 4
    assert found[1:] == ["more.h5"] * 3
    assert found[0].endswith("00002.h5")


def test_other_files_beside_the_stores_do_not_count(shards):
    for name in ("README.md", "._00000.h5", ".00003.h5.77.tmp"):  # of a person, of macOS, of a process that was killed
        (shards / name).write_text("not HDF5")
    assert len(FeatureStore(shards).clip_uids) == NUM_CLIPS


def test_stores_that_were_imported_one_by_one_are_one_store_in_a_folder(tmp_path):
    for name, source in (("train.h5", "a"), ("val.h5", "b")):
        attributes = ATTRIBUTES | {"sources": [source]}
        write_features(
            tmp_path / name, [(f"{source}{i}", np.full((i + 1, 2), float(i))) for i in range(3)], attributes=attributes
        )
    store = FeatureStore(tmp_path)
    assert store.clip_uids == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert store.read("b2").tolist() == [[2.0, 2.0]] * 3
    assert store.grid == FeatureStore(tmp_path / "val.h5").grid


def test_jobs_that_extract_into_files_of_their_own_make_one_store(tmp_path):
    for number in range(3):
        make(tmp_path / f"v{number}.mp4", regular(2.0 + number))
    videos = sorted(tmp_path.glob("*.mp4"))
    extract_features(videos, [Colours()], tmp_path / "whole.h5", progress=False)
    for number, some in enumerate((videos[:2], videos[2:])):
        extract_features(some, [Colours()], tmp_path / f"split/{number:05d}.h5", progress=False)
    whole, split = FeatureStore(tmp_path / "whole.h5"), FeatureStore(tmp_path / "split")
    assert (split.sha256, split.attributes, split.encoder) == (whole.sha256, whole.attributes, whole.encoder)
    extract_features(videos[2:], [Colours(tag="other")], tmp_path / "split/00002.h5", progress=False)
    with pytest.raises(FeatureError, match=r"00002\.h5: encoder is colours2x2other, but colours2x2 in 00000\.h5"):
        FeatureStore(tmp_path / "split")


def test_the_hash_follows_ids_and_values_and_not_how_they_are_split(tmp_path):
    clips = {f"c{i}": torch.full((i + 1, 2), float(i)) for i in range(5)}

    def hash_of(values, clips_per_file, order=1):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_shards(folder, list(values)[::order], values.get, clips_per_file=clips_per_file)
        return FeatureStore(folder).sha256

    assert len({hash_of(clips, 1), hash_of(clips, 2), hash_of(clips, 9), hash_of(clips, 2, -1)}) == 1
    assert (
        len({hash_of(clips, 2), hash_of(clips | {"c4": clips["c4"] + 1}, 2), hash_of(clips | {"c5": clips["c4"]}, 2)})
        == 3
    )


def test_the_file_with_a_flipped_bit_is_named(world, shards, capsys):
    command = ["features", "check", str(shards), "--records", str(world / "val.jsonl")]
    main(command)
    assert "checksum" not in capsys.readouterr().out
    with h5py.File(shards / "00001.h5", "r+") as root:
        dataset = root["clips"][next(iter(root["clips"]))]
        dataset[0, 0] = dataset[0, 0] + 1
    assert main(command) == 1
    assert f"1 files are not as they were written (checksum); import or encode again: {shards / '00001.h5'}" in (
        capsys.readouterr().out
    )


def test_the_checksum_of_version_0_2_is_known(tmp_path):
    clips = {f"c{i}": np.full((3, 2), i, np.float16) for i in range(2)}
    write_features(tmp_path / "f.h5", clips.items())
    digest = hashlib.sha256()
    for uid, values in clips.items():
        digest.update(uid.encode() + values.tobytes())
    for text, damaged in ((digest.hexdigest(), []), ("0" * 64, [tmp_path / "f.h5"]), ("unknown", [])):
        with h5py.File(tmp_path / "f.h5", "r+") as root:
            root.attrs["sha256"] = np.bytes_(text.encode())
        store = FeatureStore(tmp_path / "f.h5")
        assert (store.sha256, store.damaged_files()) == (text, damaged)
        del store  # closes its file
    with h5py.File(tmp_path / "f.h5", "r+") as root:
        root.attrs["sha256"] = np.bytes_(b"no number")
    with pytest.raises(FeatureError, match=r"f\.h5: damaged \(invalid literal"):
        FeatureStore(tmp_path / "f.h5")


# ---- reading


def test_few_files_are_open_at_once_and_threads_still_read_their_own(tmp_path, monkeypatch):
    clips = {f"c{i}": torch.full((40, 4), float(i)) for i in range(30)}
    write_shards(tmp_path / "f", list(clips), clips.get, clips_per_file=1)
    monkeypatch.setattr(features, "MAX_OPEN_FILES", 3)
    store = FeatureStore(tmp_path / "f")
    assert not open_below(tmp_path)  # before the first read
    asked = [f"c{7 * i % 30}" for i in range(300)]
    with ThreadPoolExecutor(8) as pool:
        for uid, values in zip(asked, pool.map(store.read, asked), strict=True):
            assert torch.equal(values, clips[uid])
    assert 0 < len(open_below(tmp_path)) <= 3


def open_below(folder):
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if os.path.exists(link) and str(folder) in os.readlink(link)}


def read_in_child(store, path):
    np.save(path, torch.cat([store.read(uid) for uid in store.clip_uids]).numpy())


def test_a_process_opens_the_files_for_itself(world, tmp_path):
    store = FeatureStore(world / "features")
    whole = torch.cat([store.read(uid) for uid in store.clip_uids])
    child = multiprocessing.get_context("fork").Process(target=read_in_child, args=(store, tmp_path / "read.npy"))
    child.start()
    child.join()
    assert np.array_equal(np.load(tmp_path / "read.npy"), whole.numpy())
    assert torch.equal(pickle.loads(pickle.dumps(store)).read("c7"), store.read("c7"))


def test_a_file_that_was_replaced_while_in_use_is_named(shards):
    store = FeatureStore(shards)
    store.read(FeatureStore(shards / "00000.h5").clip_uids[0])
    (uid, *_) = FeatureStore(shards / "00001.h5").clip_uids
    write_features(shards / "00001.h5", [(uid, np.zeros((40, 8)))], dtype="float32")
    with pytest.raises(FeatureError, match=r"00001\.h5: was changed while in use -- begin again"):
        store.read(uid)


# ---- writing


CLIPS = {f"c{i}": np.full((i + 1, 2), i, np.float32) for i in range(7)}


def write_until(folder, uid):
    def read(clip_uid):
        if clip_uid == uid:
            os.kill(os.getpid(), signal.SIGKILL)
        return CLIPS[clip_uid]

    write_shards(folder, list(CLIPS), read, clips_per_file=3)


def calls_of_read(asked):
    return lambda uid: asked.append(uid) or CLIPS[uid]


def test_finished_files_survive_a_kill_and_are_not_written_again(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=write_until, args=(tmp_path / "f", "c5"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.suffix for path in sorted((tmp_path / "f").iterdir())] == [".tmp", ".h5"]  # begun, finished
    assert FeatureStore(tmp_path / "f/00000.h5").read("c2").tolist() == CLIPS["c2"].tolist()
    with pytest.raises(FeatureError, match=r"f: 1 of 3 files are there, not 00001\.h5"):
        FeatureStore(tmp_path / "f")
    before, asked = os.stat(tmp_path / "f/00000.h5"), []
    assert write_shards(tmp_path / "f", list(CLIPS), calls_of_read(asked), clips_per_file=3) == 3
    assert asked == ["c3", "c4", "c5", "c6"]
    assert os.stat(tmp_path / "f/00000.h5") == before
    write_shards(tmp_path / "calm", list(CLIPS), CLIPS.get, clips_per_file=3)
    assert FeatureStore(tmp_path / "f").sha256 == FeatureStore(tmp_path / "calm").sha256


def test_processes_write_their_files_in_any_order(tmp_path):
    for part in (1, 0, 2):
        asked = []
        write_shards(tmp_path / "f", list(CLIPS), calls_of_read(asked), clips_per_file=2, part=(part, 3))
        assert asked == [uid for i in range(2 * part, 7, 6) for uid in list(CLIPS)[i : i + 2]]
    store = FeatureStore(tmp_path / "f")
    assert store.num_steps == {uid: len(values) for uid, values in CLIPS.items()}
    assert store.attributes == {"num_files": 4}


def test_a_broken_clip_costs_its_own_file_alone(tmp_path):
    broken = CLIPS | {"c1": np.full((2, 2), np.nan), "c4": np.zeros((0, 2))}
    with pytest.raises(FeatureError) as error:
        write_shards(tmp_path, list(CLIPS), broken.get, clips_per_file=2)
    assert "f: 2 faults -- correct these, then give the same command again" not in str(error.value)
    assert all(
        text in str(error.value) for text in ("2 faults", "clip c1: nan at step 0", "clip c4: features are empty")
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00001.h5", "00003.h5"]
    assert write_shards(tmp_path, list(CLIPS), CLIPS.get, clips_per_file=2) == 3
    assert FeatureStore(tmp_path).clip_uids == list(CLIPS)


@pytest.mark.parametrize("change", ["clips", "clips_per_file", "attributes", "dtype"])
def test_files_of_other_clips_or_attributes_are_not_taken_for_finished_ones(tmp_path, change):
    asked = {
        "clip_uids": list(CLIPS),
        "clips_per_file": 3,
        "attributes": {"fps": 30.0, "size": (2, 3)},
        "dtype": "float32",
    }
    write_shards(tmp_path, read=CLIPS.get, **asked)
    assert write_shards(tmp_path, read=CLIPS.get, **asked) == len(CLIPS)
    other = {"clip_uids": list(CLIPS)[:6], "clips_per_file": 4, "attributes": {"fps": 30}, "dtype": "float16"}
    changes = {"clip_uids": other["clip_uids"]} if change == "clips" else {change: other[change]}
    with pytest.raises(FeatureError, match="holds other clips or attributes than are to be written"):
        write_shards(tmp_path, read=CLIPS.get, **asked | changes)
    assert FeatureStore(tmp_path).clip_uids == list(CLIPS)


def test_the_command_line_imports_shows_and_imports_from_a_folder(tmp_path, capsys):
    (tmp_path / "pt").mkdir()
    for uid, values in CLIPS.items():
        torch.save(torch.from_numpy(values), tmp_path / f"pt/{uid}.pt")
    command = ["features", "import", str(tmp_path / "pt"), "--output"]
    assert main([*command, str(tmp_path / "f"), "--clips-per-file", "3"]) == 0
    assert "imported: clips 7, kept from before 0" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "f"), "--clips-per-file", "3"]) == 0
    assert "imported: clips 7, kept from before 7" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "one.h5")]) == 0
    assert main(["show", str(tmp_path / "f")]) == 0
    shown = capsys.readouterr().out
    assert "clips: 7\nsteps: 28\n" in shown
    assert f"sha256 of content: {FeatureStore(tmp_path / 'one.h5').sha256}" in shown
    assert main(["features", "import", str(tmp_path / "f"), "--output", str(tmp_path / "two.h5")]) == 0
    assert FeatureStore(tmp_path / "two.h5").sha256 == FeatureStore(tmp_path / "one.h5").sha256
    assert main([*command, str(tmp_path / "g"), "--clips-per-file", "0"]) == 2
