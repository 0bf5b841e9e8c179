"""How much of a face on screen is detail: what its film shows beyond the network's crop, and the film's own grain.

Sizes on screen say nothing of that: a face of 900 pixels that was filmed out of focus has less detail than a crop of
256 pixels holds. Legend: n side of the aligned luma window, 256 to 512.
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from models.align import scale_of
from models.quality import ramp
from pipeline.frames import Detail
from pipeline.pixels.colour import luma_region, luma_window
from pipeline.pixels.geometry import Geometry

CROP_PX = 256
"""Side of the crop that every face fits into; what is asked is what lies beyond it."""
_MOST_PX = 2 * CROP_PX
_ENLARGED = 1.1
"""Scale of the face on screen relative to the crop above which there is detail beyond the crop."""
_FLAT = (0.7, 0.2)
"""Energy of the flattest quarter of a face against that of the quarter with most detail, in the band beyond the crop.
Signal sits in eyes, brows and hair, noise is everywhere: .01 to .3 in clean portraits, .6 to .9 in noise."""
_SIGNAL = (0.12, 0.18)
"""Amplitude of that band's signal against all that is finer than 64 pixels: .18 to .46 in sharp portraits, below
.15 where they were reduced to 256 pixels or less, blurred by a pixel of 512 or more, or coded in blocks after that."""
_DARK = 20.0
"""Squared code values, so that rounding is no detail in a nearly black face."""
_ROWS, _COLUMNS, _TILE_PX = slice(72, 216), slice(64, 192), 16
"""Brows to chin in 256 pixels of the FFHQ alignment, and tiles of it."""
_GRAIN_PX = 32
_SAME_GRAIN = (0.5, 0.25)
"""Correlation of two successive frames' grain: film draws it anew for each, a codec copies it."""
_SOFT_GRAIN = (0.9, 0.7)
"""Level after 2 x 2 samples were averaged, in parts of that before: .5 of white noise, 1 and more of blocks and of
noise that was enlarged with its picture."""
_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def mean_detail(fines: Sequence[float], grains: Sequence[float | None]) -> Detail:
    """Of one face over several frames; a grain of None, where it could not be measured, does not count."""
    known = [grain for grain in grains if grain is not None]
    return Detail(float(np.mean(fines)), float(np.mean(known)) if known else 0.0)


def fine_of(native: av.VideoFrame, landmarks: NDArray[np.float32], geometry: Geometry) -> float:
    """`Detail.fine` of the face with these `landmarks` (5, 2) in `native`; 1 where a crop holds all that is shown."""
    enlarged = 1 / scale_of(geometry.crop_matrix(landmarks, CROP_PX))
    if enlarged < _ENLARGED:
        return 1.0
    side = min(round(CROP_PX * enlarged), _MOST_PX)
    return fine_share(luma_window(native, geometry.crop_matrix(landmarks, side), side))


def fine_share(luma: NDArray[np.uint8]) -> float:
    """The same of an aligned window (n, n) that is larger than 256 pixels."""
    whole = luma.astype(np.float32)
    held = _resized(whole, CROP_PX)
    beyond = _sorted_tiles(_resized((whole - _resized(held, len(whole))) ** 2, CROP_PX))
    coarse = _sorted_tiles((held - _resized(_resized(held, CROP_PX // 4), CROP_PX)) ** 2)
    quarter = len(beyond) // 4
    flat, most = float(beyond[:quarter].mean()), float(beyond[-quarter:].mean())
    signal = (max(most - flat, 0.0) / (float(coarse[-quarter:].mean()) + _DARK)) ** 0.5
    return ramp(flat / max(most, 1e-6), _FLAT) * ramp(signal, _SIGNAL)


def film_grain(native: av.VideoFrame, before: av.VideoFrame | None) -> float | None:
    """`Detail.grain` of a frame, from the flattest half of its tiles; None without the frame `before`, of equal size.

    Film grain and a camera's noise are nearly white, everywhere, and new in every frame.
    """
    if before is None or (native.width, native.height) != (before.width, before.height):
        return None
    found = []
    for top in np.linspace(0, native.height - _GRAIN_PX, 4).astype(int):
        for left in np.linspace(0, native.width - _GRAIN_PX, 6).astype(int):
            box = int(left), int(top), int(left) + _GRAIN_PX, int(top) + _GRAIN_PX
            now = luma_region(native, *box)
            # Black and white bars, and what is clipped, have no grain to be measured.
            if now.shape == (_GRAIN_PX, _GRAIN_PX) and 24 < now.mean() < 232:
                found.append(_grain_of(now, luma_region(before, *box)))
    if len(found) < 4:
        return 0.0
    flattest = np.array(sorted(found)[: (len(found) + 1) // 2])
    level, soft, same = np.median(flattest, axis=0)
    return float(level) * ramp(float(same), _SAME_GRAIN) * ramp(float(soft), _SOFT_GRAIN)


def _grain_of(now: NDArray[np.float32], before: NDArray[np.float32]) -> tuple[float, float, float]:
    """Level, level after averaging in parts of it, and correlation with the frame before, of one tile."""
    fresh, old = (cv2.filter2D(tile, cv2.CV_32F, _KERNEL)[1:-1, 1:-1] for tile in (now, before))
    half = cv2.resize(now, (_GRAIN_PX // 2, _GRAIN_PX // 2), interpolation=cv2.INTER_AREA)
    averaged = cv2.filter2D(half, cv2.CV_32F, _KERNEL)[1:-1, 1:-1]
    level, after = (float(np.median(np.abs(part))) / 0.6745 / 6 for part in (fresh, averaged))
    length = float(np.sqrt((fresh**2).sum() * (old**2).sum()))
    return level, after / max(level, 1e-6), float((fresh * old).sum()) / max(length, 1e-6)


def _resized(picture: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    how = cv2.INTER_AREA if side < len(picture) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=how), np.float32)


def _sorted_tiles(energy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of the face's tiles of `energy` (256, 256), in rising order."""
    face = energy[_ROWS, _COLUMNS]
    height, width = face.shape
    tiles = face.reshape(height // _TILE_PX, _TILE_PX, width // _TILE_PX, _TILE_PX)
    return np.sort(tiles.mean((1, 3)), axis=None)
