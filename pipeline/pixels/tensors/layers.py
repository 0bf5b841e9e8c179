"""`colour.add_patches` for all faces of a frame at once, on a device.

Legend: S side of a crop, N faces, P planes of a layer, h w a rectangle of a plane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.media.coding import Coding, Plane
from pipeline.pixels.placement import SOFT_FROM, Writing, writing
from pipeline.pixels.tensors.surface import Box, Surface, size_class
from pipeline.pixels.tensors.transfer import Transfer
from pipeline.pixels.tensors.warp import KERNEL, Pictures, inverse_of, kernel_of, softened, warped


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Planes whose samples lie at the same places."""

    planes: range
    legal: tuple[float, float]
    """Codes, both ends included."""
    has_grain: bool
    places: dict[int, Writing]
    """Of each face, by its number, that does not lie beside the planes."""


Change = tuple[Tensor, Tensor]
"""Where the mask does not vanish, bool (h, w), and what is added there, float32 (P, h, w), in codes; with one plane
more, the share of what is there that gives way to it."""


def layers_of(
    coding: Coding, planes: Sequence[Plane], matrices: Sequence[NDArray[np.float32]], size: int
) -> list[Layer]:
    """Those of a frame with these `planes`, for crops of side `size` under `matrices` (2, 3), frame to crop."""
    split = [range(1), range(1, 3)] if coding.kind == "yuv" else [range(len(planes))]
    layers = []
    for chroma, numbers in enumerate(split):
        shape = planes[numbers[0]].shape
        found = [writing(shape, coding.to_plane(matrix, chroma=bool(chroma)), size) for matrix in matrices]
        places = {number: place for number, place in enumerate(found) if place is not None}
        layers.append(
            Layer(numbers, coding.chroma_range if chroma else coding.luma_range, not chroma, places)
        )
    return layers


def onto_planes(images: Tensor, layer: Layer, transfer: Transfer) -> dict[int, Change]:
    """`images`, float32 (1 + P, N, S, S): the mask and differences of codes (and, last, what gives way), at each face's
    place on the planes."""
    kinds = {number: (place.factor, size_class(place.box)) for number, place in layer.places.items()}
    changes: dict[int, Change] = {}
    for kind in sorted(set(kinds.values())):
        chosen = [number for number in kinds if kinds[number] == kind]
        group = [layer.places[number] for number in chosen]
        rows = [[number, *_row_of(layer.places[number])] for number in chosen]
        table = transfer.upload([np.array(rows)]).view(len(group), -1)
        part = images[:, table[:, 0].long()]
        if kind[0] > 1:
            part = _reduced(part, kind[0])
        support = part[:1]
        if any(place.ratio >= SOFT_FROM for place in group):
            kernels = table[:, 1 : 1 + KERNEL].repeat(len(part), 1)
            soft = softened(
                Pictures.stacked(part.flatten(0, 1)), kernels, part.shape[2], part.shape[3], bits=0
            )
            part = soft.samples.view(part.shape)
        inverse = table[:, 1 + KERNEL :].float().view(-1, 2, 3)
        height = max(place.bottom - place.top for place in group)
        width = max(place.right - place.left for place in group)

        # Cubic keeps detail, but only what is linear and not softened keeps the mask's support.
        inside = _laid(support, inverse, height, width, cubic=False)[0] > 0
        laid = _laid(part[1:], inverse, height, width, cubic=True)
        for index, (number, place) in enumerate(zip(chosen, group, strict=True)):
            rows_of, columns_of = slice(place.bottom - place.top), slice(place.right - place.left)
            changes[number] = inside[index, rows_of, columns_of], laid[:, index, rows_of, columns_of]
    return changes


def add(
    changes: Mapping[int, Change],
    layer: Layer,
    surface: Surface,
    grain: Mapping[int, tuple[Box, Tensor]],
    grain_scale: float,
) -> None:
    """Adds `changes`, and the `grain` of a face times `grain_scale`, to `surface`, face by face.

    In their order and rounded each time: where faces overlap, the result is that of adding one after the other.
    """
    low, high = layer.legal
    for number, place in layer.places.items():
        inside, change = changes[number]
        if number in grain:
            added = _with_grain(change[: len(layer.planes)], place.box, *grain[number], grain_scale)
            change = torch.cat([added, change[len(layer.planes) :]])
        share = change[-1] if len(change) > len(layer.planes) else None
        for plane, of_plane in zip(layer.planes, change, strict=share is None):
            region = surface.region(plane, place.box)
            added = of_plane if share is None else of_plane - share * region
            after = (region + added).round_()
            # A sample that is outside the legal range already may stay where it is.
            after = torch.minimum(torch.maximum(after, region.clamp(max=low)), region.clamp(min=high))
            region.copy_(torch.where(inside, after, region))


def _with_grain(change: Tensor, box: Box, grain_box: Box, grain: Tensor, scale: float) -> Tensor:
    """`change` (P, h, w) in `box` with the part of `grain`, which fills `grain_box`, that lies there."""
    left, top = max(box[0], grain_box[0]), max(box[1], grain_box[1])
    right, bottom = min(box[2], grain_box[2]), min(box[3], grain_box[3])
    if right <= left or bottom <= top:
        return change
    part = grain[top - grain_box[1] : bottom - grain_box[1], left - grain_box[0] : right - grain_box[0]]
    around = left - box[0], box[2] - right, top - box[1], box[3] - bottom
    return change + F.pad(part * scale, around)


def _laid(images: Tensor, inverse: Tensor, height: int, width: int, *, cubic: bool) -> Tensor:
    """`images` (K, N, S, S) under `inverse` (N, 2, 3): (K, N, `height`, `width`), nothing beyond the crops."""
    pictures, inverse = Pictures.stacked(images.flatten(0, 1)), inverse.repeat(len(images), 1, 1)
    laid = warped(pictures, inverse, height, width, cubic=cubic, mirrored=None)
    return laid.view(len(images), -1, height, width)


def _reduced(images: Tensor, factor: int) -> Tensor:
    """`images` (K, N, S, S) with each block of `factor` x `factor` replaced by its mean; beyond them are zeros."""
    more = -images.shape[-1] % factor
    whole = F.pad(images, (0, more, 0, more))
    side = whole.shape[-1] // factor
    blocks = whole.view(*images.shape[:2], side, factor, side, factor)
    return blocks.double().mean((3, 5)).float()


def _row_of(place: Writing) -> list[float]:
    """Row of the table for one place: its kernel and its transform."""
    return [*kernel_of(place.ratio, 0), *inverse_of(place.warp).flat]
