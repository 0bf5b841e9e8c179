"""Turned and stretched pictures: how decoded pixels relate to what a player shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from models.align import crop_matrix, embedding_matrix
from models.protocols import Face


class Shown(Protocol):
    """What is known of how a film is shown."""

    @property
    def rotation(self) -> int: ...
    @property
    def sample_aspect_ratio(self) -> Fraction | None: ...


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the decoder's pixels are shown: a face must be upright and unstretched to be found and restored."""

    rotation: int = 0
    """Degrees counter-clockwise by which a player turns the picture: 0, 90, 180 or 270."""
    aspect: float = 1.0
    """Width of a pixel over its height."""

    def __post_init__(self) -> None:
        if self.rotation % 90 or self.aspect <= 0:
            raise ValueError(f"rotation must be a multiple of 90 and aspect positive, got {self}")

    @classmethod
    def of(cls, info: Shown) -> Self:
        """That of a film."""
        return cls(info.rotation, float(info.sample_aspect_ratio or 1))

    def turned(self, degrees: int) -> Self:
        """That of the same picture turned by so many degrees more, counter-clockwise, a multiple of 90."""
        return replace(self, rotation=(self.rotation + degrees) % 360)

    def turn_of(self, landmarks: NDArray[np.floating]) -> int:
        """By how much the picture must be `turned` for a face with `landmarks` (5, 2) to stand in it: 0, 90, 180 or
        270 degrees."""
        points = self.square(landmarks)
        x, y = points[3:].mean(0) - points[:2].mean(0)
        for _ in range(self.rotation % 360 // 90):
            x, y = y, -x
        if abs(y) >= abs(x):
            return 0 if y >= 0 else 180
        return 90 if x < 0 else 270

    def crop_matrix(self, landmarks: NDArray[np.floating], size: int) -> NDArray[np.float32]:
        """Frame-to-crop transform, float32 (2, 3), onto the FFHQ template of `size`, aspect taken out."""
        return self._of_pixels(crop_matrix(self.square(landmarks), size))

    def embedding_matrix(self, landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
        """Frame-to-crop transform, float32 (2, 3), for a recogniser, aspect taken out."""
        return self._of_pixels(embedding_matrix(self.square(landmarks)))

    def square(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Frame positions (N, 2) as if pixels were square."""
        return np.asarray(points * np.array([self.aspect, 1]), np.float32)

    def upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`image` (H, W, 3) as a player shows it, at the same height of its pixels."""
        if self.aspect != 1:
            width = max(round(image.shape[1] * self.aspect), 1)
            image = np.asarray(
                cv2.resize(image, (width, image.shape[0]), interpolation=cv2.INTER_AREA), np.uint8
            )
        return np.ascontiguousarray(np.rot90(image, self.rotation // 90))

    def back(self, face: Face, image: NDArray[np.uint8]) -> Face:
        """A face found in `upright(image)`, at its place in `image` (H, W, 3)."""
        height, width = image.shape[0], max(round(image.shape[1] * self.aspect), 1)
        shrink = np.array([image.shape[1] / width, 1])

        def turned(points: NDArray[np.float32]) -> NDArray[np.float32]:
            x, y = points[:, 0], points[:, 1]
            places = {
                0: (x, y),
                90: (width - 1 - y, x),
                180: (width - 1 - x, height - 1 - y),
                270: (y, height - 1 - x),
            }
            return np.asarray((np.stack(places[self.rotation % 360], 1) + 0.5) * shrink - 0.5, np.float32)

        corners = turned(face.box.reshape(2, 2))
        box = np.concatenate([corners.min(0), corners.max(0)])
        return replace(face, landmarks=turned(face.landmarks), box=box)

    def _of_pixels(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        return matrix * np.array([self.aspect, 1, 1], np.float32)
