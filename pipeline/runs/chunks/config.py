"""How a film is cut into chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChunkConfig:
    """How a film is cut into chunks, which are kept beside the output until it is whole."""

    resume: bool = False
    """Keep finished chunks in the folder OUT.parts, and go on from those that are there."""
    workers: int = 1
    """Processes that restore chunks beside each other."""
    ray: str | None = None
    """Address of a Ray cluster that restores the chunks, HOST:PORT or ray://HOST:PORT; `auto` = the one that
    RAY_ADDRESS names or that runs on this machine, else one started here; none = processes of this machine."""
    seconds: float = 20.0
    """A chunk ends at the first cut after so many seconds, and after twice as many where there is no cut."""

    @property
    def asked_for(self) -> bool:
        """Whether the film is to be restored in chunks."""
        return self.resume or self.workers > 1 or self.ray is not None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"seconds must be finite and above 0, got {self.seconds}")
