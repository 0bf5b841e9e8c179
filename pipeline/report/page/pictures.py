"""Pictures on the page: aligned views as JPEG of a bounded size, and the choice of those that are shown large."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.align import scale_of
from pipeline.pixels.colour import read_crop

LARGE_PX, SMALL_PX = 448, 112
LARGE_BYTES, SMALL_BYTES = 48_000, 6_000
"""No JPEG is larger."""
MOST_LARGE = 3
"""Pairs of a person that are shown large."""
_AROUND = 1.35
"""Side of what is shown large against that of the aligned crop."""
_QUALITIES = (88, 75, 60, 45, 30, 15)
_BETTER = 1.2
"""A pair gives way to one that scores so many times more; otherwise nearly every frame would be encoded."""
_APART = 50
"""Frames between two pairs that are shown, at least."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same place of a frame before and after, as JPEG."""

    seconds: float
    before: bytes
    after: bytes


@dataclass(slots=True)
class Chosen:
    """The pairs of one person that are shown large: those where most changed on a large face."""

    pairs: dict[int, tuple[float, Pair]] = field(default_factory=dict)
    """Score and pair by frame index."""

    def place_for(self, index: int, score: float) -> int | None:
        """The frame whose pair a pair of the frame `index` would take the place of, `index` itself where there is
        room, None where it would not be taken."""
        near = [known for known in self.pairs if abs(known - index) < _APART]
        if not near and len(self.pairs) < MOST_LARGE:
            return index
        rival = min(near or self.pairs, key=lambda known: self.pairs[known][0])
        if len(near) > 1 or score < _BETTER * self.pairs[rival][0]:
            return None
        return rival

    def keep(self, index: int, score: float, pair: Pair) -> None:
        """Takes a pair in, where there is a place for it."""
        place = self.place_for(index, score)
        if place is not None:
            self.pairs.pop(place, None)
            self.pairs[index] = (score, pair)

    def join(self, other: Chosen) -> None:
        """Takes in the better ones of `other`."""
        for index, (score, pair) in other.pairs.items():
            self.keep(index, score, pair)

    def all(self) -> list[tuple[int, Pair]]:
        """Frame and pair, in the order of time."""
        return [(index, pair) for index, (_, pair) in sorted(self.pairs.items())]


def large_pair(
    before: av.VideoFrame, after: av.VideoFrame, matrix: NDArray[np.float32], side: int, seconds: float
) -> Pair:
    """The surroundings of a face, `matrix` (2, 3) from frame to a crop of `side`, before and after."""
    around = _around(matrix, side, _AROUND, LARGE_PX)
    views = [jpeg(read_crop(native, around, LARGE_PX), LARGE_BYTES) for native in (before, after)]
    return Pair(seconds, *views)


def small_pair(
    before: av.VideoFrame, after: av.VideoFrame, matrix: NDArray[np.float32], side: int, seconds: float
) -> Pair:
    """The aligned face of both frames."""
    views = [jpeg(aligned(native, matrix, side, SMALL_PX), SMALL_BYTES) for native in (before, after)]
    return Pair(seconds, *views)


def small(crop: Tensor) -> bytes:
    """An aligned crop, uint8 (3, S, S) RGB, as a small JPEG."""
    picture = crop.permute(1, 2, 0).numpy()
    picture = cv2.resize(picture, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA)
    return _encoded(np.asarray(picture, np.uint8), SMALL_BYTES)


def aligned(native: av.VideoFrame, matrix: NDArray[np.float32], side: int, size: int) -> Tensor:
    """What lies at `matrix` (2, 3), from frame to a crop of `side`, as a crop of `size`: uint8 (3, size, size)."""
    return read_crop(native, _around(matrix, side, 1.0, size), size)


def score(change: float, matrix: NDArray[np.float32]) -> float:
    """Worth of showing a face that changed by `change` code values: the larger it is on screen, the more."""
    return change / float(np.sqrt(scale_of(matrix)))


def jpeg(crop: Tensor, most_bytes: int) -> bytes:
    """`crop`, uint8 (3, H, W) RGB, as JPEG of at most so many bytes."""
    return _encoded(crop.permute(1, 2, 0).numpy(), most_bytes)


def address(content: bytes) -> str:
    """A JPEG as the address of a picture that lies in the page itself."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _encoded(picture: NDArray[np.uint8], most_bytes: int) -> bytes:
    while True:
        bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
        for quality in _QUALITIES:
            content: bytes = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(content) <= most_bytes:
                return content
        # Noise at any quality: a smaller picture is shown as large.
        half = (max(picture.shape[1] // 2, 1), max(picture.shape[0] // 2, 1))
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)


def _around(matrix: NDArray[np.float32], side: int, factor: float, size: int) -> NDArray[np.float32]:
    """Frame to a crop of `size` that shows `factor` times as much as the crop of `side` under `matrix`."""
    scale = size / (side * factor)
    # Positions count pixel centres at integers: the corner of a crop is at -0.5.
    shift = (1 - 1 / factor) * size / 2 + 0.5 * scale - 0.5
    wider = matrix * np.float32(scale)
    wider[:, 2] += np.float32(shift)
    return wider
