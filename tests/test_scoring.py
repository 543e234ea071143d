"""What a recall means, held to slow loops and known cases."""

import numpy as np
import pytest

from groundnlq.analysis.evaluation import compare, evaluate
from groundnlq.analysis.intervals import design_effect
from groundnlq.data.annotations import read_nlq
from groundnlq.data.records import Record
from notebooks.lessons import scoring
from notebooks.lessons.sentences import differing
from notebooks.lessons.word_oracles import WordOracles

KEY = "R@1 IoU=0.3"
MOMENT = (10.0, 20.0)
RIGHT, LOOSE, WRONG = (10.0, 20.0), (10.0, 14.0), (50.0, 60.0)  # tIoU 1, 0.4 and 0


def record(name, clip="c"):
    return Record(f"{name}_0", clip, "?", 100.0, (MOMENT,))


def ranked(*segments):
    return np.array([(*segment, 0.9 - 0.1 * rank) for rank, segment in enumerate(segments)])


def clustered(num_clips=40, per_clip=6):
    """Clips that are all right or all wrong."""
    records, answers = [], {}
    for clip in range(num_clips):
        for number in range(per_clip):
            records.append(Record(f"a{clip}_{number}", f"c{clip}", "?", 100.0, (MOMENT,)))
            answers[f"a{clip}_{number}"] = ranked(RIGHT if clip % 2 else WRONG)
    return answers, records


def test_an_instructive_query_is_one_on_which_the_recalls_disagree():
    answers = {
        "all_0": ranked(RIGHT, WRONG),
        "none_0": ranked(WRONG, WRONG),
        "late_0": ranked(WRONG, RIGHT, WRONG, WRONG, WRONG),
        "mixed_0": ranked(LOOSE, RIGHT),
    }
    names = ["all", "none", "late", "mixed"]
    records = [record(name) for name in names]
    assert scoring.instructive_query(evaluate(answers, records)) == "mixed_0"
    del answers["mixed_0"]
    assert scoring.instructive_query(evaluate(answers, records[:3])) == "late_0"


def test_the_cells_of_the_example_are_hits_where_recall_counts_one(tmp_path):
    figure = scoring.recall_example_figure(record("a"), ranked(WRONG, LOOSE, RIGHT))
    cells = [text.get_text() for text in figure.axes[1].texts]
    assert cells == ["miss", "hit", "hit", "miss", "miss", "hit"]  # 0.3 for k = 1, 2, 3, then 0.5
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["tIoU 0.00", "tIoU 0.40", "tIoU 1.00"]
    figure.savefig(tmp_path / "figure.png")


def some_answers():
    random = np.random.default_rng(0)
    records, answers = [record(f"q{i}") for i in range(60)], {}
    for one in records[:-1]:  # the last one is not answered
        start = random.uniform(5, 25, 5)
        answers[one.query_id] = np.column_stack([start, start + random.uniform(2, 15, 5), np.linspace(0.9, 0.1, 5)])
    return answers, records


def test_the_curves_pass_through_the_recalls_and_enclose_the_mean_overlap():
    answers, records = some_answers()
    evaluation = evaluate(answers, records)
    for k in (1, 5):
        curve = scoring.threshold_curves({"run": answers}, records, k)["run"]
        for threshold in (0.3, 0.5):
            at = curve.iloc[np.abs(curve.index - threshold).argmin()]
            assert at == pytest.approx(evaluation.strict[f"R@{k} IoU={threshold:g}"])
        assert (curve.diff().dropna() <= 0).all()
    first = scoring.threshold_curves({"run": answers}, records, 1)["run"]
    assert np.mean((first.to_numpy()[1:] + first.to_numpy()[:-1]) / 2) == pytest.approx(
        evaluation.strict["mIoU"], abs=0.5
    )
    label = scoring.threshold_figure({"run": answers}, records).axes[0].get_legend().get_texts()[0].get_text()
    assert float(label.split()[-1]) == pytest.approx(evaluation.strict["mIoU"], abs=0.5)


def effect(evaluation):
    hits = evaluation.hits
    return design_effect(*(hits[name].to_numpy() for name in ("clip_uid", "query_id", KEY)))


def test_clips_that_hang_together_have_the_design_effect_of_their_size():
    assert effect(evaluate(*clustered())) == pytest.approx(6, rel=0.25)
    answers, records = some_answers()
    single = evaluate(answers, [Record(r.query_id, r.query_id, "?", 100.0, r.moments_sec) for r in records])
    assert effect(single) == pytest.approx(1, rel=0.25)
    assert effect(evaluate({"a_0": ranked(WRONG)}, [record("a")])) == 1.0


