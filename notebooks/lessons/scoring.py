"""Recalls and their uncertainty: one example, all thresholds, resampling, oracles that know one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groundnlq.analysis.baselines import TOP_K
from groundnlq.analysis.evaluation import KEY, Evaluation
from groundnlq.analysis.intervals import HIGH, LOW, ClipBootstrap, design_effect, holm, share_summary, sign_flip_p
from groundnlq.data.recall import THRESHOLDS, best_tiou, recall_key
from groundnlq.data.records import Record
from groundnlq.data.submission import Ranked
from groundnlq.view.style import ABOVE, BLACK, BLUE, CURVES, GREEN, GREY, ORANGE, SKY, error_ends, new_figure, plain
from groundnlq.view.timeline import overlap_color
from notebooks.lessons.parts import mark_moments
from notebooks.lessons.word_oracles import WordOracles


def tiou_figure(moment: Sequence[float], predictions: Sequence[Sequence[float]]) -> Figure:
    """A moment (black) and several predicted segments, seconds, with the tIoU of each."""
    figure = new_figure(8, 0.9 + 0.32 * len(predictions))
    axis = figure.subplots()
    mark_moments(axis, [moment], alpha=0.35)
    axis.barh(0, moment[1] - moment[0], left=moment[0], height=0.6, color=BLACK)
    for row, (segment, overlap) in enumerate(
        zip(predictions, best_tiou(np.array(predictions), [moment]), strict=True), 1
    ):
        color = overlap_color(float(overlap))
        axis.barh(row, segment[1] - segment[0], left=segment[0], height=0.6, color=color, edgecolor=BLACK)
        axis.text(1.02, row, f"{overlap:.2f}", transform=axis.get_yaxis_transform(), va="center")
    axis.text(1.02, 0, "tIoU", transform=axis.get_yaxis_transform(), va="center")
    names = ["moment", *(f"prediction {row}" for row in range(1, len(predictions) + 1))]
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="time in the clip [s]", ylim=(len(predictions) + 0.5, -0.5))
    axis.margins(x=0.05)
    return figure


def instructive_query(evaluation: Evaluation, k: int = TOP_K) -> str:
    """Id of a query whose first prediction is a hit at the lower threshold only, and of which a later one is a
    hit at the higher threshold; if there is none, of a query with one of the two properties."""
    hits, (low, high) = evaluation.hits, THRESHOLDS
    first_low, first_high, later = (hits[recall_key(*at)] for at in ((1, low), (1, high), (k, high)))
    return str(hits.loc[((first_low - first_high) + (later - first_high)).idxmax(), "query_id"])


def recall_example_figure(record: Record, segments: np.ndarray, top_k: int = TOP_K) -> Figure:
    """Segments of one query on the time axis with their tIoU, and its hits for each R@k IoU=m.

    Args:
        segments: (K, 3), ranked.
    """
    segments = segments[:top_k]
    overlaps = best_tiou(segments, record.moments_sec)
    figure = new_figure(10.5, 1.3 + 0.3 * len(segments))
    left, right = figure.subplots(1, 2, width_ratios=(3.4, 1), gridspec_kw={"wspace": 0.1})
    mark_moments(left, record.moments_sec)
    for start, end in record.moments_sec:
        left.barh(0, end - start, left=start, height=0.7, color=BLACK)
    for rank, ((start, end, _), overlap) in enumerate(zip(segments, overlaps, strict=True), 1):
        left.barh(rank, end - start, left=start, height=0.7, color=overlap_color(overlap), edgecolor=BLACK)
        left.text(1.01, rank, f"tIoU {overlap:.2f}", transform=left.get_yaxis_transform(), va="center",
                  fontsize=9.5)  # fmt: skip
    left.set_yticks(range(len(segments) + 1), ["ground truth", *(f"rank {n}" for n in range(1, len(segments) + 1))])
    left.set(xlabel="time in the clip [s]", ylim=(len(segments) + 0.6, -0.6), xlim=(0, record.duration_sec))
    left.set_title(plain(record.query), fontsize=10, loc="left")
    _hit_cells(right, overlaps)
    return figure


def threshold_curves(ranked: Mapping[str, Ranked], records: Sequence[Record], k: int) -> pd.DataFrame:
    """R@k [%] of each run at every tIoU threshold from 0 to 1.

    The area under the curve of R@1 is the mIoU: the mean of a quantity between 0 and 1 is the integral of the
    share above each threshold.
    """
    thresholds, columns = np.linspace(0, 1, 201), {}
    annotated = [record for record in records if record.moments_sec]
    for name, predictions in ranked.items():
        best = [best_tiou(predictions.get(r.query_id, np.zeros((0, 3)))[:k], r.moments_sec).max(initial=0)
                for r in annotated]  # fmt: skip
        columns[name] = 100 * (np.array(best)[None] > thresholds[:, None]).mean(axis=1)
    return pd.DataFrame(columns, index=thresholds)


def threshold_figure(ranked: Mapping[str, Ranked], records: Sequence[Record], ks: Sequence[int] = (1, 5)) -> Figure:
    """`threshold_curves` for some k, side by side; dotted, the thresholds of the challenge."""
    figure = new_figure(10, 3.2)
    axes = figure.subplots(1, len(ks), sharey=True)
    for axis, k in zip(axes, ks, strict=True):
        curves = threshold_curves(ranked, records, k)
        for (color, dash), name in zip(CURVES, curves, strict=False):
            label = plain(name, 24)
            if k == 1:
                label += f", mIoU {(curves[name] + curves[name].shift()).mean() / 2:.1f}"  # its area
            axis.plot(curves.index, curves[name], dash, color=color, label=label, linewidth=2)
        for threshold in THRESHOLDS:
            axis.axvline(threshold, color=GREY, linestyle=":", zorder=0)
        axis.set(xlabel="tIoU threshold m", ylabel=f"R@{k} IoU=m [%]", xlim=(0, 1))
        axis.legend(fontsize=9)
    axes[0].set_ylim(bottom=0)
    return figure


def resampling_figure(evaluation: Evaluation, key: str = KEY, seed: int = 0) -> Figure:
    """Left, the recall of each clip, and of the same hits shuffled over the queries; right, the recall of
    resampled splits, by whole clips and by single queries."""
    figure = new_figure(10, 3)
    left, right = figure.subplots(1, 2)
    hits = evaluation.hits
    bins = np.linspace(0, 100, 11)
    left.hist(100 * hits.groupby("clip_uid")[key].mean(), bins, color=BLUE, label="measured")
    left.stairs(_shuffled_counts(hits, key, bins, seed), bins, color=BLACK, linestyle="--",
                label="hits shuffled over queries")  # fmt: skip
    left.set(xlabel=f"{key} of a clip [%]", ylabel="clips")
    left.legend(fontsize=9, ncols=2, **ABOVE)
    clips, query_ids, values = hits["clip_uid"], hits["query_id"], 100 * hits[key]
    bootstraps = {"clips": ClipBootstrap(clips, seed), "single queries": ClipBootstrap(query_ids, seed)}
    draws = {name: bootstrap.means(values) for name, bootstrap in bootstraps.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(draws.values())), 24)
    outline = {"color": BLACK, "histtype": "step", "linestyle": "--"}
    for (name, bootstrap), style in zip(bootstraps.items(), ({"color": SKY}, outline), strict=True):
        low, high = bootstrap.interval(values)
        right.hist(draws[name], edges, label=f"{name}: [{low:.1f}, {high:.1f}]", **style)
    right.set(xlabel=f"{key} [%] of resampled splits", ylabel="resampled splits")
    effect = design_effect(clips, query_ids, values, seed)
    right.set_title(design_effect_text(effect).replace(": ", ":\n"), fontsize=9)
    right.legend(fontsize=9, title="95 % interval, resampling", title_fontsize=9, loc="upper right")
    right.set_ylim(top=1.5 * right.get_ylim()[1])  # space for the legend
    return figure


def design_effect_text(effect: float) -> str:
    """What a design effect says about intervals.

    >>> design_effect_text(0.91)
    'design effect 0.91: an interval over clips is 5 % narrower than over queries'
    """
    percent = round(100 * (effect**0.5 - 1))
    change = f"{abs(percent)} % {'wider than' if percent > 0 else 'narrower than'}" if percent else "as wide as"
    return f"design effect {effect:.2f}: an interval over clips is {change} over queries"


def oracle_table(oracles: WordOracles, evaluations: Mapping[str, Evaluation], key: str = KEY) -> pd.DataFrame:
    """Recall [%] with its interval of oracles that know one word, of runs, and of the event log; lowest first."""
    rows = {
        "oracle: any event": oracles.hit_rate("nothing"),
        "oracle: any event with the verb": oracles.hit_rate("verb"),
        "oracle: any event with the object": oracles.hit_rate("object"),
        "event log": oracles.ceiling(),
    }
    rows |= {name: e.hits.set_index("query_id")[key] for name, e in evaluations.items()}
    query_ids = [record.query_id for record in oracles.records]
    bootstrap = ClipBootstrap(np.array([record.clip_uid for record in oracles.records]))
    table = {n: bootstrap.summary(key, 100 * hits[query_ids].to_numpy(float)) for n, hits in rows.items()}
    return pd.DataFrame.from_dict(table, orient="index").sort_values(key, kind="stable")


def oracle_bars(table: pd.DataFrame) -> Figure:
    """Bars of `oracle_table`; oracles and the event log are hatched."""
    key = table.columns[0]
    figure = new_figure(9, 0.9 + 0.3 * len(table))
    axis = figure.subplots()
    errors = error_ends(table[key], table[LOW], table[HIGH])
    is_oracle = table.index.str.startswith(("oracle", "event log"))
    bars = axis.barh(range(len(table)), table[key], xerr=errors, capsize=3, edgecolor=BLACK, linewidth=0.6,
                     color=[ORANGE if one else BLUE for one in is_oracle])  # fmt: skip
    for bar, one in zip(bars, is_oracle, strict=True):
        bar.set_hatch("//" if one else "")
    for row, (value, high) in enumerate(zip(table[key], table[HIGH], strict=True)):
        axis.text(high + 1, row, f"{value:.1f}", va="center", fontsize=9)
    axis.set_yticks(range(len(table)), [plain(str(name), 40) for name in table.index], fontsize=9)
    axis.set(xlabel=f"{key} [%]", xlim=(0, 108))
    return figure


RELATIONS = {"before, after": "before|after", "first, last": "first|last", "how many": "how many"}


def query_groups(
    hits: pd.DataFrame, kinds: Mapping[str, str] | None = None, at_least: int = 10
) -> dict[str, np.ndarray]:  # fmt: skip
    """Groups of the queries of `Evaluation.hits` by name, as (Q,) bool: relations in the text, kinds of objects,
    lengths of the moments, and templates. Queries can be in several; groups of few queries are left out.

    Args:
        kinds: of the objects, by query id.
    """
    text = hits["query"]
    groups = {f"words: {n}": text.str.contains(rf"\b(?:{p})\b", case=False) for n, p in RELATIONS.items()}
    groups["words: none of these"] = ~pd.DataFrame(groups).any(axis=1)
    columns = {"object": hits["query_id"].map(kinds or {}), "moment": length_groups(hits["moment_sec"])}
    for title, values in (columns | {"template": hits["template"]}).items():
        order = values.value_counts(sort=title != "moment").index
        groups |= {f"{title}: {value}": values == value for value in order}
    return {name: group.to_numpy(bool) for name, group in groups.items() if group.sum() >= at_least}


def recall_of_groups(evaluation: Evaluation, groups: Mapping[str, np.ndarray], key: str = KEY) -> pd.DataFrame:
    """Recall [%] of each group with its interval and its number of queries, as `Evaluation.by` gives it."""
    parts = {name: evaluation.hits[is_in] for name, is_in in groups.items()}
    rows = {n: share_summary(key, part["clip_uid"], part[key]) | {"queries": len(part)} for n, part in parts.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def group_differences(
    one: Evaluation, other: Evaluation, groups: Mapping[str, np.ndarray], key: str = KEY
) -> pd.DataFrame:  # fmt: skip
    """`one` minus `other` in each group, in points, with its interval, p, and p for all groups together (Holm)."""
    points, clips, rows = other.difference(one, key), other.hits["clip_uid"].to_numpy(), {}
    for name, is_in in groups.items():
        rows[name] = ClipBootstrap(clips[is_in]).summary("difference", points[is_in])
        rows[name] |= {"p": sign_flip_p(clips[is_in], points[is_in]), "queries": is_in.sum()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.assign(**{"p (Holm)": holm(table["p"].to_numpy())})


def hits_left(one: Evaluation, other: Evaluation, key: str = KEY) -> str:
    """How many hits of `one` are hits of `other`, too, as a sentence."""
    points, hits = one.difference(other, key), one.hits[key].to_numpy() > 0
    return f"{(hits & (points == 0)).sum()} of {hits.sum()} hits are left."


def length_groups(moment_sec: pd.Series, edges: Sequence[float] = (1, 2, 4, 8, 16)) -> pd.Series:
    """Groups of moment lengths, in order."""
    bounds = [0, *edges, np.inf]
    names = [f"under {edges[0]:g} s", *(f"{a:g} - {b:g} s" for a, b in pairwise(edges))]
    return pd.cut(moment_sec, bounds, labels=[*names, f"over {edges[-1]:g} s"], right=False)


def _hit_cells(axis: Axes, overlaps: np.ndarray) -> None:
    for column, threshold in enumerate(THRESHOLDS):
        for row in range(1, len(overlaps) + 1):
            is_hit = bool((overlaps[:row] > threshold).any())
            axis.barh(row, 0.94, left=column - 0.47, height=0.84, color=GREEN if is_hit else "0.92")
            axis.text(column, row, "hit" if is_hit else "miss", ha="center", va="center", fontsize=9.5,
                      color="white" if is_hit else BLACK, fontweight="bold" if is_hit else None)  # fmt: skip
    axis.set_xticks(range(len(THRESHOLDS)), [f"IoU={threshold:g}" for threshold in THRESHOLDS])
    axis.set_yticks(range(1, len(overlaps) + 1), [f"R@{k}" for k in range(1, len(overlaps) + 1)])
    axis.set(ylim=(len(overlaps) + 0.6, -0.6), xlim=(-0.6, len(THRESHOLDS) - 0.4))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _shuffled_counts(hits: pd.DataFrame, key: str, bins: np.ndarray, seed: int, times: int = 200) -> np.ndarray:
    """Mean number of clips in each bin of recall if the same hits are shuffled over the queries."""
    random, (_, index) = np.random.default_rng(seed), np.unique(hits["clip_uid"], return_inverse=True)
    size = np.bincount(index)
    shuffled = [np.bincount(index, weights=random.permutation(hits[key].to_numpy(float))) for _ in range(times)]
    return np.histogram(100 * np.concatenate(shuffled) / np.tile(size, times), bins)[0] / times
