"""Carries landmarks from frame to frame by optical flow, between the frames on which faces are detected.

All positions are pixels of the luma thumbnail that is followed. Legend: h w pixels of it, K points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.align import crop_matrix, scale_of, transform
from trackers.tracks import face_size_px

_SIZE_PX = 22.0  # faces of twice the size and more are made smaller, down to this
_MIN_SIZE_PX = 3.0
_PATCH = 32
_PATCH_CENTRE = slice(6, 28)


@dataclass(frozen=True, slots=True)
class FollowerConfig:
    """Settings of the optical flow between detections. Lengths are in distances of the eyes."""

    points: int = 24
    """Corners inside the face that are followed beside the five landmarks."""
    round_trip: float = 0.06
    """A point counts if, followed there and back, it returns this near (or within half a pixel)."""
    agreement: float = 0.08
    """A point counts if it lies this near to the common motion (or within 0.7 pixel)."""
    own_motion: float = 0.05
    """How far a landmark may leave the common motion in one frame: the mouth moves, noise should not."""
    min_points: int = 6
    """With fewer agreeing points the face is lost."""
    min_share: float = 0.35
    """With a smaller share of agreeing points the face is lost."""
    min_likeness: float = 0.5
    """Correlation of the face before and after, aligned, below which it is lost (covered, or a cut)."""
    max_scale_change: float = 1.25
    """A face that grows or shrinks more in one frame is lost."""
    correction: float = 0.3
    """Share of a small disagreement that a new detection corrects; the rest passes for its noise."""
    small_disagreement: float = 0.06
    """Mean distance of carried and detected landmarks up to which it is small."""
    large_disagreement: float = 0.2
    """Mean distance from which the detection alone is believed."""

    def __post_init__(self) -> None:
        if self.points < 0 or self.min_points < 3:
            raise ValueError(f"points must be >= 0 and min_points >= 3, got {self.points}, {self.min_points}")
        if min(self.round_trip, self.agreement, self.own_motion) < 0:
            raise ValueError("round_trip, agreement and own_motion must not be negative")
        if not 0 <= self.min_share <= 1 or not -1 <= self.min_likeness < 1:
            raise ValueError("min_share must be in [0, 1] and min_likeness in [-1, 1)")
        if self.max_scale_change <= 1:
            raise ValueError(f"max_scale_change must be above 1, got {self.max_scale_change}")
        if not 0 < self.correction <= 1:
            raise ValueError(f"correction must be in (0, 1], got {self.correction}")
        if not 0 <= self.small_disagreement < self.large_disagreement:
            raise ValueError("small_disagreement must be below large_disagreement and not negative")


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """A face carried to the next frame."""

    landmarks: NDArray[np.float32]
    """float32 (5, 2) in thumbnail pixels."""
    box: NDArray[np.float32]
    """float32 (4,), x0 y0 x1 y1 in thumbnail pixels; moved and scaled with the face."""
    reliability: float
    """In [0, 1]: share of agreeing points times likeness of the face before and after."""


Disagreements = tuple[NDArray[np.float32], ...]
"""What the last detections of a face would still change, float32 (5, 2) each, in distances of the eyes."""


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """A carried face after a detection."""

    landmarks: NDArray[np.float32]
    """float32 (5, 2) in thumbnail pixels."""
    disagreements: Disagreements
    """For the next correction."""


class Follower:
    """Sparse Lucas-Kanade flow with a forward-backward check (Kalal et al., ICPR 2010).

    Keeps nothing between calls and draws no random numbers that differ from run to run.
    """

    def __init__(self, config: FollowerConfig | None = None) -> None:
        self.config = config or FollowerConfig()

    def follow(
        self,
        previous_luma: NDArray[np.uint8],
        luma: NDArray[np.uint8],
        landmarks: NDArray[np.float32],
        box: NDArray[np.float32],
    ) -> Followed | None:
        """Where the face of `previous_luma` with `landmarks` (5, 2) and `box` (4,) is in `luma`; None = lost.

        Both pictures are uint8 (h, w) of one shape.
        """
        if previous_luma.shape != luma.shape or luma.ndim != 2:
            raise ValueError(f"luma must be two (h, w) of one shape, got {previous_luma.shape}, {luma.shape}")
        size = face_size_px(landmarks)
        view = _view(landmarks, size, luma.shape[0], luma.shape[1])
        if view is None:
            return None
        before, after = view.picture(previous_luma), view.picture(luma)
        size_here = size / view.factor
        start = self._points(before, view.inward(landmarks), size_here)
        end, good = self._flow(before, after, start, size_here)
        motion = self._common_motion(start, end, good, size_here)
        if motion is None:
            return None
        moved = transform(motion.matrix, start[:5])
        likeness = _likeness(before, after, start[:5], moved)
        if likeness < self.config.min_likeness:
            return None
        limit = self.config.own_motion * size_here
        own = end[:5] - moved
        believed = (good[:5] & (np.linalg.norm(own, axis=1) < 4 * limit))[:, None]
        # Half of a landmark's own motion: smiles are followed, while noise does not pull the points apart.
        moved = moved + np.where(believed, 0.5 * np.clip(own, -limit, limit), 0)
        middle = ((box[:2] + box[2:]) / 2).astype(np.float32)
        centre = view.outward(transform(motion.matrix, view.inward(middle)[None]))[0]
        half = (box[2:] - box[:2]) / 2 * scale_of(motion.matrix)
        return Followed(
            view.outward(moved),
            np.concatenate([centre - half, centre + half]).astype(np.float32),
            motion.share * likeness,
        )

    def correct(
        self,
        carried: NDArray[np.float32],
        detected: NDArray[np.float32],
        eye_distance: float,
        disagreements: Disagreements = (),
    ) -> Corrected:
        """Landmarks (5, 2) of one frame out of those `carried` to it and those `detected` in it.

        A small disagreement is noise of the detector and corrects a little; a large one is drift and is
        believed. Between them the median of this and of the last two `disagreements` counts, point by point: a scratch
        or a clump of grain misleads one detection, drift shows in all.
        """
        size = max(eye_distance, 1e-3)
        now = ((detected - carried) / size).astype(np.float32)
        low, high = self.config.small_disagreement, self.config.large_disagreement
        if _length(now) >= high:
            return Corrected(detected.astype(np.float32), (np.zeros_like(now),))
        known = (*disagreements[-2:], now)
        agreed = np.median(np.stack(known), 0).astype(np.float32)
        trust = float(np.clip((_length(agreed) - low) / (high - low), 0, 1))
        change = np.float32(self.config.correction + (1 - self.config.correction) * trust) * agreed
        return Corrected((carried + size * change).astype(np.float32), tuple(each - change for each in known))

    def _points(
        self, picture: NDArray[np.uint8], landmarks: NDArray[np.float32], size: float
    ) -> NDArray[np.float32]:
        """The landmarks and corners around them, float32 (K, 2)."""
        if not self.config.points:
            return landmarks.astype(np.float32)
        margin = 0.5 * size
        x0, y0 = np.maximum(landmarks.min(0) - margin, 0).astype(int)
        x1, y1 = (landmarks.max(0) + margin).astype(int) + 1
        corners = cv2.goodFeaturesToTrack(
            np.ascontiguousarray(picture[y0:y1, x0:x1]), self.config.points, 0.01, max(2.0, 0.12 * size)
        )
        origin = np.array([x0, y0])
        found = np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2) + origin
        return np.concatenate([landmarks, found]).astype(np.float32)

    def _flow(
        self, before: NDArray[np.uint8], after: NDArray[np.uint8], start: NDArray[np.float32], size: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Where the points went, (K, 2), and which of them came back when followed the other way, (K,)."""
        side = int(np.clip(round(0.35 * size), 5, 21)) | 1
        levels = int(np.clip(np.log2(max(size, 1) / 8), 1, 4))
        end, found = _lucas_kanade(before, after, start, side, levels)
        back, found_back = _lucas_kanade(after, before, end, side, levels)
        error = np.linalg.norm(back - start, axis=1)
        inside = ((end >= 0) & (end <= np.array(after.shape[::-1]) - 1)).all(1)
        good = (error < max(0.5, self.config.round_trip * size)) & inside
        return end, good & found & found_back

    def _common_motion(
        self, start: NDArray[np.float32], end: NDArray[np.float32], good: NDArray[np.bool_], size: float
    ) -> _Motion | None:
        """The similarity most points follow; None where too few agree or the size changes too fast."""
        if good.sum() < self.config.min_points:
            return None
        tolerance = max(0.7, self.config.agreement * size)
        # OpenCV seeds its sampling with a constant: equal input, equal result.
        matrix, agreeing = cv2.estimateAffinePartial2D(
            start[good], end[good], method=cv2.RANSAC, ransacReprojThreshold=tolerance, maxIters=100
        )
        if matrix is None:
            return None
        similarity = np.asarray(matrix, np.float32)
        share, scale = float(agreeing.sum()) / len(start), scale_of(similarity)
        limit = self.config.max_scale_change
        if agreeing.sum() < self.config.min_points or share < self.config.min_share:
            return None
        if not 1 / limit < scale < limit:
            return None
        return _Motion(similarity, share)


