"""When a restored face may be used again: what happened between two faces of a track, and what motion explains of it.

Legend: S side of an aligned crop in pixels, s the side at which motion is measured.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.align import invert, transform
from pipeline.frames import TrackedFace
from pipeline.reuse_motion import Look, Motion, strength

_SAME = 0.5
"""A face of which motion explains less than this share is another face, or a covered one."""
_JUMP = 0.25
"""Share of the crop's side that its corners never move from one frame to the next on one and the same face."""
_TURN = 0.05
"""Share of the crop's side that no landmark moves within the crop."""


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
