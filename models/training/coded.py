"""Pictures after real video coding, made once and kept as one uint8 array.

An encoder runs on the CPU and takes as long as a training step, so a part of the samples of each batch comes
from here: index with `CodedFaces.targets` for the sharp picture, and mirror, move, tone and cut both alike.

Shapes: N coded pictures, S side in pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.training.degrade import REFERENCE_SIDE_PX, Picture
from models.training.video_code import SMALLEST_PX, video_code

_VERSION = 1
"""Of what `coded_picture` does; another number is another array."""


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

    Every face comes equally often, each time with another codec, size and strength. `name` tells the set of
    faces from others in `cache`: pictures are not looked at to find that out. A function of the arguments.
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
