"""Finds the people of films in a few frames per second, without restoration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from models.align import scale_of
from models.protocols import Detector, Face, Recogniser
from models.quality import frontalness
from pipeline.config import PipelineConfig
from pipeline.frames import Frame
from pipeline.media.source import FileSource
from pipeline.pixels.colour import luma_thumbnail, read_crop
from pipeline.pixels.geometry import Geometry
from pipeline.stages.search import SearchDepth, find_faces
from pipeline.stages.views import embed_faces, resized, view_of
from trackers.appearances import Appearance, Appearances, Glimpse, GroupingConfig
from trackers.references import Evidence
from trackers.shots import ShotDetector

_CROP_PX = 256
"""Side of the crop from which a view is rated."""
_LARGE_PX = 512
"""Side of the pictures of large faces."""
_LARGE_FROM = 0.7
"""Crop pixels per film pixel below which a face is large."""
_COMPARED_PX = 64
"""Side of the crops kept to compare views."""
_SHOTS_PX = 160
"""Width of the picture for cut detection."""
_GAPS = 2.2
"""Maximum gap within an appearance, in sampling intervals."""


@dataclass(frozen=True, slots=True)
class Film:
    """A scanned film."""

    name: str
    seconds: float
    """Time of the last sampled frame."""
    sampled: int
    """Frames sampled."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """The people of films."""

    films: tuple[Film, ...]
    people: tuple[Appearance, ...]
    """Longest on screen first."""
    unclear: int
    """Appearances that were not identified."""
    every_seconds: float
    recogniser: str
    """Name of the recogniser of the embeddings."""


Saw = Callable[[Frame, Sequence[Glimpse], Sequence[Appearance]], None]


def see_nothing(frame: Frame, glimpses: Sequence[Glimpse], appearances: Sequence[Appearance]) -> None:
    """The default callback: does nothing."""


class Scanner:
    """Scans films one after the other, in bounded memory."""

    def __init__(self, config: PipelineConfig, detector: Detector, recogniser: Recogniser) -> None:
        self._config, self._detector, self._recogniser = config, detector, recogniser
        same = config.recogniser.same_person
        grouping = GroupingConfig(
            min_similarity=recogniser.same_person if same is None else same, views=config.scan.views
        )
        self._evidence = Evidence(recogniser.clear_norm)
        self._appearances = Appearances(grouping, self._evidence)
        self._films: list[Film] = []

    def look(self, source: FileSource, saw: Saw = see_nothing) -> Film:
        """Scans one film; calls `saw` with every sampled frame, its faces and their appearances."""
        every, number = self._config.scan.every_seconds, len(self._films)
        geometry, seconds, count = Geometry.of(source.info), 0.0, 0
        # At this distance motion changes every frame, so the usual change is no baseline for cuts.
        shots = ShotDetector(replace(self._config.shots, contrast_to_motion=1.0))
        for frame in source.sparse(every):
            seconds = self._config.input.start_seconds + float(frame.pts * frame.time_base)
            place = _Place(source.path.name, number, seconds)
            faces = find_faces(
                frame.native, self._detector, geometry, self._config.scan.detect_width, SearchDepth.ALL_SIZES
            )
            faces = embed_faces(frame.native, faces, self._recogniser, geometry)
            glimpses = [self._glimpse(face, geometry) for face in faces]
            is_cut = shots.is_cut(luma_thumbnail(frame.native, _SHOTS_PX)[0])
            found = self._appearances.see(number, seconds, glimpses, most_apart=_GAPS * every, is_cut=is_cut)
            for glimpse, appearance in zip(glimpses, found, strict=True):
                self._offer(place, frame, glimpse, appearance, geometry)
            saw(frame, glimpses, found)
            count += 1
        self._films.append(Film(source.path.name, seconds, count))
        return self._films[-1]

    def result(self) -> Scan:
        """The people of all films together."""
        people = tuple(self._appearances.people())
        unclear, every = self._appearances.unclear, self._config.scan.every_seconds
        return Scan(tuple(self._films), people, unclear, every, self._recogniser.name)

    def _glimpse(self, face: Face, geometry: Geometry) -> Glimpse:
        frontal = frontalness(geometry.square(face.landmarks))
        return Glimpse(face, frontal >= self._config.track.perception.min_frontalness)

    def _offer(
        self, place: _Place, frame: Frame, glimpse: Glimpse, appearance: Appearance, geometry: Geometry
    ) -> None:
        """Offers a clear face to its appearance as a best view."""
        face, native = glimpse.face, frame.native
        assert face.embedding is not None
        if not glimpse.decides or self._evidence.of(face.embedding) < self._config.people.min_evidence:
            return
        view = view_of(native, face, geometry, _CROP_PX, f"{place.film} {timecode(place.seconds)}")

        def picture() -> bytes:
            matrix = geometry.crop_matrix(face.landmarks, _CROP_PX)
            size = _LARGE_PX if scale_of(matrix) < _LARGE_FROM else _CROP_PX
            crop = read_crop(native, geometry.crop_matrix(face.landmarks, size), size)
            return to_png(crop)

        small = replace(view, crop=resized(view.crop, _COMPARED_PX))
        appearance.offer(small, picture, place.number, place.seconds, face.eye_distance_px)


@dataclass(frozen=True, slots=True)
class _Place:
    film: str
    number: int
    seconds: float


def timecode(seconds: float) -> str:
    """Time as in the list of people, for example 0:07.3 or 1:02:07.3."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02d}" if hours else str(minutes)
    return f"{clock}:{rest / 10:04.1f}"


def to_png(crop: Tensor) -> bytes:
    """A crop, uint8 (3, S, S) RGB, as the bytes of a PNG file."""
    picture_bgr = np.ascontiguousarray(crop.numpy().transpose(1, 2, 0)[..., ::-1])
    done, content = cv2.imencode(".png", picture_bgr)
    assert done, "a PNG takes any picture"
    return content.tobytes()


def from_png(content: bytes) -> Tensor | None:
    """The crop, uint8 (3, S, S) RGB, from the bytes of a picture; None if they are damaged."""
    picture_bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture_bgr is None:
        return None
    return torch.from_numpy(picture_bgr[..., ::-1].transpose(2, 0, 1).copy())
