"""Stage 2: faces are followed, references gathered, and frames leave late enough that both know the future."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from models.align import at_size
from pipeline.frames import Detail, Effort, Frame, TrackedFace, TrackedFrame
from pipeline.pixels.colour import chroma_spread, read_crops
from pipeline.pixels.geometry import Geometry
from pipeline.pixels.kinds import ReadCrops
from pipeline.stages.detail import mean_detail
from pipeline.stages.perception import Perception, PerceptionConfig, Seen, Sighting
from pipeline.stages.trust import NOT_CHOSEN, Trust, TrustConfig, ease, trust
from trackers.smoothing import smooth_landmarks


@dataclass(frozen=True, slots=True)
class TrackConfig:
    """How faces are followed."""

    lookahead: int = 24
    """Frames that are looked at ahead of the one that is restored; 0 adds no delay."""
    smoothing_frames: float = 1.6
    """Standard deviation in frames of the smoothing of landmarks."""
    monochrome_below: float = 5.0
    """A shot whose colour planes never spread more than this many code values is black-and-white."""
    bridge_frames: int = 12
    """A face missed for up to this many frames is bridged when it comes back within the look-ahead."""
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)

    def __post_init__(self) -> None:
        if self.lookahead < 0:
            raise ValueError(f"lookahead must not be negative, got {self.lookahead}")
        if self.smoothing_frames < 0:
            raise ValueError(f"smoothing_frames must not be negative, got {self.smoothing_frames}")


_DETAIL_FRAMES = 12
"""To either side, over which detail is evened out: it is measured with each detection."""
_CONTRAST = 12.0
"""Standard deviation of luma below which a frame is too dark or flat to show whether it has colour."""
Side = Callable[[Effort], int]
"""Side in pixels of the crops that an effort asks for."""
NO_CROP = torch.zeros(3, 0, 0, dtype=torch.uint8)
"""The crop of a face that is not to be restored."""


@dataclass(slots=True)
class _Entry:
    """A frame in the delay line; owned by the track stage."""

    frame: Frame
    shot: int
    sightings: dict[int, Sighting]
    trusts: dict[int, Trust]
    colourful: float | None
    """Spread of chroma; None for a frame that is too dark or flat to show it."""
    detected: bool
    grain: float | None
    """See `Seen`."""

    @property
    def seconds(self) -> float:
        """Since the beginning of the run."""
        return float(self.frame.pts * self.frame.time_base)


def track(
    frames: Iterable[Frame],
    perception: Perception,
    config: TrackConfig,
    *,
    crops: bool,
    read: ReadCrops = read_crops,
    side: Side | None = None,
) -> Iterator[TrackedFrame]:
    """Follows the people of `frames`. Without `crops` faces carry an empty crop (they are not to be restored); `read`
    cuts them out, with the `side` that the frame's effort asks for (None: that of `perception`)."""
    side = side or (lambda effort: perception.crop_size)
    line = _DelayLine(config, perception.geometry)
    for frame in frames:
        seen = perception.look(frame)
        line.enter(frame, seen)
        if line.waiting > config.lookahead:
            yield _leave(line, perception, read if crops else None, side)
    while line.waiting:
        yield _leave(line, perception, read if crops else None, side)


def _leave(line: _DelayLine, perception: Perception, read: ReadCrops | None, side: Side) -> TrackedFrame:
    entry = line.current
    size = side(entry.frame.effort)
    faces = []
    for track_id, sighting in entry.sightings.items():
        person = perception.person_of(track_id)
        choice = perception.choice_of(person)
        allowed = line.eased(track_id, partial(perception.casting.covers, choice))
        landmarks = line.smoothed(track_id)
        matrix = perception.geometry.crop_matrix(landmarks, size)
        strength = allowed.value * choice.strength if allowed.value > 0.02 else 0.0
        face = TrackedFace(
            track_id=track_id,
            person_id=person,
            face=replace(sighting.face, landmarks=landmarks),
            crop=NO_CROP,
            matrix=matrix,
            references=perception.references_of(person),
            strength=strength,
            reason="" if strength else allowed.reason,
            restorer=choice.restorer,
            name=perception.name_of(person),
            wish=choice.strength,
            detail=line.detail(track_id),
        )
        faces.append(face)
    if read is not None:
        faces = with_crops(entry.frame, faces, size, read)
    return TrackedFrame(
        entry.frame, tuple(faces), monochrome=line.leave(), shot=entry.shot, detected=entry.detected
    )


def cut(
    frames: Iterable[TrackedFrame], own: int, *, read: ReadCrops = read_crops, side: Side
) -> Iterator[TrackedFrame]:
    """Frames that were tracked before, with empty crops and matrices for crops of `own` pixels: with their crops."""
    for frame in frames:
        size = side(frame.effort)
        faces: Sequence[TrackedFace] = frame.faces
        if size != own:
            faces = [replace(face, matrix=at_size(face.matrix, own, size)) for face in faces]
        yield replace(frame, faces=tuple(with_crops(frame.frame, faces, size, read)))


def with_crops(frame: Frame, faces: Sequence[TrackedFace], size: int, read: ReadCrops) -> list[TrackedFace]:
    """`faces` of `frame`, those that will be restored with their crops."""
    crops = iter(read(frame.native, [face.matrix for face in faces if face.strength], size))
    return [replace(face, crop=next(crops)) if face.strength else face for face in faces]


