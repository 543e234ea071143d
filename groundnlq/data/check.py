"""Checks that features, tokens and records fit each other, made before any work starts."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from groundnlq.data.features import FeatureStore
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.data.tokens import TokenStore
from groundnlq.errors import FeatureError, sample_of

MAX_DRIFT_STEPS = 1.0  # at the longest clip's end; beyond that moments are learned in the wrong place
FAR_STEPS, FAR_SHARE = 4, 0.05  # what misses the expected number of steps by more than both is wrong
INCOMPLETE = "clips are incomplete, their steps miss their duration"
Incomplete = Literal["keep", "leave out", "refuse"]


@dataclass(frozen=True)
class FeatureReport:
    """Result of `check_features`."""

    grid: StepGrid  # configured
    clip_uids: list[str]  # of the records, with features
    num_steps: np.ndarray
    durations_sec: np.ndarray
    errors: Mapping[str, list[str]] = field(default_factory=dict)  # what is wrong -> names of clips, queries or files
    num_unused: int = 0  # clips that belong to no record
    own_rate: Mapping[str, float] = field(default_factory=dict)  # that the store was imported with

    @property
    def expected_steps(self) -> np.ndarray:
        """(Fractional) steps of every clip at the configured rate."""
        return np.maximum(1, self.grid.num_steps(self.durations_sec))

    @property
    def stride_frames(self) -> np.ndarray:
        """Frames per step of every clip, as its duration and its number of steps tell."""
        return self.expected_steps / self.num_steps * self.grid.snippet_stride_frames

    @property
    def is_incomplete(self) -> np.ndarray:
        """(clips,) bool: steps miss the duration, as where an extraction stopped, at the configured rate or, if that
        fits less than half of the clips, at the median one."""
        is_far = _is_far(self.num_steps, self.expected_steps)
        if 2 * is_far.sum() <= len(is_far):
            return is_far
        median = np.quantile(self.num_steps / self.expected_steps, 0.5, method="higher")
        return _is_far(self.num_steps, median * self.expected_steps)

    @property
    def fitted_stride_frames(self) -> float:
        """Frames per step that fit the clips best (the median of those that are not incomplete)."""
        return float(np.median(self.stride_frames[~self.is_incomplete])) if self.clip_uids else np.nan

    @property
    def rate_fault(self) -> tuple[str, bool]:
        """In words, how the features' rate differs from the configured one, and whether it contradicts it; a small
        drift does not. Empty if neither."""
        rate, fitted, longest = self.grid.rate, self.fitted_stride_frames, self.expected_steps.max(initial=0)
        other = {key: value for key, value in self.own_rate.items() if not math.isclose(value, rate[key], rel_tol=1e-6)}
        fits, what = longest * rate["snippet_stride_frames"] / fitted, "were imported with"
        is_wrong = bool(other) or bool(_is_far(longest, fits))
        if not other and abs(longest - fits) > MAX_DRIFT_STEPS:
            other = {"snippet_stride_frames": fitted}
            what = f"are {fits - longest:+.1f} steps off at the longest clip's end, they fit"
        found, configured = (" ".join(f"data.{key}={values[key]:.5g}" for key in other) for values in (other, rate))
        advice = "import (--stride) and train with the former; a trained network needs features of its own rate"
        return f"features {what} {found}, but {configured} is configured -- {advice}" if other else "", is_wrong

    @property
    def ok(self) -> bool:
        return not self.rate_fault[0] and not any(self.errors.values())

    def lines(self) -> list[str]:
        """The report in words, one finding a line."""
        lines = [f"{len(self.clip_uids)} clips with features, {self.num_steps.sum()} steps"]
        if self.num_unused:
            lines.append(f"{self.num_unused} clips belong to no record")
        if self.clip_uids:
            low, high = np.percentile(self.stride_frames, [25, 75])
            lines.append(
                f"fitted {self.fitted_stride_frames:.3f} frames a step (middle half {low:.3f} - {high:.3f}), "
                f"configured {self.grid.snippet_stride_frames:.3f} at {self.grid.fps:g} frames a second"
            )
        errors = [f"{len(names)} {what}: {sample_of(names)}" for what, names in self.errors.items() if names]
        return lines + [f"ERROR: {error}" for error in (self.rate_fault[0], *errors) if error]


def check_rate(
    store: FeatureStore, records: Sequence[Record], grid: StepGrid, incomplete: Incomplete = "keep"
) -> Sequence[Record]:
    """The records, with or without those of incomplete clips. A FeatureError where the features' rate contradicts the
    grid, or names clips that are to be refused; those that are kept or left out, and a drift, are warnings."""
    report = _rates(store, records, grid)
    fault, is_wrong = report.rate_fault
    if is_wrong:
        raise FeatureError(f"{store.path}: {fault}")
    clips = _incomplete(report)
    what = f"{len(clips)} {INCOMPLETE}: {sample_of(clips.values())}" if clips else ""
    if clips and incomplete == "refuse":
        raise FeatureError(f"{store.path}: {what} -- extract them again, or set data.leave_out_incomplete=true")
    if clips and incomplete == "leave out":
        num_all, records = len(records), [record for record in records if record.clip_uid not in clips]
        what += f" -- left out with {num_all - len(records)} of {num_all} queries"
    for text in filter(None, (fault, what)):
        warnings.warn(f"{store.path}: {text}", stacklevel=2)
    return records


def check_features(
    store: FeatureStore, records: Sequence[Record], grid: StepGrid, tokens: TokenStore | None = None
) -> FeatureReport:
    """Look at every clip of the records (rate, values, tokens of its queries), and at the checksums of the files."""
    report, not_finite, constant = _rates(store, records, grid), [], []
    for uid in report.clip_uids:
        features = store.read(uid)
        if not features.isfinite().all():
            not_finite.append(uid)
        elif len(features) > 1 and (features == features[0]).all():
            constant.append(uid)
    every = dict.fromkeys(record.clip_uid for record in records)
    damaged = store.damaged_files() + (tokens.damaged_files() if tokens else [])
    errors = {
        f"clips of the records have no features{whole_videos(store, records)}": [u for u in every if u not in store],
        INCOMPLETE: list(_incomplete(report).values()),
        "clips hold NaN or Inf": not_finite,
        "clips hold the same vector at every step": constant,
        "queries have no tokens": [r.query_id for r in records if tokens is not None and r.query_id not in tokens],
        "files are not as they were written (checksum); import or encode again": list(map(str, damaged)),
    }
    return replace(report, errors=errors, num_unused=len(store.num_steps.keys() - every.keys()))


def whole_videos(store: FeatureStore, records: Sequence[Record]) -> str:
    """That the store has the records' videos in place of their clips, and the remedy; empty if it does not."""
    is_known = any(r.video_uid in store and r.clip_uid not in store for r in records)
    is_unknown = all(r.video_uid is None and r.clip_uid not in store for r in records)  # older records
    remedy = "their whole videos, cut them (features import --clips nlq_train.json ...)"
    return f"; {'the store has' if is_known else 'if it has'} {remedy}" if is_known or is_unknown else ""


def _rates(store: FeatureStore, records: Sequence[Record], grid: StepGrid) -> FeatureReport:
    durations = {record.clip_uid: record.duration_sec for record in records if record.clip_uid in store}
    num_steps = np.array([store.num_steps[uid] for uid in durations], dtype=int)
    return FeatureReport(grid, list(durations), num_steps, np.array([*durations.values()]), own_rate=store.rate)


def _is_far(num_steps: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return abs(num_steps - expected) > np.maximum(FAR_STEPS, FAR_SHARE * expected)


def _incomplete(report: FeatureReport) -> dict[str, str]:
    """The incomplete clips, with steps and duration in words."""
    rows = zip(report.clip_uids, report.num_steps, report.durations_sec, report.is_incomplete, strict=True)
    return {uid: f"{uid} ({n} steps for {sec:.0f} s)" for uid, n, sec, is_far in rows if is_far}
