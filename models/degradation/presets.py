"""The two published presets of damage, on single pictures with a real JPEG encoder: for evaluation.

Moderate and severe are the ranges of ReF-LDM (arXiv 2412.05043): blur, down-sampling, noise, JPEG, in this
order. All lengths are stated at the 512-pixel FFHQ crop of the literature and scaled by `side / 512`, so that a
picture of 256 pixels gets half the blur in pixels and ends at the same low resolution. Training has more kinds
of damage, in batch on its device: `batch_degrade`.

Shapes: H W pixels (square).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.pictures import Picture

REFERENCE_SIDE_PX = 512


@dataclass(frozen=True, slots=True)
class Preset:
    """Ranges from harmless to worst; blur in pixels of a 512-pixel crop, noise in code values."""

    blur_sigma: tuple[float, float]
    reduction: tuple[float, float]
    noise: tuple[float, float]
    jpeg_quality: tuple[float, float]
    """Worst last, so falling."""


MODERATE = Preset(blur_sigma=(0, 8), reduction=(1, 8), noise=(0, 15), jpeg_quality=(100, 60))
SEVERE = Preset(blur_sigma=(8, 16), reduction=(8, 32), noise=(0, 20), jpeg_quality=(100, 30))


def preset_sample(picture: Picture, seed: int, preset: Preset, strength: float | None) -> Picture:
    """`picture` after blur, down-sampling, noise, JPEG and up-sampling; the same shape.

    `strength` in [0, 1] fixes all four parameters at that part of their ranges; None draws each uniformly.
    """
    random = np.random.default_rng(seed)
    parts = random.random(4) if strength is None else np.full(4, strength)
    side = picture.shape[0]
    scale = side / REFERENCE_SIDE_PX
    sigma, reduction, noise, quality = (
        low + part * (high - low)
        for (low, high), part in zip(
            (preset.blur_sigma, preset.reduction, preset.noise, preset.jpeg_quality), parts, strict=True
        )
    )
    image = _gaussian(picture, sigma * scale)
    low_side = min(side, round(REFERENCE_SIDE_PX / reduction))
    image = _clip(cv2.resize(image, (low_side, low_side), interpolation=cv2.INTER_AREA))
    noisy = image.astype(np.float32) + random.normal(0, 1, image.shape).astype(np.float32) * noise
    image = _jpeg(_clip(noisy), round(quality))
    return _clip(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR))


def _gaussian(image: Picture, sigma: float) -> Picture:
    if sigma < 0.1:
        return image
    return _clip(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def _jpeg(image: Picture, quality: int) -> Picture:
    if quality >= 100:
        return image
    image_bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, coded = cv2.imencode(".jpg", image_bgr, (cv2.IMWRITE_JPEG_QUALITY, max(quality, 1)))
    decoded_bgr: NDArray[Any] = cv2.imdecode(coded, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return _clip(cv2.cvtColor(decoded_bgr, cv2.COLOR_BGR2RGB))


def _clip(image: NDArray[Any]) -> Picture:
    """Code values; OpenCV's results come without a dtype for the type checker."""
    codes: Picture = image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return codes
