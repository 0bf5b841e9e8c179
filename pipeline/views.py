"""One face of a frame as a view for a reference set."""

from __future__ import annotations

import av

from models.face import Face
from models.quality import frontalness, pose, sharpness
from pipeline.colour import read_crop
from pipeline.geometry import Geometry
from trackers.references import View, view_quality


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
