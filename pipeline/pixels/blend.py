"""Stage 5: restored crops go back into the frame, without a seam, a colour shift or a plastic patch.

What is written is a difference: restored crop minus degraded crop, masked, on top of the decoder's own planes. So a
restorer that changes nothing changes no sample, and of a face that is larger on screen than the crop the restorer
gives the coarse and middle bands; the band beyond the crop is the film's own as far as it is signal or film grain, and
gives way as far as it is noise and blocks (`detail.py`).
Legend: S side of the crop, H W the frame.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from models.align import invert, scale_of, transform
from models.quality import ramp
from pipeline.frames import Patch, RestoredFace, RestoredFrame, TrackedFace
from pipeline.pixels.colour import add_patches, luma_region

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G and B in what counts as brightness here: BT.601, any set that sums to 1 would do."""
LEAST_GRAIN = 0.25
"""In 8-bit code values: less that is missing is not missed."""
_BEYOND = (0.9, 0.65)
"""Crop pixels per pixel of the frame: what is finer than the crop gives way from the first value on, and fully at the
second."""
_FILM = (0.5, 1.5)
"""Level of film grain from which on it stays as it is in the band beyond the crop."""
GrainKind = Literal["auto", "film", "damage"]
LEAST_SAMPLES = 256
"""Pixels of the frame in which grain can be measured."""


