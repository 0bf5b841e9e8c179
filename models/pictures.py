"""Pictures as arrays and as tensors, the recogniser's view of an aligned one, and how much texture it shows.

Arrays hold the channels last, as OpenCV wants them; tensors hold them before height and width, as networks do.

Shapes: B pictures, C channels, H W pixels, S side of an aligned crop.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.align import ffhq_to_arcface, invert

Picture = NDArray[np.uint8]
"""uint8 (H, W, 3) RGB."""

VIEW_PX = 112
"""Side of a recogniser's crop."""


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (..., 3, H, W), a copy, of uint8 (..., H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pictures, -1, -3)))


def to_picture(pictures: Tensor) -> NDArray[np.uint8]:
    """uint8 (..., H, W, 3), contiguous, of (..., 3, H, W) from any device: uint8, or float as `to_codes` takes it."""
    codes = pictures if pictures.dtype == torch.uint8 else to_codes(pictures)
    return np.ascontiguousarray(codes.movedim(-3, -1).cpu().numpy())


def to_floats(pictures: Tensor | NDArray[np.uint8]) -> Tensor:
    """float32 (..., 3, H, W) in [0, 1], channels last in memory, of uint8 (..., H, W, 3); on the same device."""
    codes = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.ascontiguousarray(pictures))
    return codes.movedim(-1, -3).float().div_(255)


def to_codes(pictures: Tensor) -> Tensor:
    """uint8 of the same shape of float `pictures`: 0 to 1 are the code values 0 to 255, rounded and clipped."""
    return pictures.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


def recogniser_crop(crop: Tensor) -> Tensor:
    """The recogniser's crop, uint8 (3, 112, 112), of an FFHQ-aligned one, uint8 (3, S, S).

    Halved by area averaging while it is four times as large or larger: the warp reads single pixels, and would alias.
    """
    picture = to_picture(crop)
    while picture.shape[0] >= 4 * VIEW_PX:
        half = picture.shape[0] // 2
        picture = np.asarray(cv2.resize(picture, (half, half), interpolation=cv2.INTER_AREA), np.uint8)
    view = cv2.warpAffine(
        picture, ffhq_to_arcface(picture.shape[0]), (VIEW_PX, VIEW_PX), flags=cv2.INTER_LINEAR
    )
    return to_tensor(np.asarray(view, np.uint8))


def recogniser_view(pictures: Tensor, jitter: Tensor | None = None) -> Tensor:
    """`recogniser_crop` with gradients: FFHQ-aligned `pictures`, float32 (B, C, S, S) -> (B, C, 112, 112).

    `jitter`: float32 (B, 2, 3), small affine maps of the crop's [-1, 1] coordinates, as landmarks are never
    exact; None for none.
    """
    while pictures.shape[-1] >= 4 * VIEW_PX:
        pictures = F.avg_pool2d(pictures, 2)
    theta = torch.from_numpy(_crop_to_picture(pictures.shape[-1])).to(pictures).expand(len(pictures), 2, 3)
    if jitter is not None:
        square = torch.cat([jitter, jitter.new_tensor([[[0, 0, 1]]]).expand(len(jitter), 1, 3)], 1)
        theta = theta @ square
    grid = F.affine_grid(theta.to(pictures), [len(pictures), 1, VIEW_PX, VIEW_PX], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def recogniser_codes(pictures: NDArray[np.uint8]) -> Tensor:
    """`recogniser_view` rounded to code values: uint8 (B, 3, 112, 112) of uint8 (B, S, S, 3)."""
    views = recogniser_view(torch.from_numpy(pictures).movedim(-1, -3).float())
    return views.round().clamp(0, 255).byte()


def gradient_energy(pictures: Tensor, cell: int) -> Tensor:
    """Mean squared brightness gradient of each `cell` x `cell` square of (B, C, H, W): (B, 1, H/cell, W/cell)."""
    grey = pictures.mean(1, keepdim=True)
    across = (grey[:, :, :-1, 1:] - grey[:, :, :-1, :-1]).square()
    down = (grey[:, :, 1:, :-1] - grey[:, :, :-1, :-1]).square()
    return F.avg_pool2d(F.pad(across + down, (0, 1, 0, 1), mode="replicate"), cell)


@cache
def _crop_to_picture(size: int) -> NDArray[np.float32]:
    """Crop coordinates in [-1, 1] to picture coordinates in [-1, 1], corners at -1 and 1; float32 (2, 3)."""
    crop_to_picture = np.vstack([invert(ffhq_to_arcface(size)), [0, 0, 1]]).astype(np.float64)

    def to_pixels(side: int) -> NDArray[np.float64]:
        return np.array([[side / 2, 0, side / 2 - 0.5], [0, side / 2, side / 2 - 0.5], [0, 0, 1]])

    matrix = np.linalg.inv(to_pixels(size)) @ crop_to_picture @ to_pixels(VIEW_PX)
    return matrix[:2].astype(np.float32)
