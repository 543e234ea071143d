"""Do features, tokens and records fit each other? Asked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from groundnlq.data.features import FeatureStore
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record
from groundnlq.data.tokens import TokenStore
from groundnlq.errors import FeatureError, sample_of

if TYPE_CHECKING:
    import pandas as pd

MAX_DRIFT_STEPS = 1.0  # at the longest clip's end; beyond that moments are learned in the wrong place


@dataclass(frozen=True)
class FeatureReport:
    """What `check_features` found; the clip lists hold names."""

    grid: StepGrid
    clip_uids: list[str]  # of the records, with features
    num_steps: np.ndarray
    durations_sec: np.ndarray
    missing: list[str]  # of the records, without features
    not_finite: list[str]
    constant: list[str]
    queries_without_tokens: list[str]
    num_unused: int = 0  # clips that no record asks for
    damaged: list[str] = field(default_factory=list)  # files whose content is not what was written

    @property
    def step_sec_of_clips(self) -> np.ndarray:
        """Seconds per step of every clip, as its duration and its number of steps tell."""
        return self.durations_sec / self.num_steps

    @property
    def fitted_stride_frames(self) -> float:
        """Frames per step that fit all clips best (the median, so that a few broken clips do not count)."""
        return float(np.median(self.step_sec_of_clips) * self.grid.fps) if len(self.clip_uids) else np.nan

    @property
    def spread_frames(self) -> tuple[float, float]:
        """The middle half of the clips' own frames per step."""
        quartiles = np.percentile(self.step_sec_of_clips * self.grid.fps, [25, 75])
        return float(quartiles[0]), float(quartiles[1])

    @property
    def drift_steps(self) -> float:
        """By how much the configured grid is off at the end of the longest clip, in steps."""
        longest_frames = self.durations_sec.max() * self.grid.fps
        return float(
            longest_frames / self.grid.snippet_stride_frames - longest_frames / self.fitted_stride_frames
        )

    @property
    def has_rate_conflict(self) -> bool:
        return bool(len(self.clip_uids)) and abs(self.drift_steps) > MAX_DRIFT_STEPS

    @property
    def ok(self) -> bool:
        lists = (
            *(self.missing, self.not_finite, self.constant, self.queries_without_tokens),
            self.damaged,
        )
        return not self.has_rate_conflict and not any(lists)

    def lines(self) -> list[str]:
        """The report in words, one finding a line."""
        lines = [f"{len(self.clip_uids)} clips with features, {self.num_steps.sum()} steps"]
        if self.num_unused:
            lines.append(f"{self.num_unused} clips belong to no record")
        if len(self.clip_uids):
            low, high = self.spread_frames
            lines.append(
                f"fitted {self.fitted_stride_frames:.3f} frames a step (middle half {low:.3f} - {high:.3f}), "
                f"configured {self.grid.snippet_stride_frames:.3f} at {self.grid.fps:g} frames a second"
            )
        if self.has_rate_conflict:
            lines.append(
                f"WARNING: the configured rate is {self.drift_steps:+.1f} steps off at the longest clip's end"
                f" -- set data.snippet_stride_frames={self.fitted_stride_frames:.3f}, or import again"
            )
        for names, what in (
            (self.missing, "clips of the records have no features"),
            (self.not_finite, "clips hold NaN or Inf"),
            (self.constant, "clips hold the same vector at every step"),
            (self.queries_without_tokens, "queries have no tokens"),
            (self.damaged, "files are not as they were written (checksum); import or encode again"),
        ):
            if names:
                lines.append(f"ERROR: {len(names)} {what}: {sample_of(names)}")
        return lines

    def frame(self) -> pd.DataFrame:
        """One row a clip: steps, duration and its own frames per step."""
        import pandas as pd

        return pd.DataFrame(
            {
                "clip_uid": self.clip_uids,
                "num_steps": self.num_steps,
                "duration_sec": self.durations_sec,
                "stride_frames": self.step_sec_of_clips * self.grid.fps,
            }
        )


def check_features(
    store: FeatureStore, records: Sequence[Record], grid: StepGrid, tokens: TokenStore | None = None
) -> FeatureReport:
    """Look at every clip of the records: its rate, its values, whether its queries have tokens, and whether
    the files are as they were written."""
    durations = {record.clip_uid: record.duration_sec for record in records}
    present = [uid for uid in durations if uid in store]
    not_finite, constant = [], []
    for uid in present:
        features = store.read(uid)
        if not features.isfinite().all():
            not_finite.append(uid)
        elif (features == features[0]).all():
            constant.append(uid)
    return FeatureReport(
        grid=grid,
        clip_uids=present,
        num_steps=np.array([store.num_steps[uid] for uid in present], dtype=int),
        durations_sec=np.array([durations[uid] for uid in present]),
        missing=[uid for uid in durations if uid not in store],
        not_finite=not_finite,
        constant=constant,
        queries_without_tokens=[
            r.query_id for r in records if tokens is not None and r.query_id not in tokens
        ],
        num_unused=len(store.num_steps.keys() - durations.keys()),
        damaged=[str(file.path) for file in (store, tokens) if file is not None and not file.is_as_written()],
    )


def require_inputs(
    records: Sequence[Record],
    store: FeatureStore,
    tokens: TokenStore,
    video_dim: int | None = None,
    text_dim: int | None = None,
) -> None:
    """Refuse to start where something is missing.

    Raises:
        FeatureError: all clips without features, queries without tokens and wrong widths in one message.
    """
    faults = []
    clips = dict.fromkeys(record.clip_uid for record in records)
    if missing := [uid for uid in clips if uid not in store]:
        faults.append(
            f"{len(missing)} of {len(clips)} clips have no features in {store.path}: {sample_of(missing)}"
        )
    if missing := [record.query_id for record in records if record.query_id not in tokens]:
        faults.append(
            f"{len(missing)} of {len(records)} queries have no tokens in {tokens.path}: {sample_of(missing)}"
        )
    if video_dim not in (None, store.width):
        faults.append(f"features in {store.path} are {store.width} wide, the model expects {video_dim}")
    if text_dim not in (None, tokens.width):
        faults.append(f"tokens in {tokens.path} are {tokens.width} wide, the model expects {text_dim}")
    if faults:
        raise FeatureError("; ".join(faults) + " -- import the features or encode the text, then start again")
