"""The project's video degradation on a whole clip: one draw for the clip, noise for each frame, real H.264.

Blur, reduction and noise have the ranges of ReF-LDM's presets (`models.degradation.presets`); in the place of JPEG
comes a stream of the reduced pictures at a fixed quality, as an old or small video is stored, then enlarged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np

from models.degradation.coded import SMALLEST_PX
from models.degradation.presets import MODERATE, REFERENCE_SIDE_PX, SEVERE
from models.pictures import Picture
from pipeline.frames import Frame
from pipeline.media.source import FileSource
from pipeline.pixels.colour import read_crop

_PRESETS = {"moderate": (MODERATE, (18, 28)), "severe": (SEVERE, (28, 38))}
"""Ranges of blur, reduction and noise, and of H.264's crf, both ends included."""
STRENGTHS = tuple(_PRESETS)
_BT709 = 1


@dataclass(frozen=True, slots=True)
class ClipDamage:
    """One draw for a clip; lengths in pixels of a face crop of 512 pixels."""

    blur_sigma: float
    reduction: float
    noise: float
    """Standard deviation in code values, at the reduced size."""
    crf: int

    def __str__(self) -> str:
        return (
            f"blur {self.blur_sigma:.1f} px and reduction {self.reduction:.1f} (of a crop of 512), "
            f"noise {self.noise:.1f}, H.264 crf {self.crf}"
        )


def draw_damage(strength: str, seed: int) -> ClipDamage:
    """The damage that `seed` draws from the ranges of `strength`, one of `STRENGTHS`."""
    preset, (best, worst) = _PRESETS[strength]
    random = np.random.default_rng(seed)
    sigma, reduction, noise = (
        float(random.uniform(*range_)) for range_ in (preset.blur_sigma, preset.reduction, preset.noise)
    )
    return ClipDamage(sigma, reduction, noise, int(random.integers(best, worst + 1)))


def degraded(pictures: Iterable[Picture], damage: ClipDamage, side_px: float, seed: int) -> Iterator[Picture]:
    """`pictures` (H, W, 3) RGB of one size after `damage`, in the same size, order and number.

    `side_px`: side of the face's FFHQ crop in pixels of the pictures. A function of its arguments.
    """
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        return
    height, width = first.shape[:2]
    share = min(1.0, REFERENCE_SIDE_PX / damage.reduction / side_px)
    small = _even(width * share), _even(height * share)
    sigma = damage.blur_sigma * side_px / REFERENCE_SIDE_PX

    def reduced() -> Iterator[Picture]:
        for index, picture in enumerate(chain([first], pictures)):
            blurred = cv2.GaussianBlur(picture, (0, 0), sigma) if sigma > 0.1 else picture
            image = np.asarray(cv2.resize(blurred, small, interpolation=cv2.INTER_AREA), np.float32)
            noise = np.random.default_rng([seed, index]).standard_normal(image.shape, np.float32)
            yield np.clip(np.rint(image + np.float32(damage.noise) * noise), 0, 255).astype(np.uint8)

    for picture in _coded(reduced(), damage.crf):
        yield np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def write_degraded(source: FileSource, path: Path, damage: ClipDamage, side_px: float, seed: int) -> None:
    """Writes the frames of `source` after `damage` to `path` (.mkv), at their times, with no further loss.

    The picture is stored as BT.709, 4:2:0, 8 bits, limited range, whatever the source's coding is.
    """
    info = source.info
    times: deque[int] = deque()  # of the frames that are inside the encoder

    def pictures() -> Iterator[Picture]:
        for frame in source:
            times.append(frame.pts)
            yield _rgb(frame)

    with av.open(str(path), "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=info.average_rate)
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, "yuv420p"
        context = stream.codec_context
        context.time_base = info.time_base
        context.colorspace, context.color_range = _BT709, 1
        for picture in degraded(pictures(), damage, side_px, seed):
            native = av.VideoFrame.from_ndarray(picture, "rgb24")
            native = native.reformat(
                format="yuv420p", dst_colorspace=_BT709, src_color_range=2, dst_color_range=1
            )
            native.colorspace, native.color_range = _BT709, 1
            native.pts, native.time_base = times.popleft(), info.time_base
            output.mux(stream.encode(native))
        output.mux(stream.encode(None))


def _coded(pictures: Iterable[Picture], crf: int) -> Iterator[Picture]:
    """`pictures` (h, w, 3) after H.264; as many as the encoder looks ahead are kept."""
    encoder: av.VideoCodecContext | None = None
    decoder = av.VideoCodecContext.create("h264", "r")
    for index, picture in enumerate(pictures):
        encoder = encoder or _encoder(picture.shape[1], picture.shape[0], crf)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts = index
        for packet in encoder.encode(frame):
            yield from (_decoded(native) for native in decoder.decode(packet))
    for packet in encoder.encode(None) if encoder else ():
        yield from (_decoded(native) for native in decoder.decode(packet))
    yield from (_decoded(native) for native in decoder.decode(None))


def _encoder(width: int, height: int, crf: int) -> av.VideoCodecContext:
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    # The figures must not depend on the machine or the day. The number of threads changes the stream; and with
    # macroblock trees x264 gave, on a CPU with AVX-512, another stream in 1 of 20 runs over the same pictures.
    encoder.options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
    encoder.thread_count = 1
    return encoder


def _decoded(native: av.VideoFrame) -> Picture:
    return np.asarray(native.to_ndarray(format="rgb24"), np.uint8)


def _rgb(frame: Frame) -> Picture:
    """The whole frame by its own matrix and range, uint8 (H, W, 3)."""
    height, width = frame.native.height, frame.native.width
    square = read_crop(frame.native, np.eye(2, 3, dtype=np.float32), max(height, width))
    return np.ascontiguousarray(square[:, :height, :width].numpy().transpose(1, 2, 0))


def _even(length: float) -> int:
    """The nearest even number that encoders take."""
    return max(SMALLEST_PX, 2 * round(length / 2))
