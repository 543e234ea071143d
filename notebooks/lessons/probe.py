"""Linear probe: a linear map from the tokens of a query to the features of its moment.

It shows why grounding is possible (Alain and Bengio 2016). It is a baseline without a network and without
hyperparameters to tune.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groundnlq.analysis.baselines import TOP_K
from groundnlq.data.dataset import clip_batches
from groundnlq.data.features import FeatureStore
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.data.submission import Ranked
from groundnlq.data.tokens import TokenStore
from groundnlq.view.style import BLACK, BLUE, GREY, VERMILION, new_figure, plain
from notebooks.lessons.inspection import draw_events
from notebooks.lessons.parts import heat_map, mark_moments


@dataclass(frozen=True)
class Probe:
    """Linear map from a token to the expected features at its moment, relative to the mean of the clip.

    Args:
        mean_token: (text_dim,); weights: (text_dim, video_dim).
    """

    mean_token: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(
        cls, records: Sequence[Record], store: FeatureStore, tokens: TokenStore, grid: StepGrid,
        ridge: float = 1.0, at_most: int = 4000, seed: int = 0,
    ) -> Probe:  # fmt: skip
        """Ridge regression, in closed form, from every token to the mean features of its record's moment.

        Args:
            ridge: in units of the tokens' mean variance.
            at_most: approximate number of records, from random clips, so that few clips are read.
        """
        num_tokens, sums = 0, [np.zeros(tokens.width), np.zeros(store.width)]
        squares = [np.zeros((tokens.width, tokens.width)), np.zeros((tokens.width, store.width))]
        for record, video in _with_clips(_of_some_clips(records, at_most, seed), store):
            words = tokens.read(record.query_id).numpy().astype(float)
            of_moment = (video - video.mean(axis=0))[_steps_inside(record, len(video), grid)].mean(axis=0)
            num_tokens += len(words)
            sums = [sums[0] + words.sum(axis=0), sums[1] + len(words) * of_moment]
            squares = [squares[0] + words.T @ words, squares[1] + np.outer(words.sum(axis=0), of_moment)]
        mean, mean_features = (total / num_tokens for total in sums)
        covariance = squares[0] / num_tokens - np.outer(mean, mean)
        together = squares[1] / num_tokens - np.outer(mean, mean_features)
        penalty = ridge * np.trace(covariance) / tokens.width * np.eye(tokens.width)
        return cls(mean, np.linalg.solve(covariance + penalty, together))

    def shares(self, tokens: np.ndarray, video: np.ndarray) -> np.ndarray:
        """(T, L) contribution of each token to the cosine similarity of each step and the query.

        Args:
            tokens: (L, text_dim) of a query; video: (T, video_dim) of a clip.
        """
        expected = (tokens - self.mean_token) @ self.weights
        features = video - video.mean(axis=0)
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
        return features @ expected.T / max(float(np.linalg.norm(expected.sum(axis=0))), 1e-9)

    def separation(
        self, records: Sequence[Record], store: FeatureStore, tokens: TokenStore, grid: StepGrid
    ) -> pd.DataFrame:
        """For each query ``AUC``, the probability that a step inside its moment is more similar than a step
        outside (area under the ROC curve; 0.5 is chance), and whether the most similar step is inside.
        """
        rows = {}
        for record, similarity in self._similarities(records, store, tokens):
            is_inside = _steps_inside(record, len(similarity), grid)
            num_in, ranks = is_inside.sum(), pd.Series(similarity).rank().to_numpy()
            pairs = max(1, num_in * (~is_inside).sum())
            auc = (ranks[is_inside].sum() - num_in * (num_in + 1) / 2) / pairs
            rows[record.query_id] = {"AUC": auc, "is best inside": bool(is_inside[similarity.argmax()])}
        return pd.DataFrame.from_dict(rows, orient="index")

    def predict(
        self, train: Sequence[Record], records: Sequence[Record], store: FeatureStore,
        tokens: TokenStore, grid: StepGrid, top_k: int = TOP_K,
    ) -> Ranked:  # fmt: skip
        """Segments with the highest mean similarity; no segment contains the middle of another.

        Args:
            train: records; all segments have the median length of their moments.
        """
        length_sec = float(np.median([end - start for r in train for start, end in r.moments_sec]))
        num_steps, ranked = max(1, round(length_sec / grid.step_sec)), {}
        for record, similarity in self._similarities(records, store, tokens):
            smooth = np.convolve(similarity, np.ones(num_steps), "same") / num_steps
            found = []
            while len(found) < top_k and np.isfinite(smooth).any():
                best = int(np.nanargmax(smooth))
                middle = grid.to_sec(best)
                # between 0 and 1, as a score: the cosine is between -1 and 1
                found.append((middle - length_sec / 2, middle + length_sec / 2, (1 + smooth[best]) / 2))
                smooth[max(0, best - num_steps) : best + num_steps + 1] = np.nan
            segments = np.array(found)
            segments[:, :2] = segments[:, :2].clip(0, record.duration_sec)
            ranked[record.query_id] = segments
        return ranked

    def _similarities(
        self, records: Sequence[Record], store: FeatureStore, tokens: TokenStore
    ) -> Iterator[tuple[Record, np.ndarray]]:
        for record, video in _with_clips(records, store):
            yield record, self.shares(tokens.read(record.query_id).numpy(), video).sum(axis=1)


def similarity_figure(
    record: Record, words: Sequence[str], shares: np.ndarray, grid: StepGrid,
    log: Mapping[str, Any] | None = None,
) -> Figure:  # fmt: skip
    """Similarity of each word and each step: event log of a sample world, words, and their sum.

    Args:
        words: one for each token; shares: (T, L) of `Probe.shares`.
        log: the clip's event log; events named in the query are orange and hatched.
    """
    heights = [3.0] * bool(log) + [0.5 + 0.2 * len(words), 1.1]
    figure = new_figure(11, 0.7 + sum(heights))
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    if log:
        draw_events(axes[0], log, record.query)
    image = heat_map(axes[-2], shares.T, len(shares) * grid.step_sec, max(float(shares.max()), 1e-9), "Greys")
    axes[-2].set_yticks(range(len(words)), [plain(word, 14) for word in words], fontsize=9)
    figure.colorbar(image, ax=axes[-2], label="contribution", pad=0.01, aspect=12)
    similarity, time = shares.sum(axis=1), grid.to_sec(np.arange(len(shares)))
    axes[-1].plot(time, similarity, color=BLUE, linewidth=1.2)
    best = int(similarity.argmax())
    axes[-1].plot(time[best], similarity[best], "o", color=VERMILION, markeredgecolor=BLACK, label="highest")
    axes[-1].axhline(0, color=GREY, linestyle=":")
    for axis in (*axes[:-2], axes[-1]):
        mark_moments(axis, record.moments_sec, alpha=0.35)
    for start, end in record.moments_sec:
        axes[-2].axvspan(start, end, fill=False, edgecolor=VERMILION, linestyle="--", linewidth=1.2)
    axes[-1].set(ylabel="cosine\nsimilarity", xlabel="time in the clip [s]", xlim=(0, record.duration_sec))
    axes[-1].legend(fontsize=9, loc="upper right")
    axes[0].set_title(f"{plain(record.query)}   (yellow or dashed: the moment)", fontsize=11, loc="left")
    return figure


def separation_figure(table: pd.DataFrame) -> Figure:
    """Histogram of the AUC of `Probe.separation` over the queries of a split."""
    figure = new_figure(7, 2.6)
    axis = figure.subplots()
    axis.hist(table["AUC"], bins=25, range=(0, 1), color=BLUE)
    axis.axvline(0.5, color=GREY, linestyle=":", label="chance")
    median, hits = table["AUC"].median(), 100 * table["is best inside"].mean()
    axis.axvline(median, color=VERMILION, linestyle="--", label=f"median {median:.2f}")
    axis.set(xlabel="AUC: steps inside the moment against steps outside", ylabel="queries")
    axis.set_title(f"most similar step inside the moment: {hits:.0f} % of {len(table)} queries", fontsize=10)
    axis.legend(fontsize=9, loc="upper left")
    return figure


def _steps_inside(record: Record, num_steps: int, grid: StepGrid) -> np.ndarray:
    """(T,) bool: steps whose middle lies inside a moment; at least the nearest step."""
    middle, found = grid.to_sec(np.arange(num_steps)), np.zeros(num_steps, dtype=bool)
    for start, end in record.moments_sec:
        found |= (middle >= start) & (middle <= end)
        found[np.abs(middle - (start + end) / 2).argmin()] = True
    return found


def _of_some_clips(records: Sequence[Record], at_most: int, seed: int) -> list[Record]:
    annotated = [record for record in records if record.moments_sec]
    clips, chosen = clip_batches(annotated, max(1, len(annotated))), []
    for place in np.random.default_rng(seed).permutation(len(clips)):
        if len(chosen) < at_most:
            chosen += [annotated[index] for index in clips[place]]
    return chosen


def _with_clips(records: Sequence[Record], store: FeatureStore) -> Iterator[tuple[Record, np.ndarray]]:
    """Each record with its clip's features; consecutive records of one clip share one reading."""
    clip_uid, video = None, np.zeros((0, 0))
    for record in records:
        if record.clip_uid != clip_uid:
            clip_uid, video = record.clip_uid, store.read(record.clip_uid).numpy().astype(np.float32)
        yield record, video
