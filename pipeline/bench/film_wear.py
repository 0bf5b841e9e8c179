"""How steadily faces are followed in worn film: grain, scratches and dust laid over a clip, anew in each frame."""

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
from pipeline.evaluation.measures import landmark_jitter
from pipeline.frames import Frame
from pipeline.runs.assembly import build, open_source
from pipeline.stages.track import track
from trackers.tracks import face_size_px

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
