"""Restores one frame at a time, doing as much as the ladder's step allows.

In two halves, so that the next frame can be followed while one is restored: `follow` finds its faces, `finish` restores
them and gives the picture. `restore` is both, for who has one thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import av
import torch

from models.protocols import References, Request, Restorer, Result, uses_kept, uses_previous
from pipeline.config import PipelineConfig
from pipeline.flow import Parts
from pipeline.frames import Frame, RestoredFrame, TrackedFace, TrackedFrame
from pipeline.live.ladder import Step
from pipeline.live.quick import Quick
from pipeline.stages.gate import gate
from pipeline.stages.restore import make_reuse, restore
from pipeline.stages.track import track

_WARM_UP = 2
"""Calls after which a network has its memory, and a compiled one its engine."""
_LEAD = 1.3
"""So many times larger must a face be to take another one's place as the largest."""


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A frame with its faces, on its way from one half to the other."""

    tracked: TrackedFrame
    step: Step
    looked: bool
    """Faces were sought in it, and not only followed."""


class Faces:
    """The stages of flow.py, one frame in and one picture out. Each half belongs to one thread at a time."""

    def __init__(self, parts: Parts, quick: Quick, config: PipelineConfig) -> None:
        self._parts, self._config = parts, config
        self._track = replace(config.track, lookahead=0)
        self._restore = replace(config.restore, max_waiting=0)
        self._restorer = None if parts.restorer is None else _Choice(parts.restorer, quick)
        self._shown: set[int] = set()
        self._frame: Frame | None = None
        self._followed: Followed | None = None
        self.restart()

    def restart(self) -> None:
        """Forgets the frames before: the next one has nothing to do with them."""
        self.restart_following()
        self.restart_finishing()

    def restart_following(self) -> None:
        """The same for the first half. The other needs nothing then, as no track goes on."""
        self._parts.perception.start_shot()
        self._tracked: Iterator[TrackedFrame] = track(
            self._frames(),
            self._parts.perception,
            self._track,
            crops=self._restorer is not None,
            read=self._parts.pixels.read_crops,
        )

    def restart_finishing(self) -> None:
        """The same for the second half, which is due after an error in it."""
        self._reuse = make_reuse(self._restore, self._config.blend.steadiness, self._restorer)
        self._restored: Iterator[RestoredFrame] = restore(
            self._measured(),
            self._restorer,
            self._restore,
            self._parts.masker,
            self._config.blend.steadiness,
            self._reuse,
        )
        if self._parts.gate is not None:
            self._restored = gate(self._restored, self._parts.gate)

    def follow(self, frame: Frame, step: Step) -> Followed:
        """`frame` with its faces. Frames come in order; after an error `restart_following` is due."""
        perception = self._parts.perception
        self._frame = frame
        perception.rest = step.rest
        if self._restorer is not None:
            perception.read_size = self._restorer.side(step)
        tracked = next(self._tracked)
        if step.most_faces is not None:
            tracked = self._largest(tracked, step.most_faces)
        return Followed(tracked, step, perception.looked)

    def finish(self, followed: Followed) -> tuple[RestoredFrame, av.VideoFrame]:
        """A frame with its faces restored, and its picture. In order; after an error `restart_finishing` is due."""
        self._followed = followed
        if self._restorer is not None:
            self._restorer.step = followed.step
        restored = next(self._restored)
        return restored, self._parts.pixels.blend(restored, self._config.blend)

    def restore(self, frame: Frame, step: Step) -> tuple[RestoredFrame, av.VideoFrame]:
        """Both halves, one after the other; after an error `restart` is due."""
        return self.finish(self.follow(frame, step))

    def warm_up(self, frame: Frame) -> None:
        """Makes every part work once, on `frame` and on an empty crop, so that the first frame shown is quick."""
        if self._restorer is not None:
            self._restorer.warm_up()
        self.restore(frame, Step("full"))
        self.restart()

    def _largest(self, tracked: TrackedFrame, count: int) -> TrackedFrame:
        """`tracked` with so many faces to be restored, those that are largest on screen."""

        def size(face: TrackedFace) -> float:
            # Who has the turn keeps it until somebody is clearly larger: nobody blinks who is of the same size.
            return face.face.eye_distance_px * (_LEAD if face.track_id in self._shown else 1)

        largest = sorted((face for face in tracked.faces if face.strength), key=size, reverse=True)[:count]
        self._shown = {face.track_id for face in largest}
        faces = (
            face
            if face.track_id in self._shown
            else replace(face, strength=0.0, reason=face.reason or "no time")
            for face in tracked.faces
        )
        return replace(tracked, faces=tuple(faces))

    def _frames(self) -> Iterator[Frame]:
        while self._frame is not None:
            yield self._frame

    def _measured(self) -> Iterator[TrackedFrame]:
        """Says before each frame how far faces may be carried in it."""
        while self._followed is not None:
            followed = self._followed
            # A detection costs as much as a restoration: both in one frame would make it late.
            step = followed.step
            most = max(self._config.restore.most_carried, step.most_carried)
            self._reuse.most_carried = 2 * most if followed.looked else most
            self._reuse.least_carried, self._reuse.most_asked = step.least_carried, step.most_asked
            yield followed.tracked


class _Choice:
    """The chosen restorer, or what takes its place at a step."""

    def __init__(self, chosen: Restorer, quick: Quick) -> None:
        self._chosen, self._quick = chosen, quick
        self.crop_size = chosen.crop_size
        self.uses_previous = uses_previous(chosen)
        self.uses_kept = uses_kept(chosen)
        self.step = Step("full")

    def side(self, step: Step) -> int:
        """Side in pixels of the crops that `step` asks for."""
        return self._at(step).crop_size

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        return self._at(self.step).restore(requests)

    def warm_up(self) -> None:
        for restorer in (self._chosen, self._quick.light, self._quick.small):
            if restorer is not None:
                crop = torch.zeros(3, restorer.crop_size, restorer.crop_size, dtype=torch.uint8)
                for _ in range(_WARM_UP):
                    restorer.restore([Request(crop, References())])

    def _at(self, step: Step) -> Restorer:
        if step.small and self._quick.small is not None:
            return self._quick.small
        if step.light and self._quick.light is not None:
            return self._quick.light
        return self._chosen
