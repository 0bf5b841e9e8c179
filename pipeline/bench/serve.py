"""`python -m pipeline.bench serve CLIP`: loss of faces in the video encoding of the page, and its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from time import process_time

import av
import numpy as np
from aiortc.codecs.base import Decoder, Encoder
from aiortc.codecs.h264 import H264Decoder, H264Encoder, h264_depayload
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, vp8_depayload
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE
from numpy.typing import NDArray

from pipeline.build import build_detector
from pipeline.config import PipelineConfig
from pipeline.errors import SourceError
from pipeline.media.coding import planes_of
from pipeline.media.source import FileSource
from pipeline.pixels.colour import rgb_thumbnail
from pipeline.runs.assembly import open_source
from pipeline.serve.wire import QuickH264Encoder, prepare

_FRAMES = 90
_SETTLED = 30
"""Frames after which an encoder's rate control has settled."""
_WIDTH = 640


@dataclass(frozen=True, slots=True)
class Coded:
    """Quality and cost of one encoding."""

    psnr: float
    """PSNR of the face's luma in dB."""
    sharpness: float
    """Gradient energy of the face as a share of the input's."""
    kilobits: float
    """Bit rate in kbit/s."""
    ms: float
    """Processor time in milliseconds to encode, decode and compare a frame."""


def codings(clip: Path, config: PipelineConfig) -> dict[str, Coded]:
    """Prints, for both codecs at aiortc's and the page's bit rates, the loss of the largest face of `clip`."""
    serve = config.serve
    frames, box, rate = _frames(clip, config)
    found = {"VP8, aiortc's bit rate": _coded(Vp8Encoder(), frames, box, rate)}
    found["H.264, aiortc's bit rate"] = _coded(H264Encoder(), frames, box, rate)
    for name, most in (("minimum", serve.least_kilobits), ("maximum", serve.most_kilobits)):
        prepare(least_kilobits=serve.least_kilobits, most_kilobits=most, local_only=True)
        found[f"VP8, {name} bit rate"] = _coded(Vp8Encoder(), frames, box, rate)
        found[f"H.264 of the page, {name} bit rate"] = _coded(QuickH264Encoder(), frames, box, rate)
    for name, coded in found.items():
        print(
            f"{name}: {coded.kilobits:.0f} kbit/s, face PSNR {coded.psnr:.1f} dB, sharpness {coded.sharpness:.3f}, "
            f"{coded.ms:.1f} ms of processor time per frame"
        )
    return found


def _frames(clip: Path, config: PipelineConfig) -> tuple[list[av.VideoFrame], tuple[slice, slice], Fraction]:
    source = open_source(clip, config)
    if not isinstance(source, FileSource):
        raise SourceError(f"{clip}: is a photo; a clip is needed")
    frames = [frame.native for frame in islice(source, _FRAMES)]
    height = round(_WIDTH * frames[0].height / frames[0].width / 2) * 2
    frames = [native.reformat(_WIDTH, height, "yuv420p") for native in frames]
    image, scale = rgb_thumbnail(frames[0], _WIDTH)
    faces = sorted(build_detector(config.detector).detect(image), key=lambda face: -face.eye_distance_px)
    if not faces:
        raise SourceError(f"{clip}: no face in its first frame")
    left, top, right, bottom = (max(int(side), 0) for side in faces[0].scaled(scale).box)
    return frames, (slice(top, bottom), slice(left, right)), source.info.average_rate


def _coded(encoder: Encoder, frames: list[av.VideoFrame], box: tuple[slice, slice], rate: Fraction) -> Coded:
    errors, shares, sizes = [], [], []
    begun = process_time()
    for index, (native, size, back) in enumerate(_sent(encoder, frames, rate)):
        if index >= _SETTLED:
            before, after = _luma(native)[box], _luma(back)[box]
            errors.append(float(((before - after) ** 2).mean()))
            shares.append(_sharpness(after) / _sharpness(before))
            sizes.append(size)
    ms = 1000 * (process_time() - begun) / len(frames)
    psnr = 10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-6))
    kilobits = float(np.mean(sizes)) * 8 * float(rate) / 1000
    return Coded(float(psnr), float(np.mean(shares)), kilobits, ms)


def _sent(
    encoder: Encoder, frames: list[av.VideoFrame], rate: Fraction
) -> Iterator[tuple[av.VideoFrame, int, av.VideoFrame]]:
    """Each frame, the bytes of its packets, and the decoded frame."""
    h264 = isinstance(encoder, H264Encoder)
    decoder: Decoder = H264Decoder() if h264 else Vp8Decoder()
    read = h264_depayload if h264 else vp8_depayload
    for index, native in enumerate(frames):
        native.pts, native.time_base = round(index * VIDEO_CLOCK_RATE / rate), VIDEO_TIME_BASE
        packets, timestamp = encoder.encode(native)
        whole = JitterFrame(b"".join(map(read, packets)), timestamp)
        for back in decoder.decode(whole):
            assert isinstance(back, av.VideoFrame)
            yield native, sum(map(len, packets)), back


def _luma(native: av.VideoFrame) -> NDArray[np.float32]:
    return planes_of(native)[0].astype(np.float32)


def _sharpness(luma: NDArray[np.float32]) -> float:
    return float((np.diff(luma, axis=0) ** 2).mean() + (np.diff(luma, axis=1) ** 2).mean())
