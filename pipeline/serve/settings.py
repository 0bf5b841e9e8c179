"""Settings of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """How much the page takes on, and how good its pictures are on the way."""

    most_peers: int = 2
    """Cameras at a time; more are told to wait."""
    silent_seconds: float = 10.0
    """A camera that sends nothing for so long has left."""
    most_kilobits: int = 8000
    """Bits per second, in thousands, of a camera's pictures each way, at most."""
    least_kilobits: int = 2500
    """The same, at least, whatever the browser believes of the network: below it faces lose what was restored."""
    most_upload_mib: int = 2048
    """Size of a file that is to be restored, at most."""
    most_photo_mib: int = 20
    """Size of a reference photo, at most."""
    most_waiting: int = 4
    """Files that may wait for their turn; one is restored at a time."""
    keep_minutes: float = 60.0
    """So long restored files and reference photos are kept."""
    stall_seconds: float = 30.0
    """An upload that gives nothing for so long is given up."""
    folder: Path | None = None
    """Where the private folder is made; none = the system's place for temporary files."""

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
