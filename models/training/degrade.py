"""What video, film and compression do to a face, with a seed for each sample.

All lengths are stated at the 512-pixel FFHQ crop of the literature and scaled by `side / 512`, so that a
picture of 256 pixels gets half the blur in pixels and ends at the same low resolution. Moderate and severe
are the ranges of ReF-LDM (arXiv 2412.05043): blur, down-sampling, noise, JPEG, in this order.

Shapes: B pictures, H W pixels (square).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.training.video_code import SMALLEST_PX, video_code

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

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


def degrade(pictures: Tensor, seeds: Sequence[int], preset: Preset, strength: float | None = None) -> Tensor:
    """`pictures` after blur, down-sampling, noise, JPEG and up-sampling.

    `pictures`: float32 (B, 3, H, W) in [0, 1], RGB; one seed for each, so a result does not depend on its
    neighbours. `strength` in [0, 1] fixes all four parameters at that part of their ranges; None draws each
    uniformly. Returns the same shape, in [0, 1].
    """
    results = []
    for picture, seed in zip(_to_uint8(pictures), seeds, strict=True):
        results.append(preset_sample(picture, seed, preset, strength))
    return _to_float(results)


def degrade_mixed(pictures: Tensor, seeds: Sequence[int], strengths: Sequence[float]) -> Tensor:
    """`pictures` after a random course of video-like damage, from hardly visible to severe.

    As `degrade`; `strengths` in [0, 1], one for each picture. Anisotropic, motion and defocus blur, random
    resizing kernels, grey, coloured and correlated noise, JPEG, shifted blocks and real video coding,
    often twice.
    """
    results = [
        mixed_sample(picture, seed, strength)
        for picture, seed, strength in zip(_to_uint8(pictures), seeds, strengths, strict=True)
    ]
    return _to_float(results)


def mixed_sample(picture: Picture, seed: int, strength: float) -> Picture:
    """One picture after the training mix; the form used where pictures rest as uint8."""
    random = np.random.default_rng(seed)
    side = picture.shape[0]
    scale = side / REFERENCE_SIDE_PX
    image = picture
    if random.random() < 0.85:
        image = _blur(image, random, strength * random.uniform(0.1, 1.0) * 14 * scale)
    reduction = 1 + (23 * strength**1.5) * random.uniform(0.1, 1.0)
    low_side = int(np.clip(REFERENCE_SIDE_PX / reduction, 12, side))
    image = _resize(image, low_side, random)
    image = _noise(image, random, strength * random.uniform(0, 1.2) * 22)
    image = _compress(image, random, strength)
    if random.random() < 0.4:
        middle = int(np.clip(low_side * random.uniform(1.0, 2.0), 12, side))
        image = _resize(image, middle, random)
        image = _blur(image, random, random.uniform(0, 1.2) * strength)
        image = _noise(image, random, strength * random.uniform(0, 8))
        image = _compress(image, random, 0.7 * strength)
    return _resize(image, side, random, enlarging=True)


def preset_sample(picture: Picture, seed: int, preset: Preset, strength: float | None) -> Picture:
    """One picture after `preset`; see `degrade`."""
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


def _blur(image: Picture, random: np.random.Generator, sigma: float) -> Picture:
    kind = random.random()
    if sigma < 0.2:
        return image
    if kind < 0.5:
        return _gaussian(image, sigma)
    if kind < 0.7:
        kernel = _anisotropic_kernel(sigma, random.uniform(0.2, 0.9), random.uniform(0, np.pi))
    elif kind < 0.88:
        kernel = _motion_kernel(3.4 * sigma, random.uniform(0, np.pi))
    else:
        kernel = _defocus_kernel(2 * sigma)
    return _clip(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _anisotropic_kernel(sigma: float, ratio: float, angle: float) -> NDArray[np.float32]:
    reach = max(1, round(2.5 * sigma))
    grid_y, grid_x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    along = grid_x * np.cos(angle) + grid_y * np.sin(angle)
    across = grid_y * np.cos(angle) - grid_x * np.sin(angle)
    return _normalised(np.exp(-0.5 * ((along / sigma) ** 2 + (across / max(ratio * sigma, 0.2)) ** 2)))


def _motion_kernel(length: float, angle: float) -> NDArray[np.float32]:
    reach = max(1, int(np.ceil(length / 2)))
    grid_y, grid_x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    along = grid_x * np.cos(angle) + grid_y * np.sin(angle)
    across = grid_y * np.cos(angle) - grid_x * np.sin(angle)
    inside = np.clip(length / 2 - np.abs(along) + 0.5, 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return _normalised(inside)


def _defocus_kernel(radius: float) -> NDArray[np.float32]:
    reach = max(1, int(np.ceil(radius)))
    grid_y, grid_x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    return _normalised(np.clip(radius + 0.5 - np.hypot(grid_x, grid_y), 0, 1))


def _normalised(kernel: NDArray[np.floating]) -> NDArray[np.float32]:
    weights: NDArray[np.float32] = (kernel / kernel.sum()).astype(np.float32)
    return weights


def _resize(image: Picture, side: int, random: np.random.Generator, enlarging: bool = False) -> Picture:
    kinds = (
        (cv2.INTER_LINEAR, cv2.INTER_CUBIC)
        if enlarging
        else (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_CUBIC)
    )
    kind = kinds[int(random.integers(len(kinds)))]
    if image.shape[0] == side:
        return image
    if side > image.shape[0] and kind == cv2.INTER_AREA:
        kind = cv2.INTER_LINEAR
    return _clip(cv2.resize(image, (side, side), interpolation=kind))


def _noise(image: Picture, random: np.random.Generator, sigma: float) -> Picture:
    kind = random.random()
    if sigma < 0.5 or kind < 0.2:
        return image
    height, width = image.shape[:2]
    channels = 1 if random.random() < 0.5 else 3
    grain = random.standard_normal((height, width, channels), dtype=np.float32)
    if kind < 0.5 and min(height, width) > 8:
        spread = random.uniform(0.5, 1.2)
        blurred = cv2.GaussianBlur(grain, (0, 0), spread).reshape(height, width, channels)
        grain = blurred.astype(np.float32)
        grain /= max(float(grain.std()), 1e-6)
    bright = image.astype(np.float32)
    if kind > 0.85:
        grain = grain * np.sqrt(bright / 127.5 + 0.05)
    return _clip(bright + sigma * grain)


def _compress(image: Picture, random: np.random.Generator, strength: float) -> Picture:
    kind = random.random()
    part = random.uniform(0, 1)
    if kind < 0.15:
        return image
    if kind < 0.5:
        return _jpeg(image, round(95 - 65 * part * strength))
    if kind < 0.62 and image.shape[0] >= SMALLEST_PX:
        return video_code(image, random, part * strength)
    return _block_code(image, random, round(85 - 65 * part * strength))


def _block_code(image: Picture, random: np.random.Generator, quality: int) -> Picture:
    """Blocks of a video codec: quantised at a random block offset, sometimes with a loop filter after."""
    top, left = (int(value) for value in random.integers(0, 8, 2))
    padded = _clip(cv2.copyMakeBorder(image, top, 8 - top, left, 8 - left, cv2.BORDER_REFLECT_101))
    coded = _jpeg(padded, quality)
    if random.random() < 0.5:
        coded = _clip(cv2.GaussianBlur(coded, (3, 3), random.uniform(0.3, 0.7)))
    height, width = image.shape[:2]
    return coded[top : top + height, left : left + width]


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


def _to_uint8(pictures: Tensor) -> list[Picture]:
    array = (pictures.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(picture) for picture in array]


def _to_float(pictures: Sequence[Picture]) -> Tensor:
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.to(torch.float32).div_(255).contiguous()
