"""What was restored is used again: some faces are carried over from their track's last keyframe, others steadied.

The faces of a track are keyframes, which the restorer restores, or carried: what was restored of the last keyframe
is moved along the motion of the degraded crops. A keyframe is mixed with the one before, moved here too, so that
detail does not flicker; a carried face needs no mixing, as it has the detail of its keyframe. What is carried is
decided from degraded crops alone, when a face comes in: it depends on no result, no batch and no thread.
Legend: S side of an aligned crop in pixels.

Sources: Zhu et al., "Deep feature flow for video recognition", CVPR 2017 (keyframes and motion between them), and
Feng et al., "Kalman-inspired feature propagation for video face super-resolution", ECCV 2024 (mixing with the
moved result of before).

A restorer that makes use of it is also told what it made of the keyframe before, moved here and gated. The keyframes
of a track are numbered from where it starts afresh; those of one window look back to the same one, the last of the
window before, so that with a wider window one person fills whole batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.align import invert, scale_of, transform
from models.protocols import Previous
from pipeline.frames import Origin, TrackedFace
from pipeline.reuse_motion import (
    Look,
    Motion,
    MotionMeter,
    carried,
    look_at,
    moved,
    steadied,
    strength,
    unmoved,
)

Follow = Literal["flow", "quick", "none"]
"""How the motion in a face is followed."""


@dataclass(slots=True, eq=False)
class Keyframe:
    """A face that the restorer restores; `Reuse` alone writes into it."""

    look: Look
    image: NDArray[np.float32] | None = None
    """float32 (S, S, 3) RGB, 8-bit code values, restored and steadied; None until then."""


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
        assert self.key.image is not None, "a face is finished before the keyframe it looks back to"
        return self.key.image


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
    told: Earlier | None = None
    """What the restorer is told: the base as seen from here. None for a face that does not ask, too."""

    @property
    def is_open(self) -> bool:
        """Whether what the restorer is told is known."""
        return self.told is None or self.told.key.image is not None

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
        follow: Follow = "flow",
        window: int = 0,
    ) -> None:
        """Faces carried after a keyframe, at most, while they move and while they do not.

        `steadiness` in [0, 1): share of the frame before that is mixed in. `follow`: see `RestoreConfig.reuse_motion`.
        `window`: keyframes of a track of which the restorer is told the same one before; 0 tells it of none.
        """
        self.most_carried = most_carried
        """May be changed between two frames."""
        self._most_still = most_still
        self._steadiness = steadiness
        self._window = window
        self._is_idle = not (most_carried or most_still or steadiness or window)
        self._meter = None if follow == "none" else MotionMeter(quick=follow == "quick")
        self._last: dict[int, Planned] = {}

    @property
    def last(self) -> dict[int, Planned]:
        """The faces of the last frame, by track: all that later frames depend on."""
        return dict(self._last)

    def go_on_from(self, last: dict[int, Planned]) -> None:
        """Goes on as after the frame whose `last` this is; its faces must be finished."""
        self._last = dict(last)

    def plan(self, faces: Sequence[TrackedFace]) -> list[Planned]:
        """How the faces of one frame are to be restored, from degraded crops alone.

        A track that is not among them is forgotten, and starts afresh when it comes back.
        """
        planned = [self._plan(face) for face in faces]
        self._last = {face.tracked.track_id: face for face in planned}
        return planned

    def finish(self, face: Planned, restored: Tensor | None) -> Tensor:
        """uint8 (3, S, S) RGB, to be shown. `restored` is what the restorer made of the face, None for a carried one.

        What stays of the degraded crop where a face is larger on screen is mixed in.
        """
        degraded = _as_array(face.tracked.crop)
        if restored is None:
            assert face.earlier is not None
            return _as_picture(carried(face.earlier.image, degraded, face.earlier.motion))
        share = seen_share(face.tracked.matrix)
        if face.key is None and share == 1:
            return restored
        # Before all that steadies, so that what stays of the degraded crop is steadied too.
        image = degraded + np.float32(share) * (_as_array(restored) - degraded)
        if face.key is None:
            return _as_picture(image)
        if self._steadiness and face.earlier is not None:
            # So that as much is left after a number of frames, however many keyframes are among them.
            share = self._steadiness**face.earlier.distance
            image = steadied(image, face.earlier.image, face.earlier.motion, share)
        face.key.image = image
        return _as_picture(image)

    def told(self, face: Planned) -> Previous | None:
        """What the restorer is told of an open face: what it made of the base, moved here."""
        if face.told is None:
            return None
        image, gate = moved(face.told.image, face.told.motion)
        return Previous(_as_picture(image), torch.from_numpy(gate))

    def _plan(self, face: TrackedFace) -> Planned:
        if self._is_idle:
            return Planned(face, "network")
        look = look_at(face.crop)
        afresh = Planned(face, "network", Keyframe(look))
        last = self._last.get(face.track_id)
        if last is None or last.key is None or _is_other(last.tracked, face):
            return afresh
        key, distance = last.key, _distance(last) + 1
        still = is_still(look, key.look)
        motion = self._motion(look, key.look, still=still)
        if not _is_same(motion):
            return afresh
        origin: Origin = "network"
        if _same_references(last.tracked, face):
            if still and distance <= self._most_still:
                origin = "still"
            elif distance <= self.most_carried and is_explained(motion):
                origin = "carried"
        earlier = Earlier(key, motion, distance)
        if origin != "network":
            return Planned(face, origin, key, earlier, last.number, last.base)
        number = last.number + 1
        base = key if self._window and number % self._window == 0 else last.base
        return Planned(face, origin, Keyframe(look), earlier, number, base, self._seen(base, look, earlier))

    def _motion(self, now: Look, before: Look, *, still: bool) -> Motion:
        measure = unmoved if still or self._meter is None else self._meter.measure
        return measure(now, before)

    def _seen(self, base: Keyframe | None, look: Look, earlier: Earlier) -> Earlier | None:
        """`base` as seen from a face of this `look`; None where there is none, or it shows too little of the face."""
        if base is None or base is earlier.key:
            return None if base is None else earlier
        motion = self._motion(look, base.look, still=is_still(look, base.look))
        # How many frames lie between is asked only of what is mixed in.
        return Earlier(base, motion, earlier.distance) if _is_same(motion) else None


def _is_same(motion: Motion) -> bool:
    """Whether motion explains enough of a face for it to be the same one, and uncovered."""
    return bool(motion.gate[_face_region(len(motion.gate))].mean() >= _SAME)


def seen_share(matrix: NDArray[np.float32]) -> float:
    """How far a restorer may change a face that lies by `matrix` (2, 3) in its crop, in (0, 1].

    Of a face that is larger on screen than in the crop, the crop holds this share of the samples: the restorer has
    seen less of it than the film shows, and may change it no more than that.
    """
    return float(min(scale_of(matrix), 1.0) ** 2)


def _distance(face: Planned) -> int:
    """Frames from the last keyframe to `face`."""
    return 0 if face.asks or face.earlier is None else face.earlier.distance


_SAME = 0.5
"""A face of which motion explains less than this share is another face, or a covered one."""
_JUMP = 0.25
"""Share of the crop's side that its corners never move from one frame to the next on one and the same face."""
_TURN = 0.05
"""Share of the crop's side that no landmark moves within the crop."""


