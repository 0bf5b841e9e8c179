"""Measures one row frame by frame, keeping only the last frame."""

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
    FACE_SQUARE,
    SIDE_PX,
    SMALLEST_PX,
    FlowMeter,
    Place,
    Plane,
    Window,
    embedding_distance,
    landmark_jitter,
    regions,
    relative_change,
    sharpness,
    unit,
    warping_error,
    window_around,
)
from pipeline.evaluation.scores import Metric, Row
from pipeline.pixels.colour import luma_region, read_crop, rgb_thumbnail
from pipeline.pixels.geometry import Geometry

_DETECTED_WIDTH_PX = 960


@dataclass(frozen=True, slots=True, eq=False)
class Instruments:
    """Networks for measuring, shared by all rows."""

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
class _Observed:
    """Values of one face that the next frame is compared with."""

    place: Place
    embedding: NDArray[np.float32]
    sharpness: float | None
    rim: float | None
    landmarks: NDArray[np.float32] | None
    """Detected in this picture; None if the detector missed the face."""
    earlier: NDArray[np.float32] | None
    """Detected in the frame before."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """The last frame."""

    native: av.VideoFrame
    reference: av.VideoFrame
    observed: dict[int, _Observed]


class Meter:
    """Fills `row`, frame by frame in order."""

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
        """Measures the next frame: motion on `reference`, quality against `truth`, if given."""
        self._index += 1
        embeddings = self._instruments.embed(native, places, self._geometry)
        found = self._instruments.find(native, self._geometry) if places else []
        observed = {
            place.track_id: self._observe(native, place, embedding, found)
            for place, embedding in zip(places, embeddings, strict=True)
        }
        now = _Kept(native, reference, observed)
        for track_id, face in observed.items():
            before = self._last.observed.get(track_id) if self._last else None
            if self._last is not None and before is not None:
                self._compare(before, face, self._last, now)
            if truth is not None:
                self._judge(native, truth, face)
        self._last = now

    def _observe(
        self,
        native: av.VideoFrame,
        place: Place,
        embedding: NDArray[np.float32],
        found: list[NDArray[np.float32]],
    ) -> _Observed:
        window = window_around([place.matrix], native.width, native.height)
        luma = _luma(native, window)
        face, rim = regions(place.matrix, window)
        energies = sharpness(luma, face), sharpness(luma, rim)
        self._note(Metric.SHARPNESS, energies[0])
        self._note(Metric.RIM_SHARPNESS, energies[1])
        last = self._last.observed.get(place.track_id) if self._last else None
        return _Observed(
            place, embedding, *energies, _nearest(found, place), last.landmarks if last else None
        )

    def _compare(self, before: _Observed, now: _Observed, last: _Kept, kept: _Kept) -> None:
        """Measures of one face over two successive frames, and of its landmarks over three."""
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

    def _judge(self, native: av.VideoFrame, truth: av.VideoFrame, face: _Observed) -> None:
        """Compares the face with the ground truth in the same crop."""
        crop, target = (_crop(frame, face.place) for frame in (native, truth))
        inner, wanted = (np.ascontiguousarray(picture[FACE_SQUARE]) for picture in (crop, target))
        self._note(Metric.PSNR, psnr(inner, wanted))
        self._note(Metric.SSIM, ssim(inner, wanted))
        if self._instruments.perceptual is not None:
            self._note(Metric.PERCEPTUAL, self._instruments.perceptual(inner, wanted))
        if face.place.target is not None:
            self._note(Metric.IDENTITY, float(unit(face.embedding) @ unit(face.place.target)))
        if self._instruments.judge is not None:
            own, other = self._instruments.judge.describe([crop, target], [target, target])
            self._note(Metric.JUDGE, float(np.linalg.norm(own - other)))

    def _note(self, metric: Metric, value: float | None) -> None:
        self.row.series[metric].add(self._index, value)


def _nearest(found: list[NDArray[np.float32]], place: Place) -> NDArray[np.float32] | None:
    """The landmarks nearest to those of `place`; None beyond half the eye distance."""
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
