"""A rectangle of a frame's planes on a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.media.coding import Plane
from pipeline.pixels.tensors.transfer import Transfer

Box = tuple[int, int, int, int]
"""left, top, right, bottom, half-open."""


def size_class(box: Box) -> int:
    """Equal for boxes of about one size, and for all small ones: together in a batch they waste little."""
    return max(box[2] - box[0], box[3] - box[1], 511).bit_length()


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """One rectangle of each plane of a frame. Lives within one call of one stage, which owns it."""

    samples: Tensor
    """float32 (L,), the codes of all planes, one plane after the other."""
    boxes: tuple[Box, ...]
    """Of each plane, in its samples."""

    def start(self, plane: int, left: int, top: int) -> int:
        """Place in `samples` of the one at `left`, `top` of a plane."""
        box = self.boxes[plane]
        return sum(map(_area, self.boxes[:plane])) + (top - box[1]) * self.stride(plane) + left - box[0]

    def stride(self, plane: int) -> int:
        """Samples from one row to the next."""
        return self.boxes[plane][2] - self.boxes[plane][0]

    def region(self, plane: int, box: Box) -> Tensor:
        """The samples of `box` of a plane, (h, w): a view, into which may be written."""
        whole = self.boxes[plane]
        start = self.start(plane, whole[0], whole[1])
        rows = self.samples[start : start + _area(whole)].view(-1, self.stride(plane))
        return rows[box[1] - whole[1] : box[3] - whole[1], box[0] - whole[0] : box[2] - whole[0]]


def upload_surface(planes: Sequence[Plane], boxes: Sequence[Iterable[Box]], transfer: Transfer) -> Surface:
    """Of each plane, the smallest rectangle that holds its `boxes`."""
    whole = tuple(_around(list(each)) for each in boxes)
    regions = [
        plane[top:bottom, left:right] for plane, (left, top, right, bottom) in zip(planes, whole, strict=True)
    ]
    if regions[0].dtype == np.uint8:
        return Surface(transfer.upload(regions).float(), whole)
    # As int16: torch does little with unsigned integers of 16 bits.
    codes = transfer.upload([np.asarray(region).view(np.int16) for region in regions])
    return Surface(codes.int().bitwise_and_(0xFFFF).float(), whole)


def download_surface(surface: Surface, planes: Sequence[Plane], transfer: Transfer) -> None:
    """Writes `surface`, whose samples are whole codes, into its place in `planes`."""
    dtype = planes[0].dtype
    codes = surface.samples.to(torch.uint8) if dtype == np.uint8 else surface.samples.int().to(torch.int16)
    samples, end = transfer.download(codes).view(dtype), 0
    for plane, (left, top, right, bottom) in zip(planes, surface.boxes, strict=True):
        start, end = end, end + (right - left) * (bottom - top)
        plane[top:bottom, left:right] = samples[start:end].reshape(bottom - top, right - left)


def _around(boxes: list[Box]) -> Box:
    """An empty one around none."""
    if not boxes:
        return 0, 0, 0, 0
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
