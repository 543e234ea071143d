"""What a recall means and how far it can be trusted: one example, all thresholds, resampling, guessers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.evaluation import Evaluation, bootstrap_means
from groundnlq.analysis.word_oracles import Controls
from groundnlq.data.recall import THRESHOLDS, best_tiou, recall_key
from groundnlq.data.records import Record
from groundnlq.data.submission import Ranked
from groundnlq.view.style import BLACK, BLUE, CURVES, GREEN, GREY, ORANGE, SKY, YELLOW, new_figure, plain
from groundnlq.view.tracks import overlap_color


def instructive_query(evaluation: Evaluation, k: int = 5) -> str:
    """The id of the first query, if any, whose first answer is right at the lower threshold only and of which
    a later one is right at the higher; else of one of which one of the two is true."""
    hits, (low, high) = evaluation.hits, THRESHOLDS
    first_low, first_high, later = (hits[recall_key(*at)] for at in ((1, low), (1, high), (k, high)))
    return str(hits.loc[((first_low - first_high) + (later - first_high)).idxmax(), "query_id"])


def recall_example_figure(record: Record, answers: np.ndarray, keep: int = 5) -> Figure:
    """One query's answers on the time axis with their tIoU, and which R@k IoU=m count it as a hit.

    Args:
        answers: (K, 3) ranked segments.
    """
    answers = answers[:keep]
    overlaps = best_tiou(answers, record.moments_sec)
    figure = new_figure(10.5, 1.3 + 0.3 * len(answers))
    left, right = figure.subplots(1, 2, width_ratios=(3.4, 1), gridspec_kw={"wspace": 0.1})
    for start, end in record.moments_sec:
        left.axvspan(start, end, color=YELLOW, alpha=0.4, linewidth=0)
        left.barh(0, end - start, left=start, height=0.7, color=BLACK)
    for rank, ((start, end, _), overlap) in enumerate(zip(answers, overlaps, strict=True), 1):
        left.barh(rank, end - start, left=start, height=0.7, color=overlap_color(overlap), edgecolor=BLACK)
        left.text(1.01, rank, f"tIoU {overlap:.2f}", transform=left.get_yaxis_transform(), va="center",
                  fontsize=8.5)  # fmt: skip
    left.set_yticks(range(len(answers) + 1), ["truth", *(f"answer {n}" for n in range(1, len(answers) + 1))])
    left.set(xlabel="time in the clip [s]", ylim=(len(answers) + 0.6, -0.6), xlim=(0, record.duration_sec))
    left.set_title(plain(record.query), fontsize=10, loc="left")
    _hit_cells(right, overlaps)
    return figure


def threshold_curves(ranked: Mapping[str, Ranked], records: Sequence[Record], k: int) -> pd.DataFrame:
    """R@k [%] of each run at every tIoU threshold from 0 to 1.

    A run's R@1 curve encloses its mIoU: the mean of a quantity between 0 and 1 is the integral of the share
    that exceeds each threshold.
    """
    thresholds, columns = np.linspace(0, 1, 201), {}
    annotated = [record for record in records if record.moments_sec]
    for name, answers in ranked.items():
        best = [best_tiou(answers.get(r.query_id, np.zeros((0, 3)))[:k], r.moments_sec).max(initial=0)
                for r in annotated]  # fmt: skip
        columns[name] = 100 * (np.array(best)[None] > thresholds[:, None]).mean(axis=1)
    return pd.DataFrame(columns, index=thresholds)


def threshold_figure(
    ranked: Mapping[str, Ranked], records: Sequence[Record], ks: Sequence[int] = (1, 5)
) -> Figure:
    """`threshold_curves` for some k, side by side; dotted, the thresholds of the challenge."""
    figure = new_figure(10, 3.2)
    axes = figure.subplots(1, len(ks), sharey=True)
    for axis, k in zip(axes, ks, strict=True):
        curves = threshold_curves(ranked, records, k)
        for (color, dash), name in zip(CURVES, curves, strict=False):
            label = plain(name, 24)
            if k == 1:
                label += f", mIoU {(curves[name] + curves[name].shift()).mean() / 2:.1f}"  # its area
            axis.plot(curves.index, curves[name], dash, color=color, label=label)
        for threshold in THRESHOLDS:
            axis.axvline(threshold, color=GREY, linestyle=":", zorder=0)
        axis.set(xlabel="tIoU threshold m", ylabel=f"R@{k} IoU=m [%]", xlim=(0, 1))
        axis.legend(fontsize=8)
    axes[0].set_ylim(bottom=0)
    return figure


def design_effect(evaluation: Evaluation, key: str, seed: int = 0) -> float:
    """The variance of a recall, beside what it were if the queries of a clip did not hang together."""
    of_clips, of_queries = (
        _resampled(evaluation, key, unit, seed).var() for unit in ("clip_uid", "query_id")
    )
    return float(of_clips / of_queries) if of_queries else 1.0


def resampling_figure(evaluation: Evaluation, key: str = "R@1 IoU=0.3", seed: int = 0) -> Figure:
    """Left, the recall of each clip, beside what independent queries would give; right, what follows for the
    interval: whole clips resampled, and single queries."""
    figure = new_figure(10, 3)
    left, right = figure.subplots(1, 2)
    hits = evaluation.hits
    bins = np.linspace(0, 100, 11)
    left.hist(100 * hits.groupby("clip_uid")[key].mean(), bins, color=BLUE, label="as it is")
    left.stairs(_shuffled_counts(hits, key, bins, seed), bins, color=BLACK, linestyle="--",
                label="hits dealt out at random")  # fmt: skip
    left.set(xlabel=f"{key} of a clip [%]", ylabel="clips")
    left.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    draws = {unit: _resampled(evaluation, key, unit, seed) for unit in ("clip_uid", "query_id")}
    edges = np.histogram_bin_edges(np.concatenate(list(draws.values())), 24)
    outline = {"color": BLACK, "histtype": "step", "linestyle": "--"}
    styles = (("clip_uid", "clips", {"color": SKY}), ("query_id", "single queries", outline))
    for unit, name, style in styles:
        low, high = np.percentile(draws[unit], [2.5, 97.5])
        right.hist(draws[unit], edges, label=f"{name}: [{low:.1f}, {high:.1f}]", **style)
    right.set(xlabel=f"{key} [%] of resampled splits", ylabel="resampled splits")
    right.set_title(
        f"variance over clips / over queries: {design_effect(evaluation, key, seed):.2f}", fontsize=9
    )
    right.legend(fontsize=8, title="95 % interval, drawing", title_fontsize=8, loc="upper right")
    right.set_ylim(top=1.5 * right.get_ylim()[1])  # room for the legend
    return figure


def guesser_table(
    controls: Controls, evaluations: Mapping[str, Evaluation], key: str = "R@1 IoU=0.3"
) -> pd.DataFrame:
    """Percent, with its interval, of guessers that know one word of a sample world's answer, of networks, and
    of the event log itself; the weakest first.
    """
    rows = {
        "guesser: any event": controls.guesser("nothing"),
        "guesser: any event of the verb": controls.guesser("verb"),
        "guesser: any event of the object": controls.guesser("object"),
        "the event log itself": controls.ceiling(),
    }
    rows |= {name: e.hits.set_index("query_id")[key] for name, e in evaluations.items()}
    clips = {record.query_id: record.clip_uid for record in controls.records}
    table = {}
    for name, hits in rows.items():
        of_query = 100 * hits[list(clips)].to_numpy(float)
        draws = bootstrap_means(np.array(list(clips.values())), of_query[:, None], seed=0)[:, 0]
        table[name] = [of_query.mean(), *np.percentile(draws, [2.5, 97.5])]
    frame = pd.DataFrame.from_dict(table, orient="index", columns=[key, "95 % low", "95 % high"])
    return frame.sort_values(key, kind="stable")


def guesser_bars(table: pd.DataFrame) -> Figure:
    """`guesser_table`, drawn: what knows the world is hatched, what was trained is not."""
    key = table.columns[0]
    figure = new_figure(9, 0.9 + 0.3 * len(table))
    axis = figure.subplots()
    errors = np.clip([table[key] - table.iloc[:, 1], table.iloc[:, 2] - table[key]], 0, None)
    knows = table.index.str.startswith(("guesser", "the event log"))
    bars = axis.barh(range(len(table)), table[key], xerr=errors, capsize=3, edgecolor=BLACK, linewidth=0.6,
                     color=[ORANGE if one else BLUE for one in knows])  # fmt: skip
    for bar, one in zip(bars, knows, strict=True):
        bar.set_hatch("//" if one else "")
    for row, (value, high) in enumerate(zip(table[key], table.iloc[:, 2], strict=True)):
        axis.text(high + 1, row, f"{value:.1f}", va="center", fontsize=8)
    axis.set_yticks(range(len(table)), [plain(str(name), 40) for name in table.index], fontsize=9)
    axis.set(xlabel=f"{key} [%]", xlim=(0, 108))
    return figure


def coverage_curve(ranked: Ranked, evaluation: Evaluation, key: str = "R@1 IoU=0.3") -> pd.DataFrame:
    """Percent right if only the surest queries are answered: a row for each number of them.

    (Selective prediction, Geifman and El-Yaniv 2017.)
    """
    hits = evaluation.hits.set_index("query_id")[key]
    scores = pd.Series({q: ranked[q][0, 2] for q in hits.index if len(ranked.get(q, ()))})
    order = scores.sort_values(ascending=False, kind="stable").index
    count = np.arange(1, len(order) + 1)
    right = 100 * hits[order].cumsum().to_numpy() / count
    return pd.DataFrame(
        {"answered": 100 * count / len(hits), "right": right, "score": scores[order].to_numpy()}
    )


def coverage_figure(curves: Mapping[str, pd.DataFrame], key: str = "R@1 IoU=0.3") -> Figure:
    """`coverage_curve` of several runs; dotted, a score that knows nothing."""
    figure = new_figure(7.5, 3.2)
    axis = figure.subplots()
    for (color, dash), (name, curve) in zip(CURVES, curves.items(), strict=False):
        shown = curve[curve["answered"] >= 5]  # the mean of a few queries only jumps
        axis.plot(shown["answered"], shown["right"], dash, color=color, label=plain(name, 24))
        axis.axhline(curve["right"].iloc[-1], color=color, linestyle=":", linewidth=0.8)
    axis.set(xlabel="queries that are answered, the surest first [%]", ylabel=f"of these right ({key}) [%]",
             xlim=(0, 100), ylim=(0, 104))  # fmt: skip
    axis.legend(fontsize=8)
    return figure


def _hit_cells(axis: Axes, overlaps: np.ndarray) -> None:
    for column, threshold in enumerate(THRESHOLDS):
        for row in range(1, len(overlaps) + 1):
            is_hit = bool((overlaps[:row] > threshold).any())
            axis.barh(row, 0.94, left=column - 0.47, height=0.84, color=GREEN if is_hit else "0.92")
            axis.text(column, row, "hit" if is_hit else "miss", ha="center", va="center", fontsize=8.5,
                      color="white" if is_hit else BLACK, fontweight="bold" if is_hit else None)  # fmt: skip
    axis.set_xticks(range(len(THRESHOLDS)), [f"IoU={threshold:g}" for threshold in THRESHOLDS])
    axis.set_yticks(range(1, len(overlaps) + 1), [f"R@{k}" for k in range(1, len(overlaps) + 1)])
    axis.set(ylim=(len(overlaps) + 0.6, -0.6), xlim=(-0.6, len(THRESHOLDS) - 0.4))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _resampled(evaluation: Evaluation, key: str, unit: str, seed: int) -> np.ndarray:
    values = 100 * evaluation.hits[[key]].to_numpy(float)
    return bootstrap_means(evaluation.hits[unit].to_numpy(), values, seed)[:, 0]


def _shuffled_counts(
    hits: pd.DataFrame, key: str, bins: np.ndarray, seed: int, times: int = 200
) -> np.ndarray:
    """Clips in each bin of recall if as many hits fell on queries at random; the mean of many deals."""
    random, (_, index) = np.random.default_rng(seed), np.unique(hits["clip_uid"], return_inverse=True)
    size = np.bincount(index)
    dealt = [np.bincount(index, weights=random.permutation(hits[key].to_numpy(float))) for _ in range(times)]
    return np.histogram(100 * np.concatenate(dealt) / np.tile(size, times), bins)[0] / times
