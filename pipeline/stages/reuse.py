"""What was restored is used again: some faces are carried over from their track's last keyframe, others steadied.

The faces of a track are keyframes, which the restorer restores, or carried: what was restored of the last keyframe
is moved along the motion of the degraded crops. A keyframe is mixed with the one before, moved here too, so that
detail does not flicker; a carried face needs no mixing, as it has the detail of its keyframe. What is carried is
decided from degraded crops alone, when a face comes in: it depends on no result, no batch and no thread.
Legend: S side of an aligned crop in pixels.

Sources: Zhu et al., "Deep feature flow for video recognition", CVPR 2017 (keyframes and motion between them), and
Feng et al., "Kalman-inspired feature propagation for video face super-resolution", ECCV 2024 (mixing with the
moved result of before).

A restorer that needs it is also given its restoration of the keyframe before, moved here and gated. The keyframes
of a track are numbered from where it starts afresh; those of one window look back to the same one, the last of the
window before, so that with a wider window one person fills whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.align import at_size
from models.protocols import Previous
from pipeline.frames import FULL, Effort, Origin, TrackedFace
from pipeline.stages.motion import (
    Look,
    Motion,
    MotionMeter,
    carried,
    is_explained,
    is_other,
    is_same,
    is_still,
    look_at,
    moved,
    same_references,
    steadied,
    unmoved,
)

ReuseMotion = Literal["flow", "quick", "none"]
"""How the motion in a face is measured."""


@dataclass(slots=True, eq=False)
class Keyframe:
    """A face that the restorer restores; `Reuse` alone writes into it."""

    look: Look
    image: NDArray[np.float32] | None = None
    """float32 (S, S, 3) RGB, 8-bit code values, restored and steadied; None until then."""
    kept: Tensor | None = None
    """`Result.kept`, for the track's next keyframe."""
    version: int = 0
    """Of the references with which it is restored."""
    side: int = 0
    """S, where it is another keyframe at another size."""
    other: Keyframe | None = None
    """That other keyframe."""

    @property
    def is_restored(self) -> bool:
        """Whether `restored` is known."""
        return self.image is not None or (self.other is not None and self.other.is_restored)

    def restored(self) -> NDArray[np.float32]:
        """`image`, once it is known."""
        if self.image is None:
            assert self.other is not None, "a face is finished before the keyframe it looks back to"
            self.image = resized(self.other.restored(), self.side)
            self.other = None
        return self.image

    def at_size(self, side: int) -> Keyframe:
        """The same for crops of `side` pixels."""
        return Keyframe(self.look.resized(side), version=self.version, side=side, other=self)


@dataclass(frozen=True, slots=True, eq=False)
class Earlier:
    """The last keyframe, as seen from a later face of its track."""

    key: Keyframe
    motion: Motion
    """From the keyframe to the later face."""
    distance: int
    """Frames between the two."""

    @property
    def image(self) -> NDArray[np.float32]:
        return self.key.restored()


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A face, and how it will be restored."""

    tracked: TrackedFace
    origin: Origin
    key: Keyframe | None = None
    """The track's last keyframe, which is this very face where it asks the restorer; None: nothing is kept."""
    earlier: Earlier | None = None
    """What is carried here, or mixed in. None where a track starts, or starts afresh."""
    number: int = 0
    """Keyframes before the last one, since the track started afresh."""
    base: Keyframe | None = None
    """The keyframe that this window looks back to; None in the first window."""
    previous: Earlier | None = None
    """What the restorer gets as `Request.previous`: the base as seen from here. None also for a face that does not ask
    the restorer."""
    before: Keyframe | None = None
    """The keyframe whose `kept` the restorer gets back; None: it gets nothing back."""

    @property
    def is_open(self) -> bool:
        """Whether the whole request is known."""
        keys = (self.previous.key if self.previous is not None else None, self.before)
        return all(key is None or key.is_restored for key in keys)

    @property
    def asks(self) -> bool:
        """The restorer is asked for this face; a carried one needs it not."""
        return self.origin == "network"


