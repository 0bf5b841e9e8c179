"""Motion between two degraded crops of one track, and where it explains all that is seen: when a restored
face may be used again.

Legend: S side of an aligned crop in pixels, s the side at which motion is measured: S / 2, but 128 at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.align import invert, transform
from pipeline.frames import TrackedFace

_BLUR = 0.8
"""Standard deviation in pixels of s."""
_SAME = 0.5
"""If motion explains a smaller share of a face than this, it is another face, or a covered one."""
_JUMP = 0.25
"""Share of the crop's side that its corners never move from one frame to the next on one and the same face."""
_TURN = 0.05
"""Share of the crop's side that no landmark moves within the crop."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A degraded crop as motion is measured on it."""

    colour: NDArray[np.float32]
    """(s, s, 3) RGB, 8-bit code values, slightly blurred."""
    luma: NDArray[np.uint8]
    """(s, s)."""

    def resized(self, side: int) -> Look:
        """That of the same crop with a side of `side` pixels."""
        before, after = len(self.luma), look_side(side)
        how = cv2.INTER_AREA if after < before else cv2.INTER_CUBIC
        colour, luma = (
            cv2.resize(picture, (after, after), interpolation=how) for picture in (self.colour, self.luma)
        )
        if after < before:
            # As much of the blur as went with the pixels.
            colour = cv2.GaussianBlur(colour, (0, 0), _BLUR * (1 - (after / before) ** 2) ** 0.5)
        return Look(np.asarray(colour, np.float32), np.asarray(luma, np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """How an earlier crop of a track becomes a later one."""

    flow: NDArray[np.float32] | None
    """float32 (s, s, 2), x y in pixels of s: from each pixel of the later crop to its place in the earlier one.
    None: nothing moved."""
    gate: NDArray[np.float32]
    """float32 (s, s) in [0, 1], 1 where motion explains what is seen, so that what was restored still holds."""
    change: NDArray[np.float32]
    """float32 (s, s, 3), what the later crop shows beyond the moved earlier one (light, slight movements), in
    8-bit code values, without the grain and the blocks of either."""


def look_side(side: int) -> int:
    """s for crops of `side` pixels."""
    return min(side // 2, 128)


def look_at(crop: Tensor) -> Look:
    """`crop`, uint8 (3, S, S) RGB, ready to be measured."""
    side = look_side(crop.shape[-1])
    picture = np.ascontiguousarray(crop.numpy().transpose(1, 2, 0))
    picture = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    # So that moving it by part of a pixel softens nothing, which would pass for a change at every edge.
    colour = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), _BLUR)
    return Look(
        np.asarray(colour, np.float32), np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
    )


class MotionMeter:
    """Measures motion by dense inverse search. Has scratch memory: not to be shared between threads.

    Source: Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016.
    """

    def __init__(self, *, quick: bool = False) -> None:
        """`quick` takes a tenth of the time, and places a face a little less exactly."""
        preset = cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST if quick else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        self._flow = cv2.DISOpticalFlow.create(preset)
        # Finer by an octave than the presets: lips and eyelids move by themselves.
        self._flow.setFinestScale(1 if quick else 0)

    def measure(self, now: Look, before: Look) -> Motion:
        """The motion from `before` to `now`, of equal size."""
        flow, back = self._between(now, before), self._between(before, now)
        x, y = _places(flow)
        returned = flow + cv2.remap(back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen = cv2.remap(before.colour, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        difference = now.colour - seen
        return _explained(flow, difference, now.luma, _consistency(flow, returned))

    def _between(self, now: Look, before: Look) -> NDArray[np.float32]:
        return np.asarray(self._flow.calc(now.luma, before.luma, None), np.float32)  # type: ignore[call-overload]


def unmoved(now: Look, before: Look) -> Motion:
    """`before` and `now` compared as they lie."""
    return _explained(None, now.colour - before.colour, now.luma, np.float32(1))


def carried(image: NDArray[np.float32], degraded: NDArray[np.float32], motion: Motion) -> NDArray[np.float32]:
    """The restored `image` of the earlier crop, carried into the later one, which is `degraded`; all (S, S, 3).

    With what changed beside motion; where motion explains nothing, the degraded crop as it is.
    """
    before = _moved(image, motion) + _full(motion.change, image.shape[0])
    return _mixed(degraded, before, motion.gate)


def steadied(
    image: NDArray[np.float32], before: NDArray[np.float32], motion: Motion, share: float
) -> NDArray[np.float32]:
    """The restored `image`, mixed with `share` of the earlier one, `before`, where motion explains what is seen."""
    # Without the change: added again and again, what is left at edges would sharpen them without end.
    return _mixed(image, _moved(before, motion), np.float32(share) * motion.gate)


def moved(image: NDArray[np.float32], motion: Motion) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The restored `image` (S, S, 3) of the earlier crop where it lies in the later one, and the gate (S, S)."""
    return _moved(image, motion), _full(motion.gate, image.shape[0])


def _moved(image: NDArray[np.float32], motion: Motion) -> NDArray[np.float32]:
    if motion.flow is None:
        return image
    x, y = _places(_full(motion.flow, image.shape[0]) * np.float32(image.shape[0] / motion.flow.shape[0]))
    # Cubic: linear softens what was restored, and Lanczos takes many times as long for little more.
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _mixed(
    image: NDArray[np.float32], before: NDArray[np.float32], gate: NDArray[np.float32]
) -> NDArray[np.float32]:
    return np.asarray(image + _full(gate, image.shape[0])[..., None] * (before - image), np.float32)


def _full(small: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def _places(flow: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x = np.arange(flow.shape[1], dtype=np.float32)
    return x + flow[..., 0], x[:, None] + flow[..., 1]


def _consistency(flow: NDArray[np.float32], returned: NDArray[np.float32]) -> NDArray[np.float32]:
    """How surely there and back leads to where it began: 1 up to half a pixel and a tenth of the way, 0 at three
    times as much."""
    allowed = 0.5 + 0.1 * np.hypot(flow[..., 0], flow[..., 1])
    apart = np.hypot(returned[..., 0], returned[..., 1])
    return np.asarray(np.clip(1.5 - 0.5 * apart / allowed, 0, 1), np.float32)


def _explained(
    flow: NDArray[np.float32] | None,
    difference: NDArray[np.float32],
    luma: NDArray[np.uint8],
    consistency: NDArray[np.float32] | np.float32,
) -> Motion:
    same = _agreement(difference, luma)
    # Saturated: what is almost surely the same keeps all of its restoration, or carried faces would be softer.
    gate = np.clip(2 * same - 0.4, 0, 1) * consistency
    # What is no more than grain stays out of the change, and what is more goes in without its grain.
    change = (1 - same)[..., None] * cv2.GaussianBlur(difference, (0, 0), 1)
    return Motion(flow, np.asarray(gate, np.float32), np.asarray(change, np.float32))


def _agreement(difference: NDArray[np.float32], luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How surely two crops that differ by `difference` (s, s, 3) show the same: float32 (s, s) in [0, 1].

    Measured by the usual difference of the two, so that grain and blocks do not count as change, but never by so
    much that a blink or a word would go unseen; at edges, what a seventh of a pixel of shift makes is allowed too.
    """
    size = np.asarray(cv2.GaussianBlur(strength(difference), (0, 0), 1), np.float32)
    slope = np.hypot(*(cv2.Sobel(luma, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (0, 1)))
    tolerance = min(3 + 1.5 * float(np.median(size)), 10) + 0.15 * cv2.GaussianBlur(slope, (0, 0), 1)
    return np.asarray(np.exp(-((size / tolerance) ** 2)), np.float32)


def strength(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean absolute `difference` (s, s, 3) over the colours: float32 (s, s)."""
    return np.asarray(cv2.transform(np.abs(difference), np.full((1, 3), 1 / 3, np.float32)), np.float32)


def is_same(motion: Motion) -> bool:
    """Whether motion explains enough of a face for it to be the same one, and uncovered."""
    return bool(motion.gate[face_region(len(motion.gate))].mean() >= _SAME)


def is_other(last: TrackedFace, face: TrackedFace) -> bool:
    """Something happened between two successive faces of a track, over which nothing may be used again."""
    if last.person_id is not None and face.person_id is not None and last.person_id != face.person_id:
        return True
    side = face.crop.shape[-1]
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float32)
    jump = transform(face.matrix, transform(invert(last.matrix), corners)) - corners
    turn = transform(face.matrix, face.face.landmarks) - transform(last.matrix, last.face.landmarks)
    return bool(np.hypot(*jump.T).max() > _JUMP * side or np.hypot(*turn.T).max() > _TURN * side)


def same_references(last: TrackedFace, face: TrackedFace) -> bool:
    """Neither the person nor their reference set has changed."""
    # A better set asks for a new restoration, but is mixed in: the person is the same, and must not pop.
    return (last.person_id, last.references.version) == (face.person_id, face.references.version)


def is_still(now: Look, before: Look) -> bool:
    """Two crops, compared as they lie, differ by no more than a codec's noise."""
    difference = cv2.blur(strength(now.colour - before.colour), (5, 5))
    difference = difference[face_region(len(difference))]
    return bool(np.median(difference) <= 1 and difference.max() <= 4)


def is_explained(motion: Motion) -> bool:
    """Motion explains the whole face: also no eye and no lip is left out, which are small shares of it."""
    refused = 1 - motion.gate
    side = len(refused)
    spot = max(side // 10, 1)
    return bool(refused.mean() <= 0.1 and cv2.blur(refused, (spot, spot))[face_region(side)].max() <= 0.3)


@lru_cache(maxsize=8)
def face_region(side: int) -> NDArray[np.bool_]:
    """Brows to chin in the FFHQ alignment, bool (s, s)."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return np.asarray(((x - 0.5) / 0.33) ** 2 + ((y - 0.56) / 0.38) ** 2 < 1)
