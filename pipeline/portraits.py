"""Photos that the user gives of people in the film: each becomes a pinned view of the person it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av

from models.protocols import Detector, Recogniser
from pipeline.colour import read_crop, rgb_thumbnail
from pipeline.errors import SourceError
from pipeline.geometry import Geometry
from pipeline.photos import PhotoSource
from pipeline.views import view_of
from trackers.references import View, cosine

_PHOTO_WIDTH = 768
"""Width at which faces are searched in photos, in pixels."""


def photo_people(
    paths: Sequence[str], detector: Detector, recogniser: Recogniser, crop_size: int
) -> list[list[View]]:
    """Views of the people on the photos, those of one person together, all pinned.

    `paths` are photos or folders of photos; of each photo the largest face counts. Photos in one folder, and
    photos whose faces are alike, are one person. Raises SourceError for a photo without a face.
    """
    people: list[list[View]] = []
    for path in map(Path, paths):
        views = [
            _photo_view(path, frame.native, detector, recogniser, crop_size) for frame in PhotoSource(path)
        ]
        like = next(
            (p for p in people if cosine(p[0].embedding, views[0].embedding) > recogniser.same_person), None
        )
        if path.is_dir() or like is None:
            people.append(views)
        else:
            like.extend(views)
    return people


def _photo_view(
    path: Path, native: av.VideoFrame, detector: Detector, recogniser: Recogniser, crop_size: int
) -> View:
    image, scale = rgb_thumbnail(native, _PHOTO_WIDTH)
    faces = detector.detect(image)
    if not faces:
        raise SourceError(f"{path}: no face found; a reference photo needs one clear face")
    largest = max(faces, key=lambda face: face.eye_distance_px).scaled(scale)
    matrix = Geometry().embedding_matrix(largest.landmarks)
    embedding = recogniser.embed(read_crop(native, matrix, 112)[None])[0].numpy()
    view = view_of(native, replace(largest, embedding=embedding), Geometry(), crop_size, path.name)
    return replace(view, pinned=True)
