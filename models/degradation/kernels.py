"""Random numbers, blur kernels and resizing matrices, one for each sample of a batch.

No sample knows its neighbours. Numbers are drawn on the CPU with numpy, noise on the pictures' device with one
generator for each sample, so a seed gives the same parameters everywhere and the same noise on the same kind of device.

Resizing and Gaussian blur are separable, so each is a matrix from the left and one from the right; a batch of
different sizes is then two batched products. The other blurs are convolutions, direct where the kernel is
small and by Fourier transform where it is large.

Shapes: B pictures, C channels, H W pixels, R rows and N columns of a matrix, K side of a kernel.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

RESIZING = ("area", "bilinear", "bicubic", "lanczos", "nearest")
BLURS = ("anisotropic", "motion", "defocus")
DIRECT_REACH_PX = 8
"""Up to here a direct convolution was measured to be faster than a Fourier transform on a CPU."""


def gaussian_matrix(sigma: Tensor, side: int) -> Tensor:
    """Blur of a line of `side` pixels, (B,) in pixels -> (B, side, side); edges are mirrored.

    A sigma of 0 gives the identity.
    """
    distances = torch.arange(2 * side, device=sigma.device)
    profile = -0.5 * (distances / sigma.clamp(min=0.05)[:, None]).square()
    # Cut before the tails become denormal numbers, which make products many times slower.
    profile = torch.where(profile > -12, profile.clamp(min=-12).exp(), 0.0)  # (B, 2 side)
    inside = torch.ones(side, device=sigma.device, dtype=sigma.dtype)
    inside[0] = 0
    line = torch.cat([profile[:, 1:side].flip(1), profile[:, :side]], 1)
    weights = line.unfold(1, side, 1).flip(1)  # (i, j) holds the profile at |i - j|
    mirrored = profile.unfold(1, side, 1)[:, :side]  # and here at i + j
    # Mirrored about the first and the last pixel, which themselves have no mirror image.
    weights = weights + mirrored * inside + mirrored.flip(1, 2) * inside.flip(0)
    return weights / weights.sum(-1, keepdim=True)


def sampling_matrix(kinds: Sequence[int], centres: Tensor, widening: Tensor, columns: int) -> Tensor:
    """Weights of `columns` source pixels for samples at `centres`, (B, R) -> (B, R, columns).

    `kinds`: positions in `RESIZING`, one for each sample. `widening`: (B,) at least 1, source pixels per
    sample: the kernels grow with it, as good scalers' do; "nearest" does not and so aliases. Rows sum to 1.
    """
    places = torch.arange(columns, device=centres.device, dtype=centres.dtype)
    # A line need not end with a whole sample: the last one's centre may lie a little outside.
    distances = places - centres.clamp(0, columns - 1)[:, :, None]
    weights = torch.empty_like(distances)
    chosen = torch.as_tensor(kinds)
    for kind in sorted(set(kinds)):
        index = torch.nonzero(chosen == kind).flatten().to(centres.device)
        weights[index] = _weights(RESIZING[kind], distances[index], widening[index].reshape(-1, 1, 1))
    return weights / weights.sum(-1, keepdim=True)


def reduction_centres(rows: int, offset: Tensor, count: Tensor, ratio: Tensor) -> Tensor:
    """Source positions (B, R) of a line of `count` samples, `ratio` source pixels each, that begins at `offset`.

    Outside, the first and the last sample are repeated.
    """
    places = torch.arange(rows, device=ratio.device, dtype=ratio.dtype) - offset[:, None]
    inside = torch.minimum(places.clamp(min=0), count[:, None] - 1)
    return (inside + 0.5) * ratio[:, None] - 0.5


def enlargement_centres(rows: int, offset: Tensor, ratio: Tensor) -> Tensor:
    """Positions (B, R) in the line of `reduction_centres` of the pixels that it came from."""
    places = torch.arange(rows, device=ratio.device, dtype=ratio.dtype)
    return (places + 0.5) / ratio[:, None] - 0.5 + offset[:, None]


def apply_matrices(down: Tensor, pictures: Tensor, across: Tensor) -> Tensor:
    """`down` (B, R, H) on the columns and `across` (B, N, W) on the rows of (B, C, H, W) -> (B, C, R, N)."""
    batch, channels, height, width = pictures.shape
    # Channels are further rows of one product.
    reduced = torch.bmm(pictures.reshape(batch, channels * height, width), across.mT)
    return torch.matmul(down[:, None], reduced.reshape(batch, channels, height, -1))


def blur_kernels(kinds: Sequence[int], sigma: Tensor, ratio: Tensor, angle: Tensor, reach: int) -> Tensor:
    """Kernels (B, K, K), K = 2 `reach` + 1, each with the sum 1; `kinds` are positions in `BLURS`.

    `sigma`: (B,) pixels of the comparable Gaussian; `ratio`: of the two axes, for "anisotropic"; `angle`: rad.
    """
    places = torch.arange(-reach, reach + 1, device=sigma.device, dtype=sigma.dtype)
    sigma, ratio, angle = (values.reshape(-1, 1, 1) for values in (sigma, ratio, angle))
    along = places * torch.cos(angle) + places[:, None] * torch.sin(angle)
    across = places[:, None] * torch.cos(angle) - places * torch.sin(angle)
    shapes = {
        "anisotropic": torch.exp(
            -0.5 * ((along / sigma).square() + (across / (ratio * sigma).clamp(min=0.2)).square())
        ),
        "motion": (1.7 * sigma - along.abs() + 0.5).clamp(0, 1) * (1 - across.abs()).clamp(0, 1),
        "defocus": (2 * sigma + 0.5 - torch.hypot(along, across)).clamp(0, 1),
    }
    kernels = torch.stack([shapes[BLURS[kind]][index] for index, kind in enumerate(kinds)])
    kernels = torch.where(
        kernels > 1e-5, kernels, 0.0
    )  # denormal numbers make convolutions many times slower
    return kernels / kernels.sum((1, 2), keepdim=True)


def blur_reach(kind: int, sigma: float) -> int:
    """Pixels from the centre to the edge of a kernel of `blur_kernels`, one of few sizes: 4, 8, 16, 32 ..."""
    wanted = max(4.0, {"anisotropic": 2.5, "motion": 1.7, "defocus": 2.0}[BLURS[kind]] * sigma + 0.5)
    return int(2 ** math.ceil(math.log2(wanted)))


def convolve(pictures: Tensor, kernels: Tensor) -> Tensor:
    """(B, C, H, W) with (B, K, K), each picture with its own kernel; edges are mirrored where they reach."""
    batch, channels, height, width = pictures.shape
    reach = kernels.shape[-1] // 2
    mode = "reflect" if reach < min(height, width) else "replicate"
    padded = F.pad(pictures, (reach, reach, reach, reach), mode=mode)
    if reach <= DIRECT_REACH_PX:
        stacked = padded.reshape(1, batch * channels, *padded.shape[2:])
        weights = kernels[:, None].repeat_interleave(channels, 0)
        return F.conv2d(stacked, weights, groups=batch * channels).reshape(pictures.shape)
    # Every blur here is point-symmetric, so convolution and correlation agree.
    sides = tuple(-(-side // 16) * 16 for side in padded.shape[2:])
    spectrum = torch.fft.rfft2(padded, s=sides) * torch.fft.rfft2(kernels, s=sides)[:, None]
    whole: Tensor = torch.fft.irfft2(spectrum, s=sides)
    return whole[:, :, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


def _weights(kind: str, distances: Tensor, widening: Tensor) -> Tensor:
    if kind == "nearest":
        return ((distances > -0.5) & (distances <= 0.5)).to(distances.dtype)
    if kind == "area":  # overlap of a pixel with a box of the width `widening`
        return ((widening + 1) / 2 - distances.abs()).clamp(0, 1)
    x = distances.abs() / widening
    if kind == "bilinear":
        return (1 - x).clamp(min=0)
    if kind == "bicubic":  # Keys, IEEE ASSP 1981, with a = -0.5
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


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
