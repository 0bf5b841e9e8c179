"""Faces that belong together over time: what a tracker is given and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.protocols import Face


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A face seen now and the track it belongs to."""

    track_id: int
    """Unique within one tracker."""
    face: Face
    """As given to the tracker."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What one step of a tracker found out."""

    observations: tuple[Observation, ...] = ()
    """One for each face given, in their order; tracks that are not seen now are not among them."""
    ended: tuple[int, ...] = ()
    """Tracks that never come back, each told once."""


class Tracker(Protocol):
    """Gives faces of successive frames the same id while they are the same face."""

    def update(self, faces: Sequence[Face], period: int = 1) -> Update:
        """Takes the faces of a frame, `period` >= 1 frames after the one of the last call.

        Faces carried by a `Follower` may be given as well as detected ones: the more often, the less a quick
        motion can break a track.
        """
        ...

    def reset(self) -> tuple[int, ...]:
        """Ends all tracks (at a cut) and returns their ids; no id is ever used again."""
        ...


def face_size_px(landmarks: NDArray[np.floating]) -> float:
    """Size of a face from `landmarks` (5, 2): the distance its eyes would have if it looked at the camera.

    In profile the eyes fall together; the distance from the eyes to the mouth (1.04 of it) stays.
    """
    eyes = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    height = float(np.linalg.norm(landmarks[3:].mean(0) - landmarks[:2].mean(0)))
    return max(eyes, height / 1.04, 1e-3)
