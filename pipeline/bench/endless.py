"""A clip that goes on for as long as is wanted, in the form of a call: the frames of another, forth and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

_MOST_FRAMES = 150
"""More are left out: all lie in memory at once."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a clip is brought to; None leaves it as it is."""

    size: tuple[int, int] | None = None
    """Width and height in pixels, both even; the middle of the picture fills them."""
    rate: Fraction | None = None
    """Frames per second, every frame kept."""


def write_endless(clip: Path, output: Path, seconds: float, form: Form) -> None:
    """Writes the first frames of `clip` forth and back, over and over, for `seconds`, as H.264 for low delay.

    Forth and back, so that nothing jumps where it begins anew. Encoded once, and repeated packet by packet.
    """
    with av.open(str(clip)) as source:
        video = source.streams.video[0]
        rate = form.rate or Fraction(video.average_rate or 25)
        frames = [_formed(frame, form.size) for frame in islice(source.decode(video), _MOST_FRAMES)]
    if not frames:
        raise ValueError(f"{clip}: has no frames")
    height, width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
    with av.open(str(output), "w") as target:
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "22"}
        stream: Any = target.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        packets = list(_encoded(stream, [*frames, *frames[-2:0:-1]], rate))
        for number in range(math.ceil(seconds * rate)):
            data, is_key = packets[number % len(packets)]
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, 1 / rate
            packet.pts = packet.dts = number
            packet.is_keyframe = is_key
            target.mux(packet)


def _formed(frame: av.VideoFrame, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """`frame` as YUV 4:2:0 planes one below the other, uint8 (H * 3 / 2, W)."""
    if size is None:
        size = (frame.width // 2 * 2, frame.height // 2 * 2)
    scale = max(size[0] / frame.width, size[1] / frame.height)
    large = max(round(frame.width * scale), size[0]), max(round(frame.height * scale), size[1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(frame.to_ndarray(format="rgb24"), large, interpolation=how)
    left, top = (large[0] - size[0]) // 2, (large[1] - size[1]) // 2
    middle = np.ascontiguousarray(image[top : top + size[1], left : left + size[0]], np.uint8)
    return np.asarray(av.VideoFrame.from_ndarray(middle, "rgb24").to_ndarray(format="yuv420p"), np.uint8)


def _encoded(stream: Any, frames: list[NDArray[np.uint8]], rate: Fraction) -> Iterator[tuple[bytes, bool]]:
    for index, planes in enumerate(frames):
        native = av.VideoFrame.from_ndarray(planes, "yuv420p")
        native.pts, native.time_base = index, 1 / rate
        yield from ((bytes(packet), packet.is_keyframe) for packet in stream.encode(native))
    yield from ((bytes(packet), packet.is_keyframe) for packet in stream.encode(None))
