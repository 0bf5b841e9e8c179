"""Kinds of frames, and faces on them, for tests of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.frames import Detail, Frame, RestoredFace, RestoredFrame, TrackedFrame
from pipeline.media.coding import coding_of, planes_of
from pipeline.pixels.colour import read_crop
from pipeline.pixels.kinds import OPENCV_IS_EXACT
from support.clips import Tags, native_frame
from support.fakes import tracked_face

CODINGS = [
    ("yuv420p", Tags(1, 6, 6, 6)),
    ("yuv420p", Tags(1, 1, 1, 1)),
    ("yuv420p", Tags(2, 1, 1, 1)),
    ("yuvj420p", Tags(2, 5, 6, 5)),
    ("yuv422p", Tags(1, 1, 1, 1)),
    ("yuv444p", Tags(2, 5, 6, 5)),
    ("yuv420p10le", Tags(1, 1, 1, 1)),
    ("yuv422p10le", Tags(2, 9, 14, 9)),
    ("yuv444p12le", Tags(1, 9, 16, 9)),
    ("gbrp", Tags(2, 1, 13, 0)),
    ("gbrp10le", Tags(2, 1, 13, 0)),
    ("gray", Tags(2, 1, 1, 2)),
    ("gray10le", Tags(2, 1, 1, 2)),
    ("yuv420p16le", Tags(1, 1, 1, 1)),
]
each_coding = pytest.mark.parametrize(
    ("pixel_format", "tags"), CODINGS, ids=[f"{name}-{tags.matrix}-{tags.range}" for name, tags in CODINGS]
)
CROP_PX = 64
"""Side of crops."""
needs_cuda = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
_FMA3, _NEON = 12, 100
"""OpenCV's numbers for processors that multiply and add in one step."""
IS_EXACT = OPENCV_IS_EXACT and any(map(cv2.checkHardwareSupport, (_FMA3, _NEON)))
"""Whether OpenCV gives what tensors give: before 5 it rounds positions to 1/32 of a sample, and without such
processors it rounds twice."""


exact_opencv = pytest.mark.skipif(
    not IS_EXACT, reason="which faces are carried over depends on every code of a crop"
)


def codes_apart(depth: int = 8, *, is_noise: bool = False) -> int:
    """Largest difference allowed, in codes of `depth` bits: one where OpenCV is exact, else what its rounding costs."""
    return 1 if IS_EXACT else (2 if is_noise else 1) * (8 << (depth - 8))


def placed(scale: float, centre: tuple[float, float], size: int, degrees: float = 0) -> NDArray[np.float32]:
    """Frame to crop: `scale` crop pixels per frame pixel about `centre`, which lands in the crop's middle."""
    radians = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    shift = np.full(2, (size - 1) / 2) - linear @ centre
    return np.hstack([linear, shift[:, None]]).astype(np.float32)


def noisy_frame(pixel_format: str, tags: Tags, grain: float) -> av.VideoFrame:
    """161x121, with grain of so many 8-bit code values."""
    native = native_frame(0, 161, 121, pixel_format, tags)
    native.pts, native.time_base = 7, Fraction(1, 25)
    depth, rng = coding_of(native).depth, np.random.default_rng(2)
    for plane in planes_of(native):
        plane[:] = np.clip(
            plane + rng.normal(0, grain * (1 << (depth - 8)), plane.shape), 0, (1 << depth) - 1
        )
    return native


def scattered(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Faces of all sizes, turned all ways, some over each other, some across the border."""
    rng = np.random.default_rng(seed)
    return [
        placed(
            float(np.exp(rng.uniform(np.log(0.4), np.log(4)))),
            (float(rng.uniform(0, 160)), float(rng.uniform(0, 120))),
            CROP_PX,
            float(rng.uniform(-180, 180)),
        )
        for _ in range(count)
    ]


def restored(
    native: av.VideoFrame,
    places: Sequence[NDArray[np.float32]],
    *,
    monochrome: bool = False,
    smooth: bool = False,
) -> RestoredFrame:
    """A frame whose faces were brightened, roughened and, every third, covered in part; or else smoothed."""
    rng, faces = np.random.default_rng(3), []
    for number, matrix in enumerate(places):
        crop = read_crop(native, matrix, CROP_PX)
        rough = 0.8 * crop.float() + torch.from_numpy(rng.normal(20, 25, crop.shape)).float()
        image = torch.nn.functional.avg_pool2d(crop.float()[None], 3, 1, 1)[0] if smooth else rough
        detail = Detail(fine=number % 3 / 2, grain=6.0 * (number % 2))
        strength = 1 - 0.1 * (number % 4)
        tracked = replace(tracked_face(number), crop=crop, matrix=matrix, strength=strength, detail=detail)
        free = (
            torch.from_numpy(rng.uniform(0, 1, (CROP_PX, CROP_PX)).astype(np.float32))
            if number % 3 == 2
            else None
        )
        faces.append(RestoredFace(tracked, image.round().clamp(0, 255).to(torch.uint8), free))
    frame = Frame(0, native.pts or 0, Fraction(1, 25), native)
    return RestoredFrame(TrackedFrame(frame, tuple(face.tracked for face in faces), monochrome), tuple(faces))
