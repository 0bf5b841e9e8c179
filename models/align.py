"""Five landmarks to an aligned square crop, and the way back.

Positions count pixel centres at integers, so the transform for a crop of side S follows from the template for
side T by scale S / T about the corner -0.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FFHQ_512: NDArray[np.float32] = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]], np.float32
)
"""Five-point template of FFHQ-aligned crops of 512 pixels (the restoration papers' template)."""

ARCFACE_112: NDArray[np.float32] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
"""Five-point template of recognisers' crops of 112 pixels (ArcFace, AdaFace)."""


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float32]:
    """Least-squares similarity (rotation, one scale, shift; no mirroring) that takes `source` to `target`.

    Both (N, 2). Returns float32 (2, 3). Source: Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", PAMI 1991, equations 40-42. Raises ValueError for coinciding points.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    variance = (a**2).sum()
    if variance < 1e-9:
        raise ValueError("landmarks coincide: no transform can be fitted")
    # In the plane the best rotation and scale are a complex number: <conj(a), b> / <a, a>.
    cosine = (a * b).sum() / variance
    sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / variance
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([linear, (mean_b - linear @ mean_a)[:, None]], 1).astype(np.float32)


def template(size: int) -> NDArray[np.float32]:
    """The FFHQ five-point template for crops of `size` pixels, float32 (5, 2)."""
    return _scaled(FFHQ_512, 512, size)


def crop_matrix(landmarks: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """Frame-to-crop transform, float32 (2, 3), that brings `landmarks` (5, 2) onto the FFHQ template of `size`."""
    return similarity(landmarks, template(size))


def embedding_matrix(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """Frame-to-crop transform, float32 (2, 3), for a recogniser's 112-pixel crop."""
    return similarity(landmarks, ARCFACE_112)


def ffhq_to_arcface(size: int) -> NDArray[np.float32]:
    """The fixed transform, float32 (2, 3), from an FFHQ-aligned crop of `size` to a recogniser's crop of 112."""
    return similarity(template(size), ARCFACE_112)


def invert(matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Inverse of an affine transform (2, 3)."""
    inverse = np.linalg.inv(np.asarray(matrix, np.float64)[:, :2])
    return np.concatenate([inverse, -(inverse @ np.asarray(matrix, np.float64)[:, 2:])], 1).astype(np.float32)


def transform(matrix: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """`points` (N, 2) moved by `matrix` (2, 3)."""
    return (np.asarray(points) @ np.asarray(matrix)[:, :2].T + np.asarray(matrix)[:, 2]).astype(np.float32)


def at_size(matrix: NDArray[np.floating], from_size: int, to_size: int) -> NDArray[np.float32]:
    """The frame-to-crop transform (2, 3) of a crop of `from_size` pixels for one of `to_size`."""
    scaled = np.asarray(matrix, np.float64) * (to_size / from_size)
    scaled[:, 2] += (to_size / from_size - 1) / 2
    return scaled.astype(np.float32)


def scale_of(matrix: NDArray[np.floating]) -> float:
    """Crop pixels per frame pixel of a similarity (2, 3)."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def _scaled(points: NDArray[np.float32], from_size: int, to_size: int) -> NDArray[np.float32]:
    return ((points + 0.5) * (to_size / from_size) - 0.5).astype(np.float32)
