"""Frames of a moment come from that moment, and the explorer shows and plays them."""

import numpy as np
import pytest

from groundnlq.analysis.candidates import FixedPredictions
from groundnlq.data.records import Record
from groundnlq.errors import DataError, KitError
from groundnlq.view import film
from groundnlq.view.controls import GROUND_TRUTH
from groundnlq.view.explorer import Explorer
from groundnlq.view.film import cut_video, film_strip, find_video
from tests.test_timeline import bars

av = pytest.importorskip("av", reason="PyAV is not installed")
FPS, SECONDS = 10, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video whose brightness tells the second: 20 grey levels each."""
    path = tmp_path_factory.mktemp("videos")
    with av.open(str(path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "30"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FPS * SECONDS):
            grey = np.full((48, 64, 3), 20 * (number // FPS), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    (path / "broken.mp4").write_bytes(b"no video at all")
    return path


def second_of(pictures) -> np.ndarray:
    return np.round(pictures.reshape(len(pictures), -1).mean(axis=1) / 20)


def test_frames_are_those_of_the_moment(folder):
    times, pictures = film_strip(folder / "clip.mp4", 4.05, 8.05, num_frames=5, height=24)
    assert pictures.shape == (5, 24, 32, 3)
    assert times == pytest.approx([4.05, 5.05, 6.05, 7.05, 8.05], abs=1 / 60)  # at 30 a second
    assert second_of(pictures).tolist() == [4, 5, 6, 7, 8]


def test_at_the_end_of_the_video_there_are_fewer(folder):
    times, _ = film_strip(folder / "clip.mp4", 10.0, 14.0, num_frames=5)
    assert times == pytest.approx([10.0, 11.0])
    with pytest.raises(DataError, match=r"no frame at 20\.0 s"):
        film_strip(folder / "clip.mp4", 20.0, 22.0)


def test_the_piece_to_play_is_the_moment_and_no_more(folder, tmp_path):
    (tmp_path / "piece.mp4").write_bytes(cut_video(folder / "clip.mp4", [(3.0, 4.5), (4.5, 5.95)], height=48))
    times, pictures = film_strip(tmp_path / "piece.mp4", 0.1, 2.9, num_frames=15)
    assert second_of(pictures).tolist() == [3] * 5 + [4] * 5 + [5] * 5
    assert times[-1] == pytest.approx(2.9)
    with pytest.raises(DataError, match="no frame"):
        film_strip(tmp_path / "piece.mp4", 3.5, 4.0)
    with pytest.raises(DataError, match="no frame"):
        cut_video(folder / "clip.mp4", [(20.0, 22.0)])


def test_a_file_that_is_no_video_is_refused_by_name(folder):
    with pytest.raises(DataError, match=r"broken\.mp4: not a readable video"):
        film_strip(folder / "broken.mp4", 0.0, 1.0)


def test_videos_are_found_by_clip_and_nowhere_else(folder):
    assert find_video(folder, "clip") == folder / "clip.mp4"
    assert find_video(folder, "other") is None
    with pytest.raises(DataError, match="not allowed"):
        find_video(folder, "../clip")


def test_without_pyav_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(KitError, match=r"groundnlq\[video\]"):
        film_strip(folder / "clip.mp4", 0.0, 1.0)


def test_the_explorer_shows_the_film_of_what_one_goes_to_and_plays_it(folder, monkeypatch):
    records = [
        Record("a_0", "clip", "Where?", 12.0, ((2.0, 3.0),)),
        Record("b_0", "other", "Who?", 12.0, ((2.0, 3.0),)),
    ]
    run = FixedPredictions(
        records, {"a_0": np.array([[7.0, 9.0, 0.5], [2.5, 3.5, 0.4]]), "b_0": np.array([[7.0, 9.0, 0.5]])}
    )
    cut, played = [], []
    monkeypatch.setattr("groundnlq.view.selection.cut_video", lambda *a: cut.append(a) or film.cut_video(*a))
    explorer = Explorer({"run": run}, video_folder=folder)
    show = explorer.play_videos
    monkeypatch.setattr(
        explorer, "play_videos", lambda pieces: (played.extend([[*pieces]] * bool(pieces)), show(pieces))
    )
    titles = ["true moment: 2.0 – 3.0 s", "answer 1: 7.0 – 9.0 s, tIoU 0.00"]
    assert titles_shown(explorer.figure()) == titles
    assert times_shown(explorer.figure()) >= {"2.1 s", "2.9 s", "7.2 s", "8.8 s"}  # middles of fifths
    explorer.prediction.value = 2
    assert titles_shown(explorer.figure())[1] == "answer 2: 2.5 – 3.5 s, tIoU 0.33"
    explorer.prediction.value = GROUND_TRUTH
    assert titles_shown(explorer.figure()) == titles
    explorer.play.value = True
    assert cut == [(folder / "clip.mp4", [(1.0, 4.0)]), (folder / "clip.mp4", [(6.0, 10.0)])]
    assert played == [[f"{title} (and 1 s before and after)" for title in titles]]
    assert len(explorer.player.children) == 2
    assert titles_shown(explorer.figure()) == []  # the videos stand there instead
    explorer.query.value = "b_0"  # a clip without a video
    assert explorer.player.children == ()  # no video of the query before
    assert explorer.play.disabled
    explorer.query.value = "a_0"
    assert not explorer.play.disabled
    assert len(played) == 2  # the player follows the query
    explorer.play.value = False
    assert explorer.player.children == ()
    explorer._click(5.0, 5.0, "")
    assert explorer.play.value
    assert played[-1][1] == "from 5.0 s on (and 1 s before and after)"


def test_the_film_of_a_second_run_or_of_a_typed_question_says_so(folder):
    records = [Record("a_0", "clip", "Where?", 12.0, ((2.0, 3.0),))]
    runs = {n: FixedPredictions(records, {"a_0": np.array([[7.0, 9.0, 0.5]])}) for n in ("one", "other $")}
    explorer = Explorer(runs, video_folder=folder)
    explorer.run.value, explorer.second_run.value = "other $", "one"
    assert titles_shown(explorer.figure())[1] == r"answer 1 of other \$: 7.0 – 9.0 s, tIoU 0.00"
    hidden = Record("h", "clip", "Where?", 12.0)
    assert list(film.moments_to_compare(hidden, np.array([[7.0, 9.0, 0.5]]))) == ["answer 1: 7.0 – 9.0 s"]
    assert film.moments_to_compare(hidden, np.zeros((0, 3))) == {}


def test_a_video_that_cannot_be_read_is_told_and_the_picture_stays(folder):
    records = [Record("a_0", "broken", "Where?", 12.0, ((2.0, 3.0),))]
    run = FixedPredictions(records, {"a_0": np.array([[7.0, 9.0, 0.5]])})
    explorer = Explorer({"run": run}, video_folder=folder)
    figure = explorer.figure()
    assert "broken.mp4: not a readable video" in explorer.summary.value
    assert titles_shown(figure) == []
    assert (2.0, 3.0) in bars(figure.axes[0])
    explorer.play.value = True
    assert explorer.player.children == ()


def titles_shown(figure) -> list[str]:
    return [child.get_title(loc="left") for axis in figure.axes for child in axis.child_axes]


def times_shown(figure) -> set[str]:
    rows = [child for axis in figure.axes for child in axis.child_axes]
    return {text.get_text() for row in rows for text in row.get_xticklabels()}
