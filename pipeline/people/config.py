"""How films are looked through for the people in them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """How films are looked through for the people in them (`scan` and `--two-passes`)."""

    every_seconds: float = 0.5
    """Time between two frames that are looked at: shorter appearances may be missed."""
    detect_width: int = 768
    """Width in pixels of the picture in which faces are sought; more finds smaller ones."""
    views: int = 6
    """Best views that are kept of each person."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.every_seconds) and self.every_seconds > 0):
            raise ValueError(f"every_seconds must be finite and above 0, got {self.every_seconds}")
        if not 64 <= self.detect_width <= 4096:
            raise ValueError(f"detect_width must be between 64 and 4096, got {self.detect_width}")
        if self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}")
