"""Faces, embeddings and moving pictures out of thin air, for the tests of trackers."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.align import template, transform
from models.protocols import Face
from trackers.references import View


def landmarks_at(x: float, y: float, size: float = 40.0, angle: float = 0.0) -> NDArray[np.float32]:
    """Landmarks (5, 2) of a face centred at x, y with `size` pixels between the eyes, turned by `angle`."""
    points = template(512)
    points = (points - points.mean(0)) * (size / 126)
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return transform(np.array([[cosine, -sine, x], [sine, cosine, y]]), points)


def face_at(
    x: float, y: float, size: float = 40.0, embedding: NDArray[np.float32] | None = None, score: float = 0.9
) -> Face:
    """A frontal face centred at x, y."""
    box = np.array([x - size, y - 1.3 * size, x + size, y + 1.3 * size], np.float32)
    return Face(box, landmarks_at(x, y, size), score, embedding)


def person(seed: int, width: int = 32, norm: float = 10.0) -> NDArray[np.float32]:
    """Embedding (width,) of a made-up person; those of different seeds are nearly perpendicular."""
    direction = np.random.default_rng(seed).standard_normal(width)
    return (norm * direction / np.linalg.norm(direction)).astype(np.float32)


def seen(
    embedding: NDArray[np.float32], noise: float, seed: int, norm: float | None = None
) -> NDArray[np.float32]:
    """`embedding` as another view gives it: off by `noise` of its length, then brought to length `norm`."""
    length = float(np.linalg.norm(embedding))
    off = np.random.default_rng(1000 + seed).standard_normal(len(embedding))
    view = embedding / length + noise * off / np.linalg.norm(off)
    return (view / np.linalg.norm(view) * (length if norm is None else norm)).astype(np.float32)


def view_of(
    embedding: NDArray[np.float32],
    *,
    quality: float = 1.0,
    source: int | str = 0,
    yaw: float = 0.0,
    look: int | None = None,
    pinned: bool = False,
) -> View:
    """A view whose crop depends on `look` (else on the source), so that different views look different."""
    seed = look if look is not None else abs(hash(source)) % 1000 if isinstance(source, int) else len(source)
    colours = np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8)
    crop = torch.from_numpy(np.kron(colours, np.ones((1, 4, 4), np.uint8)))
    return View(crop, embedding, quality, source, yaw, pinned)


def textured(height: int, width: int, seed: int, detail: float = 2.0) -> NDArray[np.uint8]:
    """A luma picture (height, width) of soft random blobs: structure that can be followed and recognised."""
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    soft = (
        cv2.GaussianBlur(noise, (0, 0), detail) + cv2.GaussianBlur(noise[::-1].copy(), (0, 0), 4 * detail) * 4
    )
    return np.clip(128 + 45 * soft / soft.std(), 0, 255).astype(np.uint8)


def moved(
    picture: NDArray[np.uint8], x: float = 0, y: float = 0, scale: float = 1.0, angle: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """`picture` (h, w) shifted, scaled and turned about its middle, and the transform (2, 3) that did it."""
    height, width = picture.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, scale).astype(np.float32)
    matrix[:, 2] += (x, y)
    result = cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(result, np.uint8), matrix