class _DelayLine:
    """Frames on their way: some that have left, for smoothing, and those that wait."""

    def __init__(self, config: TrackConfig, geometry: Geometry) -> None:
        self._config, self._geometry = config, geometry
        self._entries: deque[_Entry] = deque()
        self._kept = max(2 * config.trust.ease_frames, round(6 * config.smoothing_frames), _DETAIL_FRAMES)
        self.position = 0
        """Index of the next frame to leave."""
        self._shot = 0
        self._monochrome: dict[int, bool] = {}

    @property
    def waiting(self) -> int:
        return len(self._entries) - self.position

    @property
    def current(self) -> _Entry:
        return self._entries[self.position]

    def enter(self, frame: Frame, seen: Seen) -> None:
        self._shot += seen.is_cut
        colourful = chroma_spread(frame.native) if seen.contrast >= _CONTRAST else None
        entry = _Entry(frame, self._shot, {}, {}, colourful, seen.detected, seen.grain)
        self._entries.append(entry)
        for track_id, sighting in seen.sightings.items():
            self._place(entry, track_id, sighting)
            self._bridge(track_id)

    def leave(self) -> bool:
        """Moves on by one frame; gives whether the frame that left belongs to a black-and-white shot."""
        shot = self.current.shot
        if shot not in self._monochrome:
            # Decided once, when the first frame of a shot leaves, from all of the shot that is known by then;
            # black frames and the dark of a fade have no vote.
            spread = [e.colourful for e in self._entries if e.shot == shot and e.colourful is not None]
            if spread:
                self._monochrome = {shot: max(spread) < self._config.monochrome_below}
        self.position += 1
        if self.position > self._kept:
            self._entries.popleft()
            self.position -= 1
        return self._monochrome.get(shot, True)

    def smoothed(self, track_id: int) -> NDArray[np.float32]:
        """Landmarks (5, 2) of the current frame, smoothed over the same track's neighbours in time."""
        if self._config.smoothing_frames == 0:
            return self.current.sightings[track_id].face.landmarks
        entries, centre = self._around(round(3 * self._config.smoothing_frames))
        seen = [entry.sightings.get(track_id) for entry in entries]
        positions = [sighting.face.landmarks if sighting else None for sighting in seen]
        return smooth_landmarks(positions, centre, self._config.smoothing_frames)

    def eased(self, track_id: int, is_wanted: Callable[[float], bool]) -> Trust:
        """Trust in the current frame's face, eased over its neighbours in time.

        `is_wanted`: whether the user asks for it, by seconds since the beginning of the run.
        """
        frames = self._config.trust.ease_frames
        entries, centre = self._around(2 * frames)
        trusts = [entry.trusts.get(track_id) if is_wanted(entry.seconds) else NOT_CHOSEN for entry in entries]
        return ease(trusts, centre, frames)

    def detail(self, track_id: int) -> Detail:
        """Of the current frame's face, evened out over its neighbours in time, so that nothing pops."""
        entries, _ = self._around(_DETAIL_FRAMES)
        seen = [sighting.fine for entry in entries if (sighting := entry.sightings.get(track_id))]
        return mean_detail(seen, [entry.grain for entry in entries])

    def _around(self, reach: int) -> tuple[list[_Entry], int]:
        """Entries of the current shot up to `reach` frames away, and the current one's place among them."""
        shot = self.current.shot
        start = max(self.position - reach, 0)
        entries = list(islice(self._entries, start, self.position + reach + 1))
        before = sum(entry.shot != shot for entry in entries[: self.position - start])
        return [entry for entry in entries if entry.shot == shot], self.position - start - before

    def _place(self, entry: _Entry, track_id: int, sighting: Sighting) -> None:
        entry.sightings[track_id] = sighting
        entry.trusts[track_id] = trust(
            replace(sighting.face, landmarks=self._geometry.square(sighting.face.landmarks)),
            reliability=sighting.reliability,
            missed=sighting.missed,
            clarity=sighting.clarity,
            config=self._config.trust,
        )

    def _bridge(self, track_id: int) -> None:
        """Fills a short gap before the newest frame, where the same track was missed, by straight motion."""
        newest = len(self._entries) - 1
        shot = self._entries[newest].shot
        after = self._entries[newest].sightings[track_id]
        first = max(newest - self._config.bridge_frames - 1, 0)
        for at in range(newest - 1, first - 1, -1):
            entry = self._entries[at]
            if entry.shot != shot:
                return
            before = entry.sightings.get(track_id)
            if before is not None:
                for gap in range(at + 1, newest):
                    share = (gap - at) / (newest - at)
                    self._place(self._entries[gap], track_id, _between(before, after, share))
                return


def _between(before: Sighting, after: Sighting, share: float) -> Sighting:
    face = replace(
        before.face,
        landmarks=before.face.landmarks * (1 - share) + after.face.landmarks * share,
        box=before.face.box * (1 - share) + after.face.box * share,
        embedding=None,
    )
    return Sighting(
        face,
        reliability=0.5,
        missed=1,
        clarity=min(before.clarity, after.clarity),
        fine=before.fine * (1 - share) + after.fine * share,
    )
