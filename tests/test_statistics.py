"""The numbers of a data set, beside Ego4D's."""

import pytest

from groundnlq.data.annotations import Clip, NlqFile, read_nlq
from groundnlq.data.records import Record, read_records
from groundnlq.sample.queries import ask
from groundnlq.sample.world import WorldConfig, simulate_clip
from notebooks.lessons.statistics import compare_to_ego4d, template_shares


def test_figures_are_those_of_a_count_by_hand(tmp_path):
    clips = [Clip("a", 0.0, 100.0, "v"), Clip("b", 0.0, 200.0, "v")]
    records = [
        Record("x_0", "a", "where is it ?", 100.0, ((10.0, 14.0),), template="T"),
        Record("x_1", "a", "who", 100.0, ((99.5, 100.3),), template="T"),
        Record("y_0", "b", "what did I put down?", 200.0, ((0.0, 20.0),), raw_query="what did I put down"),
    ]
    table = compare_to_ego4d(NlqFile(tmp_path, "2.0", records, clips, {}), records[:2])
    here = table["this data"]
    assert here["questions per clip"] == 1.5
    assert here["moment length, median [s]"] == 4.0
    assert here["moments under 1 s [%]"] == pytest.approx(33.3)
    assert here["moments that end beyond the clip [%]"] == pytest.approx(33.3)
    assert here["share of the clip covered, mean [%]"] == pytest.approx((4 + 0.8 + 10) / 3, abs=0.05)
    assert here["questions without a question mark [%]"] == pytest.approx(66.7)
    assert here["narrations per minute"] == pytest.approx(2 / (100 / 60))
    assert table["Ego4D"]["questions per clip"] == 10.9
    assert table["Ego4D"].isna()["narrations per minute"]


def test_the_sample_world_is_close_to_ego4d_where_it_can_be(tiny_world):
    file = read_nlq(tiny_world / "official" / "nlq_train.json")
    table = compare_to_ego4d(file, read_records(tiny_world / "narrations.jsonl"))
    for name in ("moment length, median [s]", "questions per clip", "questions without a question mark [%]"):
        assert table["this data"][name] == pytest.approx(table["Ego4D"][name], rel=0.6), name
    assert table["this data"]["centre of the moment, mean share of the clip"] == pytest.approx(0.5, abs=0.15)


def test_templates_of_the_demo_are_about_as_frequent_as_those_of_ego4d():
    config = WorldConfig()
    logs = [simulate_clip(config, "train", index) for index in range(config.num_train_clips)]
    templates = [question.template for log in logs for question in ask(config, log)]
    shares = template_shares([Record("", "", "", 1.0, (), template=template) for template in templates])
    assert len(shares) == 13
    assert shares.sum().tolist() == pytest.approx([100, 100], abs=0.5)
    assert shares["this data"].corr(shares["Ego4D"]) > 0.7
