"""`python -m pipeline.bench pixels`: crops and blending by OpenCV and as tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.align import template
from models.protocols import Face, References
from pipeline.build import restorer_device
from pipeline.config import PipelineConfig
from pipeline.frames import Frame, RestoredFace, RestoredFrame, TrackedFace, TrackedFrame
from pipeline.media.coding import planes_of
from pipeline.pixels.blend import BlendConfig, blend
from pipeline.pixels.colour import read_crops
from pipeline.pixels.tensors.blend import Blender
from pipeline.pixels.tensors.crops import CropReader

_SIZE = 256
"""Side of the crops."""
_ON_SCREEN = 320
"""Side of the cropped square, in pixels of the frame."""


def pixels(config: PipelineConfig, rounds: int) -> None:
    """Time of cropping and blending by OpenCV and as tensors on the restorer's device, and their largest difference.

    On a synthetic frame, 1920x1080 with 10 bits, with 1, 2 and 8 face positions of 320 pixels.
    """
    device = restorer_device(config.restorer.device)
    reader, blender = CropReader(device), Blender(device)
    native = _synthetic_frame()
    for count in (1, 2, 8):
        matrices = _places(count)
        frame = _restored(native, matrices)
        times = _medians(
            rounds,
            partial(read_crops, native, matrices, _SIZE),
            partial(reader.read_crops, native, matrices, _SIZE),
            partial(blend, frame, config.blend),
            partial(blender.blend, frame, config.blend),
        )
        ways = read_crops(native, matrices, _SIZE), reader.read_crops(native, matrices, _SIZE)
        crops = max(int((a.int() - b.int()).abs().max()) for a, b in zip(*ways, strict=True))
        print(
            f"{count} faces: crops {times[0]:.1f} ms by OpenCV, {times[1]:.1f} ms on {device}, {crops} codes apart; "
            f"blending {times[2]:.1f} and {times[3]:.1f} ms, {_apart(frame, config.blend, blender)} codes apart"
        )
    print(f"(medians of {rounds} rounds, {torch.get_num_threads()} threads, blending in codes of 10 bits)")


def _medians(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Median milliseconds of each work; they take turns, after one warm-up round."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, times in zip(works, taken, strict=True):
            started = time.perf_counter()
            work()
            if number:
                times.append(1000 * (time.perf_counter() - started))
    return [statistics.median(times) for times in taken]


def _apart(frame: RestoredFrame, config: BlendConfig, blender: Blender) -> int:
    pairs = zip(planes_of(blend(frame, config)), planes_of(blender.blend(frame, config)), strict=True)
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)


def _synthetic_frame() -> av.VideoFrame:
    """Smooth shapes with grain."""
    rng = np.random.default_rng(0)
    native = av.VideoFrame(1920, 1080, "yuv420p10le")
    native.pts, native.time_base = 0, Fraction(1, 25)
    for plane in planes_of(native):
        shapes = cv2.GaussianBlur(rng.normal(0, 1, plane.shape).astype(np.float32), (0, 0), 6)
        plane[:] = np.clip(500 + 2000 * shapes + rng.normal(0, 12, plane.shape), 64, 940)
    return native


def _places(count: int) -> list[NDArray[np.float32]]:
    """Frame-to-crop matrices (2, 3) of faces side by side, each turned a little further."""
    matrices = []
    for number in range(count):
        middle = (300 + 430 * (number % 4), 300 + 460 * (number // 4))
        turned = np.asarray(cv2.getRotationMatrix2D(middle, 7.0 * number, _SIZE / _ON_SCREEN), np.float32)
        turned[:, 2] += np.float32((_SIZE - 1) / 2) - np.array(middle, np.float32)
        matrices.append(turned)
    return matrices


def _restored(native: av.VideoFrame, matrices: list[NDArray[np.float32]]) -> RestoredFrame:
    """The frame with smoothed faces in place of restored ones."""
    faces = []
    for number, (matrix, crop) in enumerate(zip(matrices, read_crops(native, matrices, _SIZE), strict=True)):
        face = Face(np.zeros(4, np.float32), template(_SIZE), 1.0)
        tracked = TrackedFace(number, None, face, crop, matrix, References(), 1.0, "")
        smooth = cv2.GaussianBlur(np.ascontiguousarray(crop.numpy().transpose(1, 2, 0)), (0, 0), 1.5)
        faces.append(RestoredFace(tracked, torch.from_numpy(smooth.transpose(2, 0, 1).copy())))
    frame = Frame(0, 0, Fraction(1, 25), native)
    return RestoredFrame(TrackedFrame(frame, tuple(f.tracked for f in faces), False), tuple(faces))
