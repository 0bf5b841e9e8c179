"""Measures one row frame by frame; of the pictures only the last frame is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
import torch
from numpy.typing import NDArray

from models.evaluation.measures import Judge, SqueezeDistance, psnr, ssim
from models.pictures import Picture
from models.protocols import Detector, Recogniser
from pipeline.evaluation.measures import (
    SMALLEST_PX,
    FlowMeter,
    Plane,
    embedding_distance,
    landmark_jitter,
    relative_change,
    sharpness,
    unit,
    warping_error,
)
from pipeline.evaluation.regions import FACE_SQUARE, SIDE_PX, Place, Window, regions, window_around
from pipeline.evaluation.scores import Metric, Row
from pipeline.pixels.colour import luma_region, read_crop, rgb_thumbnail
from pipeline.pixels.geometry import Geometry

_DETECTED_WIDTH_PX = 960


@dataclass(frozen=True, slots=True, eq=False)
class Instruments:
    """The networks that measure, shared by all rows."""

    detector: Detector
    recogniser: Recogniser
    perceptual: SqueezeDistance | None = None
    judge: Judge | None = None

    def find(self, native: av.VideoFrame, geometry: Geometry) -> list[NDArray[np.float32]]:
        """Landmarks (5, 2) of the faces of a whole frame, in its pixels, best first."""
        image, scale = rgb_thumbnail(native, _DETECTED_WIDTH_PX)
        found = self.detector.detect(geometry.upright(image))
        return [geometry.back(face, image).scaled(scale).landmarks for face in found]

    def embed(
        self, native: av.VideoFrame, places: Sequence[Place], geometry: Geometry
    ) -> list[NDArray[np.float32]]:
        """Embeddings (D,) of the faces at `places`."""
        if not places:
            return []
        matrices = [geometry.embedding_matrix(place.face.landmarks) for place in places]
        crops = torch.stack([read_crop(native, matrix, 112) for matrix in matrices])
        return list(self.recogniser.embed(crops).numpy())


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What of one face the next frame is compared with."""

    place: Place
    embedding: NDArray[np.float32]
    sharpness: float | None
    rim: float | None
    landmarks: NDArray[np.float32] | None
    """As found in this picture; None where the detector missed the face."""
    earlier: NDArray[np.float32] | None
    """As found in the frame before."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """The frame before."""

    native: av.VideoFrame
    reference: av.VideoFrame
    looks: dict[int, _Look]


class Meter:
    """Fills `row`, frame after frame in order."""

    def __init__(self, name: str, instruments: Instruments, geometry: Geometry) -> None:
        self.row = Row(name)
        self._instruments, self._geometry = instruments, geometry
        self._flow = FlowMeter()
        self._last: _Kept | None = None
        self._index = -1

    def add(
        self,
        native: av.VideoFrame,
        places: Sequence[Place],
        *,
        reference: av.VideoFrame,
        truth: av.VideoFrame | None = None,
    ) -> None:
        """The next frame. Motion is measured on `reference`; nearness to `truth`, where there is one."""
        self._index += 1
        embeddings = self._instruments.embed(native, places, self._geometry)
        found = self._instruments.find(native, self._geometry) if places else []
        looks = {
            place.track_id: self._look(native, place, embedding, found)
            for place, embedding in zip(places, embeddings, strict=True)
        }
        now = _Kept(native, reference, looks)
        for track_id, look in looks.items():
            before = self._last.looks.get(track_id) if self._last else None
            if self._last is not None and before is not None:
                self._compare(before, look, self._last, now)
            if truth is not None:
                self._judge(native, truth, look)
        self._last = now

    def _look(
        self,
        native: av.VideoFrame,
        place: Place,
        embedding: NDArray[np.float32],
        found: list[NDArray[np.float32]],
    ) -> _Look:
        window = window_around([place.matrix], native.width, native.height)
        luma = _luma(native, window)
        face, rim = regions(place.matrix, window)
        energies = sharpness(luma, face), sharpness(luma, rim)
        self._note(Metric.SHARPNESS, energies[0])
        self._note(Metric.RIM_SHARPNESS, energies[1])
        last = self._last.looks.get(place.track_id) if self._last else None
        return _Look(place, embedding, *energies, _nearest(found, place), last.landmarks if last else None)

    def _compare(self, before: _Look, now: _Look, last: _Kept, kept: _Kept) -> None:
        """What the same face shows in two neighbouring frames, and its landmarks in three."""
        self._note(Metric.VIDD, embedding_distance(before.embedding, now.embedding))
        self._note(Metric.FLICKER, _change(before.sharpness, now.sharpness))
        self._note(Metric.RIM_FLICKER, _change(before.rim, now.rim))
        if before.earlier is not None and before.landmarks is not None and now.landmarks is not None:
            points = before.earlier, before.landmarks, now.landmarks
            self._note(Metric.LANDMARKS, landmark_jitter(*points, now.place.face.eye_distance_px))
        matrices = [before.place.matrix, now.place.matrix]
        window = window_around(matrices, kept.native.width, kept.native.height)
        if window.smaller_side_px < SMALLEST_PX:
            return
        motion = self._flow.measure(_luma(last.reference, window), _luma(kept.reference, window))
        pictures = _luma(last.native, window), _luma(kept.native, window)
        inside = regions(before.place.matrix, window)[0]
        self._note(Metric.WARPING, warping_error(*pictures, motion, inside))

    def _judge(self, native: av.VideoFrame, truth: av.VideoFrame, look: _Look) -> None:
        """How near the face is to the ground truth, in the same crop of both."""
        crop, target = (_crop(frame, look.place) for frame in (native, truth))
        inner, wanted = (np.ascontiguousarray(picture[FACE_SQUARE]) for picture in (crop, target))
        self._note(Metric.PSNR, psnr(inner, wanted))
        self._note(Metric.SSIM, ssim(inner, wanted))
        if self._instruments.perceptual is not None:
            self._note(Metric.PERCEPTUAL, self._instruments.perceptual(inner, wanted))
        if look.place.target is not None:
            self._note(Metric.IDENTITY, float(unit(look.embedding) @ unit(look.place.target)))
        if self._instruments.judge is not None:
            own, other = self._instruments.judge.describe([crop, target], [target, target])
            self._note(Metric.JUDGE, float(np.linalg.norm(own - other)))

    def _note(self, metric: Metric, value: float | None) -> None:
        self.row.series[metric].add(self._index, value)


def _nearest(found: list[NDArray[np.float32]], place: Place) -> NDArray[np.float32] | None:
    """The landmarks nearest to those of `place`; None where none is nearer than half the eyes' distance."""
    landmarks = place.face.landmarks
    far = [float(np.linalg.norm(points - landmarks, axis=1).mean()) for points in found]
    if not far or min(far) > place.face.eye_distance_px / 2:
        return None
    return found[int(np.argmin(far))]


def _change(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else relative_change(before, now)


def _luma(native: av.VideoFrame, window: Window) -> Plane:
    return luma_region(native, window.left, window.top, window.right, window.bottom)


def _crop(native: av.VideoFrame, place: Place) -> Picture:
    return np.ascontiguousarray(read_crop(native, place.matrix, SIDE_PX).numpy().transpose(1, 2, 0))
