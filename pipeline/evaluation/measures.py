"""Measures of a face over time, and the pixels they are taken over: the same for every setting.

The only warping error and flicker of the project, also for `bench`. Luma is float32 in 8-bit code values.
Legend: H W pixels of a window of the frame, K landmarks, D width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.align import invert, transform
from models.pictures import gradient_energy
from models.protocols import Face
from pipeline.pixels.blend import crop_mask

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMALLEST_PX = 32
"""Minimum side of a window for measuring motion."""
SIDE_PX = 256
"""Side of the aligned crop."""
FACE_SQUARE = np.s_[47:225, 39:217]
"""Rows and columns of the largest upright square of the crop inside the face region."""
_FEWEST_PIXELS = 100
_FEATHER_PX = 32
_RIM_PX = 26
_PAD_PX = 32


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Motion of the pixels of a window to the next frame."""

    flow: Plane
    """float32 (H, W, 2), x y: pixel p of the first frame is at p + flow(p) in the second."""
    seen: Mask
    """bool (H, W): the pixel is visible in both frames."""


class FlowMeter:
    """Dense inverse search (Kroeger et al., ECCV 2016), in both directions."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def measure(self, first: Plane, second: Plane) -> Motion:
        """Motion from `first` to `second`, luma (H, W) each, both sides at least `SMALLEST_PX`."""
        codes = [np.clip(np.rint(luma), 0, 255).astype(np.uint8) for luma in (first, second)]
        forward = self._flow.calc(codes[0], codes[1], None)  # type: ignore[call-overload]
        backward = self._flow.calc(codes[1], codes[0], None)  # type: ignore[call-overload]
        return consistent(np.asarray(forward, np.float32), np.asarray(backward, np.float32))


def consistent(forward: Plane, backward: Plane) -> Motion:
    """The flow `forward` (H, W, 2), and where `backward` agrees with it.

    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, b sampled at the end of f (Sundaram et al., ECCV 2010).
    """
    height, width = forward.shape[:2]
    x, y = _ends(forward)
    back = np.asarray(cv2.remap(backward, x, y, cv2.INTER_LINEAR), np.float32)
    squares = (forward**2).sum(-1) + (back**2).sum(-1)
    seen = ((forward + back) ** 2).sum(-1) < 0.01 * squares + 0.5
    seen &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return Motion(forward, seen)


def warping_error(first: Plane, second: Plane, motion: Motion, inside: Mask) -> float | None:
    """Mean of |second(p + flow(p)) - first(p)| over the pixels p seen in both frames and `inside`; code values.

    E_warp of Lai et al. (ECCV 2018), with absolute differences. None with less than 100 such pixels.
    """
    counted = motion.seen & inside
    if counted.sum() < _FEWEST_PIXELS:
        return None
    warped = cv2.remap(second, *_ends(motion.flow), cv2.INTER_LINEAR)
    return float(np.abs(warped - first)[counted].mean())


def sharpness(luma: Plane, inside: Mask) -> float | None:
    """Mean gradient energy of `luma` (H, W) `inside`, squared code values; None with less than 100 pixels."""
    if inside.sum() < _FEWEST_PIXELS:
        return None
    energy = gradient_energy(torch.from_numpy(np.ascontiguousarray(luma))[None, None], 1)[0, 0].numpy()
    return float(energy[inside].mean())


def relative_change(before: float, now: float) -> float:
    """Flicker of a positive measure: |now - before| relative to the mean of both, in [0, 2]; 0 if both are 0."""
    mean = (abs(before) + abs(now)) / 2
    return abs(now - before) / mean if mean else 0.0


def embedding_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Distance of two embeddings (D,) of unit length, in [0, 2]: sqrt(2 - 2 cosine). Raw ones are normalised."""
    return float(np.linalg.norm(unit(first) - unit(second)))


def unit(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """`embedding` (D,) at length 1."""
    return np.asarray(embedding / max(float(np.linalg.norm(embedding)), 1e-6), np.float32)


def landmark_jitter(
    before: NDArray[np.float32], now: NDArray[np.float32], after: NDArray[np.float32], eye_distance_px: float
) -> float:
    """Mean length of the second difference of landmarks (K, 2) over three frames, in eye distances.

    Straight motion at one speed has none.
    """
    bend = np.linalg.norm(before - 2 * now + after, axis=1)
    return float(bend.mean()) / eye_distance_px


def _ends(flow: Plane) -> tuple[Plane, Plane]:
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return np.asarray(x + flow[..., 0], np.float32), np.asarray(y + flow[..., 1], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One face of one frame, tracked once for all settings."""

    track_id: int
    face: Face
    """With smoothed landmarks."""
    matrix: NDArray[np.float32]
    """float32 (2, 3), frame to the FFHQ crop of 256 pixels."""
    target: NDArray[np.float32] | None = None
    """float32 (D,), embedding of the ground truth; None without one."""


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
    """The part of a frame of `width` x `height` with the face and its rim under each of `matrices`."""
    low, high = -0.5 - _PAD_PX, SIDE_PX - 0.5 + _PAD_PX
    corners = np.array([[low, low], [high, low], [low, high], [high, high]], np.float32)
    points = np.concatenate([transform(invert(matrix), corners) for matrix in matrices])
    left, top = np.clip(np.floor(points.min(0)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(points.max(0)).astype(int) + 1, [left, top], [width, height])
    return Window(int(left), int(top), int(right), int(bottom))


def regions(matrix: NDArray[np.float32], window: Window) -> tuple[Mask, Mask]:
    """Masks of the face, where blending uses more than half of it, and of a rim a tenth of the crop wide around it.

    bool (H, W) each, over `window`. The rim covers the soft edge of the blending and the pixels just outside.
    """
    back = invert(matrix)
    back[:, 2] -= back[:, :2] @ np.full(2, _PAD_PX, np.float32) + (window.left, window.top)
    shape = (window.right - window.left, window.bottom - window.top)
    face, rim = (cv2.warpAffine(mask, back, shape, flags=cv2.INTER_LINEAR) > 0.5 for mask in _masks())
    return np.asarray(face), np.asarray(rim)


@cache
def _masks() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Face and rim in the crop with `_PAD_PX` of padding."""
    face = np.pad((crop_mask(SIDE_PX, _FEATHER_PX) > 0.5).astype(np.float32), _PAD_PX)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _RIM_PX + 1, 2 * _RIM_PX + 1))
    return face, np.asarray(cv2.dilate(face, disc) - face, np.float32)
