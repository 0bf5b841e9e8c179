"""Each kind of damage by itself and by name, for pictures of it and for tests.

Arguments as in `models.training.film`: strength 0 changes nearly nothing, 1 is the worst that training meets.

Shapes: B pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from models.training.batch_degrade import plain_passage
from models.training.coding import video_tables
from models.training.draws import Draws, Numbers, numbers
from models.training.film import (
    REFERENCE_SIDE_PX,
    Degradation,
    chroma_bleed,
    dust,
    film_grain,
    halftone,
    interlacing,
    scan_lines,
    scratches,
)
from models.training.kernels import RESIZING
from models.training.passage import through


def _blur(lens: str) -> Degradation:
    def degradation(
        pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike
    ) -> Tensor:
        strength, side = numbers(strengths, len(pictures)), _side(side_px)
        passage = plain_passage(
            len(pictures),
            lens=lens,
            sigma=strength * 14 * side / REFERENCE_SIDE_PX,
            angle=Draws(seeds, "angle").uniform(0, np.pi),
            grid_px=side,
        )
        return through(pictures, seeds, passage, side)

    return degradation


def _resized(kind: str) -> Degradation:
    """Down by up to 16 with the kernel `kind`, and up again with it where it is no box."""

    def degradation(
        pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike
    ) -> Tensor:
        side, count = _side(side_px), len(pictures)
        passage = plain_passage(
            count,
            grid_px=_grid(numbers(strengths, count), side),
            reducing=RESIZING.index(kind),
            enlarging=RESIZING.index("bilinear" if kind == "area" else kind),
        )
        return through(pictures, seeds, passage, side)

    return degradation


def _noise(spread: float) -> Degradation:
    def degradation(
        pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike
    ) -> Tensor:
        side, count = _side(side_px), len(pictures)
        noise = numbers(strengths, count) * 26 / 255
        passage = plain_passage(count, grid_px=side, noise=noise, noise_spread=spread)
        return through(pictures, seeds, passage, side)

    return degradation


def jpeg(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """JPEG from quality 95 to 20."""
    side, count = _side(side_px), len(pictures)
    passage = plain_passage(count, grid_px=side, quality=np.round(95 - 75 * numbers(strengths, count)))
    return through(pictures, seeds, passage, side)


def video(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """Blocks of a video codec with dead zone and loop filter, from quantiser 14 to 42."""
    side, count = _side(side_px), len(pictures)
    tables = video_tables(14 + 28 * numbers(strengths, count), np.full(count, 0.5))
    return through(pictures, seeds, plain_passage(count, grid_px=side, video=tables), side)


def low_bitrate_video(
    pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike
) -> Tensor:
    """A small picture, coded, enlarged: the blocks are as large as in an old stream."""
    side, count = _side(side_px), len(pictures)
    strength = numbers(strengths, count)
    tables = video_tables(14 + 20 * strength, np.full(count, 0.5))
    passage = plain_passage(count, grid_px=_grid(0.5 * strength, side), video=tables)
    return through(pictures, seeds, passage, side)


DEGRADATIONS: dict[str, Degradation] = {
    "Gaussian blur": _blur("gaussian"),
    "anisotropic blur": _blur("anisotropic"),
    "motion blur": _blur("motion"),
    "defocus": _blur("defocus"),
    "area resizing": _resized("area"),
    "bicubic resizing": _resized("bicubic"),
    "nearest resizing": _resized("nearest"),
    "white noise": _noise(0.0),
    "grainy noise": _noise(1.0),
    "JPEG": jpeg,
    "video blocks": video,
    "small coded video": low_bitrate_video,
    "interlacing": interlacing,
    "scan lines": scan_lines,
    "chroma bleed": chroma_bleed,
    "halftone": halftone,
    "film grain": film_grain,
    "scratches": scratches,
    "dust": dust,
}
"""Onto the degraded picture alone; changes of tone are in `tone.TONES`."""


def _side(side_px: ArrayLike) -> float:
    return float(np.asarray(side_px, np.float64).reshape(-1)[0])


def _grid(strength: Numbers, side: float) -> Numbers:
    """Grid for a reduction from 1 to 16 of what the crop has."""
    return np.floor(side / 16**strength)
