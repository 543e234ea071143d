"""Statistics of means over queries, with clips as the independent units: intervals, tests, design effect."""

import numpy as np
from numpy.typing import ArrayLike

NUM_BOOTSTRAP, NUM_SIGNS = 1000, 5000
Z, Z_POWER = 1.96, 0.8416  # normal quantiles of a 95 % interval, of a power of 80 %
T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # the same of Student's t, from 1 degree of freedom on
LOW, HIGH = "95 % low", "95 % high"


class ClipBootstrap:
    """Means over queries (Q,) in random draws of their clips (Q,) with replacement (Efron 1979).

    Queries of one clip are not independent, so whole clips are drawn, each with all of its queries.
    The intervals cover the sampling of clips, not training variance.
    """

    def __init__(self, clips: ArrayLike, seed: int = 0, num: int = NUM_BOOTSTRAP):
        _, self._clip = np.unique(clips, return_inverse=True)
        self._num_queries = np.bincount(self._clip)
        num_clips = len(self._num_queries)
        share = np.full(num_clips, 1 / num_clips)
        self._weights = np.random.default_rng(seed).multinomial(num_clips, share, size=num)

    def means(self, values: ArrayLike) -> np.ndarray:
        """(num,) means of values (Q,), or (num, K) of values (Q, K), one for every draw."""
        values = np.asarray(values, float)
        columns = values.reshape(len(values), -1)
        sums = np.zeros((len(self._num_queries), columns.shape[1]))
        np.add.at(sums, self._clip, columns)
        means = (self._weights @ sums) / (self._weights @ self._num_queries)[:, None]
        return means.reshape(-1, *values.shape[1:])

    def interval(self, values: ArrayLike) -> np.ndarray:
        """The 2.5th and the 97.5th percentile of `means`: (2,) of values (Q,), (2, K) of values (Q, K)."""
        return np.percentile(self.means(values), [2.5, 97.5], axis=0)

    def summary(self, name: str, values: ArrayLike) -> dict[str, float]:
        """The mean of values (Q,), called `name`, with the ends of its interval, `LOW` and `HIGH`."""
        low, high = self.interval(values)
        return {name: float(np.asarray(values, float).mean()), LOW: float(low), HIGH: float(high)}


def share_summary(name: str, clips: ArrayLike, is_so: ArrayLike) -> dict[str, float]:
    """A percentage of queries (Q,) bool, called `name`, with its 95 % interval, `LOW` and `HIGH`.

    Wilson's interval (1927) for the effective number of queries (Korn and Graubard 1998), the number divided by the
    design effect. That is at least 1, and shrunk to one independent query a clip as if one more clip had the rarer
    result: with few such clips it cannot be measured, and at 0 and 100 % there is none.
    """
    values, (_, clip) = np.asarray(is_so, float), np.unique(clips, return_inverse=True)
    share, num_clips, sums = values.mean(), clip.max() + 1, np.bincount(clip, weights=values)
    variance = (np.bincount(clip, weights=values - share) ** 2).sum() / max(1, num_clips - 1) * num_clips
    effect = max(1.0, variance / max(len(values) * share * (1 - share), 1e-12))
    num_rare = ((sums > 0) if share <= 0.5 else (sums < np.bincount(clip))).sum() if num_clips > 1 else 0
    num = len(values) / ((num_rare * effect + len(values) / num_clips) / (num_rare + 1))
    centre, half = (share + Z**2 / (2 * num)), Z * np.sqrt(share * (1 - share) / num + (Z / (2 * num)) ** 2)
    low, high = 100 * np.clip(np.array([centre - half, centre + half]) / (1 + Z**2 / num), 0, 1)
    return {name: 100 * float(share), LOW: float(low), HIGH: float(high)}


def detectable(clips: ArrayLike, difference: ArrayLike) -> float:
    """The smallest true difference that queries (Q,) with this spread show at 95 % in four of five repetitions."""
    return (Z + Z_POWER) * float(ClipBootstrap(clips).means(difference).std())


