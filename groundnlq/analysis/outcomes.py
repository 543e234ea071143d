"""Outcome of every query: what would have to change for its first prediction to be correct.

In the manner of detection error analysis (Hoiem et al. 2012; Alwassel et al. 2018, for actions in time).
"""

from collections import defaultdict

import numpy as np
import pandas as pd
import torch

from groundnlq.analysis.candidates import Decoded, LivePredictions, SplitPredictions
from groundnlq.analysis.events import SHOWN, UNKNOWN, Events, Meaning, shares_half
from groundnlq.config import DecodeConfig
from groundnlq.data.recall import THRESHOLDS, tiou
from groundnlq.errors import ConfigError
from groundnlq.model.decode import suppress

OUTCOMES = {  # the first that applies
    "hit": "the first prediction is correct",
    "ranking within k": "a later one of the top k is correct",
    "suppressed": "without NMS, a correct one would be in the top k",
    "duplicate": "without near-copies, a correct one would be in the top k",
    "localisation": "one of the top k lies on the right moment, tIoU from 0.1, too low",
    "ranking beyond k": "a candidate is correct, and only a better order brings it up",
    "below threshold": "correct candidates only below the minimum score",
    "unreachable": "no point of the pyramid could be positive",
    "missed": "no candidate is correct, none of the top k lies on the moment",
}
RIGHT = ["hit", "ranking within k"]  # with a correct one among the top k
NO_MOMENT = -1
FLOOR, COPY = 0.1, 0.5  # tIoU from which a segment lies on a moment; is a copy of a better one


def check_threshold(threshold: float) -> float:
    """A tIoU threshold; a ConfigError outside of (0, 1)."""
    if not 0 < threshold < 1:
        raise ConfigError(f"a tIoU threshold of {threshold:g} is not between 0 and 1 -- 0.3 and 0.5 are usual")
    return threshold


def outcome_codes(
    run: SplitPredictions, threshold: float, settings: DecodeConfig, events: Events | None = None
) -> np.ndarray:
    """(Q,) the outcome of every query as a place in `OUTCOMES`; `NO_MOMENT` where it is not annotated.

    Each but the last is a counterfactual: what would have to change for a hit (similar to Bolya et al. 2020). Of
    `FixedPredictions` neither candidates nor pyramid are known; of candidates there is only what the file has.
    """
    check_threshold(threshold)
    k = settings.top_k
    overlaps, (rank, any_right) = run.decode(settings).overlaps[:, :k], run.right_ranks(threshold, settings.min_score)
    unreachable = np.zeros(len(overlaps), bool)
    if isinstance(run, LivePredictions):
        unreachable = np.array([not levels for levels in run.levels_reached])
    tests = [
        (overlaps[:, :1] > threshold).any(axis=1),
        (overlaps > threshold).any(axis=1),
        rank <= k,
        (_without_copies(run, settings) > threshold).any(axis=1),
        _lies_on_moment(run, threshold, settings, events or {}).any(axis=1),
        *(np.isfinite(rank), any_right, unreachable, np.ones(len(overlaps), bool)),
    ]
    is_annotated = np.array([bool(record.moments_sec) for record in run.records])
    return np.where(is_annotated, np.argmax(tests, axis=0), NO_MOMENT)


def _without_copies(run: SplitPredictions, settings: DecodeConfig) -> np.ndarray:
    """(Q, k) tIoU of the best candidates of which none overlaps a better one by `COPY`: by hard NMS instead."""
    changes = {"nms": "hard", "iou_threshold": COPY, "voting_iou": 0.0, "sigma": DecodeConfig().sigma}
    if isinstance(run, LivePredictions):
        if settings.nms == "hard" and settings.iou_threshold <= COPY:  # there are no copies
            return np.zeros((len(run.records), 1))
        return run.decode(settings.model_copy(update=changes)).overlaps[:, : settings.top_k]
    ranked = torch.from_numpy(run.decode().ranked)
    scores = (ranked[..., 2] > 0) / torch.arange(1, ranked.shape[1] + 1)
    picked, left = suppress(ranked[..., :2], scores, settings.model_copy(update=changes | {"min_score": 0.0}))
    return Decoded.of_records(torch.cat([picked, left[..., None]], dim=-1).numpy(), run.records).overlaps


