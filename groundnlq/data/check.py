"""Checks that features, tokens and records fit each other, made before any work starts."""

from __future__ import annotations

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
FAR_STEPS, FAR_SHARE = 4, 0.05  # a clip whose steps miss its duration by more than both is incomplete
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
    def stride_frames(self) -> np.ndarray:
        """Frames per step of every clip, as its duration and its number of steps tell."""
        return self.grid.num_steps(self.durations_sec) / self.num_steps * self.grid.snippet_stride_frames

    @property
    def fitted_stride_frames(self) -> float:
        """Frames per step that fit the clips best (the median of those that are not incomplete)."""
        return float(np.median(self.stride_frames[~self.is_incomplete])) if self.clip_uids else np.nan

    @property
    def is_other_rate(self) -> bool:
        """Whether the configured rate fits less than half of the clips."""
        return 2 * self._misses(self.grid.snippet_stride_frames).sum() > len(self.clip_uids)

    @property
    def is_incomplete(self) -> np.ndarray:
        """(clips,) bool: steps miss the duration at the rate of most clips, as where an extraction stopped."""
        is_other, stride = self.is_other_rate, self.grid.snippet_stride_frames
        return self._misses(np.quantile(self.stride_frames, 0.5, method="lower") if is_other else stride)

    def _misses(self, stride_frames: float) -> np.ndarray:
        expected = self.num_steps * self.stride_frames / stride_frames
        return abs(self.num_steps - expected) > np.maximum(FAR_STEPS, FAR_SHARE * expected)

    @property
    def incomplete(self) -> dict[str, str]:
        """The incomplete clips, with steps and duration in words."""
        rows = zip(self.clip_uids, self.num_steps, self.durations_sec, self.is_incomplete, strict=True)
        return {uid: f"{uid} ({n} steps for {sec:.0f} s)" for uid, n, sec, misses in rows if misses}

    @property
    def drift(self) -> str:
        """In words, by how much the configured grid is off at the longest clip's end; empty if it is not."""
        frames, fitted = self.durations_sec.max(initial=0) * self.grid.fps, self.fitted_stride_frames
        steps = frames / self.grid.snippet_stride_frames - frames / fitted
        if not abs(steps) > MAX_DRIFT_STEPS:  # NaN neither
            return ""
        off = f"{self.grid.snippet_stride_frames:g} is {steps:+.1f} steps off at the longest clip's end"
        remedy = f"import with --stride {fitted:.3f} and set data.snippet_stride_frames={fitted:.3f}"
        return f"data.snippet_stride_frames={off}, {fitted:.3f} fits -- {remedy}"

    @property
    def rate_fault(self) -> str:
        """In words, how the rate of the features contradicts the configured one; empty if it does not."""
        rate = self.grid.rate
        own = {key: value for key, value in self.own_rate.items() if not math.isclose(value, rate[key], rel_tol=1e-6)}
        if not own:
            return self.drift if self.is_other_rate else ""
        found, configured = (" ".join(f"data.{key}={values[key]:g}" for key in own) for values in (own, rate))
        advice = "set the former to train; a trained network needs features of its own rate"
        return f"features were imported with {found}, but {configured} is configured -- {advice}"

    @property
    def ok(self) -> bool:
        return not (self.rate_fault or self.drift or any(self.errors.values()))

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
        if fault := self.rate_fault or self.drift:
            lines.append(f"ERROR: {fault}")
        errors = [(what, names) for what, names in self.errors.items() if names]
        return lines + [f"ERROR: {len(names)} {what}: {sample_of(names)}" for what, names in errors]


def check_rate(
    store: FeatureStore, records: Sequence[Record], grid: StepGrid, incomplete: Incomplete = "keep"
) -> Sequence[Record]:
    """The records, with or without those of incomplete clips (see `FeatureReport.incomplete`); reads no values.

    A FeatureError where the rate of the features contradicts the grid, or for clips that are to be refused. A small
    drift of the rate, and clips that are kept or left out, are warnings.
    """
    report = _rates(store, records, grid)
    if report.rate_fault:
        raise FeatureError(f"{store.path}: {report.rate_fault}")
    if report.drift:
        warnings.warn(f"{store.path}: {report.drift}", stacklevel=2)
    if clips := report.incomplete:
        told = f"{store.path}: {len(clips)} {INCOMPLETE}: {sample_of(clips.values())}"
        if incomplete == "refuse":
            raise FeatureError(f"{told} -- extract them again, or set data.leave_out_incomplete=true")
        if incomplete == "leave out":
            num_all, records = len(records), [record for record in records if record.clip_uid not in clips]
            told += f" -- left out with {num_all - len(records)} of {num_all} queries"
        warnings.warn(told, stacklevel=2)
    return records


def whole_videos(store: FeatureStore, records: Sequence[Record]) -> str:
    """What to do where the store has whole videos instead of the records' clips, in words; else empty."""
    videos = {record.video_uid for record in records}
    if any(record.clip_uid in store for record in records) or not any(uid is None or uid in store for uid in videos):
        return ""
    doubt = "if " if None in videos else ""  # in older records
    return f"{doubt}its names are of whole videos: cut them, features import ... --clips nlq_train.json nlq_val.json"


def _rates(store: FeatureStore, records: Sequence[Record], grid: StepGrid) -> FeatureReport:
    durations = {record.clip_uid: record.duration_sec for record in records if record.clip_uid in store}
    num_steps = np.array([store.num_steps[uid] for uid in durations], dtype=int)
    return FeatureReport(grid, list(durations), num_steps, np.array([*durations.values()]), own_rate=store.rate)


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
    lacking = [r.query_id for r in records if tokens is not None and r.query_id not in tokens]
    damaged = store.damaged_files() + (tokens.damaged_files() if tokens else [])
    every = dict.fromkeys(record.clip_uid for record in records)
    whole = whole_videos(store, records)
    errors = {
        "clips of the records have no features" + (f" ({whole})" if whole else ""): [
            uid for uid in every if uid not in store
        ],
        INCOMPLETE: list(report.incomplete.values()),
        "clips hold NaN or Inf": not_finite,
        "clips hold the same vector at every step": constant,
        "queries have no tokens": lacking,
        "files are not as they were written (checksum); import or encode again": list(map(str, damaged)),
    }
    return replace(report, errors=errors, num_unused=len(store.num_steps.keys() - every.keys()))
