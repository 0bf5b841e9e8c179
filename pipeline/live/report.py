"""Counts of a live run, in memory that does not grow with its length."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LONGEST_MS = 10_000


_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(slots=True, eq=False)
class Delays:
    """Delays from capture to output in milliseconds; owned by the writing thread."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_LONGEST_MS + 1, np.int64))
    """Frames by delay in milliseconds; the last entry counts all longer delays."""
    jitter_ms: float = 0.0
    """Smoothed difference between the delays of two successive frames. Source: RFC 3550, section 6.4.1."""
    _last_ms: float | None = None

    def add(self, seconds: float) -> None:
        """Counts the delay of one frame."""
        ms = 1000 * seconds
        self.counts[min(max(int(ms), 0), _LONGEST_MS)] += 1
        if self._last_ms is not None:
            self.jitter_ms += (abs(ms - self._last_ms) - self.jitter_ms) / 16
        self._last_ms = ms

    def quantile(self, share: float) -> int:
        """Delay in milliseconds that `share` of the frames, in (0, 1], did not exceed; 0 without frames."""
        total = int(self.counts.sum())
        return int(np.searchsorted(np.cumsum(self.counts), max(share * total, 1))) if total else 0


@dataclass(slots=True)
class LiveReport:
    """Counts of one live run; owned by the writing thread."""

    seconds: float = 0.0
    """Since the first frame."""
    received: int = 0
    """Frames received."""
    written: int = 0
    """Frames written, repeats not counted."""
    dropped: int = 0
    """Frames replaced by a newer one before they were taken."""
    repeated: int = 0
    """Repeats of the last frame while the source gave none."""
    late: int = 0
    """Frames written unrestored because time ran out."""
    errors: int = 0
    """Frames written unrestored because restoration failed."""
    lost: int = 0
    """Times that the source was lost."""
    sink_lost: int = 0
    """Times that the sink was lost."""
    sound_seconds: float = 0.0
    """Sound written."""
    restored: int = 0
    """Faces restored, counted per frame."""
    frames_restored: int = 0
    """Frames written with a restored face."""
    step: str = ""
    """Current step of the ladder."""
    moves: int = 0
    """Steps taken up or down."""
    steps: Counter[str] = field(default_factory=Counter)
    """Frames written, by step."""
    people: set[int] = field(default_factory=set)
    """Ids of the people seen."""
    seen: Counter[int] = field(default_factory=Counter)
    """Frames by person id."""
    delays: Delays = field(default_factory=Delays)
    """From capture to output."""

    @property
    def rates(self) -> tuple[float, float]:
        """Frames per second in and out."""
        seconds = max(self.seconds, 1e-6)
        return self.received / seconds, (self.written + self.repeated) / seconds

    @property
    def sound_delay_ms(self) -> int:
        """Delay for sound that is transmitted separately."""
        return self.delays.quantile(0.5)

    def line(self) -> str:
        """Progress in one line."""
        came, went = self.rates
        parts = [
            f"live: {came:.1f} frames/s in, {went:.1f} out",
            f"delay {self.delays.quantile(0.5)} ms (p95 {self.delays.quantile(0.95)})",
            f"step {self.step}",
        ]
        counts = {
            "dropped": self.dropped,
            "late": self.late,
            "errors": self.errors,
            "repeated": self.repeated,
            "source lost": self.lost,
            "sink lost": self.sink_lost,
        }
        return ", ".join([*parts, *(f"{name} {count}" for name, count in counts.items() if count)])

    def summary(self) -> str:
        """Summary in a few lines."""
        came, went = self.rates
        shares = ", ".join(f"{name} {count}" for name, count in self.steps.most_common())
        delays = self.delays
        return "\n".join(
            [
                f"{self.received} frames in {self.seconds:.1f} s: {came:.2f} frames/s in, {went:.2f} out",
                f"delay: p50 {delays.quantile(0.5)}, p95 {delays.quantile(0.95)}, p99 {delays.quantile(0.99)} ms, "
                f"jitter {delays.jitter_ms:.1f} ms",
                f"frames by step: {shares or 'none'} ({self.moves} steps up or down)",
                f"unrestored: late {self.late}, failed {self.errors}, of {self.written} written; "
                f"dropped {self.dropped}, repeated {self.repeated}, "
                f"source lost {self.lost}, sink lost {self.sink_lost}",
                f"people: {len(self.people)}, faces restored: {self.restored} in {self.frames_restored} frames",
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """All counts for JSON."""
        came, went = self.rates
        return {
            "seconds": round(self.seconds, 3),
            "received": self.received,
            "written": self.written,
            "frames_per_second_in": round(came, 2),
            "frames_per_second_out": round(went, 2),
            "dropped": self.dropped,
            "late": self.late,
            "errors": self.errors,
            "repeated": self.repeated,
            "source_lost": self.lost,
            "sink_lost": self.sink_lost,
            "sound_seconds": round(self.sound_seconds, 3),
            "restored": self.restored,
            "frames_restored": self.frames_restored,
            "people": sorted(self.people),
            "step": self.step,
            "moves": self.moves,
            "steps": dict(self.steps),
            "delay_ms": {name: self.delays.quantile(q) for name, q in _QUANTILES.items()},
            "jitter_ms": round(self.delays.jitter_ms, 2),
        }
