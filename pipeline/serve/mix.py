"""Strength that follows a slider: the parts of a live run are built for full strength, and this takes it back."""

from __future__ import annotations

import av
import cv2

from pipeline.media.coding import planes_of
from pipeline.pixels.colour import copy_frame


def mixed(before: av.VideoFrame, after: av.VideoFrame, strength: float) -> av.VideoFrame:
    """`after` for `strength` 1, `before` for 0, and what lies between; of equal shape, 8 bits, planar.

    Samples that are equal in both keep their value. Writes into neither.
    """
    if after is before or strength >= 1:
        return after
    if strength <= 0:
        return before
    between = copy_frame(after)
    for old, new in zip(planes_of(before), planes_of(between), strict=True):
        new[...] = cv2.addWeighted(new, strength, old, 1 - strength, 0)
    return between
