"""Settings of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Limits of the page and quality of the transmitted pictures."""

    most_peers: int = 2
    """Maximum number of cameras at a time."""
    silent_seconds: float = 10.0
    """Time without a picture after which a camera counts as gone."""
    most_kilobits: int = 8000
    """Maximum bit rate of the pictures, in kbit/s, each way."""
    least_kilobits: int = 2500
    """Minimum bit rate, whatever the browser estimates: below it faces lose the restored detail."""
    most_upload_mib: int = 2048
    """Maximum size of a file to restore."""
    most_photo_mib: int = 20
    """Maximum size of a reference photo."""
    most_waiting: int = 4
    """Maximum number of waiting files; one is restored at a time."""
    keep_minutes: float = 60.0
    """Time for which results and reference photos are kept."""
    stall_seconds: float = 30.0
    """Time without data after which an upload is aborted."""
    folder: Path | None = None
    """Parent of the private folder; none = the system's folder for temporary files."""

    def __post_init__(self) -> None:
        for name in ("most_peers", "most_upload_mib", "most_photo_mib", "least_kilobits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.most_waiting < 0:
            raise ValueError(f"most_waiting must not be negative, got {self.most_waiting}")
        for name in ("silent_seconds", "keep_minutes", "stall_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be finite and above 0, got {getattr(self, name)}")
        if self.most_kilobits < self.least_kilobits:
            raise ValueError(f"most_kilobits must not be below least_kilobits, got {self.most_kilobits}")
