"""The one place where seconds become feature steps and steps become seconds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:  # only + - * / are used of them
    from numpy import ndarray
    from torch import Tensor

Quantity = TypeVar("Quantity", float, "ndarray", "Tensor")
HalfWindow = Literal["consistent", "legacy"]
FPS, SNIPPET_STRIDE_FRAMES = 30.0, 16.043  # of Ego4D's videos and of the published features


@dataclass(frozen=True)
class StepGrid:
    """How the feature steps of a clip lie in time.

    A step begins every `snippet_stride_frames` frames. Its features describe the middle of a window of `window_frames`
    (by default the stride), so `to_sec(t) = (t * stride + 0.5 * window) / fps`. `half_window` says what the way back
    does: ``"consistent"`` subtracts the half window again, ``to_grid(to_sec(t)) == t``; ``"legacy"`` does not: the
    published weights were trained that way.

    >>> grid = StepGrid(fps=30.0, snippet_stride_frames=15.0, half_window="consistent")
    >>> grid.to_sec(3), grid.to_grid(1.75)
    (1.75, 3.0)
    """

    fps: float = FPS
    snippet_stride_frames: float = SNIPPET_STRIDE_FRAMES
    half_window: HalfWindow = "consistent"
    window_frames: float | None = None

    @property
    def rate(self) -> dict[str, float]:
        """Frames per second, per step and per window, by their names in a configuration."""
        window = self.window_frames or self.snippet_stride_frames
        return {"fps": self.fps, "snippet_stride_frames": self.snippet_stride_frames, "window_frames": window}

    @property
    def step_sec(self) -> float:
        """Seconds between two steps."""
        return self.snippet_stride_frames / self.fps

    def to_sec(self, steps: Quantity) -> Quantity:
        """Time in seconds of a (fractional) step."""
        return (steps * self.snippet_stride_frames + 0.5 * self.rate["window_frames"]) / self.fps

    def to_grid(self, seconds: Quantity) -> Quantity:
        """(Fractional) step of a time in seconds."""
        half = 0.5 * self.rate["window_frames"] / self.snippet_stride_frames
        return seconds * self.fps / self.snippet_stride_frames - (half if self.half_window == "consistent" else 0)

    def num_steps(self, seconds: Quantity) -> Quantity:
        """(Fractional) number of windows that lie whole within a clip of this length."""
        return (seconds * self.fps - self.rate["window_frames"]) / self.snippet_stride_frames + 1


def clock(time_sec: float) -> str:
    """Time of a video in minutes and seconds.

    >>> clock(83.46)
    '1:23.5'
    """
    minutes, tenths = divmod(round(10 * time_sec), 600)
    return f"{minutes}:{tenths // 10:02}.{tenths % 10}"
