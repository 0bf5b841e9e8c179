"""Damage of single pictures by real encoders: the two published presets, and pictures after video compression.

Moderate and severe are the ranges of ReF-LDM (arXiv 2412.05043), for evaluation: blur, down-sampling, noise, JPEG, in
this order. All lengths are stated at the 512-pixel FFHQ crop of the literature and scaled by `side / 512`, so that a
picture of 256 pixels gets half the blur in pixels and ends at the same low resolution. Training has more kinds of
damage, in batch on its device: `degrade_batch`.

For video compression a short pan is encoded; its last frame is what is left of the picture. So it carries the codec's
own blocks, loop filter, chroma reduction and residue of motion compensation. An encoder runs on the CPU and takes as
long as a training step, so training takes a share of each batch from pictures that were made once and are kept as one
uint8 array: index with `CodedFaces.targets` for the sharp picture, and mirror, move, tone and cut both alike.

Shapes: N coded pictures, H W pixels (square), S side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from configs import ConfigError
from models.pictures import Picture

REFERENCE_SIDE_PX = 512


@dataclass(frozen=True, slots=True)
class Preset:
    """Ranges from harmless to worst; blur in pixels of a 512-pixel crop, noise in code values."""

    blur_sigma: tuple[float, float]
    reduction: tuple[float, float]
    noise: tuple[float, float]
    jpeg_quality: tuple[float, float]
    """Worst last, so falling."""


MODERATE = Preset(blur_sigma=(0, 8), reduction=(1, 8), noise=(0, 15), jpeg_quality=(100, 60))
SEVERE = Preset(blur_sigma=(8, 16), reduction=(8, 32), noise=(0, 20), jpeg_quality=(100, 30))


def preset_sample(picture: Picture, seed: int, preset: Preset, strength: float | None) -> Picture:
    """`picture` after blur, down-sampling, noise, JPEG and up-sampling; the same shape.

    `strength` in [0, 1] fixes all four parameters at that part of their ranges; None draws each uniformly.
    """
    random = np.random.default_rng(seed)
    parts = random.random(4) if strength is None else np.full(4, strength)
    side = picture.shape[0]
    scale = side / REFERENCE_SIDE_PX
    sigma, reduction, noise, quality = (
        low + part * (high - low)
        for (low, high), part in zip(
            (preset.blur_sigma, preset.reduction, preset.noise, preset.jpeg_quality), parts, strict=True
        )
    )
    image = _gaussian(picture, sigma * scale)
    low_side = min(side, round(REFERENCE_SIDE_PX / reduction))
    image = _clip(cv2.resize(image, (low_side, low_side), interpolation=cv2.INTER_AREA))
    noisy = image.astype(np.float32) + random.normal(0, 1, image.shape).astype(np.float32) * noise
    image = _jpeg(_clip(noisy), round(quality))
    return _clip(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR))


def _gaussian(image: Picture, sigma: float) -> Picture:
    if sigma < 0.1:
        return image
    return _clip(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101))


def _jpeg(image: Picture, quality: int) -> Picture:
    if quality >= 100:
        return image
    image_bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, coded = cv2.imencode(".jpg", image_bgr, (cv2.IMWRITE_JPEG_QUALITY, max(quality, 1)))
    decoded_bgr: NDArray[Any] = cv2.imdecode(coded, cv2.IMREAD_COLOR)  # type: ignore[assignment]
    return _clip(cv2.cvtColor(decoded_bgr, cv2.COLOR_BGR2RGB))


def _clip(image: NDArray[Any]) -> Picture:
    """Code values; OpenCV's results come without a dtype for the type checker."""
    codes: Picture = image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return codes


CODECS = ("libx264", "mpeg2video", "mpeg4")
SMALLEST_PX = 32
"""Below, a picture is smaller than two macroblocks and the encoders refuse it."""
MARGIN_PX = 16
_VERSION = 1
"""Of what `coded_picture` does; another number is another array."""


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


@dataclass(frozen=True, slots=True)
class CodedFaces:
    """Coded pictures and which picture each was."""

    pictures: NDArray[np.uint8]
    """(N, S, S, 3) RGB, a read-only memory map."""
    targets: NDArray[np.int64]
    """(N,) positions in the set of faces."""


def coded_faces(
    pictures: NDArray[np.uint8], indices: NDArray[np.int64], count: int, cache: Path, name: str, seed: int
) -> CodedFaces:
    """`count` coded pictures of the faces `indices` of `pictures` (M, S, S, 3), made at the first call.

    Every face comes equally often, each time with another codec, size and strength. `name` identifies the set of
    faces in `cache`, as pictures are not compared. A function of the arguments.
    Raises `ValueError` without faces, or below 32 pixels.
    """
    side = pictures.shape[1]
    if not len(indices) or side < SMALLEST_PX:
        raise ValueError(
            f"faces of at least {SMALLEST_PX} pixels are needed, got {len(indices)} faces of {side}"
        )
    order = np.random.default_rng(seed)
    rounds = [order.permutation(indices) for _ in range(-(-count // len(indices)))]
    targets = np.concatenate(rounds)[:count].astype(np.int64) if count else np.empty(0, np.int64)
    described = [_VERSION, name, side, count, seed, hashlib.sha256(targets.tobytes()).hexdigest()]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
    path = cache / f"coded_{side}_{key}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        coded = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, side, side, 3))
        for place, target in enumerate(targets):
            coded[place] = coded_picture(np.asarray(pictures[target]), seed * 1_000_003 + place)
        coded.flush()
        part.rename(path)
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return CodedFaces(array, targets)


def coded_picture(picture: Picture, seed: int) -> Picture:
    """`picture` (S, S, 3) RGB, blurred, reduced, given noise, coded as the end of a short pan, and enlarged.

    Each of the four is drawn from harmless to bad, so that codec and size are the main loss. Lengths are
    stated at a crop of 512 pixels. The same shape.
    """
    random = np.random.default_rng(seed)
    side = picture.shape[0]
    sigma = random.uniform(0, 5) * random.random() * side / REFERENCE_SIDE_PX
    reduction = 16 ** random.uniform(0, 1)
    grid_px = int(np.clip(REFERENCE_SIDE_PX / reduction, SMALLEST_PX, side))
    image = picture.astype(np.float32)
    if sigma > 0.1:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
    if grid_px < side:
        shrinking = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_CUBIC)[int(random.integers(3))]
        image = np.asarray(cv2.resize(image, (grid_px, grid_px), interpolation=shrinking), np.float32)
    noise = random.standard_normal(image.shape, dtype=np.float32)
    image += noise * np.float32(8 * random.random() ** 2)
    coded = video_code(_codes(image), random, random.random()).astype(np.float32)
    if grid_px < side:
        enlarging = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(random.integers(2))]
        coded = np.asarray(cv2.resize(coded, (side, side), interpolation=enlarging), np.float32)
    return _codes(coded)


def _codes(image: NDArray[np.float32]) -> Picture:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
