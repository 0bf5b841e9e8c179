"""What a flow restorer learns from: a degraded crop, its target, and other views of the person.

Where the set has one picture of a person only, a view is the same picture turned, stretched and lit otherwise, so
strongly that copying it cannot be the answer.

Shapes: S side of a picture.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.training.degrade import MODERATE, SEVERE, Picture, mixed_sample, preset_sample


def degraded_pair(picture: Picture, random: np.random.Generator) -> tuple[Picture, Picture]:
    """(degraded, target) of one picture, both mirrored, moved and toned alike; some pairs are undamaged."""
    target = _toned(_moved(picture, random, angle=2.5, scale=0.04, shift_px=3), random, 0.4, 0.1)
    kind, strength, seed = random.random(), random.random(), int(random.integers(2**62))
    if kind < 0.64:
        return mixed_sample(target, seed, strength), target
    if kind < 0.96:
        return preset_sample(target, seed, MODERATE if kind < 0.8 else SEVERE, None), target
    return target, target


def another_view(picture: Picture, random: np.random.Generator) -> Picture:
    """`picture` as a view of another moment: turned, stretched, lit otherwise, at times a little degraded."""
    side = picture.shape[0]
    view = _moved(picture, random, angle=6, scale=0.08, shift_px=6)
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    pulled = corners + random.normal(0, 0.04 * side, (4, 2)).astype(np.float32)
    view = cv2.warpPerspective(
        view,
        cv2.getPerspectiveTransform(corners, pulled),
        (side, side),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.uint8)
    view = _lit(_toned(view, random, 0.8, 0.1), random)
    if random.random() < 0.5:
        view = mixed_sample(view, int(random.integers(2**62)), random.uniform(0, 0.25))
    return view


def to_tensor(pictures: list[Picture]) -> Tensor:
    """float32 (B, 3, S, S) in [0, 1] of pictures uint8 (S, S, 3)."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.float().div_(255).contiguous(memory_format=torch.channels_last)


def to_pictures(tensor: Tensor) -> list[Picture]:
    """The way back of `to_tensor`, clipped."""
    return list((tensor.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _moved(
    picture: Picture, random: np.random.Generator, *, angle: float, scale: float, shift_px: float
) -> Picture:
    """Mirrored at times, turned and moved by normal amounts about the middle of the face."""
    side = picture.shape[0]
    image: NDArray[Any] = picture[:, ::-1] if random.random() < 0.5 else picture
    degrees, size = random.normal(0, angle), float(np.exp(random.normal(0, scale)))
    matrix: NDArray[Any] = cv2.getRotationMatrix2D((side / 2, side * 0.58), degrees, max(size, 0.85))
    matrix[:, 2] += random.normal(0, shift_px * side / 256, 2)
    return cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.uint8)


def _toned(picture: Picture, random: np.random.Generator, often: float, grey: float) -> Picture:
    """Exposure, black point and colour of the light; at times black-and-white."""
    values: NDArray[Any] = picture.astype(np.float32)
    if random.random() < grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
    if random.random() < often:
        gain = random.uniform(0.7, 1.2) * random.uniform(0.93, 1.07, 3).astype(np.float32)
        values = values * gain + random.uniform(-8, 12)
    codes: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return codes


def _lit(picture: Picture, random: np.random.Generator) -> Picture:
    """Light from one side, and a contrast of its own."""
    side = picture.shape[0]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    direction, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 0.3)
    light = 1 + strength * (np.cos(direction) * x + np.sin(direction) * y)
    values = (picture / 255.0) ** random.uniform(0.75, 1.35) * light[:, :, None]
    codes: Picture = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return codes
