"""From FFHQ-aligned pictures to the recogniser's crop: a fixed, differentiable warp.

Shapes: B pictures, C channels, S side of the picture.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.align import ffhq_to_arcface, invert

CROP_PX = 112


def recogniser_view(pictures: Tensor, jitter: Tensor | None = None) -> Tensor:
    """The ArcFace crop of FFHQ-aligned `pictures`, float32 (B, C, S, S) -> (B, C, 112, 112).

    `jitter`: float32 (B, 2, 3), small affine maps of the crop's [-1, 1] coordinates, as landmarks are never
    exact; None for none. Bilinear after an area reduction where the picture is more than twice as large.
    """
    while pictures.shape[-1] >= 4 * CROP_PX:
        pictures = F.avg_pool2d(pictures, 2)
    size = pictures.shape[-1]
    theta = (
        torch.from_numpy(_normalised_matrix(size)).to(pictures).expand(len(pictures), 2, 3)
    )  # crop -> picture
    if jitter is not None:
        square = torch.cat([jitter, jitter.new_tensor([[[0, 0, 1]]]).expand(len(jitter), 1, 3)], 1)
        theta = theta @ square
    grid = F.affine_grid(theta.to(pictures), [len(pictures), 1, CROP_PX, CROP_PX], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def _normalised_matrix(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Crop coordinates in [-1, 1] to picture coordinates in [-1, 1], corners at -1 and 1."""
    crop_to_picture = np.vstack([invert(ffhq_to_arcface(size)), [0, 0, 1]]).astype(np.float64)

    def to_pixels(side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.array([[side / 2, 0, side / 2 - 0.5], [0, side / 2, side / 2 - 0.5], [0, 0, 1]])

    matrix = np.linalg.inv(to_pixels(size)) @ crop_to_picture @ to_pixels(CROP_PX)
    return matrix[:2].astype(np.float32)
