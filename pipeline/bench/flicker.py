"""How much a picture trembles from frame to frame, before and after restoration; nothing is encoded in between."""

from __future__ import annotations

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.pixels.colour import luma_region


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
