"""Measures of a moving face: what changes from frame to frame though nothing in the film does.

Luma is float32 in 8-bit code values. Legend: H W pixels of a window, K landmarks, D width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.pictures import gradient_energy

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMALLEST_PX = 32
"""Side of a window below which no motion is measured."""
_FEWEST_PIXELS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Where the pixels of a window are in the next frame."""

    flow: Plane
    """float32 (H, W, 2), x y: pixel p of the first frame is at p + flow(p) in the second."""
    seen: Mask
    """bool (H, W): the pixel is seen in both frames."""


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
    """The flow `forward` (H, W, 2), with the pixels that `backward` leads back to where they came from.

    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, b read at the end of f (Sundaram et al., ECCV 2010).
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
    """|now - before| in parts of the mean of both, in [0, 2]; 0 where both are 0."""
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
