"""Features of videos: the right frames in every step, whatever the batch, the seek point, the process, the kill."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from groundnlq.cli import main
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.errors import ConfigError, DataError, FeatureError
from groundnlq.files import write_json
from groundnlq.video import pieces as saved_pieces
from groundnlq.video.extract import extract_features, features_of
from groundnlq.video.frames import Video
from tests.forkserver import Forked
from tests.odd_videos import make, regular
from tests.processes import wait_for
from tests.tiny_encoders import Colours, egovlp_file

SECONDS = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three videos: v0 of 20 s, v1 of 8 s, v2 of 3 s with a variable rate."""
    path = tmp_path_factory.mktemp("videos")
    make(path / "v0.mp4", regular(SECONDS))
    make(path / "v1.mkv", regular(8.0))
    make(path / "v2.mp4", [0, 0.2, 0.3, 1.5, 2.9])
    return path


def annotations(path: Path, clips) -> Path:
    """An official file; clips are (clip_uid, video_uid, start, end)."""
    entries = [
        {"clip_uid": uid, "video_start_sec": start, "video_end_sec": end, "annotations": []}
        for uid, _, start, end in clips
    ]
    videos = [{"video_uid": clip[1], "clips": [entry]} for clip, entry in zip(clips, entries, strict=True)]
    write_json(path, {"version": "1", "videos": videos})
    return path


@pytest.fixture
def pieces(monkeypatch):
    """Everything is saved at once."""
    monkeypatch.setattr(saved_pieces, "_PIECE_SEC", 0.0)


# ---- what is in a step


def test_a_step_has_its_frames_in_order_and_nothing_else(folder):
    encoder = Colours(fields=2, num_frames=4)
    features = features_of(folder / "v0.mp4", [encoder])
    numbers = encoder.frame_numbers(0.0, SECONDS, 600)
    pictures = {n: p[16] for n, p in Video.open(folder / "v0.mp4").frames(range(600), [16], [])}
    snippets = np.stack([[pictures[n] for n in row] for row in numbers])  # all of the video in memory
    assert torch.equal(features, Colours(fields=2, num_frames=4).encode(torch.from_numpy(snippets)))
    assert features.shape == (37, encoder.width)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_the_batch_size_changes_nothing(folder, batch_size):
    encoder = Colours()
    features = features_of(folder / "v0.mp4", [encoder], batch_size=batch_size)
    assert torch.equal(features, features_of(folder / "v0.mp4", [Colours()]))
    assert {shape[0] for shape in encoder.calls} == {batch_size}  # the last is filled up, or it would be rounded anew


def test_encoders_are_concatenated_in_order_from_one_decoding(folder, monkeypatch):
    few, many = Colours(1, 1, tag="a"), Colours(2, 4, short_side=32, tag="b")
    apart = [features_of(folder / "v0.mp4", [encoder]) for encoder in (few, many)]
    decoded, frames = [], Video.frames
    monkeypatch.setattr(Video, "frames", lambda *args: decoded.append(1) or frames(*args))
    assert torch.equal(features_of(folder / "v0.mp4", [few, many]), torch.cat(apart, dim=1))
    assert torch.equal(features_of(folder / "v0.mp4", [many, few]), torch.cat(apart[::-1], dim=1))
    assert len(decoded) == 2


def test_encoders_may_differ_by_two_steps_and_no_more(folder):
    class Fewer(Colours):
        def frame_numbers(self, *args):
            return super().frame_numbers(*args)[: -self.lacks]

    fewer = Fewer(tag="fewer")
    fewer.lacks = 2
    features = features_of(folder / "v0.mp4", [Colours(), fewer])
    assert torch.equal(features[:, :24], features_of(folder / "v0.mp4", [Colours()])[:-2])
    fewer.lacks = 3
    with pytest.raises(FeatureError, match=r"v0\.mp4: encoders make 37, 34 steps"):
        features_of(folder / "v0.mp4", [Colours(), fewer])


def test_a_part_has_the_frames_of_its_time(folder):
    whole = features_of(folder / "v0.mp4", [Colours(2, 1, window_frames=0.0)])
    part = features_of(folder / "v0.mp4", [Colours(2, 1, window_frames=0.0)], 16.043 * 10 / 30, 16.043 * 20 / 30)
    assert torch.equal(part, whole[10:20])


