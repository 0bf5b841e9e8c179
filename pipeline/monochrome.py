"""How colourful a frame is, so that black-and-white film stays black-and-white."""

from __future__ import annotations

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.coding import coding_of, planes_of


def chroma_spread(native: av.VideoFrame) -> float:
    """How colourful `native` is: 95th percentile of the chroma's distance from what luma alone explains (a straight
    line), 8-bit code values.

    0 for grey pictures; low for black-and-white film that is toned (sepia) or was captured with a tint.
    """
    coding = coding_of(native)
    if coding.kind == "gray":
        return 0.0
    planes = planes_of(native)
    step = max(1, native.width // (coding.step_x * 80))
    steps = [(step * coding.step_y, step * coding.step_x), (step, step), (step, step)]
    luma, *others = [
        plane[::down, ::across].astype(np.float32)
        for plane, (down, across) in zip(planes, steps, strict=False)
    ]
    if coding.kind == "rgb":
        # Planes G, B, R: green stands for luma.
        first, second, scale = others[0] - luma, others[1] - luma, coding.luma_scale / 2
    else:
        first, second, scale = *others, coding.chroma_scale
    luma = luma[: first.shape[0], : first.shape[1]]
    distance = np.hypot(_unexplained(first, luma), _unexplained(second, luma))
    return scale * float(np.percentile(distance, 95))


def _unexplained(chroma: NDArray[np.float32], luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of `chroma` (h, w) when its middle and its straight line over `luma` (h, w) are taken away."""
    centred = luma - luma.mean()
    slope = float((chroma * centred).mean()) / max(float((centred**2).mean()), 1.0)
    left = chroma - np.float32(slope) * centred
    return np.asarray(left - np.median(left), np.float32)
