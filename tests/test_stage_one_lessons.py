"""What notebook 2 shows of stage one is what the package computes."""

import numpy as np
import pytest

from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.engine.checkpoint import trained_state
from groundnlq.sample.make import read_events
from groundnlq.video.answer import CACHE_VARIABLE
from groundnlq.video.egonce import egomcq, is_positive, questions
from groundnlq.video.encoders import READY, load_encoder
from groundnlq.video.extract import features_of
from notebooks.lessons import alignment, inspection, scoring
from notebooks.lessons.narrated import Narrated


def narration(number, verb, noun, start=0.0, clip="c0"):
    text = f"C {verb}s the {noun}"
    return Record(f"v_narrator-1_{number}", clip, text, 90.0, ((start, start + 1),), verbs=(verb,), nouns=(noun,))


RECORDS = [narration(0, 0, 1), narration(1, 0, 2, 5.0), narration(2, 1, 2, 10.0), narration(3, 0, 1, 20.0)]


@pytest.fixture(scope="module")
def narrated(tiny_world, tmp_path_factory):
    config = trained_state(READY)[0]
    data = config.data.model_copy(update={"folder": str(tiny_world)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield Narrated(config.model_copy(update={"data": data}))


def test_a_pair_is_positive_where_the_loss_takes_it_as_such_and_every_pair_has_one_relation():
    kinds = [[alignment.relation(one, other) for other in RECORDS] for one in RECORDS]
    assert kinds[0] == ["positive", "same verb", "different", "positive"]
    assert kinds[1][2] == "same noun"
    assert [[kind == "positive" for kind in row] for row in kinds] == [
        [is_positive(one, other) for other in RECORDS] for one in RECORDS
    ]


def test_the_ready_made_towers_answer_egomcq_about_films_they_have_not_seen_and_random_ones_do_not(narrated):
    asked = questions(narrated.records)
    accuracy = {}
    for name, run in (("trained", READY), ("random", None)):
        pair = narrated.features(narrated.towers(run))
        table = alignment.mcq_table(narrated.records, *pair, asked)
        for kind, choices in asked.items():
            assert table.loc[kind, "accuracy"] == round(100 * egomcq(*pair, choices).mean(), 1)
        accuracy[name] = table["accuracy"]
    assert accuracy["trained"].min() > 70
    assert accuracy["random"].max() < 50


def test_the_towers_of_a_run_and_its_encoder_make_the_same_feature_of_the_same_frames(narrated):
    towers, encoder = narrated.towers(READY), load_encoder(str(READY))
    frames = narrated.frames.frames(0)[None]
    standard = towers.video.features((encoder.transform(frames[0])[None]).float())
    assert np.allclose(standard.detach(), encoder.encode(frames), atol=2e-2)  # of rounded weights
    one, _ = narrated.features(towers, [0])
    both, texts = narrated.features(towers, [1, 0])
    assert np.allclose(one[0], both[1], atol=1e-5)
    assert np.allclose(texts[1], narrated.text(towers, narrated.records[0].query), atol=1e-5)
    assert np.allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)


def test_a_dozen_narrations_are_of_one_clip_and_of_different_events(narrated):
    chosen = [narrated.records[place] for place in narrated.dozen(6)]
    assert len(chosen) == 6
    assert len({record.clip_uid for record in chosen}) == 1
    assert len({record.query_idx for record in chosen}) == 6
    assert [record.verbs for record in chosen] == sorted(record.verbs for record in chosen)
    assert narrated.pictures(0, 3, 48).shape == (3, 48, 48, 3)


def test_the_nearest_events_are_different_ones_in_the_order_of_similarity():
    records = [*RECORDS, narration(4, 5, 5, 0.5), narration(5, 5, 5, 0.5, "c1")]
    assert alignment.nearest_events(records, np.array([0.5, 0.1, 0.2, 0.3, 0.9, 0.8]), 4) == [4, 5, 3, 2]
    assert 0 in alignment.nearest_events(records[:4], np.array([0.5, 0.1, 0.2, 0.3]), 4)


def test_confusions_are_those_of_the_nearest_text():
    videos, texts = np.eye(4)[[0, 2, 2, 3]], np.eye(4)
    verbs = alignment.confusions(RECORDS, videos, texts, "verbs")
    assert verbs.tolist() == [[0, 0, 1, 0], [0, 1, 1, 0]]
    (axis,) = alignment.confusion_figure(verbs, ["put", "take"]).axes
    assert sorted(text.get_text() for text in axis.texts) == ["100", "33", "67"]
    (row,) = alignment.confusion_table(verbs, ["put", "take"]).to_dict("records")
    assert row == {"true": "put", "taken for": "take", "times": 1, "of": 3}
    assert alignment.confusion_table(verbs[:, :1], ["put", "take"]).empty


def test_the_nearest_choice_is_bold_and_the_right_one_has_a_tick():
    pictures = [np.zeros((4, 4, 3), np.uint8)] * 5
    titles = [axis.title for axis in alignment.choices_figure("C", pictures, [0.1, 0.7, 0.2, 0.3, 0.0]).axes]
    assert [title.get_text() for title in titles] == ["✓ 0.10", "0.70", "0.20", "0.30", "0.00"]
    assert [title.get_fontweight() for title in titles] == ["normal", "bold", "normal", "normal", "normal"]


def test_a_film_stands_above_its_features_and_its_event_log_on_one_time_axis(tiny_world, narrated):
    log = next(log for log in read_events(tiny_world) if log["split"] == "val")
    film, grid = narrated.films[log["clip_uid"]], StepGrid(30.0, 16.0, "consistent")
    features = features_of(film, [load_encoder(str(READY))]).numpy()
    above, middle, below = alignment.features_figure(features, grid, film, log).axes
    assert above.get_xlim() == middle.get_xlim() == below.get_xlim()
    assert middle.images[0].get_array().shape == features.T.shape
    assert len(alignment.features_figure(features, grid, None, None).axes) == 1
    assert [len(inspection.event_log(log, film=film).axes) for film in (None, film)] == [1, 2]


def test_the_figure_of_tiou_writes_the_overlap_of_each_prediction():
    (axis,) = scoring.tiou_figure((10.0, 20.0), [(10.0, 20.0), (15.0, 20.0), (0.0, 30.0), (20.0, 30.0)]).axes
    assert [text.get_text() for text in axis.texts] == ["1.00", "0.50", "0.33", "0.00", "tIoU"]