class Reuse:
    """Remembers the last keyframe of each track. Faces are planned, and later finished, in the order of frames."""

    def __init__(
        self,
        *,
        most_carried: int,
        most_still: int,
        steadiness: float,
        motion: ReuseMotion = "flow",
        window: int = 0,
        keeps: Callable[[str], bool] | None = None,
    ) -> None:
        """Faces carried after a keyframe, at most, while they move and while they do not.

        `steadiness` in [0, 1): share of the frame before that is mixed in. `motion`: see `RestoreConfig.reuse_motion`.
        `window`: keyframes of a track that get the same previous restoration; 0 = they get none. `keeps`: whether faces
        with this `TrackedFace.restorer` need `Request.kept`.
        """
        self._most_carried = most_carried
        self._most_still = most_still
        self._steadiness = steadiness
        self._window = window
        self._keeps = keeps
        self._is_idle = not (most_carried or most_still or steadiness or window or keeps is not None)
        self._meter = None if motion == "none" else MotionMeter(quick=motion == "quick")
        self._last: dict[int, Planned] = {}

    @property
    def last(self) -> dict[int, Planned]:
        """The faces of the last frame, by track: all that later frames depend on."""
        return dict(self._last)

    def go_on_from(self, last: dict[int, Planned]) -> None:
        """Goes on as after the frame whose `last` this is; its faces must be finished."""
        self._last = dict(last)

    def plan(
        self, faces: Sequence[TrackedFace], effort: Effort = FULL, *, detected: bool = False
    ) -> list[Planned]:
        """How the faces of one frame are to be restored, from degraded crops and the frame's effort alone.

        A track that is not among them is forgotten, and starts afresh when it comes back. `detected`: see
        `TrackedFrame.detected`. What is carried by `effort.least_carried` although motion does not explain it is shown
        degraded there.
        """
        most = max(self._most_carried, effort.most_carried)
        most *= effort.carried_at_detection if detected else 1
        planned = [self._plan(face, most, effort.least_carried) for face in faces]
        planned = self._in_turn(planned, effort.most_asked)
        self._last = {face.tracked.track_id: face for face in planned}
        return planned

    def finish(self, face: Planned, restored: Tensor | None, kept: Tensor | None = None) -> Tensor:
        """uint8 (3, S, S) RGB, to be shown. `restored` and `kept`: the restorer's result, None for a carried face."""
        if restored is None:
            assert face.earlier is not None
            degraded = _as_array(face.tracked.crop)
            return _as_picture(carried(face.earlier.image, degraded, face.earlier.motion))
        if face.key is None:
            return restored
        image = _as_array(restored)
        if self._steadiness and face.earlier is not None:
            # So that as much is left after a number of frames, however many keyframes are among them.
            share = self._steadiness**face.earlier.distance
            image = steadied(image, face.earlier.image, face.earlier.motion, share)
        face.key.image, face.key.kept = image, kept
        return _as_picture(image)

    def previous(self, face: Planned) -> Previous | None:
        """`Request.previous` of an open face: the restored base, moved here."""
        if face.previous is None:
            return None
        image, gate = moved(face.previous.image, face.previous.motion)
        return Previous(_as_picture(image), torch.from_numpy(gate))

    def kept(self, face: Planned) -> Tensor | None:
        """`Request.kept` of an open face."""
        return None if face.before is None else face.before.kept

    def _plan(self, face: TrackedFace, most_carried: int, least_carried: int) -> Planned:
        if self._is_idle:
            return Planned(face, "network")
        look = look_at(face.crop)
        fresh = Keyframe(look, version=face.references.version)
        afresh = Planned(face, "network", fresh)
        last = self._before(face)
        if last is None or last.key is None or is_other(last.tracked, face):
            return afresh
        key, distance = last.key, _distance(last) + 1
        still = is_still(look, key.look)
        motion = self._motion(look, key.look, still=still)
        if not is_same(motion):
            return afresh
        origin: Origin = "network"
        if same_references(last.tracked, face):
            if still and distance <= self._most_still:
                origin = "still"
            elif distance <= least_carried or (distance <= most_carried and is_explained(motion)):
                origin = "carried"
        earlier = Earlier(key, motion, distance)
        if origin != "network":
            return Planned(face, origin, key, earlier, last.number, last.base)
        number = last.number + 1
        base = key if self._window and number % self._window == 0 else last.base
        previous = self._seen(base, look, earlier)
        # What a restorer works out depends on the references, and a face for which they changed may be put off.
        same = same_references(last.tracked, face) and key.version == fresh.version
        # A face with a previous restoration needs nothing kept, and so does not wait for it.
        keeps = same and previous is None and self._keeps is not None and self._keeps(face.restorer)
        return Planned(face, origin, fresh, earlier, number, base, previous, key if keeps else None)

    def _before(self, face: TrackedFace) -> Planned | None:
        """The same track in the frame before, in crops of the size of `face`."""
        last, side = self._last.get(face.track_id), face.crop.shape[-1]
        if last is None or last.tracked.crop.shape[-1] == side:
            return last
        matrix = at_size(last.tracked.matrix, last.tracked.crop.shape[-1], side)
        key = None if last.key is None else last.key.at_size(side)
        # Its base and previous restoration are of the other size.
        return replace(last, tracked=replace(last.tracked, matrix=matrix), key=key, base=None, previous=None)

    def _in_turn(self, planned: list[Planned], most_asked: int | None) -> list[Planned]:
        """Puts faces off that could be carried, those first that were restored last, until `most_asked` are left."""
        if most_asked is None:
            return planned
        excess = sum(face.asks for face in planned) - most_asked
        later = [face for face in planned if face.asks and face.earlier is not None]
        later.sort(key=lambda face: face.earlier.distance if face.earlier is not None else 0)
        put_off = {id(face) for face in later[: max(excess, 0)]}
        return [self._put_off(face) if id(face) in put_off else face for face in planned]

    def _put_off(self, face: Planned) -> Planned:
        """A face that asks, carried in its place."""
        last = self._before(face.tracked)
        assert last is not None
        assert face.earlier is not None
        return Planned(face.tracked, "carried", face.earlier.key, face.earlier, last.number, last.base)

    def _motion(self, now: Look, before: Look, *, still: bool) -> Motion:
        measure = unmoved if still or self._meter is None else self._meter.measure
        return measure(now, before)

    def _seen(self, base: Keyframe | None, look: Look, earlier: Earlier) -> Earlier | None:
        """`base` as seen from a face of this `look`; None where there is none, or it shows too little of the face."""
        if base is None or base is earlier.key:
            return None if base is None else earlier
        motion = self._motion(look, base.look, still=is_still(look, base.look))
        # How many frames lie between is asked only of what is mixed in.
        return Earlier(base, motion, earlier.distance) if is_same(motion) else None


def _distance(face: Planned) -> int:
    """Frames from the last keyframe to `face`."""
    return 0 if face.asks or face.earlier is None else face.earlier.distance


def resized(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """`image` (S, S, C) at another side."""
    how = cv2.INTER_AREA if side < len(image) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side, side), interpolation=how), np.float32)


def _as_array(picture: Tensor) -> NDArray[np.float32]:
    return np.asarray(picture.numpy().transpose(1, 2, 0), np.float32)


def _as_picture(image: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(image.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