@dataclass(frozen=True, slots=True)
class BlendConfig:
    """How a restored face is put back."""

    strength: float = 1.0
    """0 leaves every face as it was, 1 uses the full restoration."""
    feather: float = 0.06
    """Width of the mask's soft edge, as a share of the crop's side on screen."""
    min_feather_px: float = 4.0
    """The soft edge is never narrower than this many pixels of the frame."""
    colour_match: float = 1.0
    """How far colour and brightness of wide areas are kept as they were in the source."""
    grain: float = 0.7
    """Share of the film's grain that is given back where restoration removed it."""
    grain_kind: GrainKind = "auto"
    """What the noise of a source is: `film`, grain that belongs to it; `damage`, which restoration is to remove;
    `auto`: grain as far as it is nearly white, all over the frame and new in each one; in photos, damage."""
    steadiness: float = 0.8
    """Share of the frame before that is used where the face did not change; 0 restores each frame by itself."""
    seed: int = 0
    """Seed of the grain."""

    def __post_init__(self) -> None:
        for name in ("strength", "colour_match", "grain"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if not 0 <= self.steadiness < 1:
            raise ValueError(f"steadiness must be in [0, 1), got {self.steadiness}")
        if not 0 < self.feather <= 0.3:
            raise ValueError(f"feather must be in (0, 0.3], got {self.feather}")
        if self.grain_kind not in get_args(GrainKind):
            raise ValueError(f"grain_kind must be auto, film or damage, got {self.grain_kind!r}")
        if self.min_feather_px < 0:
            raise ValueError(f"min_feather_px must not be negative, got {self.min_feather_px}")


def blend(frame: RestoredFrame, config: BlendConfig) -> av.VideoFrame:
    """The picture of `frame` with its restored faces; the decoder's own frame object where nothing changes."""
    native = frame.tracked.frame.native
    patches = [
        _patch(native, face, config, monochrome=frame.tracked.monochrome)
        for face in frame.faces
        if strength_of(face, config) > 0
    ]
    return add_patches(native, patches) if patches else native


def strength_of(face: RestoredFace, config: BlendConfig) -> float:
    """How much of the restoration of `face` is used, in [0, 1]."""
    return face.tracked.strength * face.allowed * config.strength


def _patch(native: av.VideoFrame, face: RestoredFace, config: BlendConfig, *, monochrome: bool) -> Patch:
    tracked = face.tracked
    size = int(tracked.crop.shape[-1])
    mask = crop_mask(size, feather_px(tracked.matrix, size, config))
    if face.free is not None:
        mask = mask * face.free.numpy()
    degraded = tracked.crop.numpy().transpose(1, 2, 0).astype(np.float32)
    delta = face.image.numpy().transpose(1, 2, 0).astype(np.float32) - degraded
    if monochrome:
        # A grey difference touches no colour plane.
        delta = np.repeat((delta @ LUMA)[..., None], 3, axis=2)
    if config.colour_match:
        delta = delta - config.colour_match * _wide_area(delta, mask)
    weight = mask * np.float32(strength_of(face, config))
    delta = delta * weight[..., None]
    if not delta.any():
        return Patch(delta, mask, tracked.matrix, None)
    away = giving_way(tracked, config)
    coarse = np.dstack([degraded, np.ones_like(weight)]) * (away * weight)[..., None] if away else None
    patch = Patch(delta, mask, tracked.matrix, None, coarse=coarse)
    level = grain_level(tracked, config)
    if not level:
        return patch
    grain, origin = _grain(native, patch, weight, level, config, tracked.track_id)
    return replace(patch, grain=grain, grain_origin=origin)


def giving_way(face: TrackedFace, config: BlendConfig) -> np.float32:
    """How far what is finer than the crop of `face` gives way to what was restored, in [0, 1]."""
    # What a crop that is hardly smaller than the face leaves out is not noise alone, but what resampling costs.
    beyond = ramp(scale_of(face.matrix), _BEYOND)
    own = max(face.detail.fine, ramp(grain_level(face, config), _FILM))
    return np.float32(beyond * (1 - own))


def grain_level(face: TrackedFace, config: BlendConfig) -> float:
    """Standard deviation, in 8-bit code values, up to which noise around `face` is grain that belongs to the film."""
    if not config.grain or config.grain_kind == "damage":
        return 0.0
    return face.detail.grain if config.grain_kind == "auto" else np.inf


def feather_px(matrix: NDArray[np.float32], size: int, config: BlendConfig) -> int:
    """Soft edge in crop pixels, quantised so that it is steady while a face slowly changes size."""
    width = max(config.feather * size, config.min_feather_px * scale_of(matrix))
    return int(np.clip(8 * round(width / 8), 8, size // 3))


@lru_cache(maxsize=32)
def crop_mask(size: int, feather: int) -> NDArray[np.float32]:
    """Where an aligned crop is used: float32 (size, size) in [0, 1], 0 at the border, 1 on the face.

    A rounded square from forehead to chin; `feather` is the width of its edge in crop pixels.
    """
    centre_y, half = 0.53 * size, 0.48 * size
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    distance = ((np.abs(x - size / 2) / half) ** 4 + (np.abs(y - centre_y) / half) ** 4) ** 0.25
    inside = np.clip((1 - distance) * half / feather, 0, 1)
    mask = inside * inside * (3 - 2 * inside)
    border = np.minimum(np.minimum(x, size - x), np.minimum(y, size - y))
    mask *= np.clip((border - 1) / 6, 0, 1)
    mask.setflags(write=False)
    return np.asarray(mask, np.float32)


def _wide_area(delta: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of `delta` (S, S, 3) that changes only over a third of the face, measured inside the mask."""
    small = 32
    area = cv2.resize(mask, (small, small), interpolation=cv2.INTER_AREA)
    part = cv2.resize(delta * mask[..., None], (small, small), interpolation=cv2.INTER_AREA)
    sigma = small / 6
    blurred = (
        cv2.GaussianBlur(part, (0, 0), sigma)
        / np.maximum(cv2.GaussianBlur(area, (0, 0), sigma), 1e-3)[..., None]
    )
    side = delta.shape[0]
    wide = cv2.resize(blurred, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide, np.float32)


def _grain(
    native: av.VideoFrame,
    patch: Patch,
    weight: NDArray[np.float32],
    level: float,
    config: BlendConfig,
    track_id: int,
) -> tuple[NDArray[np.float32] | None, tuple[int, int]]:
    """Luma grain that makes up for what `patch` takes away of grain up to `level`, and its place in the frame."""
    place = grain_place(native, patch.matrix, weight.shape[0])
    if place is None:
        return None, (0, 0)
    left, top, right, bottom = place
    before = luma_region(native, left, top, right, bottom)
    shift = invert(patch.matrix)
    shift[:, 2] -= (left, top)
    shape = (right - left, bottom - top)
    layers = [patch.delta @ LUMA, weight]
    if patch.coarse is not None:
        layers = [layers[0] + patch.coarse[..., :3] @ LUMA, weight, patch.coarse[..., 3]]
    warped = cv2.warpAffine(np.dstack(layers), shift, shape, flags=cv2.INTER_LINEAR)
    inside = warped[..., 1] > 0.5
    if inside.sum() < LEAST_SAMPLES:
        return None, (0, 0)
    stays = before if patch.coarse is None else before * (1 - warped[..., 2])
    source, after = noise_level(before, inside), noise_level(stays + warped[..., 0], inside)
    missing = missing_grain(min(source, level), after, config.grain)
    if missing < LEAST_GRAIN:
        return None, (0, 0)
    noise = made_grain(grain_seed(native.pts, track_id, config.seed), shape, missing)
    return np.asarray(noise * warped[..., 1], np.float32), (left, top)


def grain_place(
    native: av.VideoFrame, matrix: NDArray[np.float32], size: int
) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (half-open) of the frame's part under a crop; None where it is too small for grain."""
    corners = transform(invert(matrix), np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float32))
    left, top = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    right = min(int(np.ceil(corners[:, 0].max())) + 1, native.width)
    bottom = min(int(np.ceil(corners[:, 1].max())) + 1, native.height)
    return None if right - left < 16 or bottom - top < 16 else (int(left), int(top), right, bottom)


def missing_grain(before: float, after: float, share: float) -> float:
    """Standard deviation of the grain that makes up for `share` of what was lost from `before` to `after`."""
    return float(np.sqrt(max(before**2 - after**2, 0.0)) * share)


def made_grain(seed: int, shape: tuple[int, int], level: float) -> NDArray[np.float32]:
    """Grain of this standard deviation; `shape` is width, height."""
    noise = np.random.default_rng(seed).standard_normal((shape[1], shape[0]), np.float32)
    # Film grain and sensor noise that went through a codec are slightly soft.
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.4), np.float32)
    noise *= np.float32(level / noise_level(noise, np.ones(noise.shape, bool)))
    return noise


def noise_level(luma: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Standard deviation of grain in `luma` (H, W) where `inside`, in the units of `luma`.

    The median of a second difference that ignores ramps and edges. Source: Immerkaer, "Fast noise variance
    estimation", CVIU 1996, with the median for the mean so that features of the face do not count as noise.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel))[inside]
    return float(np.median(response) / 0.6745 / 6)


def grain_seed(pts: int | None, track_id: int, seed: int) -> int:
    """Of the grain of one face in one frame."""
    # From the frame and the track alone, so that grain does not depend on batching, chunks or other faces.
    return zlib.crc32(f"{seed}/{pts}/{track_id}".encode())