def test_a_part_that_the_video_does_not_reach(folder):
    with pytest.warns(UserWarning, match=r"its frames end at 20\.0 s, the clip at 30\.0 s"):
        part = features_of(folder / "v0.mp4", [Colours()], 10.0, 30.0)
    assert torch.equal(part, features_of(folder / "v0.mp4", [Colours()], 10.0))
    with pytest.raises(DataError, match=r"v0\.mp4: ends at 20\.0 s, before 25\.0 s"):
        features_of(folder / "v0.mp4", [Colours()], 25.0, 30.0)


def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for name, seconds in (("short", 5.0), ("long", 30.0)):
        make(tmp_path / f"{name}.mp4", regular(seconds))
        tracemalloc.start()
        features_of(tmp_path / f"{name}.mp4", [Colours(short_side=64)], batch_size=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 0.3e6  # pictures are 16 kB; those of 25 s would be 12 MB


# ---- kills and repetitions


class Stops(Colours):
    """An encoder that is killed at a batch."""

    at = 3

    def encode(self, frames):
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        return super().encode(frames)


def test_what_was_saved_is_not_computed_again(folder, tmp_path, pieces):
    with pytest.raises(KeyboardInterrupt):
        features_of(folder / "v0.mp4", [Stops()], cache=tmp_path, batch_size=4)
    encoder, steps = Colours(), []
    resumed = features_of(
        folder / "v0.mp4", [encoder], cache=tmp_path, batch_size=4, progress=lambda *a: steps.append(a)
    )
    assert torch.equal(resumed, features_of(folder / "v0.mp4", [Colours()], batch_size=4))
    assert len(encoder.calls) == 10 - Stops.at
    assert (steps[0], steps[-1]) == ((16, 37), (37, 37))
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    encoder.calls.clear()
    assert torch.equal(features_of(folder / "v0.mp4", [encoder], cache=tmp_path), resumed)
    assert encoder.calls == []


def test_a_kill_behind_the_last_piece_loses_nothing(folder, tmp_path, pieces, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saved_pieces.Pieces, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            features_of(folder / "v1.mkv", [Colours()], cache=tmp_path)
    encoder = Colours()
    assert torch.equal(
        features_of(folder / "v1.mkv", [encoder], cache=tmp_path), features_of(folder / "v1.mkv", [Colours()])
    )
    assert encoder.calls == []


def test_a_damaged_piece_is_made_again(folder, tmp_path, pieces):
    with pytest.raises(KeyboardInterrupt):
        features_of(folder / "v0.mp4", [Stops()], cache=tmp_path, batch_size=4)
    last = max(tmp_path.glob("*/*.npy"), key=lambda path: int(path.stem))
    last.write_bytes(last.read_bytes()[:100])
    encoder = Colours()
    resumed = features_of(folder / "v0.mp4", [encoder], cache=tmp_path, batch_size=4)
    assert torch.equal(resumed, features_of(folder / "v0.mp4", [Colours()], batch_size=4))
    assert len(encoder.calls) == 10 - Stops.at + 1


def test_other_videos_parts_encoders_or_settings_do_not_share_what_was_saved(folder, tmp_path):
    cases = [
        (folder / "v0.mp4", [Colours()], 0, None),
        (folder / "v1.mkv", [Colours()], 0, None),
        (folder / "v0.mp4", [Colours()], 1, None),
        (folder / "v0.mp4", [Colours()], 0, 19),
        (folder / "v0.mp4", [Colours(tag="other weights")], 0, None),
        (folder / "v0.mp4", [Colours(short_side=8)], 0, None),
        (folder / "v0.mp4", [Colours(), Colours(1)], 0, None),
    ]
    for number, (path, encoders, start, end) in enumerate(cases):
        features_of(path, encoders, start, end, cache=tmp_path)
        assert len(list(tmp_path.iterdir())) == number + 1
    features_of(*cases[0][:2], 0.0, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(cases)


def work(videos, output):
    """In a process of its own."""

    class Slow(Colours):
        def encode(self, frames):
            time.sleep(0.05)
            return super().encode(frames)

    saved_pieces._PIECE_SEC = 0.0
    extract_features([videos], [Slow()], output, batch_size=2, dtype="float32", progress=False)


def test_a_killed_extraction_goes_on_and_ends_the_same(folder, tmp_path):
    killed, whole = tmp_path / "killed.h5", tmp_path / "whole.h5"
    process = multiprocessing.get_context("fork").Process(target=work, args=(folder, killed))
    process.start()
    wait_for(lambda: len(list(tmp_path.glob("killed.h5.parts/*/*.npy"))) > 4, "some pieces are there")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not killed.exists()
    encoder = Colours()
    extract_features([folder], [encoder], killed, batch_size=2, dtype="float32")
    extract_features([folder], [Colours()], whole, batch_size=2, dtype="float32")
    assert FeatureStore(killed).sha256 == FeatureStore(whole).sha256
    assert len(encoder.calls) <= 19 + 8 + 3 - 4
    assert not Path(f"{killed}.parts").exists()


# ---- the store


def test_a_store_says_what_it_was_made_of(folder, tmp_path):
    encoders = [Colours(), Colours(1, 1, window_frames=4.0)]
    assert extract_features([folder], encoders, tmp_path / "f.h5") == {"clips": 3, "new": 3}
    store = FeatureStore(tmp_path / "f.h5")
    assert store.num_steps == {"v0": 37, "v1": 14, "v2": 5}
    assert store.attributes == {
        "fps": 30.0,
        "snippet_stride_frames": 16.043,
        "encoder": "colours2x2 + colours1x1",
        "settings": {"colours2x2": {"short_side": 16}, "colours1x1": {"short_side": 16}},
    }
    assert (store.width, store.dtype) == (27, "float16")
    with h5py.File(tmp_path / "f.h5") as root:
        assert len({root["clips"][uid].attrs["identity"] for uid in store.clip_uids}) == 3


def test_annotations_say_which_part_is_which_clip(folder, tmp_path):
    clips = [("c0", "v0", 4.0, 12.0), ("c1", "v1", 0.0, 8.0), ("c2", "elsewhere", 0.0, 9.0)]
    file = annotations(tmp_path / "nlq.json", clips)
    with pytest.warns(UserWarning, match="left out, their videos are not here: c2"):
        extract_features([folder], [Colours()], tmp_path / "f.h5", annotations=[file], dtype="float32")
    store = FeatureStore(tmp_path / "f.h5")
    assert store.clip_uids == ["c0", "c1"]
    assert torch.equal(store.read("c0"), features_of(folder / "v0.mp4", [Colours()], 4.0, 12.0))
    assert torch.equal(store.read("c1"), features_of(folder / "v1.mkv", [Colours()]))


def test_one_bad_video_loses_nothing_else(folder, tmp_path):
    bad = {"empty.mp4": b"", "text.mp4": b"not a video", "a name.mp4": (folder / "v0.mp4").read_bytes()}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FeatureError, match=r"f\.h5 \(3 of 6 clips\): 3 faults") as caught:
        extract_features([tmp_path, folder], [Colours()], tmp_path / "f.h5")
    assert all(name.removesuffix(".mp4") in str(caught.value) for name in bad)
    assert FeatureStore(tmp_path / "f.h5").clip_uids == ["v0", "v1", "v2"]


def test_what_the_output_has_is_kept_and_the_rest_is_added(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract_features([folder / "v0.mp4"], [Colours()], output)
    before, encoder = FeatureStore(output).read("v0"), Colours()
    assert extract_features([folder], [encoder], output) == {"clips": 3, "new": 2}
    assert len(encoder.calls) == 2 + 1
    assert torch.equal(FeatureStore(output).read("v0"), before)
    changed, encoder = output.stat().st_mtime_ns, Colours()
    assert extract_features([folder], [encoder], output) == {"clips": 3, "new": 0}
    assert (encoder.calls, output.stat().st_mtime_ns) == ([], changed)
    assert extract_features([folder], [Colours(tag="new")], output) == {"clips": 3, "new": 3}
    assert extract_features([folder], [Colours(tag="new")], output, dtype="float32") == {"clips": 3, "new": 3}


def test_clips_of_other_videos_stay_in_the_output_if_they_were_made_in_the_same_way(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract_features([folder / "v0.mp4"], [Colours()], output)
    assert extract_features([folder / "v1.mkv"], [Colours()], output) == {"clips": 2, "new": 1}
    extract_features([folder], [Colours()], tmp_path / "all.h5")
    both, at_once = FeatureStore(output), FeatureStore(tmp_path / "all.h5")
    assert all(torch.equal(both.read(uid), at_once.read(uid)) for uid in ("v0", "v1"))
    for change in ({"encoders": [Colours(tag="new")]}, {"dtype": "float32"}):
        with pytest.raises(FeatureError, match="has clips of other videos, made in another way: v0"):
            extract_features([folder / "v1.mkv"], **{"encoders": [Colours()], "output": output} | change)
    write_features(tmp_path / "imported.h5", [("another", np.ones((3, 4)))])
    with pytest.raises(FeatureError, match="made in another way: another"):
        extract_features([folder], [Colours()], tmp_path / "imported.h5")


def test_a_folder_of_outputs_is_one_store(folder, tmp_path):
    for uid, name in (("v0", "v0.mp4"), ("v1", "v1.mkv")):
        extract_features([folder / name], [Colours()], tmp_path / "store" / f"{uid}.h5")
    assert FeatureStore(tmp_path / "store").clip_uids == ["v0", "v1"]


def test_two_videos_of_one_name_are_refused(folder, tmp_path):
    (tmp_path / "v0.mkv").write_bytes((folder / "v0.mp4").read_bytes())
    with pytest.raises(DataError, match=r"v0\.mp4 has the name of .*v0\.mkv -- rename"):
        extract_features([tmp_path, folder], [Colours()], tmp_path / "f.h5")
    extract_features([folder, folder / "v0.mp4"], [Colours()], tmp_path / "f.h5")  # the same file twice is no fault


def test_a_folder_without_videos_and_annotations_of_others_are_errors(folder, tmp_path):
    file = annotations(tmp_path / "nlq.json", [("c0", "elsewhere", 4.0, 12.0)])
    with pytest.raises(DataError, match="no clip of a video here"):
        extract_features([tmp_path], [Colours()], tmp_path / "f.h5")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(DataError, match="no clip of a video here"):
        extract_features([folder], [Colours()], tmp_path / "f.h5", annotations=[file])


def test_features_that_are_not_finite_are_a_fault_of_that_clip_alone(folder, tmp_path):
    class Breaks(Colours):
        def encode(self, frames):
            values = super().encode(frames)
            values[3] = float("nan") if len(self.calls) == 1 else values[3]
            return values

    with pytest.raises(FeatureError, match=r"2 of 3 clips.*clip v\d: nan at step 3") as caught:  # any may be the first
        extract_features([folder], [Breaks()], tmp_path / "f.h5")
    left = [f"v{number}" for number in range(3) if f"clip v{number}" not in str(caught.value)]
    assert FeatureStore(tmp_path / "f.h5").clip_uids == left


@pytest.fixture
def threads():
    """Torch has three, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_clips_under_way_at_once_have_their_share_of_the_threads_and_the_same_features(folder, threads, tmp_path):
    class Notes(Colours):
        def encode(self, frames):
            seen.add((threading.get_ident(), torch.get_num_threads()))
            together.wait()
            return super().encode(frames)

    seen, together = set(), threading.Barrier(3, timeout=30)  # every batch waits for one of each other clip
    encoder = Notes(batch_size=1000)
    assert extract_features([folder], [encoder], tmp_path / "f.h5", dtype="float32") == {"clips": 3, "new": 3}
    assert sorted(number for _, number in seen) == [1, 1, 1]
    for name in ("v0.mp4", "v1.mkv", "v2.mp4"):
        assert torch.equal(FeatureStore(tmp_path / "f.h5").read(name[:2]), features_of(folder / name, [Colours()]))


def test_an_interrupt_ends_all_clips_under_way_and_keeps_those_that_are_done(folder, threads, tmp_path):
    class Stops(Colours):
        def encode(self, frames):
            mine.number = getattr(mine, "number", 0) + 1
            if mine.number == 10:  # only v0 has so many batches
                wait_for(lambda: len(list((tmp_path / "f.h5.parts").glob("*.npy"))) == 2, "the two others are done")
                raise KeyboardInterrupt
            return super().encode(frames)

    mine = threading.local()
    with pytest.raises(KeyboardInterrupt):
        extract_features([folder], [Stops()], tmp_path / "f.h5", batch_size=2)
    assert not (tmp_path / "f.h5").exists()
    encoder = Colours()
    assert extract_features([folder], [encoder], tmp_path / "f.h5", batch_size=2) == {"clips": 3, "new": 3}
    assert len(encoder.calls) == -(-FeatureStore(tmp_path / "f.h5").num_steps["v0"] // 2)


def test_encoders_of_two_strides_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"strides of 8\.0, 16\.043 frames"):
        extract_features([folder], [Colours(), Colours(stride_frames=8.0)], tmp_path / "f.h5")


# ---- real encoders, and the command


def run(*words) -> int:
    return main(["features", "extract", *map(str, words)])


def test_the_command_from_videos_to_a_store(folder, tmp_path, capsys):
    spec = f"egovlp={egovlp_file(tmp_path)}"
    (tmp_path / "bad.mp4").touch()
    first = folder / "v0.mp4", "--encoder", spec, "--output", tmp_path / "f.h5", "--device", "cpu"
    assert run(*first) == 0
    assert "extracted: clips 1, new 1\nwrote " in capsys.readouterr().out
    assert run(folder, tmp_path / "bad.mp4", *first[1:], "--batch", 3) == 2
    assert "f.h5 (3 of 4 clips): " in capsys.readouterr().err
    assert FeatureStore(tmp_path / "f.h5").num_steps == {"v0": 37, "v1": 15, "v2": 5}
    assert main(["show", str(tmp_path / "f.h5")]) == 0
    assert "encoder: egovlp sha256:" in capsys.readouterr().out
    assert main(["features", "check", str(tmp_path / "f.h5"), "--records", str(records(tmp_path))]) == 0


def records(folder: Path) -> Path:
    from groundnlq.data.records import Record, write_records

    path = folder / "r.jsonl"
    write_records(path, [Record("a_0", "v0", "where?", SECONDS), Record("a_1", "v1", "where?", 8.0)])
    return path


@pytest.mark.slow
def test_two_processes_write_what_one_does(folder, tmp_path):
    spec, outputs = f"egovlp={egovlp_file(tmp_path)}", [tmp_path / "one.h5", tmp_path / "two.h5"]
    words = ["features", "extract", str(folder), "--encoder", spec, "--batch", "4", "--output"]
    assert main([*words, str(outputs[0])]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "groundnlq"]
    process = Forked([*torchrun, *words, str(outputs[1])])
    printed = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert (printed[0].count("extracted: "), printed[0].count("wrote ")) == (1, 1)
    assert FeatureStore(outputs[0]).sha256 == FeatureStore(outputs[1]).sha256


def test_a_network_gives_the_same_in_every_batch_and_nearly_the_same_in_batches_of_another_size(folder, tmp_path):
    from groundnlq.video.encoders import load_encoder

    encoder = load_encoder(f"egovlp={egovlp_file(tmp_path)}")
    whole = features_of(folder / "v1.mkv", [encoder], batch_size=4)
    assert whole.std(dim=0).min() > 0.01  # frames matter
    for first in (4, 5):  # the same batches, and others
        numbers = encoder.frame_numbers(0.0, 8.0, 240)[first:]
        shifted = Colours()
        shifted.frame_numbers = lambda *_, numbers=numbers: numbers
        shifted.encode, shifted.short_side = encoder.encode, encoder.short_side
        assert torch.equal(features_of(folder / "v1.mkv", [shifted], batch_size=4), whole[first:])
    torch.testing.assert_close(features_of(folder / "v1.mkv", [encoder], batch_size=16), whole, rtol=1e-4, atol=1e-5)
