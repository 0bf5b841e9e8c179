"""Real video compression of stills, and pictures after it, made once and kept as one uint8 array.

A short pan is encoded; its last frame is what is left of the picture. So it carries the codec's own blocks, loop
filter, chroma reduction and residue of motion compensation. An encoder runs on the CPU and takes as long as a
training step, so a share of the samples of each batch comes from the kept array: index with `CodedFaces.targets`
for the sharp picture, and mirror, move, tone and cut both alike.

Shapes: N coded pictures, S side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from configs import ConfigError
from models.degradation.presets import REFERENCE_SIDE_PX
from models.pictures import Picture

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
