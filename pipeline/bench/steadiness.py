"""How much a picture trembles from frame to frame, before and after restoration; nothing is encoded in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.training.film import dust, film_grain, scratches
from pipeline.config import PipelineConfig
from pipeline.evaluation.measures import landmark_jitter
from pipeline.frames import Frame
from pipeline.pixels.colour import luma_region
from pipeline.runs.assembly import build, open_source
from pipeline.stages.track import track
from trackers.tracks import face_size_px


class WarpingErrors:
    """A sink that keeps only the warping errors of successive frames; its `arrange` sees them before and after.

    Per pair of frames: optical flow (DIS) on the source, pixels that pass the forward-backward test
    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, mean absolute difference between a frame and the next one warped onto it,
    only where restoration changed a pixel in both frames.
    """

    def __init__(self) -> None:
        self.errors: list[tuple[float, float]] = []
        """Of each pair of frames, in code values: before and after restoration."""
        self._last: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def arrange(self, before: av.VideoFrame, after: av.VideoFrame) -> av.VideoFrame:
        """Measures against the last frame, and hands on what is to be written."""
        now = _luma(before), _luma(after)
        if self._last is not None and before is not after:
            self._compare(self._last, now)
        self._last = now
        return after

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Nothing is written."""

    def _compare(
        self,
        last: tuple[NDArray[np.float32], NDArray[np.float32]],
        now: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        touched = (last[0] != last[1]) & (now[0] != now[1])
        if touched.sum() < 100:
            return
        rows, columns = np.where(touched)
        part = np.s_[
            max(rows.min() - 16, 0) : rows.max() + 17, max(columns.min() - 16, 0) : columns.max() + 17
        ]
        first, second = last[0][part], now[0][part]
        if min(first.shape) < 32:
            return
        forward = self._flow.calc(first.astype(np.uint8), second.astype(np.uint8), None)  # type: ignore[call-overload]
        backward = self._flow.calc(second.astype(np.uint8), first.astype(np.uint8), None)  # type: ignore[call-overload]
        y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
        to = x + forward[..., 0], y + forward[..., 1]
        back = cv2.remap(backward, *to, cv2.INTER_LINEAR)
        squares = (forward**2).sum(-1) + (back**2).sum(-1)
        valid = ((forward + back) ** 2).sum(-1) < 0.01 * squares + 0.5
        valid &= touched[part]
        if valid.sum() < 100:
            return
        warped = [cv2.remap(picture[part], *to, cv2.INTER_LINEAR) for picture in now]
        errors = [np.abs(w - p[part])[valid].mean() for w, p in zip(warped, last, strict=True)]
        self.errors.append((float(errors[0]), float(errors[1])))


def _luma(native: av.VideoFrame) -> NDArray[np.float32]:
    return luma_region(native, 0, 0, native.width, native.height)


WEAR = (0.0, 0.5, 1.0)
"""Strengths of the wear that are compared; 1 is the worst that training draws."""

Places = dict[tuple[int, int], NDArray[np.float32]]
"""Landmarks (5, 2) by track and frame."""


def landmarks(clips: list[Path], config: PipelineConfig, runs: int) -> None:
    """Jitter of the followed landmarks in a clip and in the same clip with grain, scratches and dust.

    In eye distances; `runs` plays no part, as every run gives the same.
    """
    for clip in clips:
        clean = followed(clip, config, 0.0)
        for wear in WEAR:
            places = followed(clip, config, wear) if wear else clean
            jitter = jitters(places)
            if not len(jitter):
                print(f"{clip.name}: wear {wear}: no face was followed over three frames")
                continue
            middle, high, top, most = (*np.percentile(jitter, (50, 95, 99)), jitter.max())
            print(
                f"{clip.name}: wear {wear}: jitter median {middle:.4f}, 95 % {high:.4f}, 99 % {top:.4f}, "
                f"most {most:.4f} of the eyes' distance ({len(jitter)} faces)"
            )


def followed(clip: Path, config: PipelineConfig, wear: float) -> Places:
    """Landmarks of all faces that the track stage follows in `clip` with so much wear."""
    config = replace(config, restorer=replace(config.restorer, kind="none"))
    source = open_source(clip, config)
    frames = source if not wear else worn(iter(source), wear)
    parts = build(config, source)
    return {
        (face.track_id, frame.frame.index): face.face.landmarks
        for frame in track(frames, parts.perception, config.track, crops=False)
        for face in frame.faces
    }


def jitters(places: Places) -> NDArray[np.float64]:
    """The jitter of each face whose neighbours in time are known."""
    found = []
    for (track_id, index), now in places.items():
        before, after = places.get((track_id, index - 1)), places.get((track_id, index + 1))
        if before is not None and after is not None:
            found.append(landmark_jitter(before, now, after, face_size_px(now)))
    return np.array(found)


def worn(frames: Iterator[Frame], wear: float) -> Iterator[Frame]:
    """`frames` with grain, scratches and dust of strength `wear`, drawn for each frame from its number."""
    for frame in frames:
        picture = torch.from_numpy(frame.native.to_ndarray(format="rgb24")).permute(2, 0, 1)[None] / 255
        # As on a face that takes up half of the picture.
        side = max(picture.shape[2:]) / 2
        for number, damage in enumerate((film_grain, scratches, dust)):
            picture = damage(picture, wear, [1000 * (number + 1) + frame.index], side)
        array = (picture[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        native = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        native = native.reformat(format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1)
        native.colorspace, native.color_range = 1, 1
        native.pts, native.time_base = frame.pts, frame.time_base
        yield Frame(frame.index, frame.pts, frame.time_base, native)
