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
from pipeline.blend import LEAST_GRAIN, LEAST_SAMPLES, LUMA, made_grain, missing_grain
from pipeline.coding import Coding
from pipeline.device.surface import Box, Surface
from pipeline.device.transfer import Transfer
from pipeline.device.warp import Pictures, along, inverse_of, mirror, warped_in_steps


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


def grain_for(
    grounds: Sequence[Ground],
    surface: Surface,
    coding: Coding,
    delta: Tensor,
    weight: Tensor,
    share: float,
    transfer: Transfer,
) -> dict[int, tuple[Box, Tensor]]:
    """For each face that lost some, where luma grain is to be added and the grain, float32 (h, w), 8-bit code values.

    `delta`, `weight`: of all faces, float32 (N, 3, S, S) and (N, S, S), as in `blend.py`. `surface` as decoded.
    """
    if not grounds:
        return {}
    height = max(ground.box[3] - ground.box[1] for ground in grounds)
    width = max(ground.box[2] - ground.box[0] for ground in grounds)
    table = transfer.upload([np.array([_told(surface, coding, ground) for ground in grounds])])
    table = table.view(len(grounds), -1)
    face, heights, widths, stride, *starts = table[:, :-6].long().unbind(1)
    inverse = table[:, -6:].reshape(-1, 2, 3).repeat(2, 1, 1)
    codes = [Pictures(surface.samples, start, stride, heights, widths) for start in starts]
    rows = torch.arange(height, device=delta.device)[:, None].expand(len(grounds), -1, -1)
    columns = torch.arange(width, device=delta.device).expand(len(grounds), 1, -1)
    before = _luma(
        codes,
        torch.minimum(rows, along(heights - 1, rows)),
        torch.minimum(columns, along(widths - 1, rows)),
        coding,
    )
    chosen = delta[face]
    change = sum((chosen[:, i] * float(LUMA[i]) for i in range(3)), start=torch.zeros_like(weight[face]))
    both = Pictures.stacked(torch.cat([change, weight[face]]))
    change, share_in = warped_in_steps(both, inverse, height, width).chunk(2)
    inside = (share_in > 0.5) & (rows < along(heights, rows)) & (columns < along(widths, rows))
    levels = [noise_levels(luma, inside, heights, widths) for luma in (before, before + change)]
    found = [*levels, inside.sum((1, 2)), (delta[face] != 0).any(3).any(2).any(1)]
    # The one place where the CPU has to wait for a measurement.
    measured = transfer.download(torch.stack([each.double() for each in found], 1)).tolist()
    made = []
    for number, (ground, (then, now, samples, is_changed)) in enumerate(zip(grounds, measured, strict=True)):
        missing = missing_grain(then, now, share)
        if is_changed and samples >= LEAST_SAMPLES and missing >= LEAST_GRAIN:
            left, top, right, bottom = ground.box
            made.append((number, made_grain(ground.seed, (right - left, bottom - top), missing)))
    if not made:
        return {}
    noise, end = transfer.upload([grain for _, grain in made]), 0
    result = {}
    for number, grain in made:
        start, end = end, end + grain.size
        part = share_in[number, : grain.shape[0], : grain.shape[1]]
        result[grounds[number].face] = grounds[number].box, noise[start:end].view(grain.shape) * part
    return result


def noise_levels(luma: Tensor, inside: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """`blend.noise_level` of each of `luma` (N, h, w) where `inside`, float32 (N,), `height` and `width` of which are
    its own. Anything where there is nothing inside."""
    rows = torch.arange(luma.shape[1], device=luma.device)[:, None].expand(len(luma), -1, -1)
    columns = torch.arange(luma.shape[2], device=luma.device).expand(len(luma), 1, -1)
    across = _second_difference(luma, rows, columns, height, width, along_rows=False)
    response = _second_difference(across, rows, columns, height, width, along_rows=True).abs()
    ordered = torch.where(inside, response, torch.inf).flatten(1).sort(1).values
    count = inside.sum((1, 2))
    middle = torch.stack([(count - 1).clamp(min=0) // 2, count // 2], 1).clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, middle).mean(1) / 0.6745 / 6


def _second_difference(
    luma: Tensor, rows: Tensor, columns: Tensor, height: Tensor, width: Tensor, *, along_rows: bool
) -> Tensor:
    """1, -2, 1 of neighbours; beyond the border pictures are mirrored."""
    pictures = Pictures.stacked(luma, height, width)
    down, right = (1, 0) if along_rows else (0, 1)
    before, after = (
        pictures.at(mirror(rows + step * down, height), mirror(columns + step * right, width))
        for step in (-1, 1)
    )
    return before - 2 * luma + after


def _luma(codes: Sequence[Pictures], rows: Tensor, columns: Tensor, coding: Coding) -> Tensor:
    """8-bit full range, as in `colour.luma_region`; `codes` of each plane that holds some of it."""
    values = [pictures.at(rows, columns) for pictures in codes]
    if coding.kind == "rgb":
        green, blue, red = (value * coding.luma_scale for value in values)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    return (values[0] - coding.luma_offset) * coding.luma_scale


def _told(surface: Surface, coding: Coding, ground: Ground) -> list[float]:
    """What the device is told of one ground: which face, its size, where it begins in each plane, its transform."""
    left, top, right, bottom = ground.box
    planes = range(3 if coding.kind == "rgb" else 1)
    starts = [surface.start(plane, left, top) for plane in planes]
    placed = invert(ground.matrix).astype(np.float64)
    placed[:, 2] -= (left, top)
    return [ground.face, bottom - top, right - left, surface.stride(0), *starts, *inverse_of(placed).flat]
