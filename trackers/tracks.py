"""Tracks: the protocol of a tracker, and one around norfair (landmarks as points, embeddings for re-identification)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import norfair
import numpy as np
from numpy.typing import NDArray

from models.protocols import Face


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A face of the current frame and its track."""

    track_id: int
    """Unique within one tracker."""
    face: Face
    """The face given to the tracker."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Result of one step of a tracker."""

    observations: tuple[Observation, ...] = ()
    """One per face given, in order; unseen tracks are not included."""
    ended: tuple[int, ...] = ()
    """Tracks that never come back, each reported once."""


class Tracker(Protocol):
    """Gives the faces of successive frames one id per track."""

    def update(self, faces: Sequence[Face], period: int = 1) -> Update:
        """Takes the faces of a frame, `period` >= 1 frames after the last call.

        Faces may be detected or carried by a `Follower`: frequent updates keep tracks through quick motion.
        """
        ...

    def reset(self) -> tuple[int, ...]:
        """Ends all tracks (at a cut) and returns their ids; ids are never reused."""
        ...


def face_size_px(landmarks: NDArray[np.floating]) -> float:
    """Size of a face from `landmarks` (5, 2): the eye distance it would have from the front.

    In profile the eye distance vanishes; the distance from eyes to mouth, 1.04 times as long, remains.
    """
    eyes = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    height = float(np.linalg.norm(landmarks[3:].mean(0) - landmarks[:2].mean(0)))
    return max(eyes, height / 1.04, 1e-3)


_UNKNOWN = 3.0  # above the maximum distance of two embeddings, 2


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """Settings of the tracker."""

    max_distance: float = 1.0
    """Maximum distance of a face's landmarks from their prediction, in eye distances. Where both have embeddings,
    half of 1 - cosine similarity is added, so that crossing faces do not swap."""
    patience: int = 15
    """Frames for which an unseen face is expected near its last position."""
    memory: int = 30
    """Further frames for which it is re-identified anywhere by its embedding; 0 = off."""
    min_similarity: float = 0.45
    """Minimum cosine similarity for re-identification."""

    def __post_init__(self) -> None:
        if self.max_distance <= 0:
            raise ValueError(f"max_distance must be positive, got {self.max_distance}")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 frame, got {self.patience}")
        if self.memory < 0:
            raise ValueError(f"memory must not be negative, got {self.memory}")
        if not -1 < self.min_similarity < 1:
            raise ValueError(f"min_similarity must be in (-1, 1), got {self.min_similarity}")


class NorfairTracker:
    """A `Tracker` around norfair's. One owner; not thread-safe."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._next_id = 0
        # By global_id of norfair, whose counter is shared by all its trackers: the track ids are our own.
        self._ids: dict[int, int] = {}
        self._embeddings: dict[int, NDArray[np.float32]] = {}
        self._norfair = self._fresh()

    def update(self, faces: Sequence[Face], period: int = 1) -> Update:
        """See `Tracker.update`. Raises ValueError for a landmark that is not finite: norfair would exit the process."""
        if period < 1:
            raise ValueError(f"period must be at least 1 frame, got {period}")
        if not all(np.isfinite(face.landmarks).all() for face in faces):
            raise ValueError("every landmark must be finite")
        detections = [
            norfair.Detection(points=face.landmarks.astype(np.float64), data=face, embedding=face.embedding)
            for face in faces
        ]
        # Counters and predictions of norfair advance one frame a call, whatever the period.
        for _ in range(min(period - 1, self.config.patience + self.config.memory + 1)):
            self._norfair.update()
        known = list(self._norfair.tracked_objects)
        self._norfair.update(detections, period=period)
        if self.config.memory:
            self._know_again(known, detections)
        matches = {id(o.last_detection): o for o in self._norfair.tracked_objects}
        observations = []
        for detection, face in zip(detections, faces, strict=True):
            matched = matches[id(detection)]
            # Full patience for a seen face. Norfair raises it step by step, and keeps the memory's clock running
            # even while the face is seen.
            matched.hit_counter, matched.reid_hit_counter = self.config.patience, None
            track_id = self._id_of(matched)
            detection.embedding = self._remember(track_id, face.embedding)
            observations.append(Observation(track_id, face))
        return Update(tuple(observations), self._forget())

    def reset(self) -> tuple[int, ...]:
        """See `Tracker.reset`."""
        self._norfair = self._fresh()
        return self._forget()

    def _fresh(self) -> Any:
        return norfair.Tracker(
            distance_function=self._distance,
            distance_threshold=self.config.max_distance,
            hit_counter_max=self.config.patience,
            initialization_delay=0,
            past_detections_length=0,
            reid_distance_function=_embedding_distance,
            reid_distance_threshold=1 - self.config.min_similarity,
            reid_hit_counter_max=self.config.memory or None,
        )

    def _know_again(self, known: list[Any], detections: list[Any]) -> None:
        """Merges new tracks into lost ones with a similar embedding, most similar first.

        Norfair does this only for objects without an id; with a delay of 0 there are none. Its own distance, threshold
        and `merge` are used.
        """
        current = {id(detection) for detection in detections}
        numbers = {o.global_id for o in known}
        objects = self._norfair.tracked_objects
        new = [o for o in objects if o.global_id not in numbers]
        lost = [o for o in objects if o.global_id in numbers and id(o.last_detection) not in current]
        distance_of = self._norfair.reid_distance_function
        pairs = [(distance_of(a, b), i, j) for i, a in enumerate(new) for j, b in enumerate(lost)]
        merged_new: set[int] = set()
        merged_lost: set[int] = set()
        for distance, i, j in sorted(pairs):
            if (
                distance < self._norfair.reid_distance_threshold
                and i not in merged_new
                and j not in merged_lost
            ):
                lost[j].merge(new[i])
                objects.remove(new[i])
                merged_new.add(i)
                merged_lost.add(j)

    def _distance(self, detection: Any, tracked: Any) -> float:
        distance = float(np.linalg.norm(detection.points - tracked.estimate, axis=1).mean())
        distance /= face_size_px(tracked.last_detection.points)
        embedding_distance = _embedding_distance(detection, tracked)
        return distance + 0.5 * embedding_distance if embedding_distance < _UNKNOWN else distance

    def _id_of(self, tracked: Any) -> int:
        if tracked.global_id not in self._ids:
            self._ids[tracked.global_id] = self._next_id
            self._next_id += 1
        return self._ids[tracked.global_id]

    def _remember(self, track_id: int, embedding: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """The track's decayed sum of embeddings; carried faces have none."""
        known = self._embeddings.get(track_id)
        if embedding is not None:
            known = embedding if known is None else 0.8 * known + embedding
            self._embeddings[track_id] = known
        return known

    def _forget(self) -> tuple[int, ...]:
        alive = {o.global_id for o in self._norfair.tracked_objects}
        gone = tuple(self._ids.pop(number) for number in list(self._ids) if number not in alive)
        for track_id in gone:
            self._embeddings.pop(track_id, None)
        return gone


def _embedding_distance(a: Any, b: Any) -> float:
    """1 - cosine similarity of detections or tracked objects; `_UNKNOWN` without an embedding."""
    first = getattr(a, "last_detection", a).embedding
    second = getattr(b, "last_detection", b).embedding
    if first is None or second is None:
        return _UNKNOWN
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return 1.0 - float(np.dot(first, second)) / norms if norms > 0 else _UNKNOWN
