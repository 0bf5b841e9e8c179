"""`blend.py`'s grain for all faces of a frame at once: measured on the device, made on the CPU.

It is made by the same generator as there, so that it is the same grain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.align import invert
from pipeline.media.coding import Coding
from pipeline.pixels.blend import LEAST_GRAIN, LEAST_SAMPLES, LUMA, made_grain, missing_grain
from pipeline.pixels.tensors.surface import Box, Surface, size_class
from pipeline.pixels.tensors.transfer import Transfer
from pipeline.pixels.tensors.warp import Pictures, edge, grid, inverse_of, mirror, warped_in_steps


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """The part of a frame under one crop, where grain may be missing."""

    face: int
    """Which of the faces of the frame this is."""
    box: Box
    """In pixels of the frame."""
    matrix: NDArray[np.float32]
    """(2, 3), frame to crop."""
    seed: int
    """Of the grain."""
    level: float
    """Standard deviation up to which noise is grain, in 8-bit code values."""


def grain_for(
    grounds: Sequence[Ground],
    surface: Surface,
    coding: Coding,
    delta: Tensor,
    weight: Tensor,
    coarse: Tensor | None,
    share: float,
    transfer: Transfer,
) -> dict[int, tuple[Box, Tensor]]:
    """For each face that lost some, where luma grain is to be added and the grain, float32 (h, w), 8-bit code values.

    `delta`, `weight`, `coarse`: of all faces, float32 (N, 3, S, S), (N, S, S) and (N, 4, S, S), as in `blend.py`.
    `surface` as decoded.
    """
    if not grounds:
        return {}
    groups: dict[int, list[Ground]] = {}
    for ground in grounds:
        groups.setdefault(size_class(ground.box), []).append(ground)
    away = torch.zeros_like(weight) if coarse is None else coarse[:, 3]
    added = delta if coarse is None else delta + coarse[:, :3]
    looks = [
        _measured(group, surface, coding, (delta, added, weight, away), transfer) for group in groups.values()
    ]
    # The one place where the CPU has to wait for what the device finds.
    figures = transfer.download(torch.cat([found for found, _ in looks])).tolist()
    parts = [part for _, weights in looks for part in weights]
    lost: list[tuple[Ground, Tensor, NDArray[np.float32]]] = []
    sorted_grounds = [ground for group in groups.values() for ground in group]
    for ground, part, (then, now, samples, is_changed) in zip(sorted_grounds, parts, figures, strict=True):
        missing = missing_grain(min(then, ground.level), now, share)
        if is_changed and samples >= LEAST_SAMPLES and missing >= LEAST_GRAIN:
            left, top, right, bottom = ground.box
            noise = made_grain(ground.seed, (right - left, bottom - top), missing)
            lost.append((ground, part[: bottom - top, : right - left], noise))
    if not lost:
        return {}
    made = torch.split(transfer.upload([noise for *_, noise in lost]), [noise.size for *_, noise in lost])
    return {
        ground.face: (ground.box, grain.view(part.shape) * part)
        for (ground, part, _), grain in zip(lost, made, strict=True)
    }


def _measured(
    grounds: Sequence[Ground],
    surface: Surface,
    coding: Coding,
    changes: tuple[Tensor, Tensor, Tensor, Tensor],
    transfer: Transfer,
) -> tuple[Tensor, Tensor]:
    """What is found at each of `grounds`, and how far each pixel there is changed, float32 (N, h, w) in [0, 1].

    `changes`, of all faces: the difference, with what is finer than the crop taken into account, the weights of the one
    and of the other. Found, double (N, 4): noise before and after, pixels that are looked at, whether anything changes.
    """
    delta, added, weight, away = changes
    height = max(ground.box[3] - ground.box[1] for ground in grounds)
    width = max(ground.box[2] - ground.box[0] for ground in grounds)
    table = transfer.upload([np.array([_row_of(surface, coding, ground) for ground in grounds])])
    table = table.view(len(grounds), -1)
    face, heights, widths, stride, *starts = table[:, :-6].long().unbind(1)
    inverse = table[:, -6:].reshape(-1, 2, 3).repeat(3, 1, 1)
    codes = [Pictures(surface.samples, start, stride, heights, widths) for start in starts]
    before = _luma(codes, height, width, coding)
    red, green, blue = (added[face, i] * float(LUMA[i]) for i in range(3))
    all_three = Pictures.stacked(torch.cat([red + green + blue, weight[face], away[face]]))
    change, part, gone = warped_in_steps(all_three, inverse, height, width).chunk(3)
    y, x = torch.arange(height, device=delta.device)[:, None], torch.arange(width, device=delta.device)
    inside = (part > 0.5) & (y < heights[:, None, None]) & (x < widths[:, None, None])
    levels = [noise_levels(luma, inside, heights, widths) for luma in (before, before * (1 - gone) + change)]
    found = [*levels, inside.sum((1, 2)), (delta[face] != 0).any(3).any(2).any(1)]
    return torch.stack([each.double() for each in found], 1), part


def noise_levels(luma: Tensor, inside: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """`blend.noise_level` of each of `luma` (N, h, w), `height` and `width` of which are its own, where `inside`.

    Float32 (N,); anything where there is nothing inside.
    """
    y = torch.arange(luma.shape[1], device=luma.device)[:, None]
    x = torch.arange(luma.shape[2], device=luma.device)
    rows, columns = height[:, None, None], width[:, None, None]
    pictures = Pictures.stacked(luma)
    # 1, -2, 1 across and down; beyond the border pictures are mirrored.
    left, right = (pictures.at(edge(y, rows), mirror(x + step, columns)) for step in (-1, 1))
    lines = Pictures.stacked(left - 2 * luma + right)
    above, below = (lines.at(mirror(y + step, rows), edge(x, columns)) for step in (-1, 1))
    response = (above - 2 * lines.samples.view(luma.shape) + below).abs()
    ordered = torch.where(inside, response, torch.inf).flatten(1).sort(1).values
    count = inside.sum((1, 2))
    middle = torch.stack([(count - 1).clamp(min=0) // 2, count // 2], 1).clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, middle).mean(1) / 0.6745 / 6


def _luma(codes: Sequence[Pictures], height: int, width: int, coding: Coding) -> Tensor:
    """8-bit full range, as in `colour.luma_region`; `codes` of each plane that holds some of it."""
    places = grid(codes[0], height, width)
    values = [pictures.at(*places) for pictures in codes]
    if coding.kind == "rgb":
        green, blue, red = (value * coding.luma_scale for value in values)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    return (values[0] - coding.luma_offset) * coding.luma_scale


def _row_of(surface: Surface, coding: Coding, ground: Ground) -> list[float]:
    """Row of the table for one ground: which face, its size, where it begins in each plane, its transform."""
    left, top, right, bottom = ground.box
    planes = range(3 if coding.kind == "rgb" else 1)
    starts = [surface.start(plane, left, top) for plane in planes]
    placed = invert(ground.matrix).astype(np.float64)
    placed[:, 2] -= (left, top)
    return [ground.face, bottom - top, right - left, surface.stride(0), *starts, *inverse_of(placed).flat]
