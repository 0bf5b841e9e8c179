"""The astronaut's face as restorers get it, and how near a result comes to it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from skimage.data import astronaut
from torch import Tensor

from models.align import crop_matrix, transform
from models.pictures import Picture, recogniser_view
from models.protocols import References
from models.recogniser import EmbeddedRecogniser

ASTRONAUT_LANDMARKS = np.array([[197, 106], [244, 104], [219, 134], [204, 155], [243, 153]], np.float32)


def aligned_astronaut() -> Picture:
    matrix = crop_matrix(ASTRONAUT_LANDMARKS, 256)
    assert np.allclose(transform(matrix, ASTRONAUT_LANDMARKS).mean(0), [128, 151], atol=8)
    return cv2.warpAffine(
        astronaut(), matrix, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def crop(picture: Picture) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous()


def psnr(image: Tensor, target: Picture) -> float:
    error = (image.float() - crop(target).float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def references(picture: Picture) -> References:
    view = recogniser_view(crop(picture)[None].float()).round().byte()
    return References(crops=(crop(picture),), embeddings=EmbeddedRecogniser().embed(view), version=1)
