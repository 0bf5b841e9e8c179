"""Settings of live runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LadderConfig:
    """When the ladder steps down and up."""

    share: float = 0.9
    """Share of the frame interval that one frame may take on average."""
    tolerance: float = 3.0
    """Lag, in frames, that leads one step down."""
    calm: float = 0.7
    """Step up when a frame takes less than this share of its budget."""
    patience: int = 50
    """Frames before a step up; doubled after each step up that did not last."""
    longest_patience: int = 1600
    """Upper limit of `patience` after doubling."""

    def __post_init__(self) -> None:
        for name in ("share", "calm"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(f"tolerance must be finite and above 0, got {self.tolerance}")
        if not 1 <= self.patience <= self.longest_patience:
            raise ValueError(
                f"patience must be between 1 and longest_patience, got {self.patience} and {self.longest_patience}"
            )


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """Timing of a live run."""

    most_delay_ms: float = 75.0
    """Maximum delay; a frame not restored by then is written unrestored."""
    hold_seconds: float = 0.5
    """Time without a frame after which the last one is repeated at the source's rate."""
    stall_seconds: float = 5.0
    """Time without a frame after which a camera or stream is reopened."""
    shortest_retry_seconds: float = 0.5
    """Wait before the first attempt to reopen a lost source or sink; doubled after each failure."""
    longest_retry_seconds: float = 10.0
    """Maximum wait between attempts."""
    ladder: LadderConfig = field(default_factory=LadderConfig)

    def __post_init__(self) -> None:
        for name in (
            "most_delay_ms",
            "hold_seconds",
            "stall_seconds",
            "shortest_retry_seconds",
            "longest_retry_seconds",
        ):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be finite and above 0, got {getattr(self, name)}")
        if self.longest_retry_seconds < self.shortest_retry_seconds:
            raise ValueError(
                f"longest_retry_seconds must not be below shortest_retry_seconds, got {self.longest_retry_seconds}"
            )
