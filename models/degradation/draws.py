"""Random numbers with a seed for each sample: no sample of a batch knows its neighbours.

Numbers are drawn on the CPU with numpy, noise on the pictures' device with one generator for each sample, so a
seed gives the same parameters everywhere and the same noise on the same kind of device.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from models.degradation.kernels import apply_matrices, gaussian_matrix

Numbers = NDArray[np.float64]
"""(B,), one number for each sample."""


def derive(seeds: Sequence[int], stage: str) -> list[int]:
    """Other seeds, so that the stages of one sample draw independently of each other."""
    salt = zlib.crc32(stage.encode())
    return [(int(seed) * 6364136223846793005 + salt) % 2**63 for seed in seeds]


class Draws:
    """Numbers for a batch; each call takes the next number of every sample."""

    def __init__(self, seeds: Sequence[int], stage: str) -> None:
        self._randoms = [np.random.default_rng(seed) for seed in derive(seeds, stage)]

    def uniform(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> Numbers:
        """(B,) in [low, high)."""
        parts = np.array([random.random() for random in self._randoms])
        lowest, highest = np.asarray(low, np.float64), np.asarray(high, np.float64)
        return np.asarray(lowest + parts * (highest - lowest))

    def signs(self) -> Numbers:
        """(B,) of -1 and 1."""
        return np.where(self.uniform() < 0.5, -1.0, 1.0)

    def choice(self, chances: Sequence[float]) -> NDArray[np.int64]:
        """(B,) positions in `chances`, whose sum is 1."""
        positions = np.searchsorted(np.cumsum(chances), self.uniform(), side="right")
        return np.minimum(positions, len(chances) - 1)


def numbers(values: ArrayLike, count: int) -> Numbers:
    """`values`, one for all or one for each sample, as (B,)."""
    return np.broadcast_to(np.asarray(values, np.float64), (count,))


def column(values: ArrayLike, like: Tensor) -> Tensor:
    """(B,) values as a tensor (B, 1, 1, 1) of the type and device of `like`."""
    array = np.ascontiguousarray(values, np.float32)
    return torch.from_numpy(array).to(like.device, like.dtype).reshape(-1, 1, 1, 1)


def normal(seeds: Sequence[int], stage: str, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """White noise of unit variance, (B, *shape)."""
    noise = torch.empty((len(seeds), *shape), device=like.device, dtype=like.dtype)
    generator = torch.Generator(device=like.device)
    for row, seed in zip(noise, derive(seeds, stage), strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return noise


def soft_normal(
    seeds: Sequence[int], stage: str, shape: tuple[int, int, int], spread_px: ArrayLike, like: Tensor
) -> Tensor:
    """Noise of unit variance whose grains have the Gaussian radius `spread_px`, one for each sample."""
    noise = normal(seeds, stage, shape, like)
    spreads = column(spread_px, like).reshape(-1)
    down, across = (gaussian_matrix(spreads, side) for side in shape[1:])
    down, across = (matrix / matrix.square().sum(-1, keepdim=True).sqrt() for matrix in (down, across))
    return apply_matrices(down, noise, across)
