"""One passage of a batch through lens, sampling grid, noise and coding, and back to its own size.

Every sample has its own size of the grid. It lies somewhere in a canvas of whole macroblocks and its edges are
repeated around it, so that blocks begin anywhere and those at the border are coded as a codec pads them.

Shapes: B pictures, H W pixels, R N rows and columns of the canvas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.degradation.coding import MACROBLOCK_PX, block_code
from models.degradation.film import chroma_bleed, interlacing, scan_lines
from models.degradation.kernels import (
    BLURS,
    Draws,
    Numbers,
    apply_matrices,
    blur_kernels,
    blur_reach,
    column,
    convolve,
    derive,
    enlargement_centres,
    gaussian_matrix,
    normal,
    reduction_centres,
    sampling_matrix,
    soft_normal,
)

LENSES = (*BLURS, "gaussian")
"""Kinds of blur; the last is separable and costs nothing beside the resizing."""
_CANVAS_PARTS = (1, 2, 4)
"""Factors by which a canvas may be smaller than the picture: the largest that the grid's own factor reaches."""


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """What happens to each sample: arrays whose first axis is the batch."""

    lens: NDArray[np.int64]
    """Position in `LENSES`."""
    sigma: Numbers
    """Blur in pixels of the pictures; 0 for none."""
    axes: Numbers
    """Ratio of the axes of an anisotropic blur."""
    angle: Numbers
    """Of the blur, in rad."""
    grid_px: Numbers
    """Side of the whole crop on the grid, at most the crop's own."""
    reducing: NDArray[np.int64]
    """Position in `RESIZING`."""
    enlarging: NDArray[np.int64]
    noise: Numbers
    """Standard deviation, in [0, 1] as the pictures."""
    noise_spread: Numbers
    """Radius of its grains in pixels of the grid; 0 for white noise."""
    noise_colour: NDArray[np.bool_]
    """Each channel its own noise."""
    noise_shot: NDArray[np.bool_]
    """Grows with the square root of the brightness, as counted light does."""
    interlacing: Numbers
    """Strengths of `film.interlacing` and so on, on the grid."""
    scan_lines: Numbers
    chroma_bleed: Numbers
    coded: NDArray[np.bool_]
    tables: NDArray[np.float64]
    """(B, 2, 64), see `coding.block_code`."""
    rounding: Numbers
    smoothing: Numbers

    def take(self, index: NDArray[np.int64]) -> Passage:
        """The samples at `index`."""
        return Passage(**{part.name: getattr(self, part.name)[index] for part in dataclasses.fields(self)})


def through(pictures: Tensor, seeds: Sequence[int], passage: Passage, side_px: float) -> Tensor:
    """`pictures` float32 (B, 3, H, W) in [0, 1] after `passage`; the same shape, in [0, 1].

    `side_px`: side in pixels of the aligned crop of which the pictures are windows.
    """
    result = _through_lens(pictures, passage)
    ratio = side_px / passage.grid_px
    # By the sample's own ratio, so that the canvas does not depend on the neighbours.
    parts = np.array([max(part for part in _CANVAS_PARTS if part <= max(one, 1)) for one in ratio + 1e-9])
    for part in _CANVAS_PARTS:
        chosen = np.flatnonzero(parts == part)
        if len(chosen):
            index = torch.from_numpy(chosen).to(pictures.device)
            some = [seeds[place] for place in chosen.tolist()]
            result[index] = _over_grid(result[index], some, passage.take(chosen), ratio[chosen], part)
    return result


def _through_lens(pictures: Tensor, passage: Passage) -> Tensor:
    """All blurs but Gaussians, in groups of one size of kernel."""
    result = pictures.clone()
    blurred = np.flatnonzero((passage.lens < len(BLURS)) & (passage.sigma >= 0.2))
    reaches = np.array([blur_reach(int(passage.lens[one]), passage.sigma[one]) for one in blurred])
    for reach in np.unique(reaches):
        chosen = blurred[reaches == reach]
        index = torch.from_numpy(chosen).to(pictures.device)
        sigma, axes, angle = (
            column(values[chosen], pictures).reshape(-1)
            for values in (passage.sigma, passage.axes, passage.angle)
        )
        kernels = blur_kernels(passage.lens[chosen].tolist(), sigma, axes, angle, int(reach))
        result[index] = convolve(pictures[index], kernels)
    return result


