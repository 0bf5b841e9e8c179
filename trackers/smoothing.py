"""Smooths landmarks over time: alignment noise is the main cause of flicker.

`smooth_landmarks` where later frames are known, `OneEuro` where they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trackers.tracks import face_size_px


def smooth_landmarks(
    positions: Sequence[NDArray[np.float32] | None], centre: int, sigma: float, tolerance: float = 0.08
) -> NDArray[np.float32]:
    """Smoothed landmarks (5, 2) of frame `centre` of one continuous track.

    `positions`: (5, 2) of consecutive frames, None where the face was not seen. `sigma`: width in frames of the
    Gaussian weights of a local straight line, which neither lags nor shortens constant motion; 0 = unchanged. The
    smoothing fades with the common shift it causes, so the face never shifts by more than half of `tolerance` (in eye
    distances). Raises ValueError where no frame of the window has landmarks.
    """
    if not 0 <= centre < len(positions):
        raise ValueError(f"centre must be in [0, {len(positions)}), got {centre}")
    current = positions[centre]
    if sigma <= 0 and current is not None:
        return current
    reach = max(1, round(3 * sigma))
    window = [
        (index - centre, points)
        for index in range(max(0, centre - reach), min(len(positions), centre + reach + 1))
        if (points := positions[index]) is not None
    ]
    if not window:
        raise ValueError("no frame of the window has landmarks")
    times = np.array([time for time, _ in window], np.float64)
    values = np.stack([points for _, points in window]).astype(np.float64)  # (frames, 5, 2)
    fitted = _line_at_zero(times, values, max(sigma, 0.5))
    if current is None:
        return fitted.astype(np.float32)
    shift = float(np.linalg.norm((fitted - current).mean(0))) / face_size_px(current)
    share = 1 / (1 + (shift / tolerance) ** 2)
    return (current + share * (fitted - current)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class OneEuroConfig:
    """Settings of the filter for live video."""

    min_cutoff_hz: float = 1.5
    """Cutoff at rest: lower = steadier, with more lag."""
    speed_gain: float = 4.0
    """Rise of the cutoff in hertz per eye distance per second."""
    speed_cutoff_hz: float = 2.0
    """Cutoff of the speed estimate."""

    def __post_init__(self) -> None:
        if self.min_cutoff_hz <= 0 or self.speed_cutoff_hz <= 0 or self.speed_gain < 0:
            raise ValueError("cutoffs must be positive and speed_gain not negative")


@dataclass(frozen=True, slots=True, eq=False)
class OneEuroState:
    """State of the filter for one face."""

    landmarks: NDArray[np.float32]
    """float32 (5, 2), the last result."""
    measured: NDArray[np.float32]
    """float32 (5, 2), the last input."""
    velocity: NDArray[np.float32]
    """float32 (2,), common motion in pixels per second."""


class OneEuro:
    """The 1 euro filter (Casiez et al., CHI 2012) with one cutoff for all points, so the face keeps its shape.

    The state goes in and comes out by value.
    """

    def __init__(self, config: OneEuroConfig | None = None) -> None:
        self.config = config or OneEuroConfig()

    def step(
        self, state: OneEuroState | None, landmarks: NDArray[np.float32], elapsed_seconds: float
    ) -> OneEuroState:
        """The next state, with the filtered `landmarks`; `state` is None in the first frame of a face."""
        if state is None:
            return OneEuroState(landmarks, landmarks, np.zeros(2, np.float32))
        if elapsed_seconds <= 0:
            raise ValueError(f"elapsed_seconds must be positive, got {elapsed_seconds}")
        velocity = (landmarks - state.measured).mean(0) / elapsed_seconds
        weight = _weight(self.config.speed_cutoff_hz, elapsed_seconds)
        velocity = (state.velocity + weight * (velocity - state.velocity)).astype(np.float32)
        speed = float(np.linalg.norm(velocity)) / face_size_px(landmarks)
        weight = _weight(self.config.min_cutoff_hz + self.config.speed_gain * speed, elapsed_seconds)
        filtered = (state.landmarks + weight * (landmarks - state.landmarks)).astype(np.float32)
        return OneEuroState(filtered, landmarks, velocity)


def _line_at_zero(
    times: NDArray[np.float64], values: NDArray[np.float64], sigma: float
) -> NDArray[np.float64]:
    """Value at time 0 of the line through `values` (n, 5, 2), weighted by a Gaussian of `times` (n,)."""
    weights = np.exp(-0.5 * (times / sigma) ** 2)
    s0, s1, s2 = weights.sum(), (weights * times).sum(), (weights * times**2).sum()
    determinant = s0 * s2 - s1**2
    one_frame = determinant < 1e-6 * s0 * s0
    kernel = weights / s0 if one_frame else weights * (s2 - s1 * times) / determinant
    return np.tensordot(kernel, values, 1)


def _weight(cutoff_hz: float, elapsed_seconds: float) -> float:
    """Share of the new value in a first-order low-pass."""
    rate = 2 * np.pi * cutoff_hz * elapsed_seconds
    return float(rate / (rate + 1))
