"""Checks that features, tokens and records fit each other, made before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from groundnlq.data.features import FeatureStore
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.data.tokens import TokenStore
from groundnlq.errors import sample_of

if TYPE_CHECKING:
    import pandas as pd

MAX_DRIFT_STEPS = 1.0  # at the longest clip's end; beyond that moments are learned in the wrong place


@dataclass(frozen=True)
class FeatureReport:
    """Result of `check_features`."""

    grid: StepGrid
    clip_uids: list[str]  # of the records, with features
    num_steps: np.ndarray
    durations_sec: np.ndarray
    errors: Mapping[str, list[str]]  # what is wrong -> names of clips, queries or files
    num_unused: int = 0  # clips that belong to no record

    @property
    def stride_frames(self) -> np.ndarray:
        """Frames per step of every clip, as its duration and its number of steps tell."""
        return self.durations_sec / self.num_steps * self.grid.fps

    @property
    def fitted_stride_frames(self) -> float:
        """Frames per step that fit all clips best (the median, so that a few broken clips do not count)."""
        return float(np.median(self.stride_frames)) if self.clip_uids else np.nan

    @property
    def drift_steps(self) -> float:
        """Error of the configured grid at the end of the longest clip, in steps."""
        frames = self.durations_sec.max() * self.grid.fps
        return float(frames / self.grid.snippet_stride_frames - frames / self.fitted_stride_frames)

    @property
    def has_rate_conflict(self) -> bool:
        return bool(self.clip_uids) and abs(self.drift_steps) > MAX_DRIFT_STEPS

    @property
    def ok(self) -> bool:
        return not self.has_rate_conflict and not any(self.errors.values())

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
        if self.has_rate_conflict:
            lines.append(
                f"WARNING: the configured rate is {self.drift_steps:+.1f} steps off at the longest clip's end"
                f" -- set data.snippet_stride_frames={self.fitted_stride_frames:.3f}, or import again"
            )
        errors = [(what, names) for what, names in self.errors.items() if names]
        return lines + [f"ERROR: {len(names)} {what}: {sample_of(names)}" for what, names in errors]

    def frame(self) -> pd.DataFrame:
        """One row a clip: steps, duration and its own frames per step."""
        import pandas as pd

        columns = {"clip_uid": self.clip_uids, "num_steps": self.num_steps, "duration_sec": self.durations_sec}
        return pd.DataFrame(columns | {"stride_frames": self.stride_frames})


def check_features(
    store: FeatureStore, records: Sequence[Record], grid: StepGrid, tokens: TokenStore | None = None
) -> FeatureReport:
    """Look at every clip of the records (rate, values, tokens of its queries), and at the checksums of the files."""
    durations = {record.clip_uid: record.duration_sec for record in records}
    present = [uid for uid in durations if uid in store]
    not_finite, constant = [], []
    for uid in present:
        features = store.read(uid)
        if not features.isfinite().all():
            not_finite.append(uid)
        elif len(features) > 1 and (features == features[0]).all():
            constant.append(uid)
    lacking = [r.query_id for r in records if tokens is not None and r.query_id not in tokens]
    damaged = store.damaged_files() + (tokens.damaged_files() if tokens else [])
    return FeatureReport(
        grid=grid,
        clip_uids=present,
        num_steps=np.array([store.num_steps[uid] for uid in present], dtype=int),
        durations_sec=np.array([durations[uid] for uid in present]),
        errors={
            "clips of the records have no features": [uid for uid in durations if uid not in store],
            "clips hold NaN or Inf": not_finite,
            "clips hold the same vector at every step": constant,
            "queries have no tokens": lacking,
            "files are not as they were written (checksum); import or encode again": list(map(str, damaged)),
        },
        num_unused=len(store.num_steps.keys() - durations.keys()),
    )