def _is_other(last: TrackedFace, face: TrackedFace) -> bool:
    """Something happened between two successive faces of a track, over which nothing may be used again."""
    if last.crop.shape != face.crop.shape:
        return True
    if last.person_id is not None and face.person_id is not None and last.person_id != face.person_id:
        return True
    side = face.crop.shape[-1]
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float32)
    jump = transform(face.matrix, transform(invert(last.matrix), corners)) - corners
    turn = transform(face.matrix, face.face.landmarks) - transform(last.matrix, last.face.landmarks)
    return bool(np.hypot(*jump.T).max() > _JUMP * side or np.hypot(*turn.T).max() > _TURN * side)


def _same_references(last: TrackedFace, face: TrackedFace) -> bool:
    # A better set asks for a new restoration, but is mixed in: the person is the same, and must not pop.
    return (last.person_id, last.references.version) == (face.person_id, face.references.version)


def is_still(now: Look, before: Look) -> bool:
    """Two crops, compared as they lie, differ by no more than a codec's noise."""
    difference = cv2.blur(strength(now.colour - before.colour), (5, 5))
    difference = difference[_face_region(len(difference))]
    return bool(np.median(difference) <= 1 and difference.max() <= 4)


def is_explained(motion: Motion) -> bool:
    """Motion explains the whole face: also no eye and no lip is left out, which are small shares of it."""
    refused = 1 - motion.gate
    side = len(refused)
    spot = max(side // 10, 1)
    return bool(refused.mean() <= 0.1 and cv2.blur(refused, (spot, spot))[_face_region(side)].max() <= 0.3)


@lru_cache(maxsize=8)
def _face_region(side: int) -> NDArray[np.bool_]:
    """Brows to chin in the FFHQ alignment, bool (side, side)."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return np.asarray(((x - 0.5) / 0.33) ** 2 + ((y - 0.56) / 0.38) ** 2 < 1)


def _as_array(picture: Tensor) -> NDArray[np.float32]:
    return np.asarray(picture.numpy().transpose(1, 2, 0), np.float32)


def _as_picture(image: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(image.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
