"""Two runs side by side: counts and intervals are those of a slow count."""

import numpy as np
import pytest

from groundnlq.analysis.evaluation import compare, evaluate
from groundnlq.analysis.intervals import p_text
from groundnlq.data.records import Record
from groundnlq.errors import DataError
from notebooks.lessons import comparison

KEY = "R@1 IoU=0.3"


def two_runs(num_clips=12, per_clip=5):
    """Records, and two evaluations of them that differ at random."""
    random, records, answers = np.random.default_rng(0), [], ({}, {})
    for clip in range(num_clips):
        for number in range(per_clip):
            query_id = f"a{clip}_{number}"
            template = ("Where $?", "Who?")[number % 2]
            records.append(Record(query_id, f"c{clip}", "?", 100.0, ((10.0, 20.0),), template=template))
            for run, chance in zip(answers, (0.4, 0.6), strict=True):
                start = 10.0 if random.random() < chance else 50.0
                run[query_id] = np.array([[start, start + 10.0, 0.5]])
    return [evaluate(run, records) for run in answers]


def test_every_query_is_won_lost_or_neither():
    one, other = two_runs()
    table = comparison.changes(one, other)
    before, after = (e.hits.set_index("query_id")[KEY] > 0 for e in (one, other))
    for query_id, change in table["change"].items():
        pair = (bool(before[query_id]), bool(after[query_id]))
        assert change == {(False, True): "won", (True, False): "lost", (True, True): "both correct"}.get(
            pair, "both wrong"
        )
    counts = table["change"].value_counts()
    assert compare(one, other)["difference"] == pytest.approx(100 * (counts["won"] - counts["lost"]) / len(table))
    assert counts.min() > 0


def test_runs_over_other_queries_are_refused():
    one, _ = two_runs()
    _, other = two_runs(num_clips=3)
    with pytest.raises(DataError, match="same queries"):
        comparison.changes(one, other)


def test_the_bars_count_what_changed_by_template(tmp_path):
    table = comparison.changes(*two_runs())
    figure = comparison.changes_bars(table, ("scratch", "tuned"))
    (axis,) = figure.axes
    won, lost = (container.datavalues for container in axis.containers)
    assert won.sum() == (table["change"] == "won").sum()
    assert -lost.sum() == (table["change"] == "lost").sum()
    figure.savefig(tmp_path / "figure.png")


def test_the_paired_figure_shows_the_difference_of_compare_and_all_clips(tmp_path):
    one, other = two_runs()
    figure = comparison.paired_figure(one, other, names=("a", "b"))
    bubbles, draws = figure.axes
    found = compare(one, other)
    assert f"{found['difference']:+.1f} points" in draws.get_title(loc="left")
    assert p_text(found["p"]) in draws.get_title(loc="left")
    assert bubbles.collections[0].get_sizes().sum() == 28 * one.hits["clip_uid"].nunique()
    (interval,) = draws.collections[-1].get_segments()
    assert interval[:, 0].tolist() == pytest.approx([found["95 % low"], found["95 % high"]])
    figure.savefig(tmp_path / "figure.png")


def test_recall_on_trained_queries_stands_beside_that_on_others(tmp_path):
    one, other = two_runs()
    histories = {name: [{"epoch": n, "loss total": 1.0 / n} for n in (1, 2, 3)] for name in ("a", "b")}
    scores = {"a": {"train": other, "val": one}, "b": {"train": other, "val": other}}
    figure = comparison.memorisation_figure(histories, scores)
    losses, bars = figure.axes
    assert [list(line.get_ydata()) for line in losses.lines] == [[1.0, 0.5, 1 / 3]] * 2
    heights = [patch.get_height() for patch in bars.patches]
    expected = [other.strict[KEY], other.strict[KEY], one.strict[KEY], other.strict[KEY]]
    assert heights == pytest.approx(expected)
    figure.savefig(tmp_path / "figure.png")


def test_the_first_step_with_a_recall_is_the_first():
    recalls = ((10, 5.0), (20, 9.0), (30, 8.0))
    history = [{"step": 5}, *({"step": step, f"raw {KEY}": recall, f"ema {KEY}": 0.0} for step, recall in recalls)]
    assert comparison.best_recall(history) == 9.0
    assert [comparison.first_step_at(history, recall) for recall in (0.0, 6.0, 9.0, 9.1)] == [10, 20, 20, None]
