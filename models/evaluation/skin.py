"""Texture of skin: how much of it there is, and at which frequencies, against the target's.

Cheeks and forehead lie at fixed places of the 256-pixel FFHQ crop, clear of eyes, brows, nose, mouth and
outline of a frontal face. Hair on a forehead or the outline of a turned head would pass for texture, so of the
places of each face only the calmest of the target count.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.training.degrade import Picture
from models.training.losses import gradient_energy

_SIDE_PX = 256
_CHEEK = ((78, 142), (104, 142), (107, 152), (99, 172), (88, 176), (79, 164))
_FOREHEAD = ((96, 66), (159, 66), (159, 88), (96, 88))
PATCH_PX = 24
_PATCH_CENTRES = ((93, 157), (162, 157), (112, 77), (143, 77))  # x, y: cheeks, forehead left and right
_COUNTED = 2
"""Places of a face that count."""
BANDS = {"low": (0.0625, 0.125), "mid": (0.125, 0.25), "high": (0.25, 0.5)}
"""Radial frequencies in cycles per pixel."""


def skin_ratio(picture: Picture, target: Picture) -> float:
    """Gradient energy on the calmest two of cheeks and forehead, of `picture` in parts of the target's."""
    own, wanted = _region_energies(picture), _region_energies(target)
    calmest = np.argsort(wanted)[:_COUNTED]
    return float(own[calmest].mean() / max(float(wanted[calmest].mean()), 1e-9))


def spectrum_ratios(picture: Picture, target: Picture) -> NDArray[np.float64]:
    """Power of the skin in each of `BANDS`, (3,), of `picture` in parts of the target's."""
    own, wanted = _band_powers(picture), _band_powers(target)  # (P, 3) each
    calmest = np.argsort(wanted.sum(1))[:_COUNTED]
    ratios: NDArray[np.float64] = own[calmest].mean(0) / np.maximum(wanted[calmest].mean(0), 1e-9)
    return ratios


@cache
def skin_regions() -> NDArray[np.bool_]:
    """Where the two cheeks and the forehead are, bool (3, 256, 256)."""
    masks = np.zeros((3, _SIDE_PX, _SIDE_PX), np.uint8)
    other_cheek = tuple((_SIDE_PX - 1 - x, y) for x, y in _CHEEK)
    for mask, polygon in zip(masks, (_CHEEK, other_cheek, _FOREHEAD), strict=True):
        cv2.fillPoly(mask, [np.array(polygon, np.int32)], (1,))
    return masks.astype(bool)


def _region_energies(image: Picture) -> NDArray[np.float64]:
    """Mean gradient energy of each region, (3,)."""
    tensor = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    energy = gradient_energy(tensor, 1)[0, 0].numpy()
    return np.array([energy[region].mean() for region in skin_regions()], np.float64)


def _band_powers(image: Picture) -> NDArray[np.float64]:
    """Mean power of brightness in each band, (patches, 3); a plane, the shading, is taken off before."""
    grey = image.astype(np.float64).mean(2)
    half = PATCH_PX // 2
    window = np.outer(np.hanning(PATCH_PX + 2)[1:-1], np.hanning(PATCH_PX + 2)[1:-1])
    frequencies = np.fft.fftfreq(PATCH_PX)
    radius = np.hypot(frequencies[:, None], frequencies[None])
    rings = [(radius >= low) & (radius < high) for low, high in BANDS.values()]
    rows = []
    for x, y in _PATCH_CENTRES:
        patch = grey[y - half : y + half, x - half : x + half]
        power = np.abs(np.fft.fft2(_without_plane(patch) * window)) ** 2
        rows.append([power[ring].mean() for ring in rings])
    return np.array(rows, np.float64)


def _without_plane(patch: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]]
    terms = np.stack([np.ones(patch.size), rows.ravel(), columns.ravel()], 1)
    coefficients, *_ = np.linalg.lstsq(terms, patch.ravel(), rcond=None)
    rest: NDArray[np.float64] = patch - (terms @ coefficients).reshape(patch.shape)
    return rest
