"""Photos and clips that the user gives of people in the film: each becomes pinned views of the person it shows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from models.decord_library import load_decord
from models.protocols import Detector, Face, Recogniser
from pipeline.errors import SourceError
from pipeline.media.decode import open_input
from pipeline.media.photos import PhotoSource
from pipeline.pixels.geometry import Geometry
from pipeline.stages.search import SearchDepth, find_faces
from pipeline.stages.views import embed_faces, view_of
from trackers.references import View, cosine

_WIDTH = 768
"""Width at which faces are searched, in pixels."""
_CLIP_FRAMES = 24
"""Frames of a clip that are looked at, spread over its length."""
_CLIP_VIEWS = 4
"""Views that a clip gives."""
_RIVAL_SIZE = 0.5
"""Above this share of the largest face's size another face in a photo may be the one that is meant."""


class Portraits:
    """Finds the person in photos, folders of photos and clips."""

    def __init__(self, detector: Detector, recogniser: Recogniser, crop_size: int) -> None:
        self.detector, self.recogniser, self.crop_size = detector, recogniser, crop_size

    def people(self, paths: Sequence[str]) -> list[list[View]]:
        """Views of the people that `paths` show, those of one person together, all pinned.

        Of each picture the largest face counts: bystanders may be in it. Photos in one folder, and photos whose
        faces are alike, are one person. Raises SourceError for what cannot be read, for a photo, or a whole clip,
        without a face, and for a photo on which another face is more than half as large.
        """
        people: list[list[View]] = []
        for path in map(Path, paths):
            views = (
                self._of_photos(path)
                if os.path.isdir(path) or PhotoSource.reads(path)
                else self._of_clip(path)
            )
            like = next((p for p in people if self._alike(p[0], views[0])), None)
            if os.path.isdir(path) or like is None:
                people.append(views)
            else:
                like.extend(views)
        return people

    def _of_photos(self, path: Path) -> list[View]:
        views = []
        photos = PhotoSource(path, strict=True)
        for frame in photos:
            file = photos.files[frame.index]
            faces = self._faces(frame.native)
            if not faces:
                raise SourceError(f"{file}: no face found; a reference photo needs one clear face")
            rivals = [f for f in faces if f.eye_distance_px > _RIVAL_SIZE * faces[0].eye_distance_px]
            if len(rivals) > 1:
                raise SourceError(
                    f"{file}: shows {len(rivals)} large faces; a reference photo needs one person, "
                    "so cut out the one who is meant"
                )
            views.append(self._view(frame.native, faces[0], file.name))
        return views

    def _of_clip(self, path: Path) -> list[View]:
        """The best views of the person who is largest on screen in the clearest frame."""
        found = [
            self._view(native, faces[0], path.name)
            for native in _frames_of(path)
            if (faces := self._faces(native))
        ]
        if not found:
            raise SourceError(f"{path}: no face found in {_CLIP_FRAMES} frames of this clip")
        found.sort(key=lambda view: view.quality, reverse=True)
        return [view for view in found if self._alike(found[0], view)][:_CLIP_VIEWS]

    def _faces(self, native: av.VideoFrame) -> list[Face]:
        """Faces in pixels of the whole picture, largest first."""
        faces = find_faces(native, self.detector, Geometry(), _WIDTH, SearchDepth.THOROUGH)
        return sorted(faces, key=lambda face: face.eye_distance_px, reverse=True)

    def _view(self, native: av.VideoFrame, face: Face, name: str) -> View:
        embedded = embed_faces(native, [face], self.recogniser, Geometry())[0]
        return replace(view_of(native, embedded, Geometry(), self.crop_size, name), pinned=True)

    def _alike(self, a: View, b: View) -> bool:
        return cosine(a.embedding, b.embedding) > self.recogniser.same_person


def _frames_of(path: Path) -> Iterator[av.VideoFrame]:
    """Frames spread over a clip, by random access."""
    # Refuses what must not be opened, before another library opens it.
    open_input(path).close()
    try:
        decord = load_decord()
    except ImportError as error:
        raise SourceError(
            f"{path}: clips as references need decord, which is not installed; give photos"
        ) from error
    try:
        reader = decord.VideoReader(str(path))
        for index in np.unique(np.linspace(0, len(reader) - 1, _CLIP_FRAMES).round().astype(int)):
            image = reader[int(index)].asnumpy()
            yield av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="gbrp")
    except (decord.DECORDError, RuntimeError) as error:
        raise SourceError(f"{path}: cannot be read as a clip of a person") from error
