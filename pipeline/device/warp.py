"""Pictures of different sizes reduced, softened and warped in one call each.

Each operation gives what OpenCV's gives on a CPU (measured with 5.0, see docs/device.md): it uses the same positions
and weights and rounds where OpenCV rounds. Only elementwise operations, gathers and short sums are used, no library's
convolution or product, so that the result depends neither on the device nor on what stands beside it in a batch.
Legend: N pictures, h w a common size that holds each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.placement import SOFT_FROM, softness

KERNEL = 9
"""Width of the widest kernel that softens."""


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
    y, x = grid(pictures, height * factor, width * factor)
    codes = pictures.at(edge(y, pictures.height), edge(x, pictures.width)).double()
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
    reach = torch.arange(KERNEL, device=kernels.device) - KERNEL // 2
    weights = kernels[:, None, None]
    y, x = grid(pictures, height, width)
    y, x = y[..., None], x[..., None]
    # In double: all that is whole stays exact.
    across = (
        pictures.at(edge(y, pictures.height), edge(x + reach, pictures.width)).double().mul(weights).sum(-1)
    )
    rows = Pictures.stacked(across, pictures.height, pictures.width)
    both = rows.at(edge(y + reach, rows.height), edge(x, rows.width)).mul(weights).sum(-1)
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
    y, x = grid(pictures, height, width)
    row, column = (_position(inverse[:, axis], y.float(), x.float(), fused=not cubic) for axis in (1, 0))
    down, right = row - row.floor(), column - column.floor()
    count = 4 if cubic else 2
    first, reach = count // 2 - 1, torch.arange(count, device=inverse.device)
    columns = column.floor().long()[..., None] - first + reach
    lines = []
    # Row by row of the neighbourhood: all at once would take four times the memory.
    for step in range(count):
        taps = _beyond(pictures, row.floor().long()[..., None] - first + step, columns, mirrored)
        lines.append(_weighed(taps, right) if cubic else _between(taps, right))
    return _weighed(torch.stack(lines, -1), down) if cubic else _between(torch.stack(lines, -1), down)


def warped_in_steps(pictures: Pictures, inverse: Tensor, height: int, width: int) -> Tensor:
    """The same by linear interpolation at places rounded to 1/32, with zeros beyond; `inverse` in double (N, 2, 3).

    So does OpenCV with pictures of two channels.
    """
    y, x = grid(pictures, height, width)
    whole, parts = [], []
    for axis in (1, 0):
        by_x, by_y, shift = (along(each, y) for each in inverse[:, axis].unbind(1))
        steps = (by_x * x * 1024).round().long() + ((by_y * y + shift) * 1024).round().long() + 16 >> 5
        whole.append(steps >> 5)
        parts.append((steps & 31).float() / 32)
    (row, column), (down, right) = whole, parts
    result = torch.zeros_like(down)
    for below in (0, 1):
        taps = _beyond(
            pictures, row[..., None] + below, column[..., None] + torch.arange(2, device=row.device), None
        )
        share = down if below else 1 - down
        result = result + taps[..., 0] * (share * (1 - right)) + taps[..., 1] * (share * right)
    return result


@lru_cache(maxsize=256)
def kernel_of(ratio: float, bits: int) -> NDArray[np.float64]:
    """Weights (KERNEL,) that soften what is shrunk `ratio` times.

    `bits`: of the fraction in which OpenCV counts for codes, 8 for those of 8 bits and 16 for wider ones, whose
    weights are then whole numbers; 0: not rounded, for floating point numbers.
    """
    weights = np.zeros(KERNEL)
    whole = float(1 << bits)
    if ratio < SOFT_FROM:
        weights[KERNEL // 2] = whole
        return weights
    side = round(softness(ratio) * (6 if bits == 8 else 8) + 1) | 1
    exact = cv2.getGaussianKernel(side, softness(ratio), cv2.CV_64F)[:, 0] * whole
    if bits:
        error = 0.0
        for place in range(side // 2):
            wanted = exact[place] + error
            exact[place] = exact[-1 - place] = np.rint(wanted)
            error = wanted - exact[place]
        exact[side // 2] = whole - 2 * exact[: side // 2].sum()
    start = (KERNEL - side) // 2
    weights[start : start + side] = exact
    weights.setflags(write=False)
    return weights


def inverse_of(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `matrix` (2, 3), as OpenCV's warping works it out."""
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def mirror(place: Tensor, length: Tensor) -> Tensor:
    """`place` (N, ...) folded into 0 to `length` - 1, of which the ends are not repeated; `length` (N,)."""
    period = along((2 * length - 2).clamp(min=1), place)
    folded = place.abs() % period
    return torch.minimum(folded, period - folded)


def edge(place: Tensor, length: Tensor) -> Tensor:
    """`place` (N, ...), those beyond 0 to `length` - 1 moved to its ends; `length` (N,)."""
    return torch.minimum(place.clamp(min=0), along(length - 1, place))


def grid(pictures: Pictures, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows (N, h, 1) and columns (N, 1, w) of each picture."""
    count, device = len(pictures.start), pictures.start.device
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None]
    return y.expand(count, -1, -1), x.expand(count, -1, -1)


def _position(row: Tensor, y: Tensor, x: Tensor, *, fused: bool) -> Tensor:
    """Where the pixels at `y`, `x` lie in the picture, along the axis of this `row` (N, 3) of the transform."""
    by_x, by_y, shift = (along(each, y) for each in row.unbind(1))
    further = by_y * y + shift
    # Each way as OpenCV's own code for this interpolation rounds it: by far more than rounding of weights does.
    return _fused(by_x, x, further) if fused else by_x * x + further


def _fused(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    """a * b + c, rounded once, as vector units do: in double the product of two floats is exact."""
    return (a.double() * b + c).float()


def _between(taps: Tensor, part: Tensor) -> Tensor:
    """Linear interpolation of `taps` (..., 2) at `part` (...) of the way."""
    return _fused(part, taps[..., 1] - taps[..., 0], taps[..., 0])


def _weighed(taps: Tensor, part: Tensor) -> Tensor:
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


def _beyond(pictures: Pictures, row: Tensor, columns: Tensor, mirrored: Tensor | None) -> Tensor:
    """The samples in `row` (N, h, w, 1) and `columns` (N, h, w, C), also where these lie beyond the picture."""
    if mirrored is not None:
        folds = along(mirrored, row)
        row = torch.where(folds, mirror(row, pictures.height), row)
        columns = torch.where(folds, mirror(columns, pictures.width), columns)
    taps = pictures.at(edge(row, pictures.height), edge(columns, pictures.width))
    if mirrored is not None:
        return taps
    rows_in = (row >= 0) & (row < along(pictures.height, row))
    return taps * (rows_in & (columns >= 0) & (columns < along(pictures.width, columns)))