def sign_flip_p(clips: ArrayLike, difference: ArrayLike, seed: int = 0, num: int = NUM_SIGNS) -> float:
    """Two-sided p of a paired difference (Q,): the share of random signs, one a clip, with so large a sum. Of several
    at once (Q, K), with so large a sum of squares, where those that vary together count once.

    If two runs are equally good, either could have been named first, clip by clip (Fisher's randomisation).

    >>> sign_flip_p(np.array(["a", "b"]), np.array([0.0, 0.0]))
    1.0
    """
    _, index = np.unique(clips, return_inverse=True)
    columns = np.asarray(difference, float).reshape(len(index), -1)
    sums = np.zeros((index.max() + 1, columns.shape[1]))
    np.add.at(sums, index, columns)
    directions, sizes, _ = np.linalg.svd(sums, full_matrices=False)
    directions = directions[:, sizes > 1e-7]
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(num, len(sums)))
    squares = ((signs @ directions) ** 2).sum(axis=1)
    num_as_far = (squares >= (directions.sum(axis=0) ** 2).sum() - 1e-9).sum()
    return float((1 + num_as_far) / (1 + num))


def paired_summary(clips: ArrayLike, difference: ArrayLike, seed: int = 0) -> dict[str, float]:
    """A mean paired ``difference`` (Q,) with its interval, the smallest that is `detectable`, the queries that were won
    and lost, and `sign_flip_p`."""
    change = np.asarray(difference)
    counts = {"won": int((change > 0).sum()), "lost": int((change < 0).sum()), "queries": len(change)}
    row = ClipBootstrap(clips, seed).summary("difference", change) | {"detectable": detectable(clips, change)}
    return row | counts | {"p": sign_flip_p(clips, change, seed)}


def replicate_summary(name: str, clips: ArrayLike, *settings: np.ndarray) -> dict[str, float]:
    """The mean of values (R, Q), in percent, of R trainings of one setting, called `name`; of two, the difference.

    Its interval covers the sampling of clips and of trainings: the squares of both half widths are added, that of the
    trainings by Student's t. Of a single training, the spread is not known and left out.
    """
    means = [np.atleast_2d(values).mean(axis=0) for values in settings]
    difference = means[0] - (means[1] if len(means) > 1 else 0.0)
    squares, spreads = [(Z * ClipBootstrap(clips).means(difference).std()) ** 2], []
    for values in settings:
        if (num := len(np.atleast_2d(values))) > 1:
            spreads.append(float(values.mean(axis=1).std(ddof=1)))
            squares.append((T[num - 2] if num - 2 < len(T) else Z) ** 2 * spreads[-1] ** 2 / num)
    half, mean = float(np.sqrt(sum(squares))), float(difference.mean())
    low, high = max(mean - half, 100.0 - 100 * len(settings)), min(mean + half, 100.0)  # what percentages can be
    return {name: mean, LOW: low, HIGH: high, "between trainings": max(spreads, default=float("nan"))}


def p_text(p: float, num: int = NUM_SIGNS) -> str:
    """A p of `num` random draws, which cannot show less than one in ``num + 1``.

    >>> p_text(1 / 5001), p_text(0.0421)
    ('p ≤ 0.0002', 'p = 0.042')
    """
    floor = 1 / (num + 1)
    return f"p ≤ {floor:.1g}" if p <= floor * (1 + 1e-9) else f"p = {p:.3f}" if p >= 0.001 else f"p = {p:.4f}"


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for their number (Holm 1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected


def design_effect(clips: ArrayLike, query_ids: ArrayLike, values: ArrayLike, seed: int = 0) -> float:
    """The variance of a mean over drawn clips, divided by its variance over drawn queries.

    1 where the queries of a clip are independent; the number of queries of a clip where they all agree.
    """
    of_clips, of_queries = (ClipBootstrap(units, seed).means(values).var() for units in (clips, query_ids))
    return float(of_clips / of_queries) if of_queries else 1.0
