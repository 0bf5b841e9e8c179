"""`python -m pipeline demo`: makes a short degraded clip from a picture of scikit-image, and restores it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from skimage.data import astronaut

from pipeline.config import OutputConfig, PipelineConfig
from pipeline.report.counts import Report
from pipeline.runs.film import restore_video


def demo(output: Path, *, overwrite: bool = False) -> Report:
    """Writes before | after of a degraded two-second clip of an astronaut's portrait (NASA, public domain)."""
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / "damaged.mp4"
        write_damaged_clip(damaged)
        config = replace(PipelineConfig(), output=OutputConfig(compare=True, overwrite=overwrite))
        return restore_video(damaged, output, config)


def write_damaged_clip(path: Path, *, frames: int = 48, width: int = 320, height: int = 240) -> None:
    """A slow camera move over the portrait, blurred, noisy and compressed hard: 25 frames per second, H.264."""
    picture = astronaut()  # type: ignore[no-untyped-call]
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "34", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            part = index / max(frames - 1, 1)
            scale = 0.72 + 0.18 * part
            centre = np.array([225 + 12 * np.sin(4 * part), 135 + 6 * np.cos(5 * part)])
            matrix = np.array([[scale, 0, width / 2], [0, scale, height / 2]])
            matrix[:, 2] -= scale * centre
            image = cv2.warpAffine(
                picture, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
            )
            image = cv2.GaussianBlur(image, (0, 0), 1.3)
            damaged = np.clip(image + noise.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(damaged, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