@pytest.mark.parametrize(
    ("effect", "says"), [(0.91, "5 % narrower than"), (1.0, "as wide as"), (4.0, "100 % wider than")]
)
def test_the_sentence_about_a_design_effect_follows_from_its_value(effect, says):
    assert f"is {says} over queries" in scoring.design_effect_text(effect)


def test_the_outline_is_as_many_clips_as_there_are(tmp_path):
    figure = scoring.resampling_figure(evaluate(*clustered()))
    left, right = figure.axes
    outline = next(patch for patch in left.patches if type(patch).__name__ == "StepPatch")
    assert outline.get_data().values.sum() == pytest.approx(40)
    assert sum(bar.get_height() for bar in left.patches if bar is not outline) == 40
    assert len(right.get_legend().get_texts()) == 2
    figure.savefig(tmp_path / "figure.png")


def test_guessers_are_the_word_oracles_and_the_log_itself_is_right(tiny_world, tmp_path):
    records = read_nlq(tiny_world / "official" / "nlq_val.json").records
    oracles = WordOracles(tiny_world, records)
    blank = evaluate({r.query_id: np.array([[0.0, 0.1, 0.5]]) for r in records}, records)
    perfect = evaluate({r.query_id: np.array([[*r.moments_sec[0], 0.5]]) for r in records}, records)
    table = scoring.oracle_table(oracles, {"blank": blank, "perfect": perfect})
    assert table[KEY].is_monotonic_increasing
    assert table.loc["perfect", KEY] == 100
    assert table.loc["blank", KEY] == 0
    assert table.loc["oracle: any event with the object", KEY] == pytest.approx(100 * oracles.hit_rate("object").mean())
    assert (table["95 % low"] <= table[KEY]).all()
    figure = scoring.oracle_bars(table)
    assert sum(bool(bar.get_hatch()) for bar in figure.axes[0].patches) == 4
    figure.savefig(tmp_path / "figure.png")


def test_groups_are_those_of_a_slow_count_and_small_ones_are_left_out():
    texts = ["Where was it before I left?", "Who was the last one?", "How many cups?", "What is beforehand?"]
    records = [Record(f"q_{i}", f"c{i % 7}", texts[i % 4], 100.0, ((0.0, 3.0 + i),), template="t") for i in range(48)]
    hits = evaluate({r.query_id: ranked(RIGHT) for r in records}, records).hits
    groups = scoring.query_groups(hits, {r.query_id: "asked" for r in records[:9]} | {"q_9": "unseen"})
    assert [name for name in groups if name.startswith("words")] == [
        "words: before, after", "words: first, last", "words: how many", "words: none of these"
    ]  # fmt: skip
    assert [groups[name].nonzero()[0][0] for name in groups if name.startswith("words")] == [0, 1, 2, 3]
    assert groups["words: none of these"].sum() == 12
    assert groups["template: t"].all()
    assert not [name for name in groups if name.startswith("object")]  # of 9 and 1 queries
    assert [name for name in groups if name.startswith("moment")] == ["moment: over 16 s"]
    assert "object: asked" in scoring.query_groups(hits, {r.query_id: "asked" for r in records[:10]})


def test_differences_of_groups_are_those_of_compare_and_corrected_for_their_number():
    answers, records = clustered()
    one = evaluate(answers, records)
    other = evaluate({query_id: ranked(WRONG) for query_id in answers}, records)
    odd = np.array([int(clip[1:]) % 2 == 1 for clip in one.hits["clip_uid"]])
    groups = {"all": np.ones(len(odd), dtype=bool), "odd": odd, "even": ~odd}
    table = scoring.group_differences(one, other, groups)
    assert table["difference"].tolist() == [50, 100, 0]
    assert table.loc["all", ["difference", "95 % low", "p"]].tolist() == [
        compare(other, one)[name] for name in ("difference", "95 % low", "p")
    ]
    assert (table["p (Holm)"] >= table["p"]).all()
    assert scoring.recall_of_groups(one, groups)[KEY].tolist() == [50, 100, 0]
    text = differing(table, "one", "other")
    assert "better in *all* (+50), *odd* (+100); in the other 1" in text
    assert "worse in *all* (-50)" in differing(scoring.group_differences(other, one, groups), "other", "one")
    assert "in all 1 groups the difference may be chance" in differing(table.loc[["even"]], "one", "other")


def test_the_hits_that_are_left_are_counted():
    records = [record(name) for name in "abcd"]
    one, other = (
        evaluate({r.query_id: ranked(segment) for r, segment in zip(records, segments, strict=True)}, records)
        for segments in ((RIGHT, RIGHT, RIGHT, WRONG), (RIGHT, WRONG, WRONG, RIGHT))
    )
    assert scoring.hits_left(one, other) == "1 of 3 hits are left."
