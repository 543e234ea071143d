"""Groups of queries with all other kinds held: one logistic regression of the hits over all kinds at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from groundnlq.analysis.intervals import HIGH, LOW, Z, holm, sign_flip_p

RIDGE = 1.0  # effects of groups, in logits, are drawn to 0 as if their variance were 1
NUM_STEPS, CLOSE = 50, 1e-8  # of Newton's method


def held_recalls(table: pd.DataFrame, kinds: pd.DataFrame) -> pd.DataFrame:
    """R@1 [%] of each group of each kind if only this kind differed: the mean of the predicted hit rates of all queries
    as if they belonged to the group and to their own groups of all other kinds (standardisation, Lane and Nelder 1982).

    The interval is by the delta method, with a covariance that knows of clips (Liang and Zeger 1986) and of the ridge.
    ``p`` is for no effect of the group: a score test with random signs of clips, without this kind in the model;
    ``p (Holm)`` is corrected for the number of groups. ``explained``: share of the group [%] that the other kinds
    explain; near 100, it is one thing with them. `table` is what `outcomes.diagnose` gives.
    """
    hit = (table["outcome"] == "hit").to_numpy(float)
    clips, design = np.unique(table["clip_uid"], return_inverse=True)[1], _design(kinds.reindex(table["query_id"]))
    x = np.column_stack([np.ones(len(hit)), design])
    weights, rates, curvature = _fit(x, hit)
    of_clips = np.zeros((clips.max() + 1, x.shape[1]))
    np.add.at(of_clips, clips, x * (hit - rates)[:, None])
    middle = of_clips.T @ of_clips * len(of_clips) / max(1, len(of_clips) - 1) + _penalty(x)
    covariance = np.linalg.solve(curvature, np.linalg.solve(curvature, middle).T)
    rows = {}
    for kind in design.columns.unique("kind"):
        own = np.flatnonzero(np.append(False, design.columns.get_level_values("kind") == kind))
        tests = _score_tests(np.delete(x, own, axis=1), x[:, own], hit, clips)
        rest = x @ weights - x[:, own] @ weights[own]
        for column, (p, explained) in zip(own, tests, strict=True):
            rate = _sigmoid(rest + weights[column])
            gradient = np.where(np.isin(np.arange(x.shape[1]), own), 0.0, (rate * (1 - rate)) @ x / len(x))
            gradient[column] = (rate * (1 - rate)).mean()
            mean, error = rate.mean(), np.sqrt(gradient @ covariance @ gradient)
            ends = np.log(mean / (1 - mean)) + np.array([-Z, Z]) * error / (mean * (1 - mean))
            low, high = 100 * _sigmoid(ends)
            row = {"R@1": 100 * mean, LOW: low, HIGH: high, "queries": int(x[:, column].sum())}
            rows[design.columns[column - 1]] = row | {"explained": 100 * explained, "p": p}
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["kind", "group"])
    return frame.assign(**{"p (Holm)": holm(frame["p"].to_numpy())})


def _design(kinds: pd.DataFrame) -> pd.DataFrame:
    """(Q, G) 0 or 1 for each group of each kind that has several."""
    parts = {kind: pd.get_dummies(kinds[kind], dtype=float) for kind in kinds if kinds[kind].nunique() > 1}
    used = {kind: part.loc[:, part.any()].rename(columns=str) for kind, part in parts.items()}
    return pd.concat(used, axis=1, names=["kind", "group"])


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


def _score_tests(
    others: np.ndarray, groups: np.ndarray, hit: np.ndarray, clips: np.ndarray
) -> Iterator[tuple[float, float]]:
    """For each group p, and the share of it that the others explain."""
    _, rates, _ = _fit(others, hit)
    weight = rates * (1 - rates)
    root = np.sqrt(weight)[:, None]
    residuals = groups - others @ np.linalg.lstsq(root * others, root * groups, rcond=None)[0]
    for group, residual in zip(groups.T, residuals.T, strict=True):
        around = group - np.average(group, weights=weight)
        yield sign_flip_p(clips, residual * (hit - rates)), 1 - (weight @ residual**2) / (weight @ around**2)
