"""What cuts crops out of frames and puts restored faces back: OpenCV on the CPU, or tensor operations on a device.

Both give the same samples within one code value. Which is used is told by `pixels.kind`; see docs/device.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.blend import BlendConfig, blend
from pipeline.colour import read_crops
from pipeline.frames import RestoredFrame

KINDS = ("auto", "opencv", "tensors")


@dataclass(frozen=True, slots=True)
class PixelsConfig:
    """What cuts crops out of frames and puts restored faces back."""

    kind: str = "auto"
    """`opencv` on the CPU; `tensors` on the device of the restorer, also where that is the CPU (for comparison);
    `auto`: tensors where that device is a CUDA one, else OpenCV."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")


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


def make_pixels(kind: str, device: torch.device) -> Pixels:
    """What `kind`, `opencv` or `tensors`, stands for; the latter on `device`."""
    if kind == "opencv":
        return Pixels()
    from pipeline.device.blend import Blender
    from pipeline.device.crops import CropReader

    return Pixels(CropReader(device).read_crops, Blender(device).blend)
