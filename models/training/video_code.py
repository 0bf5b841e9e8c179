"""Real video compression of a still: a short pan is encoded, the last frame is what is left of the picture.

So it carries the codec's own blocks, loop filter, chroma reduction and the residue of motion compensation.
"""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from configs import ConfigError

CODECS = ("libx264", "mpeg2video", "mpeg4")
SMALLEST_PX = 32
"""Below, a picture is smaller than two macroblocks and the encoders refuse it."""
MARGIN_PX = 16


def video_code(image: NDArray[np.uint8], random: np.random.Generator, strength: float) -> NDArray[np.uint8]:
    """`image` (H, W, 3) RGB, both at least 32, after one of `CODECS`; the same shape.

    `strength` in [0, 1] sets the quantiser: from hardly visible to the worst of a video call or an old disc.
    """
    height, width = image.shape[:2]
    frame_height, frame_width = (side + MARGIN_PX + (side + MARGIN_PX) % 2 for side in (height, width))
    left, top = (int(value) for value in random.integers(0, MARGIN_PX, 2))  # phase of the blocks
    border = 2 * MARGIN_PX + 2
    wide = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REFLECT_101)
    step_x, step_y = (int(value) for value in random.integers(-3, 4, 2))
    count = int(random.integers(1, 4))
    frames = []
    for age in reversed(range(count)):
        x, y = border - left + age * step_x, border - top + age * step_y
        frames.append(np.ascontiguousarray(wide[y : y + frame_height, x : x + frame_width], dtype=np.uint8))
    codec = CODECS[int(random.integers(len(CODECS)))]
    last = _code(frames, codec, strength)
    return np.ascontiguousarray(last[top : top + height, left : left + width])


def _code(frames: list[NDArray[np.uint8]], codec: str, strength: float) -> NDArray[np.uint8]:
    try:
        import av  # here, so that a machine without PyAV can train without these streams
    except ImportError as error:
        raise ConfigError("real video streams need PyAV; train without them: fast.coded_faces = 0") from error

    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
    encoder.thread_count = 1
    if codec == "libx264":
        quantiser = round(22 + 22 * strength)
        encoder.options = {"preset": "veryfast", "tune": "zerolatency", "qp": str(quantiser)}
    else:
        encoder.qmin = encoder.qmax = max(2, round(2 + 22 * strength))
    decoder = av.CodecContext.create("h264" if codec == "libx264" else codec, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    packets = []
    for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    return np.asarray(decoded[-1].to_ndarray(format="rgb24"), dtype=np.uint8)
