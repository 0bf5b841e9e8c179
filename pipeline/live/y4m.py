"""YUV4MPEG2, the raw video of pipes: a line of facts, then the planes of each frame.

Source: yuv4mpeg(5) of mjpegtools, with FFmpeg's names for other chroma and for more bits.
"""

from __future__ import annotations

from fractions import Fraction
from typing import BinaryIO

import av

from pipeline.media.coding import planes_of

_COLOURS = {
    "gray": "mono",
    "yuv411p": "411",
    "yuv420p": "420mpeg2",
    "yuvj420p": "420jpeg",
    "yuv422p": "422",
    "yuvj422p": "422",
    "yuv444p": "444",
    "yuvj444p": "444",
    "yuv420p10le": "420p10",
    "yuv422p10le": "422p10",
    "yuv444p10le": "444p10",
}
FORMATS = tuple(_COLOURS)
"""Pixel formats that can be written."""
_FULL = 2


def header(native: av.VideoFrame, rate: Fraction) -> bytes:
    """The first line, for frames like `native` of one of `FORMATS`, `rate` a second."""
    colours = _COLOURS[native.format.name]
    if native.format.name == "yuv420p" and native.color_range == _FULL:
        colours = "420jpeg"
    span = "FULL" if native.color_range == _FULL or "yuvj" in native.format.name else "LIMITED"
    return (
        f"YUV4MPEG2 W{native.width} H{native.height} F{rate.numerator}:{rate.denominator} Ip A1:1 "
        f"C{colours} XCOLORRANGE={span}\n"
    ).encode()


def write_frame(file: BinaryIO, native: av.VideoFrame) -> None:
    """Writes the planes of `native`."""
    file.write(b"FRAME\n")
    for plane in planes_of(native):
        file.write(plane.tobytes())
    file.flush()
