"""Where a face is measured: the same pixels of the frame for every setting, so that rows can be compared.

Legend: H W pixels of a window of the frame, S = 256 side of the aligned crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.align import invert, transform
from models.face import Face
from pipeline.evaluation.measures import Mask
from pipeline.pixels.blend import crop_mask

SIDE_PX = 256
"""S."""
FACE_SQUARE = np.s_[47:225, 39:217]
"""Rows and columns of the largest upright square of the crop that the face region holds."""
_FEATHER_PX = 32
_RIM_PX = 26
_PAD_PX = 32


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One face of one frame, as it was followed once for all settings."""

    track_id: int
    face: Face
    """With smoothed landmarks."""
    matrix: NDArray[np.float32]
    """float32 (2, 3), frame to the FFHQ crop of 256 pixels."""
    target: NDArray[np.float32] | None = None
    """float32 (D,), embedding of the ground truth here; None without one."""


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open rectangle of the frame."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def smaller_side_px(self) -> int:
        return min(self.right - self.left, self.bottom - self.top)


def window_around(matrices: list[NDArray[np.float32]], width: int, height: int) -> Window:
    """The part of a frame of `width` x `height` that holds the face and its rim under each of `matrices`."""
    low, high = -0.5 - _PAD_PX, SIDE_PX - 0.5 + _PAD_PX
    corners = np.array([[low, low], [high, low], [low, high], [high, high]], np.float32)
    points = np.concatenate([transform(invert(matrix), corners) for matrix in matrices])
    left, top = np.clip(np.floor(points.min(0)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(points.max(0)).astype(int) + 1, [left, top], [width, height])
    return Window(int(left), int(top), int(right), int(bottom))


def regions(matrix: NDArray[np.float32], window: Window) -> tuple[Mask, Mask]:
    """The face, where blending uses more than half of it, and a rim a tenth of the crop wide around it.

    bool (H, W) each, over `window`. The rim holds the blending's soft edge and what lies just beyond.
    """
    back = invert(matrix)
    back[:, 2] -= back[:, :2] @ np.full(2, _PAD_PX, np.float32) + (window.left, window.top)
    shape = (window.right - window.left, window.bottom - window.top)
    face, rim = (cv2.warpAffine(mask, back, shape, flags=cv2.INTER_LINEAR) > 0.5 for mask in _masks())
    return np.asarray(face), np.asarray(rim)


@cache
def _masks() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Face and rim in the crop and `_PAD_PX` around it."""
    face = np.pad((crop_mask(SIDE_PX, _FEATHER_PX) > 0.5).astype(np.float32), _PAD_PX)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _RIM_PX + 1, 2 * _RIM_PX + 1))
    return face, np.asarray(cv2.dilate(face, disc) - face, np.float32)