@dataclass(frozen=True, slots=True)
class _View:
    """A part of a picture, made smaller: large faces need no more pixels than small ones to be followed."""

    x: int
    y: int
    width: int
    height: int
    factor: int
    """Whole, as resizing by fractions costs four times as much."""

    def picture(self, luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
        part = luma[self.y :, self.x :][: self.height * self.factor, : self.width * self.factor]
        small = cv2.resize(part, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def inward(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """From pixels of the whole picture to pixels of this one."""
        return ((points - (self.x, self.y) + 0.5) / self.factor - 0.5).astype(np.float32)

    def outward(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((points + 0.5) * self.factor - 0.5 + (self.x, self.y)).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Motion:
    matrix: NDArray[np.float32]
    share: float


def _length(shift: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(shift, axis=1).mean())


def _lucas_kanade(
    before: NDArray[np.uint8], after: NDArray[np.uint8], start: NDArray[np.float32], side: int, levels: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    flow: Any = cv2.calcOpticalFlowPyrLK  # its type information asks for a place for the result
    end, found, _ = flow(before, after, start, None, winSize=(side, side), maxLevel=levels)
    return end, found[:, 0] == 1


def _view(landmarks: NDArray[np.float32], size: float, height: int, width: int) -> _View | None:
    """The surroundings of a face, with room for motion; None where little of it is in the picture."""
    centre = landmarks.mean(0)
    if not np.isfinite(centre).all() or size < _MIN_SIZE_PX:
        return None
    reach = 2.3 * size + 4
    x0, y0 = (int(v) for v in np.floor(np.maximum(centre - reach, 0)))
    x1, y1 = (int(v) + 1 for v in np.ceil(np.minimum(centre + reach, [width - 1, height - 1])))
    if x1 - x0 < 2 * size or y1 - y0 < 2 * size:
        return None
    factor = max(1, int(size // _SIZE_PX))
    return _View(x0, y0, (x1 - x0) // factor, (y1 - y0) // factor, factor)


def _likeness(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    start: NDArray[np.float32],
    moved: NDArray[np.float32],
) -> float:
    """Correlation in [-1, 1] of the two faces, each aligned by its landmarks."""
    patches = []
    for picture, points in ((before, start), (after, moved)):
        patch = cv2.warpAffine(
            picture,
            crop_matrix(points, _PATCH),
            (_PATCH, _PATCH),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )[_PATCH_CENTRE, _PATCH_CENTRE].astype(np.float32)
        patches.append(patch - patch.mean())
    a, b = patches
    # Two code values of spread: in flat pictures there is nothing to be alike.
    return float((a * b).mean() / max(a.std() * b.std(), 4.0))