def _lies_on_moment(run: SplitPredictions, threshold: float, settings: DecodeConfig, events: Events) -> np.ndarray:
    """(Q, k) is a prediction right, or has it a tIoU from `FLOOR` with the moment, and a lower one with every other
    moment and event of the clip? Those that share half with the moment are the same event."""
    decoded, moments = run.decode(settings), defaultdict[str, list](list)
    ranked, overlaps = decoded.ranked[:, : settings.top_k], decoded.overlaps[:, : settings.top_k]
    for record in run.records:
        moments[record.clip_uid] += record.moments_sec
    lies = overlaps >= min(FLOOR, threshold)
    for row in np.flatnonzero((lies & (overlaps <= threshold)).any(axis=1)):
        record = run.records[row]
        own = np.array(record.moments_sec)
        times = [*moments[record.clip_uid], *((e.start_sec, e.end_sec) for e in events.get(record.clip_uid, ()))]
        others = np.array(times)[~shares_half(np.array(times)[:, None], own[None]).any(axis=1)]
        best = tiou(ranked[row, :, None, :2], others[None]).max(axis=1, initial=0.0)
        lies[row] &= (overlaps[row] > threshold) | (overlaps[row] > best)
    return lies


def diagnose(
    run: SplitPredictions, threshold: float = THRESHOLDS[0], settings: DecodeConfig | None = None,
    events: Events | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One row an annotated query: its outcome, moment, first answer, and the overlaps of its predictions.

    ``right rank``: of the first right prediction, beyond the top k too; ``rank without NMS``: by score alone.
    ``shows``: what the first answer shows, if `events` know it; ``distance_sec``: from the middle of the moment to
    its own. `settings` are of decoding, by default the run's own.
    """
    settings, events = settings or run.settings, events or {}
    decoded, codes = run.decode(settings), outcome_codes(run, threshold, settings, events)
    overlaps, first = decoded.overlaps[:, : settings.top_k], decoded.ranked[:, 0]
    is_right, answered = decoded.overlaps > threshold, np.where(first[:, 2:] > 0, first[:, :2], np.nan)
    rank, _ = run.right_ranks(threshold, settings.min_score)
    lies, records = _lies_on_moment(run, threshold, settings, events), run.records
    moments = np.array([r.moments_sec[0] if r.moments_sec else (np.nan, np.nan) for r in records]).reshape(-1, 2)
    shown = np.where(codes == 0, 0, UNKNOWN)
    for row in np.flatnonzero((codes > 0) & (first[:, 2] > 0)) if events else ():
        shown[row] = Meaning.of(records[row], events).shown(first[row : row + 1, :2])[0]
    frame = pd.DataFrame(
        {
            "query_id": [record.query_id for record in records],
            "clip_uid": [record.clip_uid for record in records],
            "query": [record.query for record in records],
            "template": [record.template or "(none)" for record in records],
            "outcome": pd.Categorical.from_codes(codes, list(OUTCOMES), ordered=True),
            "start_sec": moments[:, 0], "end_sec": moments[:, 1],
            "first_start_sec": answered[:, 0], "first_end_sec": answered[:, 1],
            "score": first[:, 2],
            "first tIoU": overlaps[:, 0],
            "best tIoU": overlaps.max(axis=1),
            "first on moment": lies[:, 0], "any on moment": lies.any(axis=1),
            "right rank": np.where(is_right.any(axis=1), 1.0 + is_right.argmax(axis=1), np.nan),
            "rank without NMS": np.where(np.isfinite(rank), rank, np.nan),
            "distance_sec": answered.mean(axis=1) - moments.mean(axis=1),
            "shows": pd.Categorical.from_codes(shown, list(SHOWN), ordered=True),
            "moment_sec": moments[:, 1] - moments[:, 0],
        }
    )  # fmt: skip
    return frame[codes != NO_MOMENT].reset_index(drop=True)
