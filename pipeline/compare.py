"""Before and after in one picture, for people who want to see what was done."""

from __future__ import annotations

import av
import cv2
import numpy as np

from pipeline.coding import Plane, luma_code, planes_of
from pipeline.colour import new_frame
from pipeline.probe import display_of
from pipeline.sink import frame_size

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def side_by_side(
    before: av.VideoFrame, after: av.VideoFrame, captions: tuple[str, str] = ("before", "after")
) -> av.VideoFrame:
    """One frame, shown twice as wide, in the same pixel format: `before` left, `after` right, with captions.

    Where players turn or mirror the picture, the halves are put such that they stand side by side as shown.
    Where chroma is subsampled, an odd last column or row is cut off. Raises ValueError for frames of different
    size or format.
    """
    if (before.width, before.height, before.format.name) != (after.width, after.height, after.format.name):
        raise ValueError(
            f"frames to compare must be alike, got {before.width}x{before.height} {before.format.name} and "
            f"{after.width}x{after.height} {after.format.name}"
        )
    display = display_of(before)
    rotation = display.rotation % 360
    along = 1 if rotation % 180 == 0 else 0
    size = frame_size(before.width, before.height, rotation, columns=2, pixel_format=before.format.name)
    joined = new_frame(before, *size)
    # Turned counter-clockwise by 90 degrees the upper half is on the left, by 180 the right one, and so on.
    reverse = (rotation in (180, 270)) != display.mirrored
    halves = (after, before) if reverse else (before, after)
    targets = [np.array_split(plane, 2, axis=along) for plane in planes_of(joined)]
    for index, half in enumerate(halves):
        for parts, plane in zip(targets, planes_of(half), strict=True):
            height, width = parts[index].shape
            parts[index][:] = plane[:height, :width]
    for index, caption in enumerate(reversed(captions) if reverse else captions):
        shown = [np.rot90(parts[index], rotation // 90) for parts in targets]
        _stamp([plane[:, ::-1] for plane in shown] if display.mirrored else shown, caption, before)
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
