"""What is seen in each frame: shots, faces found, followed and recognised. The first half of the track stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import av
import numpy as np
from numpy.typing import NDArray

from models.align import invert, transform
from models.protocols import Detector, Face, Recogniser, References
from models.quality import frontalness
from pipeline.frames import Frame
from pipeline.pixels.colour import luma_thumbnail, luma_window
from pipeline.pixels.geometry import Geometry
from pipeline.stages.detail import film_grain, fine_of
from pipeline.stages.search import SearchDepth, find_faces
from pipeline.stages.views import embed_faces, view_of
from trackers.follower import Disagreements, Follower
from trackers.gallery import EVERYBODY, Casting, Choice
from trackers.people import People
from trackers.references import View
from trackers.shots import ShotDetector
from trackers.tracks import Tracker, Update, face_size_px


@dataclass(frozen=True, slots=True)
class PerceptionConfig:
    """How often and how closely is looked."""

    detect_every: int = 10
    """Frames between two detections; landmarks are carried by optical flow in between."""
    detect_width: int = 384
    """Width in pixels of the picture that the detector sees."""
    search_width: int = 768
    """Width used instead at the start of a shot, while faces are small, and every `search_every`th time."""
    search_every: int = 5
    """Every how many detections the larger picture is used, so that small faces are found."""
    window: int = 112
    """Side in pixels of the picture around a face in which its landmarks are followed."""
    patience: int = 2
    """Detections that may miss a face before it is given up; it is carried until then."""

    retry_every: int = 3
    """Frames until the next look for a face that was lost just now."""
    retries: int = 4
    """How often such a face is looked for before the ordinary rhythm goes on."""
    thorough: bool = True
    """Look in several sizes at the start of a shot and every `search_every`th time, so that blurred faces that fill the
    picture are found; where there is none also without grain and with the picture turned, but ever more seldom."""
    min_frontalness: float = 0.25
    """Views more in profile than this (0 = profile, 1 = frontal) do not decide who somebody is."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_frontalness < 1:
            raise ValueError(f"min_frontalness must be in [0, 1), got {self.min_frontalness}")
        for name in ("detect_every", "search_every", "patience", "retry_every", "retries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("detect_width", "search_width", "window"):
            if not 64 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} must be between 64 and 4096, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """One track's face in one frame, before smoothing."""

    face: Face
    reliability: float
    """In [0, 1]: 1 for a detection, the flow's own consistency where landmarks were carried."""
    missed: int
    """Detections in a row that did not confirm the face."""
    clarity: float
    """Embedding norm now against the track's usual norm, 1 = as clear as ever; lower = covered or turned away."""
    fine: float = 1.0
    """As in `Detail`, when the face was last detected."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """All of one frame."""

    is_cut: bool
    contrast: float
    """Standard deviation of luma in 8-bit code values; near 0 for a black frame."""
    sightings: dict[int, Sighting]
    """By track id."""
    detected: bool
    """Faces were detected, and not only followed."""
    grain: float | None = None
    """As in `Detail`, when it was last measured; None where no frame of this shot came before."""


NO_REFERENCES = References()
_FIRST_PAUSE, _LONGEST_PAUSE = 2, 8
"""Least and most interval between searches that find no face, in multiples of `search_every` detections."""
_KEPT_TRACKS = 1000
"""More tracks than any delay line holds."""


@dataclass(slots=True)
class _LivingTrack:
    """What is known of a living track; owned by `Perception`."""

    sighting: Sighting
    views: list[View]
    disagreements: Disagreements = ()
    unclear: NDArray[np.float32] | None = None
    """Sum of the embeddings that said too little of who it is."""


class Perception:
    """Looks at frames in order; owns the tracker, the shot detector and the people."""

    def __init__(
        self,
        config: PerceptionConfig,
        *,
        detector: Detector,
        recogniser: Recogniser,
        tracker: Tracker,
        shots: ShotDetector,
        people: People,
        crop_size: int,
        geometry: Geometry | None = None,
        casting: Casting = EVERYBODY,
    ) -> None:
        self._config = config
        self._detector, self.recogniser = detector, recogniser
        self._tracker, self._shots, self.people = tracker, shots, people
        self.geometry = geometry or Geometry()
        self.casting = casting
        """Whom the user wants restored, and how."""
        self.crop_size = crop_size
        """Side of the crops that the restorer takes, in pixels, and of views."""
        self._follower = Follower()
        self._previous: av.VideoFrame | None = None
        self._living: dict[int, _LivingTrack] = {}
        self._person_of: dict[int, int] = {}
        self._guess_of: dict[int, int] = {}
        self._interval = 0
        self._since_detection = 0
        self._detections = 0
        self._since_update = 0
        self._retries = 0
        self._grain: float | None = None
        self._thorough_at, self._pause = 0, _FIRST_PAUSE
        # Of tracks of this shot, also of those that are lost at present: a covered face often comes back covered.
        self._norms: dict[int, list[float]] = {}

    def person_of(self, track_id: int) -> int | None:
        """The person of a track, as far as known by now; of a face that is too unclear, the one it resembles."""
        person = self._person_of.get(track_id, self._guess_of.get(track_id))
        return None if person is None else self.people.current(person)

    def choice_of(self, person: int | None) -> Choice:
        """The user's choice for a person; None = not recognised yet."""
        return self.casting.choice(None if person is None else self.people.name_of(person))

    def name_of(self, person: int | None) -> str:
        """The name that the user gave a person; empty without one."""
        return "" if person is None else self.people.name_of(person)

    def references_of(self, person: int | None) -> References:
        """Snapshot of a person's best views so far; empty for None."""
        return NO_REFERENCES if person is None else self.people.references(person).snapshot()

    def look(self, frame: Frame) -> Seen:
        """Sees one frame. Frames must come in order."""
        luma = luma_thumbnail(frame.native, 160)[0]
        is_cut = self._shots.is_cut(luma)
        if is_cut:
            self.start_shot()
        self._since_update += 1
        lost = self._carry(frame)
        if lost:
            self._retries = self._config.retries
            self._thorough_at, self._pause = self._detections + self._retries, 1
        due = self._since_detection >= frame.effort.detection_interval * self._interval
        detected = due or lost
        if detected:
            living = len(self._living)
            self._detect(frame)
            self._retries = 0 if len(self._living) > living else max(self._retries - 1, 0)
            self._interval = self._config.retry_every if self._retries else self._config.detect_every
            self._since_detection = 0
        elif self._living:
            # The tracker's own motion model is kept up to date, so that the next detection finds its track.
            self._update([followed.sighting.face for followed in self._living.values()])
        if self._living and not is_cut and (detected or self._grain is None):
            self._grain = film_grain(frame.native, self._previous)
        self._since_detection += 1
        self._previous = frame.native
        sightings = {track_id: followed.sighting for track_id, followed in self._living.items()}
        return Seen(is_cut, float(luma.std()), sightings, detected, self._grain)

    def start_shot(self) -> None:
        """Drops all tracks: the next frame has nothing to do with those before."""
        self._tracker.reset()
        self._living.clear()
        self._norms.clear()
        self._detections, self._interval, self._since_detection, self._retries = 0, 0, 0, 0
        self._grain = None
        self._thorough_at, self._pause = 0, _FIRST_PAUSE

    def _carry(self, frame: Frame) -> bool:
        """Moves every living face on by optical flow; says whether one was lost just now."""
        lost = False
        for track_id, followed in list(self._living.items()):
            assert self._previous is not None
            sighting = followed.sighting
            matrix = _window_matrix(sighting.face, self._config.window)
            carried = self._follower.follow(
                luma_window(self._previous, matrix, self._config.window),
                luma_window(frame.native, matrix, self._config.window),
                transform(matrix, sighting.face.landmarks),
                transform(matrix, sighting.face.box.reshape(2, 2)).reshape(4),
            )
            if carried is None:
                del self._living[track_id]
                lost = True
                continue
            back = invert(matrix)
            face = replace(
                sighting.face,
                landmarks=transform(back, carried.landmarks),
                box=transform(back, carried.box.reshape(2, 2)).reshape(4),
                embedding=None,
            )
            followed.sighting = replace(sighting, face=face, reliability=carried.reliability)
        return lost

    def _update(self, faces: Sequence[Face]) -> Update:
        period, self._since_update = self._since_update, 0
        return self._tracker.update(faces, period)

    def _detect(self, frame: Frame) -> None:
        config = self._config
        width, depth = self._next_look(frame.native.width)
        known = [followed.sighting.face for followed in self._living.values()]
        faces = find_faces(frame.native, self._detector, self.geometry, width, depth, known)
        faces = embed_faces(frame.native, faces, self.recogniser, self.geometry)
        update = self._update(faces)
        seen: set[int] = set()
        for observation in update.observations:
            seen.add(observation.track_id)
            others = {o.track_id for o in update.observations} - {observation.track_id}
            beside = {person for other in others if (person := self.person_of(other)) is not None}
            self._observe(frame, observation.track_id, observation.face, beside)
        for track_id, followed in list(self._living.items()):
            if track_id not in seen:
                missed = followed.sighting.missed + 1
                if missed >= config.patience:
                    del self._living[track_id]
                else:
                    followed.sighting = replace(followed.sighting, missed=missed)

    def _next_look(self, frame_width: int) -> tuple[int, SearchDepth]:
        """Width of the picture that the detector sees next, and how much is done. A search that found nothing is
        repeated after twice as many detections each time."""
        config, number = self._config, self._detections
        self._detections += 1
        in_turn = number % config.search_every == 0
        small = any(
            f.sighting.face.eye_distance_px * config.detect_width / frame_width < 14
            for f in self._living.values()
        )
        width = config.search_width if small or in_turn else config.detect_width
        if not config.thorough:
            return width, SearchDepth.GLANCE
        if not self._living and number >= self._thorough_at:
            self._thorough_at = number + self._pause * config.search_every
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            return config.search_width, SearchDepth.THOROUGH
        if self._retries or (in_turn and self._living):
            return width, SearchDepth.ALL_SIZES
        return width, SearchDepth.GLANCE

    def _observe(self, frame: Frame, track_id: int, face: Face, beside: set[int]) -> None:
        assert face.embedding is not None
        norm = float(np.linalg.norm(face.embedding))
        followed = self._living.get(track_id)
        if followed is None:
            sighting = Sighting(face, reliability=1.0, missed=0, clarity=1.0)
            followed = self._living[track_id] = _LivingTrack(sighting, [])
        else:
            carried = followed.sighting.face.landmarks
            corrected = self._follower.correct(
                carried, face.landmarks, face.eye_distance_px, followed.disagreements
            )
            face, followed.disagreements = (
                replace(face, landmarks=corrected.landmarks),
                corrected.disagreements,
            )
        norms = self._norms.setdefault(track_id, [])
        usual = float(np.median(norms)) if norms else norm
        clarity = min(norm / max(usual, 1e-6), 1.0)
        norms.append(norm)
        del norms[:-16]
        fine = fine_of(frame.native, face.landmarks, self.geometry)
        followed.sighting = Sighting(face, reliability=1.0, missed=0, clarity=clarity, fine=fine)
        self._remember(frame, track_id, followed, beside)

    def _guess(
        self, track_id: int, followed: _LivingTrack, embedding: NDArray[np.float32], beside: set[int]
    ) -> None:
        """Takes a face that says too little for a person whom the user gave, as long as nothing better is known."""
        followed.unclear = embedding if followed.unclear is None else followed.unclear + embedding
        person = self.people.guess(followed.unclear, beside)
        if person is None:
            self._guess_of.pop(track_id, None)
        else:
            self._guess_of[track_id] = person
            _bound(self._guess_of)

    def _remember(self, frame: Frame, track_id: int, followed: _LivingTrack, beside: set[int]) -> None:
        """Recognises the person, and offers this view to the person's references. `beside`: who else is seen here."""
        face = followed.sighting.face
        assert face.embedding is not None
        frontal = frontalness(self.geometry.square(face.landmarks))
        if frontal < self._config.min_frontalness:
            return
        if not self.people.is_clear(face.embedding):
            if track_id not in self._person_of:
                self._guess(track_id, followed, face.embedding, beside)
            return
        followed.views.append(view_of(frame.native, face, self.geometry, self.crop_size, frame.index))
        known = self._person_of.get(track_id)
        person = None if known is None else self.people.current(known)
        if person is None:
            # Asked with all views so far: the length of their sum is the evidence.
            total = np.sum([view.embedding for view in followed.views], axis=0)
            person = self.people.identify(total, beside)
            if person is None:
                followed.views = followed.views[-4:]
                self._guess(track_id, followed, face.embedding, beside)
                return
        else:
            person = self.people.observe(person, face.embedding)
        self._person_of[track_id] = person
        _bound(self._person_of)
        references = self.people.references(person)
        for view in followed.views:
            references.offer(view)
        followed.views.clear()


def _bound(people: dict[int, int]) -> None:
    """Forgets the oldest track beyond `_KEPT_TRACKS`."""
    if len(people) > _KEPT_TRACKS:
        del people[min(people)]


def _window_matrix(face: Face, size: int) -> NDArray[np.float32]:
    """Frame-to-window transform, float32 (2, 3), for an upright square of four eye distances around a face."""
    scale = size / (4 * face_size_px(face.landmarks))
    shift = size / 2 - 0.5 - scale * face.landmarks.mean(0)
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
