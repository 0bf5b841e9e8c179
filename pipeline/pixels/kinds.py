"""What cuts crops out of frames and puts restored faces back: OpenCV on the CPU, or tensor operations on a device.

Both give the same samples within one code value, with OpenCV before 5 within eight of 8 bits. The setting `pixels.kind`
chooses; see docs/device.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.frames import RestoredFrame
from pipeline.media.coding import coding_of, planes_of
from pipeline.pixels.blend import BlendConfig, blend
from pipeline.pixels.colour import read_crops

logger = logging.getLogger(__name__)

KINDS = ("auto", "opencv", "tensors")
OPENCV_IS_EXACT = int(cv2.__version__.partition(".")[0]) >= 5
"""Whether OpenCV interpolates at exact positions, as tensors do; before 5 it rounds them to 1/32 of a sample."""
_ROUNDED_CODES = 8
"""Largest difference by such rounding in pictures, in codes of 8 bits: 6 was measured with 4.12, 5 with 4.10."""


@dataclass(frozen=True, slots=True)
class PixelsConfig:
    """What cuts crops out of frames and puts restored faces back."""

    kind: str = "auto"
    """`opencv` on the CPU; `tensors` on the device of the restorer, also where that is the CPU (for comparison);
    `auto`: tensors where that device is a CUDA one, as long as they give what OpenCV gives, else OpenCV."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")


P = ParamSpec("P")
R = TypeVar("R")
_PROVEN = 4
"""Results with faces in them that are compared."""
ReadCrops = Callable[[av.VideoFrame, Sequence[NDArray[np.float32]], int], Sequence[Tensor]]
"""`colour.read_crops` and what does the same."""
Blend = Callable[[RestoredFrame, BlendConfig], av.VideoFrame]
"""`blend.blend` and what does the same."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """One of each, for one run: the track stage reads crops, and what comes last blends."""

    read_crops: ReadCrops = read_crops
    blend: Blend = blend


def pixels_kind(wanted: str, device: torch.device) -> str:
    """`opencv` or `tensors`, for one of `KINDS` and a restorer on `device`. Raises ValueError for another device's."""
    if wanted == "auto":
        return "tensors" if device.type == "cuda" else "opencv"
    if wanted == "tensors" and device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"tensors are for CPU and CUDA devices, and the restorer's is {device.type}; use opencv"
        )
    return wanted


def make_pixels(kind: str, device: torch.device, *, prove: bool = False) -> Pixels:
    """What `kind`, `opencv` or `tensors`, stands for; the latter on `device`.

    `prove`: what tensors make of the first frames is compared with OpenCV's, which goes on where it is something else
    or where they fail.
    """
    if kind == "opencv":
        return Pixels()
    from pipeline.pixels.tensors.blend import Blender
    from pipeline.pixels.tensors.crops import CropReader

    reader, blender = CropReader(device).read_crops, Blender(device).blend
    if not prove:
        return Pixels(reader, blender)
    return Pixels(
        Proven("cut crops", reader, read_crops, _crops_apart, lambda crops: most_apart(8)),
        Proven("blend", blender, blend, _frames_apart, lambda frame: most_apart(coding_of(frame).depth)),
    )


def most_apart(depth: int) -> int:
    """Largest difference of the two, in codes of `depth` bits, with this version of OpenCV."""
    return 1 if OPENCV_IS_EXACT else _ROUNDED_CODES << (depth - 8)


class Proven(Generic[P, R]):
    """`tensors`, until they raise or give something else than `opencv`, which goes on in their place."""

    def __init__(
        self,
        what: str,
        tensors: Callable[P, R],
        opencv: Callable[P, R],
        apart: Callable[[R, R], int | None],
        allowed: Callable[[R], int],
    ) -> None:
        """`what` they do, for the sentence; `apart`: code values between two results, None where nothing was done;
        `allowed`: the largest difference from OpenCV's result that is accepted."""
        self._what, self._tensors, self._opencv = what, tensors, opencv
        self._apart, self._allowed = apart, allowed
        self._unproven = _PROVEN
        self._has_failed = False

    def __call__(self, *values: P.args, **named: P.kwargs) -> R:
        if self._has_failed:
            return self._opencv(*values, **named)
        try:
            result = self._tensors(*values, **named)
        except Exception as error:  # whatever it is: the same frame can be made without the device
            self._give_up(str(error).strip().partition("\n")[0] or type(error).__name__)
            return self._opencv(*values, **named)
        if self._unproven:
            expected = self._opencv(*values, **named)
            apart = self._apart(result, expected)
            if apart is not None:
                self._unproven -= 1
                if apart > self._allowed(expected):
                    self._give_up(f"{apart} code values from what the CPU gives")
                    return expected
        return result

    def _give_up(self, why: str) -> None:
        self._has_failed = True
        logger.warning("the device does not %s as it should (%s): the CPU does so instead", self._what, why)


def _crops_apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> int | None:
    return max(
        (int((a.int() - b.int()).abs().max()) for a, b in zip(ours, theirs, strict=True)), default=None
    )


def _frames_apart(ours: av.VideoFrame, theirs: av.VideoFrame) -> int | None:
    if ours is theirs:
        return None
    pairs = zip(planes_of(ours), planes_of(theirs), strict=True)
    return max(int(cv2.norm(a, b, cv2.NORM_INF)) for a, b in pairs)
