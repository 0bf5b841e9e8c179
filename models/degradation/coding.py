"""Block coding in batch: JPEG and the blocks of video codecs as 8x8 cosine transforms with own quantisers.

A model of the codecs' loss only; real streams are made by `video_code`. Colour is YCbCr of ITU-T T.871 with
chroma at half the resolution, enlarged linearly as libjpeg does.

Shapes: B pictures, H W pixels, N blocks.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

BLOCK_PX = 8
MACROBLOCK_PX = 16
_LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 "
    + "99 " * 32
)
_STANDARD = np.array([_LUMA.split(), _CHROMA.split()], np.float64)
"""(2, 64) tables for luma and chroma, ITU-T T.81 annex K."""


def jpeg_tables(quality: ArrayLike) -> NDArray[np.float64]:
    """Quantisation tables (B, 2, 64) for luma and chroma at `quality` (B,), 1 to 100; libjpeg's formula."""
    qualities = np.clip(np.asarray(quality, np.float64), 1, 100)
    percent = np.where(qualities < 50, np.floor(5000 / qualities), 200 - 2 * qualities)
    return np.clip(np.floor((_STANDARD * percent[:, None, None] + 50) / 100), 1, 255)


def video_tables(quantiser: ArrayLike, slope: ArrayLike) -> NDArray[np.float64]:
    """Tables (B, 2, 64) with the step of H.264's `quantiser` (B,), 0 to 51: 2^((QP - 4) / 6).

    `slope`: (B,) at least 0; the step of the highest frequency is 1 + slope times as large. H.264's are flat,
    MPEG's intra matrices rise by about 4.
    """
    steps = 2 ** ((np.asarray(quantiser, np.float64) - 4) / 6)
    place = np.arange(BLOCK_PX)
    frequency = (place[:, None] + place).ravel() / (2 * (BLOCK_PX - 1))
    table = steps[:, None] * (1 + np.asarray(slope, np.float64)[:, None] * frequency)
    return np.repeat(table[:, None], 2, 1)


