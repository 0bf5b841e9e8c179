"""Faces of a frame: embedded, and as views for a reference set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from models.protocols import Face, Recogniser
from models.quality import frontalness, pose, sharpness
from pipeline.pixels.colour import read_crop
from pipeline.pixels.geometry import Geometry
from trackers.references import View, view_quality


def embed_faces(
    native: av.VideoFrame, faces: Sequence[Face], recogniser: Recogniser, geometry: Geometry
) -> list[Face]:
    """`faces` of a frame with their embeddings."""
    if not faces:
        return []
    crops = [read_crop(native, geometry.embedding_matrix(face.landmarks), 112) for face in faces]
    embeddings = recogniser.embed(torch.stack(crops)).numpy()
    return [replace(face, embedding=e) for face, e in zip(faces, embeddings, strict=True)]


def view_of(native: av.VideoFrame, face: Face, geometry: Geometry, crop_size: int, source: int | str) -> View:
    """The view that `face` (with its embedding) of a frame gives."""
    assert face.embedding is not None
    crop = read_crop(native, geometry.crop_matrix(face.landmarks, crop_size), crop_size)
    landmarks = geometry.square(face.landmarks)
    return View(
        crop=crop,
        embedding=face.embedding,
        quality=view_quality(face.embedding, sharpness(crop), frontalness(landmarks), face.eye_distance_px),
        source=source,
        yaw=pose(landmarks).yaw,
    )


def resized(crop: Tensor, size: int) -> Tensor:
    """An aligned crop, uint8 (3, S, S), at another side."""
    if crop.shape[-1] == size:
        return crop
    how = cv2.INTER_AREA if size < crop.shape[-1] else cv2.INTER_CUBIC
    picture = np.ascontiguousarray(crop.numpy().transpose(1, 2, 0))
    return torch.from_numpy(cv2.resize(picture, (size, size), interpolation=how).transpose(2, 0, 1).copy())
