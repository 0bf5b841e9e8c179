"""Settings of live runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LadderConfig:
    """When less is done, and when more again."""

    share: float = 0.9
    """Share of the time between two frames that may be spent on one, on average."""
    tolerance: float = 3.0
    """So many frames' worth of lag lead one step down."""
    calm: float = 0.7
    """One step up is tried where a frame takes less than this share of what it may."""
    patience: int = 50
    """Frames on a step before the next one up is tried; doubled whenever that was in vain."""
    longest_patience: int = 1600
    """Frames that it is doubled to, at most."""

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
    """How a live run keeps its time."""

    most_delay_ms: float = 75.0
    """A frame that is not restored by then goes out as it came."""
    hold_seconds: float = 0.5
    """After so long without a frame the last one is shown again, at the usual rate, until the source is back."""
    stall_seconds: float = 5.0
    """A camera or an address that gives nothing for so long is opened anew."""
    shortest_retry_seconds: float = 0.5
    """Wait before the first attempt to open a lost source or sink anew; doubled after each in vain."""
    longest_retry_seconds: float = 10.0
    """The same, at most."""
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
