"""Kinds of frames, and places of crops on them, for tests of pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from clips import Tags
from numpy.typing import NDArray

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
]
each_coding = pytest.mark.parametrize(
    ("pixel_format", "tags"), CODINGS, ids=[f"{name}-{tags.matrix}-{tags.range}" for name, tags in CODINGS]
)
needs_cuda = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
_FMA3, _NEON = 12, 100
"""OpenCV's numbers for processors that multiply and add in one step."""
exact_opencv = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5 or not any(map(cv2.checkHardwareSupport, (_FMA3, _NEON))),
    reason="OpenCV before 5 rounds places to 1/32 of a sample, and twice where a processor must add by itself",
)


def placed(scale: float, centre: tuple[float, float], size: int, degrees: float = 0) -> NDArray[np.float32]:
    """Frame to crop: `scale` crop pixels per frame pixel about `centre`, which lands in the crop's middle."""
    radians = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    shift = np.full(2, (size - 1) / 2) - linear @ centre
    return np.hstack([linear, shift[:, None]]).astype(np.float32)