def block_code(
    pictures: Tensor, tables: ArrayLike, rounding: ArrayLike = 0.5, smoothing: ArrayLike = 0.0
) -> Tensor:
    """`pictures` (B, 3, H, W) in [0, 1], H and W multiples of 16, coded and decoded; blocks begin at the corner.

    `tables`: (B, 2, 64). `rounding`: (B,) part of a step that is rounded up, 0.5 for JPEG, less in video
    codecs, which so drop small coefficients. `smoothing`: (B,) strength of a loop filter over the blocks'
    edges, 0 for none, 1 as strong as the quantiser is coarse. Raises `ValueError` for other sides.
    """
    batch, _, height, width = pictures.shape
    if height % MACROBLOCK_PX or width % MACROBLOCK_PX:
        raise ValueError(f"sides must be multiples of {MACROBLOCK_PX}, got {height} x {width}")
    quantisers = torch.from_numpy(np.asarray(tables, np.float32)).to(pictures.device)
    roundings = _per_sample(rounding, batch, pictures)
    luma, chroma = _to_ycc((pictures.clamp(0, 1) * 255).round() - 128)
    chroma = F.avg_pool2d(chroma, 2)
    blocks = torch.cat([_to_blocks(luma), _to_blocks(chroma)], 1)  # (B, N, 64)
    luma_count = luma[0].numel() // BLOCK_PX**2
    steps = torch.cat(
        [
            quantisers[:, :1].expand(-1, luma_count, -1),
            quantisers[:, 1:].expand(-1, blocks.shape[1] - luma_count, -1),
        ],
        1,
    )
    transform = _cosines(pictures.device)
    levels = torch.matmul(blocks, transform.T) / steps
    levels = levels.sign() * (levels.abs() + roundings.reshape(-1, 1, 1)).floor()
    decoded = torch.matmul(levels * steps, transform)
    luma = _from_blocks(decoded[:, :luma_count], 1, height, width)
    chroma = _from_blocks(decoded[:, luma_count:], 2, height // 2, width // 2)
    strengths = _per_sample(smoothing, batch, pictures)
    if bool((strengths > 0).any()):
        limits = strengths * quantisers[:, 0, :3].mean(1)
        luma = _loop_filter(_loop_filter(luma, limits).mT, limits).mT
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    return ((_to_rgb(luma, chroma) + 128).round() / 255).clamp(0, 1)


def jpeg_code(pictures: Tensor, quality: ArrayLike) -> Tensor:
    """`pictures` (B, 3, H, W) in [0, 1] of any size after JPEG at `quality` (B,), as an encoder pads them."""
    height, width = pictures.shape[2:]
    padding = (0, -width % MACROBLOCK_PX, 0, -height % MACROBLOCK_PX)
    padded = F.pad(pictures, padding, mode="replicate")
    return block_code(padded, jpeg_tables(quality))[:, :, :height, :width]


def _per_sample(values: ArrayLike, count: int, like: Tensor) -> Tensor:
    return torch.from_numpy(np.broadcast_to(np.asarray(values, np.float32), (count,)).copy()).to(like.device)


def _to_ycc(pictures: Tensor) -> tuple[Tensor, Tensor]:
    red, green, blue = pictures[:, :1], pictures[:, 1:2], pictures[:, 2:]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    # Centred values: grey is at -128 in luma and at 0 in chroma.
    return luma, torch.cat([(blue - luma) / 1.772, (red - luma) / 1.402], 1)


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    blue_part, red_part = chroma[:, :1], chroma[:, 1:]
    green = luma - (0.114 * 1.772 / 0.587) * blue_part - (0.299 * 1.402 / 0.587) * red_part
    return torch.cat([luma + 1.402 * red_part, green, luma + 1.772 * blue_part], 1)


def _to_blocks(planes: Tensor) -> Tensor:
    batch, channels, height, width = planes.shape
    split = planes.reshape(batch, channels, height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
    return split.permute(0, 1, 2, 4, 3, 5).reshape(batch, -1, BLOCK_PX**2)


def _from_blocks(blocks: Tensor, channels: int, height: int, width: int) -> Tensor:
    rows, columns = height // BLOCK_PX, width // BLOCK_PX
    split = blocks.reshape(len(blocks), channels, rows, columns, BLOCK_PX, BLOCK_PX)
    return split.permute(0, 1, 2, 4, 3, 5).reshape(len(blocks), channels, height, width)


def _loop_filter(luma: Tensor, limits: Tensor) -> Tensor:
    """Steps at vertical block edges that a quantiser of the size `limits` (B,) can have made, smoothed.

    After H.264's normal filter (ITU-T H.264, 8.7.2.3): real edges, larger than the limit, stay.
    """
    limit = limits.reshape(-1, 1, 1, 1)
    result = luma.clone()
    edge = torch.arange(BLOCK_PX, luma.shape[3], BLOCK_PX, device=luma.device)
    before, left, right, after = (luma[..., edge + place] for place in (-2, -1, 0, 1))
    change = (4 * (right - left) + (before - after)) / 8
    change = torch.maximum(torch.minimum(change, limit / 2), -limit / 2)
    change = change * ((right - left).abs() < 1.5 * limit)
    for place, part in ((-2, 0.4), (-1, 1.0), (0, -1.0), (1, -0.4)):
        result[..., edge + place] = luma[..., edge + place] + part * change
    return result


@functools.cache
def _cosines(device: torch.device) -> Tensor:
    """Orthonormal two-dimensional cosine transform of a block, (64, 64)."""
    place = np.arange(BLOCK_PX)
    matrix = np.cos(np.pi * (2 * place + 1) * place[:, None] / (2 * BLOCK_PX)) * np.sqrt(2 / BLOCK_PX)
    matrix[0] /= np.sqrt(2)
    return torch.from_numpy(np.kron(matrix, matrix).astype(np.float32)).to(device)
