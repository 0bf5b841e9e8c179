"""Where a crop lies on a plane: what is read for it, and what is written of it.

Only positions are worked out here, so that `colour.py` and `tensors/` lay every crop at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Placement:
    """The rectangle of a plane that belongs to a crop, and how one becomes the other: reduced, softened, warped, in
    this order."""

    left: int
    top: int
    right: int
    bottom: int
    """Half-open, in samples of the plane."""
    factor: int
    """Each block of `factor` x `factor` samples of what is read from becomes their mean."""
    ratio: float
    """How many times the blocks are still shrunk; from `SOFT_FROM` on they are softened first."""
    warp: NDArray[np.float64]
    """(2, 3), blocks of what is read from to what is made."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reading(Placement):
    """From the rectangle to the crop."""

    mirrored: bool
    """Beyond the rectangle it is mirrored; otherwise its border goes on."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Writing(Placement):
    """From the crop to the rectangle."""


SOFT_FROM = 1.1
"""Shrinking by less than this is not worth softening."""


def reading(shape: tuple[int, ...], matrix: NDArray[np.float64], size: int) -> Reading:
    """How a crop of side `size` is read from a plane of `shape` (h, w) under `matrix` (2, 3), samples to crop."""
    linear, shift = matrix[:, :2].copy(), matrix[:, 2].copy()
    factor = max(1, int(1 / _magnification(matrix)))
    corners = np.linalg.solve(linear, _corners(size) - shift[:, None])
    low = np.floor(corners.min(1)).astype(int) - 3 * factor - 3
    high = np.ceil(corners.max(1)).astype(int) + 3 * factor + 4
    height, width = shape
    left, top = np.clip(low, 0, [width - 1, height - 1])
    right, bottom = np.clip(high, [left + 1, top + 1], [width, height])
    shift += linear @ (left, top)
    if factor > 1:
        shift += linear @ np.full(2, (factor - 1) / 2)
        linear *= factor
    # Mirrors are stepped through: a sliver of a frame, mirrored over and over, would take minutes.
    mirrored = 2 * (right - left) > high[0] - low[0] and 2 * (bottom - top) > high[1] - low[1]
    return Reading(
        left=int(left),
        top=int(top),
        right=int(right),
        bottom=int(bottom),
        factor=factor,
        ratio=1 / _magnification(linear),
        warp=np.hstack([linear, shift[:, None]]),
        mirrored=bool(mirrored),
    )


def writing(shape: tuple[int, ...], matrix: NDArray[np.float64], size: int) -> Writing | None:
    """How a crop of side `size` is written onto a plane of `shape` (h, w) under `matrix` (2, 3), samples to crop.

    None where it lies beside the plane.
    """
    height, width = shape
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    corners = inverse[:, :2] @ _corners(size) + inverse[:, 2:]
    left, top = np.clip(np.floor(corners.min(1)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(corners.max(1)).astype(int) + 1, 0, [width, height])
    if right <= left or bottom <= top:
        return None
    scale = _magnification(matrix)
    factor = max(1, int(scale))
    inverse[:, 2] += inverse[:, :2] @ np.full(2, (factor - 1) / 2) - (left, top)
    inverse[:, :2] *= factor
    return Writing(
        left=int(left),
        top=int(top),
        right=int(right),
        bottom=int(bottom),
        factor=factor,
        ratio=scale / factor,
        warp=inverse,
    )


def softness(ratio: float) -> float:
    """Standard deviation of the blur that takes away what would alias when shrinking `ratio` times (1 to 2).

    That of a box as wide as the samples that become one: so it goes on where blocks of samples are averaged, and a face
    that grows is read alike on both sides of twice the crop.
    """
    return float(np.sqrt((ratio**2 - 1) / 12))


def _corners(size: int) -> NDArray[np.float64]:
    """Outer corners of a crop of `size`, (2, 4)."""
    low, high = -0.5, size - 0.5
    return np.array([[low, high, low, high], [low, low, high, high]])


def _magnification(matrix: NDArray[np.float64]) -> float:
    """Lengths after the transform per length before."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
