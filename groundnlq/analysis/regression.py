"""Groups of queries with all other kinds held: one logistic regression of the hits over all kinds at once."""

import numpy as np
import pandas as pd

from groundnlq.analysis.intervals import HIGH, LOW, Z, holm, sign_flip_p

RIDGE = 1.0  # effects of groups, in logits, are drawn to 0 as if their variance were 1
NUM_STEPS, CLOSE = 50, 1e-8  # of Newton's method


def held_recalls(table: pd.DataFrame, kinds: pd.DataFrame) -> pd.DataFrame:
    """R@1 [%] of each group if only its kind differed: the mean of the predicted hit rates of all queries, as if they
    belonged to this group, and to their own groups of all other kinds (standardisation, Lane and Nelder 1982).

    The interval is by the delta method, with a covariance that knows of clips (Liang and Zeger 1986) and of the ridge.
    ``p`` is for no effect of the whole kind: a score test with random signs of clips, in a model without it;
    ``p (Holm)`` is corrected for the number of kinds. ``explained``: how much of the group [%] the other kinds explain;
    at 100, they name it. `table` is what `outcomes.diagnose` gives.
    """
    hit, clips = (table["outcome"] == "hit").to_numpy(float), np.unique(table["clip_uid"], return_inverse=True)[1]
    keys, x = _design(kinds.reindex(table["query_id"]))
    weights, covariance = _fit_of_clips(x, hit, clips)
    kind_of, p, explained = np.array([kind for kind, _ in keys]), dict[str, float](), np.zeros(len(keys))
    for kind in dict.fromkeys(kind_of[1:]):
        own = kind_of == kind
        p[kind], explained[own] = _score_test(x[:, own], x[:, ~own], hit, clips)
    corrected, rows = dict(zip(p, holm(np.array([*p.values()])), strict=True)), []
    for place, (kind, group) in enumerate(keys[1:], 1):
        moved = np.where(kind_of == kind, np.arange(len(keys)) == place, x)
        rate = _sigmoid(moved @ weights)
        mean, slope = rate.mean(), (rate * (1 - rate)) @ moved / len(moved)
        half = Z * np.sqrt(slope @ covariance @ slope) / (mean * (1 - mean))
        recall = 100 * _sigmoid(np.log(mean / (1 - mean)) + np.array([0, -half, half]))
        counts = int(x[:, place].sum()), explained[place]
        rows.append([kind, group, *recall, *counts, p[kind], corrected[kind]])
    columns = ["kind", "group", "R@1", LOW, HIGH, "queries", "explained", "p", "p (Holm)"]
    return pd.DataFrame(rows, columns=columns).set_index(["kind", "group"])


def _design(kinds: pd.DataFrame) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Kind and group of each column, and the columns (Q, 1 + G): ones, and whether a query belongs to the group."""
    columns = {("", ""): np.ones(len(kinds))}
    for kind in (kind for kind in kinds if kinds[kind].nunique() > 1):
        for group in kinds[kind].astype("category").cat.remove_unused_categories().cat.categories:
            columns[kind, str(group)] = (kinds[kind] == group).to_numpy(float)
    return list(columns), np.stack(list(columns.values()), axis=1)


def _fit_of_clips(x: np.ndarray, hit: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a logistic regression and their covariance, clips being the independent units."""
    weights, rates, curvature = _fit(x, hit)
    of_clips = np.zeros((clips.max() + 1, x.shape[1]))
    np.add.at(of_clips, clips, x * (hit - rates)[:, None])
    middle = of_clips.T @ of_clips * len(of_clips) / max(1, len(of_clips) - 1) + _penalty(x)
    return weights, np.linalg.solve(curvature, np.linalg.solve(curvature, middle).T)


def _score_test(groups: np.ndarray, others: np.ndarray, hit: np.ndarray, clips: np.ndarray) -> tuple[float, np.ndarray]:
    """p of all groups of a kind, and how much of each [%] the others explain."""
    rates = _fit(others, hit)[1]
    weight = rates * (1 - rates)
    root = np.sqrt(weight)[:, None]
    residuals = groups - others @ np.linalg.lstsq(root * others, root * groups, rcond=None)[0]
    around = groups - np.average(groups, axis=0, weights=weight)
    p = sign_flip_p(clips, residuals * (hit - rates)[:, None])
    return p, 100 - 100 * (weight @ residuals**2) / (weight @ around**2)


def _fit(x: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, predicted rates (Q,) and curvature of a logistic regression with a ridge, by Newton's method."""
    weights, penalty = np.zeros(x.shape[1]), _penalty(x)
    for _ in range(NUM_STEPS):
        rates = _sigmoid(x @ weights)
        curvature = (x.T * (rates * (1 - rates))) @ x + penalty
        step = np.linalg.solve(curvature, x.T @ (hit - rates) - penalty @ weights)
        weights += step
        if np.abs(step).max() < CLOSE:
            break
    return weights, rates, curvature


def _penalty(x: np.ndarray) -> np.ndarray:
    return np.diag([1e-6, *[RIDGE] * (x.shape[1] - 1)])  # of the first, the mean, hardly any


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * logits)
