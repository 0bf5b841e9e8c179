"""Detects shot cuts in luma thumbnails. Legend: h w pixels of the thumbnail."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _BLOCK, _REACH = 64, 48, 16, 3
_MAX_SHIFT = _WIDTH // 3
_ALIKE = 0.9  # block correlation above which no search is needed
_MIN_SPREAD = 4.0  # code values
_USUAL_FRAMES = 8
_FLASH = 0.2  # share of pixels that turn white at once


@dataclass(frozen=True, slots=True)
class ShotConfig:
    """Settings of the shot detector."""

    min_change: float = 0.42
    """Share of the picture's structure without a counterpart in the frame before, in (0, 1)."""
    contrast_to_motion: float = 2.0
    """Minimum ratio of a cut's change to the mean change before it (restless cameras, flicker)."""

    def __post_init__(self) -> None:
        if not 0 < self.min_change < 1:
            raise ValueError(f"min_change must be in (0, 1), got {self.min_change}")
        if self.contrast_to_motion < 1:
            raise ValueError(f"contrast_to_motion must be at least 1, got {self.contrast_to_motion}")


class ShotDetector:
    """Finds hard cuts, frame by frame. Dissolves are not cuts: tracks end and begin in them.

    Blocks of fine structure are searched in the frame before by correlation, around the position predicted by the
    camera motion; brightness and contrast do not matter (flash, fade). Frames without structure (black, white) are
    skipped: the next frame is compared with the one before them.
    """

    def __init__(self, config: ShotConfig | None = None) -> None:
        self.config = config or ShotConfig()
        self._before: _Picture | None = None
        self._changes: deque[float] = deque(maxlen=_USUAL_FRAMES)
        self._held = False

    def is_cut(self, luma: NDArray[np.uint8]) -> bool:
        """Whether the next frame, `luma` uint8 (h, w), begins a new shot; False for the first frame.

        One frame late where the first picture of a shot may be a flash.
        """
        if luma.dtype != np.uint8 or luma.ndim != 2:
            raise ValueError(f"luma must be uint8 (h, w), got {luma.dtype} {luma.shape}")
        picture = _picture(luma)
        if float(picture.luma.std()) < _MIN_SPREAD:
            return False
        if self._before is None:
            self._before = picture
            return False
        change = _change(self._before, picture)
        usual = float(np.mean(self._changes)) if self._changes else 0.0
        threshold = max(self.config.min_change, min(self.config.contrast_to_motion * usual, 0.8))
        cut = change > threshold
        if cut and not self._held and picture.clipped > self._before.clipped + _FLASH:
            # Keep comparing with the picture before: it returns after a flash.
            self._held = True
            return False
        self._held = False
        if cut:
            self._changes.clear()
        else:
            self._changes.append(change)
        self._before = picture
        return cut


class EveryFrame(ShotDetector):
    """For unrelated pictures: each begins a shot."""

    def is_cut(self, luma: NDArray[np.uint8]) -> bool:
        """True."""
        return True


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    luma: NDArray[np.float32]
    structure: NDArray[np.float32]
    clipped: float


def _picture(luma: NDArray[np.uint8]) -> _Picture:
    small = cv2.resize(luma, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Coarse structure is similar in different pictures: a bright face in a dark room.
    structure = small - cv2.GaussianBlur(small, (0, 0), 2)
    return _Picture(small, structure, float((small > 250).mean()))


def _change(before: _Picture, after: _Picture) -> float:
    """1 - correlation of the blocks of `after` with their best match nearby in `before`, weighted by contrast."""
    if float(np.abs(after.luma - before.luma).mean()) < 2:  # fast path: most pictures hardly change
        return 0.0
    likeness = _correlation_in_place(before.structure, after.structure)
    contrast = np.minimum(_blocks(after.structure).std(-1), 10)
    if (likeness < _ALIKE).any():
        padded, moved = _searched(before, after)
        for row, column in zip(*np.nonzero(likeness < _ALIKE), strict=True):
            y, x = int(row) * _BLOCK, int(column) * _BLOCK
            block = after.structure[y : y + _BLOCK, x : x + _BLOCK]
            for move_x, move_y in {(0, 0), moved}:
                top, left = y - move_y + _MAX_SHIFT, x - move_x + _MAX_SHIFT
                area = padded[top : top + _BLOCK + 2 * _REACH, left : left + _BLOCK + 2 * _REACH]
                found = float(cv2.matchTemplate(area, block, cv2.TM_CCOEFF_NORMED).max())
                likeness[row, column] = max(likeness[row, column], found)
    return 1 - float((likeness * contrast).sum() / max(float(contrast.sum()), 1e-6))


def _searched(before: _Picture, after: _Picture) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The structure of `before`, padded, and the camera motion in x and y."""
    window = cv2.createHanningWindow((_WIDTH, _HEIGHT), cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(before.luma, after.luma, window)
    far = max(abs(x), abs(y)) >= _MAX_SHIFT
    room = _REACH + _MAX_SHIFT
    padded = cv2.copyMakeBorder(before.structure, room, room, room, room, cv2.BORDER_REFLECT)
    return np.asarray(padded, np.float32), (0, 0) if far else (round(x), round(y))


def _correlation_in_place(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlation of each block with the one at the same position, at least 0."""
    a, b = _blocks(before), _blocks(after)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    norms = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    correlation: NDArray[np.float32] = (a * b).sum(-1) / np.maximum(norms, 1e-6)
    return np.maximum(correlation, 0)


def _blocks(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows x columns of blocks, each as one vector."""
    tiles = picture.reshape(_HEIGHT // _BLOCK, _BLOCK, _WIDTH // _BLOCK, _BLOCK).swapaxes(1, 2)
    return tiles.reshape(*tiles.shape[:2], -1)
