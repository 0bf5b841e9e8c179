"""What video, film and compression do to faces, for a whole batch on its own device.

Lenses, sampling, noise, coding, old film, print and analogue television, in tensors alone; real video streams are made
beforehand (`stills`). Each sample has its own seed and strength and depends neither on its neighbours nor on the size
of the batch. Changes of tone (`film.tone`) are applied apart, because the target needs them too.

All lengths are stated at the 512-pixel FFHQ crop and scaled by `side_px / 512`, where `side_px` is the side of
the aligned crop in pixels of the given pictures: a window of a crop is degraded like a part of the crop.

Shapes: B pictures, H W pixels (any).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from models.degradation.coding import jpeg_tables, video_tables
from models.degradation.film import Degradation, dust, film_grain, halftone, scratches
from models.degradation.kernels import RESIZING, Draws, Numbers, derive, numbers
from models.degradation.passage import LENSES, Passage, through
from models.degradation.stills import MODERATE, REFERENCE_SIDE_PX, SEVERE, Preset

SMALLEST_GRID_PX = 12
_FILM: tuple[tuple[Degradation, float], ...] = (
    (halftone, 0.03),
    (film_grain, 0.14),
    (scratches, 0.05),
    (dust, 0.05),
)
"""What lies on the picture before it meets a camera, with its chance."""
_LENS_CHANCES = (0.2, 0.18, 0.12, 0.5)
_REDUCING_CHANCES = (0.55, 0.1, 0.2, 0.1, 0.05)
_ENLARGING_CHANCES = (0.0, 0.47, 0.4, 0.1, 0.03)
_AREA, _BILINEAR = RESIZING.index("area"), RESIZING.index("bilinear")


@torch.no_grad()
def degrade_batch(
    pictures: Tensor,
    seeds: Sequence[int],
    strengths: ArrayLike,
    side_px: float,
    noise_seeds: Sequence[int] | None = None,
) -> Tensor:
    """`pictures` after a random course of damage, from hardly visible to severe.

    `pictures`: float32 (B, 3, H, W) in [0, 1], RGB, on any device. `strengths`: in [0, 1], one or (B,).
    Film and print, blur, reduction, fields and lines, noise, coding, enlarging; in two of five samples all but
    the first a second time and weaker (the second order of Real-ESRGAN, arXiv 2107.10833). `noise_seeds`: of noise,
    grain and the place of the blocks, where they shall differ between pictures of one course, as in the frames of a
    clip; None = `seeds`. Returns the same shape in [0, 1]. Raises `ValueError` for other shapes or another number of
    seeds.
    """
    strength = _checked(pictures, seeds, strengths)
    grains = seeds if noise_seeds is None else noise_seeds
    result = _filmed(pictures, seeds, grains, strength, side_px)
    first = _first_passage(Draws(seeds, "first"), strength, side_px)
    result = through(result, derive(grains, "first noise"), first, side_px)
    draws = Draws(seeds, "second")
    again = draws.uniform() < 0.4
    second = _second_passage(draws, strength, first.grid_px, side_px)
    chosen = np.flatnonzero(again)
    if len(chosen):
        index = torch.from_numpy(chosen).to(pictures.device)
        some = derive([grains[place] for place in chosen.tolist()], "second noise")
        result[index] = through(result[index], some, second.take(chosen), side_px)
    return result


@torch.no_grad()
def preset_batch(
    pictures: Tensor,
    seeds: Sequence[int],
    preset: Preset,
    side_px: float,
    noise_seeds: Sequence[int] | None = None,
) -> Tensor:
    """`pictures` after blur, down-sampling, noise, JPEG and up-sampling in the ranges of `preset`.

    As `degrade.preset_sample` with the strength None, and with the same parameters for the same seed; the
    blocks begin anywhere. Arguments as `degrade_batch`.
    """
    _checked(pictures, seeds, 0.0)
    parts = np.array([np.random.default_rng(seed).random(4) for seed in seeds]).T
    sigma, reduction, noise, quality = (
        low + part * (high - low)
        for (low, high), part in zip(
            (preset.blur_sigma, preset.reduction, preset.noise, preset.jpeg_quality), parts, strict=True
        )
    )
    passage = plain_passage(
        len(seeds),
        sigma=sigma * side_px / REFERENCE_SIDE_PX,
        grid_px=np.minimum(side_px, np.round(REFERENCE_SIDE_PX / reduction)),
        noise=noise / 255,
        quality=np.round(quality),
    )
    return through(pictures, seeds if noise_seeds is None else noise_seeds, passage, side_px)


@torch.no_grad()
def degrade_by_kind(
    pictures: Tensor,
    kinds: NDArray[np.int64],
    strengths: Numbers,
    seeds: Sequence[int],
    side_px: float,
    noise_seeds: Sequence[int] | None = None,
) -> Tensor:
    """`pictures` after the free course where `kinds`, (B,), is 0, `MODERATE` where 1, `SEVERE` where 2, else unchanged.

    `strengths`: (B,) of the free course. Other arguments as `degrade_batch`.
    """
    degraded = pictures.clone()
    for kind, preset in enumerate((None, MODERATE, SEVERE)):
        chosen = np.flatnonzero(kinds == kind)
        if not len(chosen):
            continue
        index = torch.from_numpy(chosen).to(pictures.device)
        some, grains = ([each[place] for place in chosen.tolist()] for each in (seeds, noise_seeds or seeds))
        if preset is None:
            degraded[index] = degrade_batch(pictures[index], some, strengths[chosen], side_px, grains)
        else:
            degraded[index] = preset_batch(pictures[index], some, preset, side_px, grains)
    return degraded


def _checked(pictures: Tensor, seeds: Sequence[int], strengths: ArrayLike) -> Numbers:
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise ValueError(f"pictures must be float (B, 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}")
    if len(seeds) != len(pictures):
        raise ValueError(f"one seed for each of {len(pictures)} pictures is needed, got {len(seeds)}")
    strength = numbers(strengths, len(pictures))
    if ((strength < 0) | (strength > 1)).any():
        raise ValueError(f"strengths must lie in [0, 1], got {strength.min():g} to {strength.max():g}")
    return strength


def _filmed(
    pictures: Tensor, seeds: Sequence[int], grains: Sequence[int], strength: Numbers, side_px: float
) -> Tensor:
    result = pictures.clone()
    draws = Draws(seeds, "film")
    for change, chance in _FILM:
        there = draws.uniform() < chance
        own = strength * draws.uniform(0.2, 1.0)
        chosen = np.flatnonzero(there & (own > 0.01))
        if len(chosen):
            index = torch.from_numpy(chosen).to(pictures.device)
            some = [grains[place] for place in chosen.tolist()]
            result[index] = change(result[index], own[chosen], some, side_px).clamp(0, 1)
    return result


def _first_passage(draws: Draws, strength: Numbers, side_px: float) -> Passage:
    sigma = strength * draws.uniform(0.1, 1.0) * 14 * side_px / REFERENCE_SIDE_PX
    reduction = 1 + 23 * strength**1.5 * draws.uniform(0.1, 1.0)
    return _drawn_passage(
        draws,
        sigma=np.where(draws.uniform() < 0.85, sigma, 0.0),
        grid_px=np.clip(np.floor(REFERENCE_SIDE_PX / reduction), min(SMALLEST_GRID_PX, side_px), side_px),
        noise=strength * draws.uniform(0, 1.2) * 22 / 255,
        coding=strength,
        lines=strength,
    )


def _second_passage(draws: Draws, strength: Numbers, grid_px: Numbers, side_px: float) -> Passage:
    larger = np.minimum(side_px, np.floor(grid_px * draws.uniform(1.0, 2.0)))
    return _drawn_passage(
        draws,
        sigma=strength * draws.uniform(0, 1.2) * side_px / larger,
        grid_px=larger,
        noise=strength * draws.uniform(0, 8) / 255,
        coding=0.7 * strength,
        lines=np.zeros_like(strength),
    )


def _drawn_passage(
    draws: Draws, *, sigma: Numbers, grid_px: Numbers, noise: Numbers, coding: Numbers, lines: Numbers
) -> Passage:
    """`noise`, `coding` and `lines` set the worst that may come; the kinds are drawn."""
    kind = draws.choice((0.15, 0.35, 0.5))  # uncoded, JPEG, video
    part = draws.uniform() * coding
    video = video_tables(22 + 20 * part, draws.uniform(0, 3) * (draws.uniform() < 0.5))
    tables = np.where((kind == 2)[:, None, None], video, jpeg_tables(np.round(95 - 65 * part)))
    noise_kind = draws.choice((0.2, 0.35, 0.3, 0.15))  # none, white, in grains, by the light

    def sometimes(chance: float) -> Numbers:
        return np.where(draws.uniform() < chance, lines * draws.uniform(0.2, 1.0), 0.0)

    return Passage(
        lens=draws.choice(_LENS_CHANCES),
        sigma=sigma,
        axes=draws.uniform(0.2, 0.9),
        angle=draws.uniform(0, np.pi),
        grid_px=grid_px,
        reducing=draws.choice(_REDUCING_CHANCES),
        enlarging=draws.choice(_ENLARGING_CHANCES),
        noise=np.where(noise_kind == 0, 0.0, noise),
        noise_spread=np.where(noise_kind == 2, draws.uniform(0.5, 1.2), 0.0),
        noise_colour=draws.uniform() < 0.5,
        noise_shot=noise_kind == 3,
        interlacing=sometimes(0.1),
        scan_lines=sometimes(0.05),
        chroma_bleed=sometimes(0.12),
        coded=kind > 0,
        tables=tables,
        rounding=np.where(kind == 2, draws.uniform(0.25, 0.5), 0.5),
        smoothing=np.where((kind == 2) & (draws.uniform() < 0.6), draws.uniform(0.4, 1.0), 0.0),
    )


def plain_passage(
    count: int,
    *,
    lens: str = "gaussian",
    sigma: ArrayLike = 0.0,
    axes: ArrayLike = 0.3,
    angle: ArrayLike = 0.0,
    grid_px: ArrayLike,
    reducing: int = _AREA,
    enlarging: int = _BILINEAR,
    noise: ArrayLike = 0.0,
    noise_spread: ArrayLike = 0.0,
    quality: ArrayLike = 100.0,
    video: NDArray[np.float64] | None = None,
) -> Passage:
    """A passage of `count` samples in which nothing happens but what is named."""
    nothing, never = np.zeros(count), np.zeros(count, bool)
    return Passage(
        lens=np.full(count, LENSES.index(lens)),
        sigma=numbers(sigma, count),
        axes=numbers(axes, count),
        angle=numbers(angle, count),
        grid_px=numbers(grid_px, count),
        reducing=np.full(count, reducing),
        enlarging=np.full(count, enlarging),
        noise=numbers(noise, count),
        noise_spread=numbers(noise_spread, count),
        noise_colour=~never,
        noise_shot=never,
        interlacing=nothing,
        scan_lines=nothing,
        chroma_bleed=nothing,
        coded=np.full(count, True) if video is not None else numbers(quality, count) < 100,
        tables=jpeg_tables(numbers(quality, count)) if video is None else video,
        rounding=np.full(count, 0.5 if video is None else 0.33),
        smoothing=nothing if video is None else np.full(count, 0.7),
    )
