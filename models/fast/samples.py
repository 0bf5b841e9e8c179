"""What an engine is compared with the network on: a face at several degradations, with and without an identity."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

_REDUCTIONS = (1, 2, 4, 8)


def sample_inputs(side: int, anchor: int, *, previous: bool = False) -> tuple[Tensor, ...]:
    """Crops, float32 (8, 3, side, side) in [0, 1], RGB, and identity anchors, float32 (8, anchor).

    With `previous` also what was restored before, (8, 4, side, side): the clear face, behind a gate that is open on
    the left.

    The face is Eileen Collins in NASA's picture (public domain, part of scikit-image), roughly aligned. Reduced
    up to eightfold and enlarged again; the second half has random anchors of unit length. The same at each call.
    """
    from skimage.data import astronaut

    picture = astronaut()[56:206, 146:296]  # type: ignore[no-untyped-call]
    face = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    crops = []
    for reduction in _REDUCTIONS:
        small = cv2.resize(face, (side // reduction, side // reduction), interpolation=cv2.INTER_AREA)
        crops.append(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR))
    pictures = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    draws = torch.randn(len(crops), anchor, generator=torch.Generator().manual_seed(0))
    anchors = torch.cat([torch.zeros_like(draws), torch.nn.functional.normalize(draws)])
    inputs = [pictures.repeat(2, 1, 1, 1), anchors]
    if previous:
        gate = (torch.arange(side) < side // 2).float().expand(8, 1, side, side)
        inputs.append(torch.cat([pictures[:1].expand(8, -1, -1, -1), gate], 1))
    return tuple(inputs)
