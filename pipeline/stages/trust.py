"""How much restoration may be used on a face, from how well it is seen; eased in time so that nothing pops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.protocols import Face
from models.quality import pose, ramp


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Where restoration eases off. Each pair: no restoration at the first value, all of it at the second."""

    eye_px: tuple[float, ...] = (7.0, 11.0)
    """Distance of the eyes in pixels of the frame."""
    yaw_degrees: tuple[float, ...] = (70.0, 50.0)
    """How far the head is turned away."""
    reliability: tuple[float, ...] = (0.25, 0.6)
    """Consistency of the optical flow that carries the landmarks."""
    clarity: tuple[float, ...] = (0.5, 0.8)
    """Norm of the embedding against the track's usual one: what covers most of a face lowers it."""
    ease_frames: int = 5
    """Frames over which strength comes and goes."""

    def __post_init__(self) -> None:
        for name in ("eye_px", "yaw_degrees", "reliability", "clarity"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] == pair[1]:
                raise ValueError(f"{name} must be two different values, got {pair}")
        if self.ease_frames < 0:
            raise ValueError(f"ease_frames must not be negative, got {self.ease_frames}")


@dataclass(frozen=True, slots=True)
class Trust:
    """How far one face of one frame can be trusted, and what limits it."""

    value: float
    """In [0, 1]."""
    reason: str
    """What lowered it most: "small", "profile", "covered", "lost"; empty at full trust."""


FULL = Trust(1.0, "")
LOST = Trust(0.0, "lost")
NOT_CHOSEN = Trust(0.0, "not chosen")
"""The user leaves this person, or this time, as it is."""


def trust(face: Face, *, reliability: float, missed: int, clarity: float, config: TrustConfig) -> Trust:
    """Trust in one face of one frame by itself."""
    limits = {
        "small": ramp(face.eye_distance_px, config.eye_px),
        "profile": ramp(abs(pose(face.landmarks).yaw), config.yaw_degrees),
        "covered": min(ramp(clarity, config.clarity), 1.0 if missed == 0 else 0.5),
        "lost": ramp(reliability, config.reliability),
    }
    reason = min(limits, key=lambda name: limits[name])
    return Trust(limits[reason], reason) if limits[reason] < 1 else FULL


def ease(values: Sequence[Trust | None], centre: int, frames: int) -> Trust:
    """The eased trust at `centre` of one track's successive `values` (None = the shot goes on without this face).

    The lowest value near by, averaged: it has already come down when the cause appears, and a lone good frame
    does not flash. Where `values` ends the clip or shot ends too, and nothing needs to fade.
    """
    if frames == 0:
        return values[centre] or LOST
    lowest = [
        min((v or LOST for v in _around(values, at, frames)), key=lambda t: t.value)
        for at in range(max(centre - frames, 0), min(centre + frames + 1, len(values)))
    ]
    mean = sum(t.value for t in lowest) / len(lowest)
    worst = min(lowest, key=lambda t: t.value)
    return Trust(mean, worst.reason) if mean < 1 else FULL


def _around(values: Sequence[Trust | None], at: int, frames: int) -> Sequence[Trust | None]:
    return values[max(at - frames, 0) : at + frames + 1]
