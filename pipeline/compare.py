"""Before and after in one picture, for people who want to see what was done."""

from __future__ import annotations

import av
import cv2
import numpy as np

from pipeline.coding import Plane, luma_code, planes_of
from pipeline.colour import new_frame
from pipeline.sink import frame_size

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def side_by_side(
    before: av.VideoFrame, after: av.VideoFrame, captions: tuple[str, str] = ("before", "after")
) -> av.VideoFrame:
    """One frame, shown twice as wide, in the same pixel format: `before` left, `after` right, with captions.

    Where players turn the picture, the halves are stacked such that they stand side by side once turned.
    Raises ValueError for frames of different size or format.
    """
    if (before.width, before.height, before.format.name) != (after.width, after.height, after.format.name):
        raise ValueError(
            f"frames to compare must be alike, got {before.width}x{before.height} {before.format.name} and "
            f"{after.width}x{after.height} {after.format.name}"
        )
    rotation = before.rotation % 360
    upright = rotation % 180 == 0
    joined = new_frame(before, *frame_size(before.width, before.height, rotation, columns=2))
    # Turned counter-clockwise by 90 degrees the upper half is on the left, by 180 the right one, and so on.
    reverse = rotation in (180, 270)
    halves = (after, before) if reverse else (before, after)
    targets = planes_of(joined)
    for target, *parts in zip(targets, *(planes_of(half) for half in halves), strict=True):
        np.concatenate(parts, axis=1 if upright else 0, out=target)
    for index, caption in enumerate(reversed(captions) if reverse else captions):
        shown = [
            np.rot90(np.array_split(target, 2, axis=1 if upright else 0)[index], rotation // 90)
            for target in targets
        ]
        _stamp(shown, caption, before)
    return joined


def _stamp(planes: list[Plane], caption: str, like: av.VideoFrame) -> None:
    """Writes `caption`, white on black, into the lower left corner of `planes`, turned as they are shown."""
    height, width = planes[0].shape
    scale, thickness = max(0.35, height / 700), max(1, round(height / 350))
    (text_width, text_height), below = cv2.getTextSize(caption, _FONT, scale, thickness)
    margin = max(2, text_height // 2)
    label = np.zeros((text_height + below + 2 * margin, text_width + 2 * margin), np.uint8)
    cv2.putText(label, caption, (margin, margin + text_height), _FONT, scale, 255, thickness, cv2.LINE_AA)
    shrink = min(1.0, width / 2 / label.shape[1], height / 3 / label.shape[0])
    size = max(1, int(label.shape[1] * shrink)), max(1, int(label.shape[0] * shrink))
    label = np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_AREA), np.uint8)
    black, white = luma_code(like, 0), luma_code(like, 255)
    codes = black + label.astype(np.float32) * ((white - black) / 255)
    for index, plane in enumerate(planes):
        rows = round(label.shape[0] * plane.shape[0] / height)
        columns = round(label.shape[1] * plane.shape[1] / width)
        corner = plane[plane.shape[0] - rows :, :columns]
        if index == 0 or like.format.is_rgb:
            corner[:] = np.rint(codes).astype(plane.dtype)
        else:
            corner[:] = 1 << (like.format.components[0].bits - 1)
