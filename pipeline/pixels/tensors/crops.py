"""`colour.read_crop` for all faces of a frame at once, on a device."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.media.coding import Coding, coding_of, planes_of
from pipeline.pixels.placement import SOFT_FROM, Reading, reading
from pipeline.pixels.tensors.surface import Surface, upload_surface
from pipeline.pixels.tensors.transfer import Transfer
from pipeline.pixels.tensors.warp import KERNEL, Pictures, inverse_of, kernel_of, reduced, softened, warped


class CropReader:
    """Cuts crops out of frames on a device; belongs to one stage."""

    def __init__(self, device: torch.device) -> None:
        self._transfer = Transfer(device)

    @torch.inference_mode()
    def read_crops(
        self, native: av.VideoFrame, matrices: Sequence[NDArray[np.float32]], size: int
    ) -> list[Tensor]:
        """The crops of `native` under `matrices` (2, 3), frame to crop: uint8 (3, size, size) RGB, on the CPU."""
        if not matrices:
            return []
        coding, planes = coding_of(native), planes_of(native)[:3]
        chroma = [coding.kind == "yuv" and index > 0 for index in range(len(planes))]
        places = [
            [reading(plane.shape, coding.to_plane(matrix, chroma=is_chroma), size) for matrix in matrices]
            for plane, is_chroma in zip(planes, chroma, strict=True)
        ]
        with self._transfer.stream():
            boxes = [[place.box for place in each] for each in places]
            surface = upload_surface(planes, boxes, self._transfer)
            codes = []
            # Luma is read by cubic interpolation, chroma by linear, as in `colour.read_crop`.
            for wanted in (False, True):
                jobs = [(i, p) for i, each in enumerate(places) if chroma[i] == wanted for p in each]
                codes.append(self._read(surface, jobs, size, coding, cubic=not wanted))
            rgb = to_rgb(torch.cat(codes).view(len(planes), len(matrices), size, size), coding)
            crops = torch.from_numpy(self._transfer.download(rgb.contiguous()))
        # Each with memory of its own: one may be kept longer than the others.
        return [crop.clone() for crop in crops]

    def _read(
        self, surface: Surface, jobs: list[tuple[int, Reading]], size: int, coding: Coding, *, cubic: bool
    ) -> Tensor:
        """Whole codes, float32 (jobs, size, size); each job is a place on a plane."""
        device = surface.samples.device
        result = torch.empty(len(jobs), size, size, device=device)
        bits = 8 if coding.depth == 8 else 16
        for factor in sorted({place.factor for _, place in jobs}):
            chosen = [number for number, (_, place) in enumerate(jobs) if place.factor == factor]
            group = [jobs[number] for number in chosen]
            rows = [[number, *_row_of(surface, *jobs[number], bits)] for number in chosen]
            table = self._transfer.upload([np.array(rows)]).view(len(group), -1)
            at, start, stride, height, width, mirrored = table[:, :6].long().unbind(1)
            kernels, inverse = table[:, 6 : 6 + KERNEL], table[:, 6 + KERNEL :].float().view(-1, 2, 3)
            pictures = Pictures(surface.samples, start, stride, height, width)
            most_rows = max(-((p.top - p.bottom) // factor) for _, p in group)
            most_columns = max(-((p.left - p.right) // factor) for _, p in group)
            if factor > 1:
                pictures = reduced(pictures, factor, most_rows, most_columns)
            if any(place.ratio >= SOFT_FROM for _, place in group):
                pictures = softened(pictures, kernels, most_rows, most_columns, bits)
            result[at] = warped(pictures, inverse, size, size, cubic=cubic, mirrored=mirrored > 0)
        return result.round_().clamp_(0, 255 if bits == 8 else 65535)


def to_rgb(codes: Tensor, coding: Coding) -> Tensor:
    """Whole codes, float32 (planes, N, S, S), to uint8 (N, 3, S, S) RGB full range, rounded as OpenCV rounds."""
    if coding.kind == "gray":
        levels = (codes[0].double() - coding.luma_offset) * coding.luma_scale
        return levels.round().clamp(0, 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    if coding.depth == 8:
        # In whole numbers of 1/1024, halves rounded up.
        steps = np.rint(coding.to_rgb * np.float32(1024)).astype(float)
        steps[:, 3] = np.rint((coding.to_rgb[:, 3] + np.float32(0.5)) * np.float32(1024))
        exact = codes.double()
        channels = [
            ((exact[0] * r[0] + exact[1] * r[1] + exact[2] * r[2] + r[3]) / 1024).floor()
            for r in steps.tolist()
        ]
    else:
        # About the middle of unsigned 16 bits, which costs floats some of their places.
        middle = coding.to_rgb - np.array([0, 0, 0, 32768], np.float32)
        channels = []
        for row in middle.tolist():
            value = torch.full_like(codes[0], row[3])
            for index in (2, 1, 0):
                value = (codes[index].double() * row[index] + value).float()
            channels.append(value.round() + 32768)
    return torch.stack(channels, 1).clamp_(0, 255).to(torch.uint8)


def _row_of(surface: Surface, plane: int, place: Reading, bits: int) -> list[float]:
    """Row of the table for one place: where it begins, its size, its border, its kernel and its transform."""
    where = surface.start(plane, place.left, place.top), surface.stride(plane)
    size = place.bottom - place.top, place.right - place.left
    return [*where, *size, place.mirrored, *kernel_of(place.ratio, bits), *inverse_of(place.warp).flat]