def _over_grid(pictures: Tensor, seeds: list[int], passage: Passage, ratio: Numbers, part: int) -> Tensor:
    """Onto the grid, what happens there, and back; one size of canvas."""
    draws = Draws(seeds, "grid")
    lines = [
        _line(pictures, side, passage, ratio, np.floor(draws.uniform(0, MACROBLOCK_PX)), part)
        for side in pictures.shape[2:]
    ]
    (down, down_back), (across, across_back) = lines
    canvas = apply_matrices(down, pictures, across)
    canvas = _on_grid(canvas, seeds, passage)
    return apply_matrices(down_back, canvas, across_back).clamp(0, 1)


def _line(
    pictures: Tensor, side: int, passage: Passage, ratio: Numbers, offset: Numbers, part: int
) -> tuple[Tensor, Tensor]:
    """Matrices of one direction, onto the canvas (B, R, `side`) and back (B, `side`, R)."""

    def flat(values: Numbers) -> Tensor:
        return column(values, pictures).reshape(-1)

    rows = -(-(-(-side // part) + MACROBLOCK_PX - 1) // MACROBLOCK_PX) * MACROBLOCK_PX
    count = np.ceil(side / ratio - 1e-6)
    ratios, offsets = flat(ratio), flat(offset)
    centres = reduction_centres(rows, offsets, flat(count), ratios)
    onto = sampling_matrix(passage.reducing.tolist(), centres, ratios.clamp(min=1), side)
    gaussian = np.flatnonzero((passage.lens == len(BLURS)) & (passage.sigma >= 0.1))
    if len(gaussian):
        index = torch.from_numpy(gaussian).to(pictures.device)
        onto[index] = torch.bmm(onto[index], gaussian_matrix(flat(passage.sigma[gaussian]), side))
    places = enlargement_centres(side, offsets, ratios)
    back = sampling_matrix(passage.enlarging.tolist(), places, torch.ones_like(ratios), rows)
    return onto, back


def _on_grid(canvas: Tensor, seeds: list[int], passage: Passage) -> Tensor:
    for name, change in (
        ("interlacing", interlacing),
        ("chroma_bleed", chroma_bleed),
        ("scan_lines", scan_lines),
    ):
        strengths = getattr(passage, name)
        chosen = np.flatnonzero(strengths > 0)
        if len(chosen):
            index = torch.from_numpy(chosen).to(canvas.device)
            some = [seeds[place] for place in chosen.tolist()]
            canvas[index] = change(canvas[index], strengths[chosen], some, passage.grid_px[chosen])
    canvas = _noise(canvas, seeds, passage).clamp(0, 1)
    chosen = np.flatnonzero(passage.coded)
    if len(chosen):
        index = torch.from_numpy(chosen).to(canvas.device)
        some_passage = passage.take(chosen)
        canvas[index] = block_code(
            canvas[index], some_passage.tables, some_passage.rounding, some_passage.smoothing
        )
    return canvas


def _noise(canvas: Tensor, seeds: list[int], passage: Passage) -> Tensor:
    noisy = passage.noise >= 0.5 / 255
    for soft in (False, True):
        for coloured in (False, True):
            kind = noisy & ((passage.noise_spread > 0) == soft) & (passage.noise_colour == coloured)
            chosen = np.flatnonzero(kind)
            if not len(chosen):
                continue
            index = torch.from_numpy(chosen).to(canvas.device)
            some = derive([seeds[place] for place in chosen.tolist()], "noise")
            shape = (3 if coloured else 1, canvas.shape[2], canvas.shape[3])
            if soft:
                noise = soft_normal(some, "grains", shape, passage.noise_spread[chosen], canvas)
            else:
                noise = normal(some, "white", shape, canvas)
            noise = noise * column(passage.noise[chosen], canvas)
            some_canvas = canvas[index]
            shot = column(passage.noise_shot[chosen], canvas) > 0
            noise = torch.where(shot, noise * (2 * some_canvas.clamp(min=0) + 0.05).sqrt(), noise)
            canvas[index] = some_canvas + noise
    return canvas
