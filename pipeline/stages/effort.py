"""What a frame's effort means: which restorer its faces go to, and which of them are restored at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from models.protocols import Restorer
from pipeline.frames import Effort, TrackedFace, TrackedFrame

NO_TIME = "no time"
"""Reason of a face that is not restored as others are larger."""
_LEAD = 1.3
"""How many times larger a face must be to take another one's place as the largest."""


@dataclass(frozen=True, slots=True)
class Quick:
    """Quicker restorers beside the chosen one."""

    light: Restorer | None = None
    """For crops of the same size; None where the chosen one is quick itself, or its crops are of no size for `fast`."""
    small: Restorer | None = None
    """For smaller crops; None where `fast` has none."""

    def instead_of(self, chosen: Restorer, effort: Effort) -> Restorer:
        """The restorer that `effort` asks for: `chosen`, where no quicker one is there."""
        if effort.small and self.small is not None:
            return self.small
        if effort.light and self.light is not None:
            return self.light
        return chosen


NO_QUICK = Quick()
"""There is only the chosen one."""


def limited(frames: Iterable[TrackedFrame]) -> Iterator[TrackedFrame]:
    """`frames` with at most as many faces to be restored as their effort allows, the largest on screen."""
    shown: frozenset[int] = frozenset()
    for frame in frames:
        if frame.effort.most_faces is not None:
            shown = _largest(frame, frame.effort.most_faces, shown)
            faces = (face if face.track_id in shown else _left_out(face) for face in frame.faces)
            frame = replace(frame, faces=tuple(faces))
        yield frame


def _largest(frame: TrackedFrame, count: int, shown: frozenset[int]) -> frozenset[int]:
    """Tracks of the `count` largest faces. `shown`: those of the frame before."""

    def size(face: TrackedFace) -> float:
        # A face keeps its place until another is clearly larger: faces of the same size must not take turns.
        return face.face.eye_distance_px * (_LEAD if face.track_id in shown else 1)

    largest = sorted((face for face in frame.faces if face.strength), key=size, reverse=True)[:count]
    return frozenset(face.track_id for face in largest)


def _left_out(face: TrackedFace) -> TrackedFace:
    return replace(face, strength=0.0, reason=face.reason or NO_TIME)
