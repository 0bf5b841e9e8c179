"""Steadiness over time: flicker of restored faces, and jitter of followed landmarks in damaged film."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from models.degradation.film import dust, film_grain, scratches
from pipeline.config import PipelineConfig
from pipeline.evaluation.measures import SMALLEST_PX, FlowMeter, Plane, landmark_jitter, warping_error
from pipeline.flow import Chain, Hooks, run
from pipeline.frames import Frame
from pipeline.pixels.colour import luma_region
from pipeline.runs.assembly import build, open_source
from pipeline.stages.track import track
from trackers.tracks import face_size_px

WEAR = (0.0, 0.5, 1.0)
"""Compared strengths of wear; 1 is the maximum in training."""
Places = dict[tuple[int, int], NDArray[np.float32]]
"""Landmarks (5, 2) by track and frame."""


class WarpingErrors:
    """Sink that measures the warping error of successive frames; its `arrange` gets them before and after restoration.

    The evaluation's measure (`evaluation/measures.py`), with motion from the source, over the pixels that restoration
    changed in both frames.
    """

    def __init__(self) -> None:
        self.errors: list[tuple[float, float]] = []
        """For each pair of frames, in code values: before and after restoration."""
        self._last: tuple[Plane, Plane] | None = None
        self._flow = FlowMeter()

    def arrange(self, before: av.VideoFrame, after: av.VideoFrame) -> av.VideoFrame:
        """Measures against the last frame; returns `after`."""
        now = _luma(before), _luma(after)
        if self._last is not None and before is not after:
            self._compare(self._last, now)
        self._last = now
        return after

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Nothing is written."""

    def _compare(self, last: tuple[Plane, Plane], now: tuple[Plane, Plane]) -> None:
        changed = (last[0] != last[1]) & (now[0] != now[1])
        if not changed.any():
            return
        rows, columns = np.where(changed)
        part = np.s_[
            max(rows.min() - 16, 0) : rows.max() + 17, max(columns.min() - 16, 0) : columns.max() + 17
        ]
        if min(changed[part].shape) < SMALLEST_PX:
            return
        motion = self._flow.measure(last[0][part], now[0][part])
        before, after = (
            warping_error(first[part], second[part], motion, changed[part])
            for first, second in zip(last, now, strict=True)
        )
        if before is not None and after is not None:
            self.errors.append((before, after))


def flicker(clips: list[Path], config: PipelineConfig) -> None:
    """Warping error of the restored faces and of the same pixels of the source."""
    for clip in clips:
        pairs = WarpingErrors()
        source = open_source(clip, config)
        run(source, pairs, Chain(build(config, source), config), Hooks(arrange=pairs.arrange))
        if not pairs.errors:
            print(f"{clip.name}: no face was restored in two successive frames")
            continue
        before, after = np.mean(pairs.errors, axis=0)
        print(
            f"{clip.name}: warping error source {before:.3f}, restored {after:.3f}, "
            f"ratio {after / before:.3f} ({len(pairs.errors)} pairs of frames)"
        )


def _luma(native: av.VideoFrame) -> Plane:
    return luma_region(native, 0, 0, native.width, native.height)


def landmarks(clips: list[Path], config: PipelineConfig) -> None:
    """Jitter of the followed landmarks, in eye distances, in a clip and in the clip with grain, scratches and dust."""
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
                f"maximum {most:.4f} eye distances ({len(jitter)} faces)"
            )


def followed(clip: Path, config: PipelineConfig, wear: float) -> Places:
    """Landmarks of all faces that the track stage follows in `clip` with this wear."""
    config = replace(config, restorer=replace(config.restorer, kind="none"))
    source = open_source(clip, config)
    frames = source if not wear else with_wear(iter(source), wear)
    parts = build(config, source)
    return {
        (face.track_id, frame.frame.index): face.face.landmarks
        for frame in track(frames, parts.perception, config.track, crops=False)
        for face in frame.faces
    }


def jitters(places: Places) -> NDArray[np.float64]:
    """Jitter of each face that the frames before and after show too."""
    found = []
    for (track_id, index), now in places.items():
        before, after = places.get((track_id, index - 1)), places.get((track_id, index + 1))
        if before is not None and after is not None:
            found.append(landmark_jitter(before, now, after, face_size_px(now)))
    return np.array(found)


def with_wear(frames: Iterator[Frame], wear: float) -> Iterator[Frame]:
    """`frames` with grain, scratches and dust of strength `wear`, seeded by the frame's index."""
    for frame in frames:
        picture = torch.from_numpy(frame.native.to_ndarray(format="rgb24")).permute(2, 0, 1)[None] / 255
        # Scaled as for a face of half the picture's size.
        side = max(picture.shape[2:]) / 2
        for number, damage in enumerate((film_grain, scratches, dust)):
            picture = damage(picture, wear, [1000 * (number + 1) + frame.index], side)
        array = (picture[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        native = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        native = native.reformat(format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1)
        native.colorspace, native.color_range = 1, 1
        native.pts, native.time_base = frame.pts, frame.time_base
        yield Frame(frame.index, frame.pts, frame.time_base, native)
