"""Pictures in which bright squares stand for faces and colours for people."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Placed = tuple[float, float, tuple[int, int, int]]
"""x, y of a square's corner, and its colour."""


def picture(squares: Sequence[Placed], ground: int = 0, side: int = 56) -> NDArray[np.uint8]:
    """A textured dark picture, uint8 (180, 320, 3), with textured bright squares."""
    cells = np.random.default_rng(ground).integers(0, 100, (9, 16)).astype(np.float32)
    texture = cv2.resize(cells, (320, 180), interpolation=cv2.INTER_CUBIC).clip(0, 110)
    grain = np.random.default_rng(5).integers(0, 20, (180, 320))
    image = np.repeat((texture + grain + 20)[..., None], 3, 2)
    inner = np.random.default_rng(9).integers(-50, 1, (side // 7, side // 7)).repeat(7, 0).repeat(7, 1)
    for x, y, colour in squares:
        area = np.s_[round(y) : round(y) + side, round(x) : round(x) + side]
        image[area] = np.clip(np.array(colour) + inner[..., None], 0, 255)
        image[area][..., np.argmax(colour)] = 230
    return image.astype(np.uint8)
