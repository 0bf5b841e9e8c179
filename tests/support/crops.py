"""Aligned crops of a face that moves, and frames of them, for tests of what goes on from frame to frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.data import astronaut

from pipeline.frames import TrackedFace, TrackedFrame
from support.fakes import gray_frame, tracked_face

Picture = NDArray[np.uint8]

SIZE = 256
# As soft as faces that are worth restoring.
SOFT: Picture = cv2.GaussianBlur(  # type: ignore[assignment]
    cv2.resize(astronaut()[4:212, 116:324], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC),  # type: ignore[no-untyped-call]
    (0, 0),
    1.2,
)


def shifted(picture: Picture, x: float, y: float = 0.0) -> Picture:
    matrix = np.array([[1, 0, x], [0, 1, y]])
    moved = cv2.warpAffine(
        picture, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(moved, np.uint8)


def noisy(picture: Picture, seed: int, deviation: float = 0.5) -> Picture:
    noise = np.random.default_rng(seed).normal(0, deviation, picture.shape)
    return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


def face(picture: Picture, track_id: int = 1, **changes: object) -> TrackedFace:
    crop = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    return replace(tracked_face(track_id, size=picture.shape[0]), crop=crop, **changes)  # type: ignore[arg-type]


def clip_of(frames: Iterable[Sequence[TrackedFace]]) -> list[TrackedFrame]:
    return [TrackedFrame(gray_frame(index), tuple(faces), False) for index, faces in enumerate(frames)]
