"""Steadies restored faces: where a face did not change since the frame before, its restoration should not either.

Between the two aligned crops motion is measured on the degraded pictures, the frame before is warped along it,
and is mixed in where the degraded pictures then agree. Legend: S side of an aligned crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.frames import RestoredFace, RestoredFrame


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A face of the frame before."""

    crop: NDArray[np.uint8]
    """Degraded, (S, S, 3) RGB."""
    image: NDArray[np.float32]
    """Restored and steadied, (S, S, 3) RGB, 8-bit code values."""


class Steadier:
    """Remembers one frame per track; tracks end at cuts, so nothing reaches over them. Frames come in order."""

    def __init__(self, share: float) -> None:
        """`share` in [0, 1): how much of the frame before is used where nothing changed; 0 leaves all as it is."""
        self._share = share
        self._kept: dict[int, _Kept] = {}
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def steady(self, frame: RestoredFrame) -> RestoredFrame:
        """`frame` with steadied faces; a face that was not restored in the frame before stays as it is."""
        if not self._share:
            return frame
        kept = {face.tracked.track_id: self._mixed(face) for face in frame.faces}
        self._kept = kept
        faces = []
        for face in frame.faces:
            image = kept[face.tracked.track_id].image.round().clip(0, 255).astype(np.uint8)
            faces.append(replace(face, image=torch.from_numpy(image.transpose(2, 0, 1).copy())))
        return replace(frame, faces=tuple(faces))

    def _mixed(self, face: RestoredFace) -> _Kept:
        crop = np.ascontiguousarray(face.tracked.crop.numpy().transpose(1, 2, 0))
        image = face.image.numpy().transpose(1, 2, 0).astype(np.float32)
        last = self._kept.get(face.tracked.track_id)
        if last is None or last.crop.shape != crop.shape:
            return _Kept(crop, image)
        places = self._motion(crop, last.crop)
        x, y = places[..., 0], places[..., 1]
        before = cv2.remap(last.image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        seen_before = cv2.remap(last.crop, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        gate = self._share * agreement(crop, np.asarray(seen_before, np.uint8))
        return _Kept(crop, image + gate[..., None] * (np.asarray(before, np.float32) - image))

    def _motion(self, crop: NDArray[np.uint8], last: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Where each pixel of `crop` was in `last`: float32 (S, S, 2), x y."""
        size = crop.shape[0]
        small = [
            cv2.resize(
                cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
                (size // 2, size // 2),
                interpolation=cv2.INTER_AREA,
            )
            for picture in (crop, last)
        ]
        flow = self._flow.calc(small[0], small[1], None)  # type: ignore[call-overload]
        flow = 2 * cv2.resize(flow, (size, size), interpolation=cv2.INTER_LINEAR)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        return np.asarray(np.dstack([x, y]) + flow, np.float32)


def agreement(crop: NDArray[np.uint8], before: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How surely two degraded crops (S, S, 3) show the same at each place: float32 (S, S) in [0, 1].

    Measured by the usual difference of the two, so that grain and blocks do not count as change, but never by
    so much that a blink or a word would go unseen.
    """
    difference = cv2.absdiff(crop, before).astype(np.float32).mean(-1)
    difference = np.asarray(cv2.GaussianBlur(difference, (0, 0), 2), np.float32)
    tolerance = np.float32(min(3 + 1.5 * float(np.median(difference)), 10))
    return np.asarray(np.exp(-((difference / tolerance) ** 2)), np.float32)
