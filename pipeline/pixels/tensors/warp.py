"""Pictures of different sizes reduced, softened and warped in one call each.

Each operation gives what OpenCV's gives on a CPU (measured with 5.0, see docs/device.md): it uses the same positions
and weights and rounds where OpenCV rounds. Only elementwise operations and gathers are used, and sums in double, no
library's convolution or interpolation, whose order of adding may depend on the device and on the size of a batch.
Legend: N pictures, h w a common size that holds each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.pixels.placement import SOFT_FROM, softness

KERNEL = 9
"""Width of the widest kernel that softens."""
_MOST_TAPS = 1 << 23
"""Neighbours that are looked up at once, so that memory is bounded: about 40 bytes for each."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """N pictures in one buffer."""

    samples: Tensor
    """(L,)."""
    start: Tensor
    """int64 (N,), place of each picture's first sample."""
    stride: Tensor
    """int64 (N,), samples from one row to the next."""
    height: Tensor
    """int64 (N,)."""
    width: Tensor
    """int64 (N,)."""

    @classmethod
    def stacked(cls, stack: Tensor, height: Tensor | None = None, width: Tensor | None = None) -> Self:
        """Of a `stack` (N, h, w), of which each picture takes up the first `height` rows and `width` columns."""
        count, rows, columns = stack.shape
        each = torch.arange(count, device=stack.device)
        return cls(
            stack.reshape(-1),
            each * (rows * columns),
            torch.full_like(each, columns),
            torch.full_like(each, rows) if height is None else height,
            torch.full_like(each, columns) if width is None else width,
        )

    def at(self, y: Tensor, x: Tensor) -> Tensor:
        """The samples in row `y`, column `x`: int64 (N, ...), which fit together."""
        return self.samples[along(self.start, y) + y * along(self.stride, y) + x]


def along(values: Tensor, like: Tensor) -> Tensor:
    """`values` (N,), one for each picture, ready to meet `like` (N, ...)."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def reduced(pictures: Pictures, factor: int, height: int, width: int) -> Pictures:
    """Each block of `factor` x `factor` codes replaced by its mean, a whole code; borders fill up the last blocks.

    `height`, `width`: most blocks of any picture.
    """
    codes = pictures.at(*grid(pictures, height * factor, width * factor)).double()
    sums = codes.view(-1, height, factor, width, factor).sum((2, 4))
    # OpenCV rounds halves up in the case of two, and to even in all others.
    means = (
        ((sums + 2) / 4).floor() if factor == 2 else (sums.float() * float(np.float32(1 / factor**2))).round()
    )
    return Pictures.stacked(
        means.float(), (pictures.height + factor - 1) // factor, (pictures.width + factor - 1) // factor
    )


def softened(pictures: Pictures, kernels: Tensor, height: int, width: int, bits: int) -> Pictures:
    """`pictures` blurred across and down by `kernels`, double (N, KERNEL) of `kernel_of` for the same `bits`."""
    device = kernels.device
    reach = torch.arange(KERNEL, device=device) - KERNEL // 2
    x = torch.arange(width, device=device)[:, None]
    rows, columns = (size[:, None, None, None] for size in (pictures.height, pictures.width))
    weights = kernels[:, None, None]
    taps = len(kernels) * width * KERNEL

    # In double: all that is whole stays exact.
    def across(band: range) -> Tensor:
        y = torch.arange(band.start, band.stop, device=device)[:, None, None]
        return (pictures.at(edge(y, rows), edge(x + reach, columns)).double() * weights).sum(-1)

    lines = Pictures.stacked(_in_bands(across, height, taps), pictures.height, pictures.width)

    def down(band: range) -> Tensor:
        y = torch.arange(band.start, band.stop, device=device)[:, None, None]
        return (lines.at(edge(y + reach, rows), edge(x, columns)) * weights).sum(-1)

    both = _in_bands(down, height, taps)
    if bits:
        both = ((both + 2.0 ** (2 * bits - 1)) / 2.0 ** (2 * bits)).floor()
    return Pictures.stacked(both.float(), pictures.height, pictures.width)


def warped(
    pictures: Pictures, inverse: Tensor, height: int, width: int, *, cubic: bool, mirrored: Tensor | None
) -> Tensor:
    """Each picture under its affine transform, float32 (N, `height`, `width`), by cubic or linear interpolation.

    `inverse`: float32 (N, 2, 3), from the result to the picture. `mirrored`, bool (N,): whether a picture is mirrored
    beyond its border, which otherwise goes on; None: there is nothing beyond it but zeros.
    """
    return _in_bands(
        lambda band: _warped_rows(pictures, inverse, band, width, cubic, mirrored),
        height,
        len(pictures.start) * width * (16 if cubic else 4),
    )


def _in_bands(work: Callable[[range], Tensor], height: int, taps: int) -> Tensor:
    """What `work` gives for all rows, (N, `height`, w), some at a time where one takes many `taps`."""
    rows = max(_MOST_TAPS // taps, 1)
    bands = [work(range(top, min(top + rows, height))) for top in range(0, height, rows)]
    return bands[0] if len(bands) == 1 else torch.cat(bands, 1)


def _warped_rows(
    pictures: Pictures, inverse: Tensor, band: range, width: int, cubic: bool, mirrored: Tensor | None
) -> Tensor:
    device = inverse.device
    y = torch.arange(band.start, band.stop, device=device, dtype=torch.float32)[:, None]
    x = torch.arange(width, device=device, dtype=torch.float32)
    by_x, by_y, shift = inverse.flip(1).permute(2, 1, 0)[..., None, None].unbind()  # (2, N, 1, 1), down first
    further = by_y * y + shift
    # Each as OpenCV's own code for this interpolation rounds it.
    place = by_x * x + further if cubic else _fused(by_x, x, further)
    whole = place.floor()
    down, right = (place - whole).unbind()
    if cubic:
        taps = _taps(pictures, whole.long()[..., None] + torch.arange(-1, 3, device=device), mirrored)
        return _cubic(_cubic(taps, right[..., None]), down)
    taps = _taps(pictures, whole.long()[..., None] + torch.arange(2, device=device), mirrored)
    return _linear(_linear(taps, right[..., None]), down)


def warped_in_steps(pictures: Pictures, inverse: Tensor, height: int, width: int) -> Tensor:
    """The same by linear interpolation at places rounded to 1/32, with zeros beyond; `inverse` in double (N, 2, 3).

    So does OpenCV with pictures of two channels.
    """
    return _in_bands(
        lambda band: _stepped_rows(pictures, inverse, band, width), height, len(pictures.start) * width * 4
    )


def _stepped_rows(pictures: Pictures, inverse: Tensor, band: range, width: int) -> Tensor:
    device = inverse.device
    y = torch.arange(band.start, band.stop, device=device, dtype=torch.float64)[:, None]
    x = torch.arange(width, device=device, dtype=torch.float64)
    by_x, by_y, shift = inverse.flip(1).permute(2, 1, 0)[..., None, None].unbind()
    steps = (by_x * x * 1024).round().long() + ((by_y * y + shift) * 1024).round().long() + 16 >> 5
    part = (steps & 31).float() / 32
    down, right = torch.stack([1 - part, part], -1).unbind()
    taps = _taps(pictures, (steps >> 5)[..., None] + torch.arange(2, device=device), None)
    each = (taps * (down[..., :, None] * right[..., None, :])).flatten(-2).unbind(-1)
    return each[0] + each[1] + each[2] + each[3]


@lru_cache(maxsize=256)
def kernel_of(ratio: float, bits: int) -> NDArray[np.float64]:
    """Weights (KERNEL,) that soften what is shrunk `ratio` times.

    `bits`: of the fraction in which OpenCV counts for codes, 8 for those of 8 bits and 16 for wider ones, whose
    weights are then whole numbers; 0: not rounded, for floating point numbers.
    """
    whole = float(1 << bits)
    side = 1 if ratio < SOFT_FROM else round(softness(ratio) * (6 if bits == 8 else 8) + 1) | 1
    exact = cv2.getGaussianKernel(side, softness(max(ratio, SOFT_FROM)), cv2.CV_64F)[:, 0] * whole
    if bits:
        # Each weight is rounded together with what the one before lost, and the middle makes up the sum.
        error = 0.0
        for place in range(side // 2):
            wanted = exact[place] + error
            exact[place] = exact[-1 - place] = np.rint(wanted)
            error = wanted - exact[place]
        exact[side // 2] = whole - 2 * exact[: side // 2].sum()
    weights = np.pad(exact, (KERNEL - side) // 2)
    weights.setflags(write=False)
    return weights


def inverse_of(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `matrix` (2, 3), as OpenCV's warping works it out."""
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def mirror(place: Tensor, length: Tensor) -> Tensor:
    """`place` folded into 0 to `length` - 1, of which the ends are not repeated."""
    period = (2 * length - 2).clamp(min=1)
    folded = place.abs() % period
    return torch.minimum(folded, period - folded)


