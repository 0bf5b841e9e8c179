"""Clips to measure: as they are, or degraded from a ground truth.

Blur, reduction and noise have the ranges of ReF-LDM's presets (`models.degradation.stills`). Instead of JPEG, the
reduced pictures are encoded as H.264 at a constant quality, as old or small video is stored, and enlarged. One draw
serves a clip; noise is drawn for each frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np

from models.align import scale_of
from models.degradation.stills import MODERATE, REFERENCE_SIDE_PX, SEVERE, SMALLEST_PX
from models.pictures import Picture
from pipeline.config import InputConfig, PipelineConfig
from pipeline.errors import SourceError
from pipeline.evaluation.measures import SIDE_PX
from pipeline.evaluation.meter import Instruments
from pipeline.frames import Frame
from pipeline.media.source import FileSource
from pipeline.pixels.colour import read_crop
from pipeline.pixels.geometry import Geometry
from pipeline.runs.assembly import open_source

_PRESETS = {"moderate": (MODERATE, (18, 28)), "severe": (SEVERE, (28, 38))}
"""Ranges of blur, reduction and noise, and of H.264's crf, inclusive."""
STRENGTHS = tuple(_PRESETS)
_BT709 = 1


@dataclass(frozen=True, slots=True)
class ClipDamage:
    """Degradation of a clip; lengths in pixels of a face crop of 512 pixels."""

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
    """Draws a degradation with `seed` from the ranges of `strength`, one of `STRENGTHS`."""
    preset, (best, worst) = _PRESETS[strength]
    random = np.random.default_rng(seed)
    sigma, reduction, noise = (
        float(random.uniform(*range_)) for range_ in (preset.blur_sigma, preset.reduction, preset.noise)
    )
    return ClipDamage(sigma, reduction, noise, int(random.integers(best, worst + 1)))


def degraded(pictures: Iterable[Picture], damage: ClipDamage, side_px: float, seed: int) -> Iterator[Picture]:
    """Degraded `pictures`, RGB (H, W, 3) of one size, in the same size, order and number.

    `side_px`: side of the face's FFHQ crop in pixels of the pictures. Deterministic.
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
    """Writes the degraded frames of `source` to `path` (.mkv), at their times, without further loss.

    Stored as BT.709, 4:2:0, 8 bits, limited range, for any source.
    """
    info = source.info
    times: deque[int] = deque()  # pts of the frames inside the encoder

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
    """`pictures` (h, w, 3) after H.264; only the encoder's lookahead is held."""
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
    # Figures must be reproducible. The number of threads changes the stream, and with macroblock trees x264 gave
    # another stream in 1 of 20 runs over the same pictures on a CPU with AVX-512.
    encoder.options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
    encoder.thread_count = 1
    return encoder


def _decoded(native: av.VideoFrame) -> Picture:
    return np.asarray(native.to_ndarray(format="rgb24"), np.uint8)


def _rgb(frame: Frame) -> Picture:
    """The whole frame as RGB by its own matrix and range, uint8 (H, W, 3)."""
    height, width = frame.native.height, frame.native.width
    square = read_crop(frame.native, np.eye(2, 3, dtype=np.float32), max(height, width))
    return np.ascontiguousarray(square[:, :height, :width].numpy().transpose(1, 2, 0))


def _even(length: float) -> int:
    """The nearest even length that encoders accept."""
    return max(SMALLEST_PX, 2 * round(length / 2))


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to restore, with its ground truth if known."""

    name: str
    path: Path
    input: InputConfig
    """Section of `path` to restore."""
    truth: FileSource | None = None
    """The ground truth, frame by frame; None if unknown."""
    damage: str = ""

    def source(self, config: PipelineConfig) -> FileSource:
        """A new source of the clip."""
        return open_video(self.path, replace(config, input=self.input))


def open_video(path: Path, config: PipelineConfig) -> FileSource:
    """The video at `path`. Raises SourceError, also for photos."""
    source = open_source(path, config)
    if not isinstance(source, FileSource):
        raise SourceError(f"{path}: not a video; measures over time need successive frames")
    return source


def plain_clip(path: Path, config: PipelineConfig) -> Clip:
    """A clip without ground truth. Raises SourceError."""
    open_video(path, config)
    return Clip(path.name, path, config.input)


def degraded_clip(
    path: Path, config: PipelineConfig, folder: Path, *, strength: str, seed: int, instruments: Instruments
) -> Clip:
    """The ground truth at `path`, degraded into `folder`. Raises SourceError, also if no face is found."""
    truth = open_video(path, config)
    if truth.info.rotation or (truth.info.sample_aspect_ratio or 1) != 1:
        raise SourceError(f"{path}: a rotated or anamorphic video cannot be degraded; convert it first")
    damage = draw_damage(strength, seed)
    target = folder / f"{path.stem}.mkv"
    write_degraded(truth, target, damage, _crop_side_px(truth, instruments), seed)
    stretch = replace(config.input, start_seconds=0.0, duration_seconds=None)
    return Clip(path.name, target, stretch, truth, f"{strength}: {damage}")


def _crop_side_px(source: FileSource, instruments: Instruments) -> float:
    """Side in pixels of the FFHQ crop of the first detected face."""
    geometry = Geometry()
    for frame in source:
        for landmarks in instruments.find(frame.native, geometry):
            return SIDE_PX / scale_of(geometry.crop_matrix(landmarks, SIDE_PX))
    raise SourceError(f"{source.path}: no face found, so there is nothing to measure")
