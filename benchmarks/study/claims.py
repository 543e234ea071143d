"""The claims about the sample world, checked on seeds that were not used for tuning: a table and curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.study import AMOUNTS, COMPARED, FROM_SCRATCH, UNTRAINED, Study
from groundnlq.analysis.baselines import constant_segment, random_segments
from groundnlq.analysis.evaluation import KEY, Evaluation, compare, evaluate
from groundnlq.analysis.intervals import HIGH, LOW, ClipBootstrap
from groundnlq.config import load_config
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.files import write_text
from groundnlq.video.alignment import evaluate_run
from groundnlq.view.style import BLUE, GREY, error_ends, new_figure
from notebooks.lessons.probe import Probe
from notebooks.lessons.word_oracles import WordOracles

MIN_QUERIES = 10  # of a template, to be claimed anything of
REPORTED = ("reported", np.nan)  # without a bound
Row = tuple[str, float, str, float]  # claim, measured, at least or at most, bound


def run_study(
    study: Study, seeds: Sequence[int], curves: Sequence[str] = (), compared: Sequence[str] = (), jobs: int = 1
) -> pd.DataFrame:
    """Train what is missing and hold every claim to every seed; writes ``claims.csv`` as seeds are done.

    Args:
        curves: also the recall over the amount of narrations, with equal ``steps``, ``passes`` or both
            (``amounts.csv``, ``amounts.png``).
        compared: also these settings of `COMPARED`, which are only reported (``compared.csv``).
        jobs: networks that are trained side by side.
    """
    if jobs > 1:
        names = ["finetune", *FROM_SCRATCH, UNTRAINED]
        names += [name for equal in curves for name in AMOUNTS[equal].values()]
        names += [COMPARED[setting][0] for setting in compared]
        study.prepare(seeds, list(dict.fromkeys(names)), jobs)
    tables = []
    for seed in seeds:
        tables.append(claims(study, seed))
        _write(study.folder / "claims.csv", pd.concat(tables))
    if curves:
        table = amounts(study, seeds, curves)
        _write(study.folder / "amounts.csv", table)
        amounts_curve(table).savefig(study.folder / "amounts.png", dpi=150)
    if compared:
        _write(study.folder / "compared.csv", comparisons(study, seeds, compared))
    return pd.concat(tables, ignore_index=True)


def claims(study: Study, seed: int) -> pd.DataFrame:
    """One row a claim: what was measured, what was asked for, whether it holds."""
    parts = (_of_stage_one, _of_encoders, _of_learning, _of_linear_map, _of_words, _of_templates)
    rows = [row for part in parts for row in part(study, seed)]
    table = pd.DataFrame(rows, columns=["claim", "measured", "asked", "bound"])
    above, below = table["measured"] >= table["bound"], table["measured"] <= table["bound"]
    holds = above.where(table["asked"] == "at least", below).astype("boolean")
    table["holds"] = holds.mask(table["asked"] == REPORTED[0])
    table.insert(0, "seed", seed)
    return table


def amounts(study: Study, seeds: Sequence[int], curves: Sequence[str] = tuple(AMOUNTS)) -> pd.DataFrame:
    """Recall with its interval for every seed and amount of narrations; 0 is training from scratch.

    With as many ``steps`` for each amount, or as many ``passes`` over its narrations.
    """
    return pd.DataFrame(
        {"equal": equal, "seed": seed, "narrations": amount, **_recall(study.evaluation(seed, name))}
        for equal in curves
        for seed in seeds
        for amount, name in AMOUNTS[equal].items()
    )


def comparisons(study: Study, seeds: Sequence[int], compared: Sequence[str] = tuple(COMPARED)) -> pd.DataFrame:
    """Settings against `finetune`, paired over the same questions; reported, whatever comes out."""
    rows = []
    for seed in seeds:
        usual = study.evaluation(seed, "finetune")
        for setting in compared:
            other = study.evaluation(seed, *COMPARED[setting])
            rows.append({"seed": seed, "setting": setting, KEY: other.strict[KEY], **compare(usual, other, KEY)})
    return pd.DataFrame(rows)


def amounts_curve(table: pd.DataFrame) -> Figure:
    """Recall over the amount of narrations, at equal steps and passes; a line with intervals a seed."""
    figure = new_figure(8, 3.4)
    kinds = table["equal"].unique()
    for axis, equal in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        _draw_amounts(axis, table[table["equal"] == equal])
        axis.set_xlabel("narrations to pretrain on, beside the demo's")
        axis.set_title(f"as many {equal}", fontsize=10)
    figure.axes[0].set_ylabel(f"{KEY} [%]")
    figure.axes[0].set_ylim(0, None)  # when both are drawn: the scale is shared
    figure.axes[0].legend(fontsize=8)
    return figure


def _draw_amounts(axis: Axes, table: pd.DataFrame) -> None:
    seeds = table["seed"].unique()
    for shift, seed in enumerate(seeds):
        part = table[table["seed"] == seed]
        place = np.arange(len(part)) + 0.06 * shift
        spread = error_ends(part[KEY], part[LOW], part[HIGH])
        shade = 0.4 + 0.6 * shift / max(1, len(seeds) - 1)
        axis.errorbar(place, part[KEY], spread, marker="o", color=BLUE, alpha=shade, label=f"seed {seed}")
    axis.set_xticks(range(table["narrations"].nunique()), [f"{a:g} ×" for a in table["narrations"].unique()])
    axis.grid(axis="y", color=GREY, alpha=0.3)


def _of_stage_one(study: Study, seed: int) -> Iterator[Row]:
    study.features(seed)
    for kind, (_, right) in evaluate_run(study.folder / f"run-{seed}" / "align").items():
        yield f"stage one: EgoMCQ {kind} (chance 20)", 100 * float(right.mean()), *REPORTED


def _of_encoders(study: Study, seed: int) -> Iterator[Row]:
    """The same stage two on features of the trained encoder and of one that has learned nothing."""
    untrained, tuned = study.evaluation(seed, UNTRAINED), study.evaluation(seed, "finetune")
    yield f"{UNTRAINED}: recall", untrained.strict[KEY], *REPORTED
    gain = compare(untrained, tuned, KEY)
    yield f"pretrain + finetune over the same on a {UNTRAINED} [points]", gain["difference"], "at least", 5
    yield "... lower end of the interval over clips", gain[LOW], *REPORTED


def _of_linear_map(study: Study, seed: int) -> Iterator[Row]:
    """The network against the best of several linear maps from words to features."""
    tuned, maps = study.evaluation(seed, "finetune"), [*_linear_maps(study, seed)]
    for key, bound in ((KEY, 5), ("R@1 IoU=0.5", 10)):
        best = max(maps, key=lambda found: found.strict[key])
        gain = compare(best, tuned, key)
        yield f"best linear map from words to features: {key}", best.strict[key], *REPORTED
        yield f"pretrain + finetune over it: {key} [points]", gain["difference"], "at least", bound
        yield "... lower end of the interval over clips", gain[LOW], *REPORTED


def _linear_maps(study: Study, seed: int) -> Iterator[Evaluation]:
    world, truth = study.world(seed), study.truth(seed)
    data = load_config("sample_finetune", [f"data.folder={world}"]).data
    store, tokens = FeatureStore(study.features(seed)), TokenStore(world / "text.h5")
    questions, narrations = (read_records(world / f"{name}.jsonl") for name in ("nlq_train", "narrations-1"))
    for records in (narrations, narrations + questions):
        for ridge in (0.1, 1.0):
            fitted = Probe.fit(records, store, tokens, data.grid, ridge=ridge, at_most=20000)
            yield evaluate(fitted.predict(questions, truth, store, tokens, data.grid), truth)


def _of_learning(study: Study, seed: int) -> Iterator[Row]:
    train, truth = read_records(study.world(seed) / "nlq_train.jsonl"), study.truth(seed)
    tuned, scratches = (study.evaluation(seed, "finetune"), [study.evaluation(seed, name) for name in FROM_SCRATCH])
    for name, scratch in zip(FROM_SCRATCH, scratches, strict=True):
        yield f"{name}: recall", scratch.strict[KEY], *REPORTED
    yield "pretrain + finetune: recall", tuned.strict[KEY], *REPORTED
    gain = compare(max(scratches, key=lambda scratch: scratch.strict[KEY]), tuned, KEY)
    yield "pretrain + finetune over the better scratch [points]", gain["difference"], "at least", 5
    yield "... lower end of the interval over clips", gain[LOW], "at least", 0
    guesses = [evaluate(guess(train, truth), truth).strict[KEY] for guess in (constant_segment, random_segments)]
    yield "times the better of constant and random", tuned.strict[KEY] / max(*guesses, 1e-9), "at least", 3
    yield "not saturated: recall", tuned.strict[KEY], "at most", 90


def _of_words(study: Study, seed: int) -> Iterator[Row]:
    """The network uses the object of a query, unseen ones as well, and not the verb alone."""
    tuned, oracles = study.evaluation(seed, "finetune"), WordOracles(study.world(seed), study.truth(seed))
    for word in ("verb", "object"):
        guess = 100 * oracles.hit_rate(word).mean()
        yield f"points above a guesser that knows the {word}", tuned.strict[KEY] - guess, "at least", 0
    swapped = study.evaluation_of_swapped(seed, "finetune").hits.set_index("query_id")[KEY]
    left = swapped.mean() / max(_hits(tuned).loc[swapped.index].mean(), 1e-9)
    yield "share of the recall left with another object", left, "at most", 0.5
    left = _asked_share(tuned, oracles)
    yield "narrated but never asked objects: share of the recall of asked ones", left, "at least", 2 / 3
    unseen = oracles.is_unseen()
    above = 100 * (_hits(tuned)[unseen].mean() - oracles.hit_rate("verb")[unseen].mean())
    yield "never narrated objects: points above the object-blind", above, *REPORTED
    yield "never narrated objects: points below others", _drop(tuned, oracles), *REPORTED


def _of_templates(study: Study, seed: int) -> Iterator[Row]:
    train, truth = read_records(study.world(seed) / "nlq_train.jsonl"), study.truth(seed)
    oracles, tuned = WordOracles(study.world(seed), truth), study.evaluation(seed, "finetune")
    chance = _hits(evaluate(random_segments(train, truth), truth))
    for template, part in oracles.template().groupby(oracles.template()):
        if len(part) >= MIN_QUERIES:
            above = 100 * (_hits(tuned)[part.index].mean() - chance[part.index].mean())
            yield f"points above chance: {template} ({len(part)})", above, "at least", 0
            yield f"ceiling: {template}", 100 * oracles.ceiling()[part.index].mean(), "at least", 97


def _asked_share(tuned: Evaluation, oracles: WordOracles) -> float:
    """Recall on objects that are narrated but never asked for, over that on asked ones at the same mix of templates."""
    kinds = pd.Series({record.query_id: oracles.meaning[record.query_id]["kind"] for record in oracles.records})
    table = pd.DataFrame({"hit": _hits(tuned), "kind": kinds, "template": oracles.template()})
    asked = table[table["kind"] == "asked"].groupby("template")["hit"].mean()
    unasked = table[(table["kind"] == "unasked") & table["template"].isin(asked.index)]
    return float(unasked["hit"].mean() / max(unasked["template"].map(asked).mean(), 1e-9))


def _drop(tuned: Evaluation, oracles: WordOracles) -> float:
    """How far recall falls from seen to unseen objects, at the unseen ones' mix of templates."""
    table = pd.DataFrame({"hit": _hits(tuned), "unseen": oracles.is_unseen(), "template": oracles.template()})
    seen = table[~table["unseen"]].groupby("template")["hit"].mean()
    unseen = table[table["unseen"] & table["template"].isin(seen.index)]
    return 100 * float(unseen["template"].map(seen).mean() - unseen["hit"].mean())


def _recall(evaluation: Evaluation) -> dict[str, float]:
    return ClipBootstrap(evaluation.hits["clip_uid"]).summary(KEY, 100 * evaluation.hits[KEY])


def _hits(evaluation: Evaluation) -> pd.Series:
    return evaluation.hits.set_index("query_id")[KEY].astype(float)


def _write(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False))