def edge(place: Tensor, length: Tensor) -> Tensor:
    """`place`, where it is beyond 0 to `length` - 1 moved to the nearer end."""
    return torch.minimum(place.clamp(min=0), length - 1)


def grid(pictures: Pictures, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows (N, h, 1) and columns (N, 1, w); beyond a picture's own size its last ones."""
    device = pictures.start.device
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    return edge(y, pictures.height[:, None, None]), edge(x, pictures.width[:, None, None])


def _fused(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    """a * b + c, rounded once, as vector units do: in double the product of two floats is exact."""
    return (a.double() * b + c).float()


def _linear(taps: Tensor, part: Tensor) -> Tensor:
    """Linear interpolation of `taps` (..., 2) at `part` (...) of the way."""
    return _fused(part, taps[..., 1] - taps[..., 0], taps[..., 0])


def _cubic(taps: Tensor, part: Tensor) -> Tensor:
    """Cubic interpolation of `taps` (..., 4) at `part` (...) of the way from the second to the third.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.75.
    """
    a, rest, square = -0.75, 1 - part, part * part
    first, last = a * (part * (rest * rest)), a * (rest * square)
    second = _fused((a + 2) * part - (a + 3), square, 1)
    weights = first, second, 1 - first - second - last, last
    result = taps[..., 0] * first
    for place in (1, 2, 3):
        result = _fused(taps[..., place], weights[place], result)
    return result


def _taps(pictures: Pictures, places: Tensor, mirrored: Tensor | None) -> Tensor:
    """All neighbours of each pixel, (N, h, w, C down, C across), also where they lie beyond the picture.

    `places`: int64 (2, N, h, w, C), rows and columns of the neighbours.
    """
    size = torch.stack([pictures.height, pictures.width])[..., None, None, None]
    if mirrored is not None:
        places = torch.where(along(mirrored, places[0]), mirror(places, size), places)
    y, x = edge(places, size).unbind()
    taps = pictures.at(y[..., :, None], x[..., None, :])
    if mirrored is not None:
        return taps
    down, across = ((places >= 0) & (places < size)).unbind()
    return taps * (down[..., :, None] & across[..., None, :])
