"""The best views of one person, collected while the video goes by.

Legend: S side of an aligned crop in pixels, D width of an embedding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.protocols import References

_THUMBNAIL = 24
_FORGETTING = 0.98  # decay of the anchor with each new embedding
# Weight of rejected views in the anchor: if the first view is a poor one, all later ones differ from it and must be
# able to outvote it. Photos cannot be outvoted.
_CONTRADICTION = 0.25


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    """Settings of a person's reference set."""

    capacity: int = 4
    """Maximum views kept, photos of the user included."""
    min_similarity: float = 0.45
    """Minimum cosine similarity of a new view with the identity anchor."""
    improvement: float = 1.1
    """Quality ratio at which a view replaces another; each change costs the restorer its caches."""
    near_frames: int = 12
    """Maximum frames between two near-duplicates whose embeddings agree."""
    near_similarity: float = 0.9
    """Cosine similarity from which near views are near-duplicates."""
    near_difference: float = 4.0
    """Mean difference of two thumbnails, in code values, below which their views are near-duplicates."""
    yaw_bin_degrees: float = 25.0
    """Width of a bin of view directions."""
    alike_factor: float = 0.8
    """Factor on a view's quality for each better view in the same bin."""

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {self.capacity}")
        if not -1 < self.min_similarity < 1 or not -1 < self.near_similarity <= 1:
            raise ValueError("min_similarity and near_similarity must be in (-1, 1)")
        if self.improvement < 1:
            raise ValueError(f"improvement must be at least 1, got {self.improvement}")
        if self.near_frames < 0 or self.near_difference < 0:
            raise ValueError("near_frames and near_difference must not be negative")
        if self.yaw_bin_degrees <= 0 or not 0 < self.alike_factor <= 1:
            raise ValueError("yaw_bin_degrees must be positive and alike_factor in (0, 1]")


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One aligned picture of a person."""

    crop: Tensor
    """uint8 (3, S, S) RGB full range, FFHQ alignment; read-only."""
    embedding: NDArray[np.float32]
    """float32 (D,), raw."""
    quality: float
    """See `view_quality`."""
    source: int | str
    """Frame index, name of a photo, or origin of a view from another pass or film."""
    yaw: float = 0.0
    """Degrees; see `models.quality.Pose`."""
    pinned: bool = False
    """Given by the user; never leaves the set."""

    def __post_init__(self) -> None:
        if self.crop.dtype != torch.uint8 or self.crop.ndim != 3 or self.crop.shape[0] != 3:
            raise ValueError(f"crop must be uint8 (3, S, S), got {self.crop.dtype} {tuple(self.crop.shape)}")
        if self.embedding.ndim != 1:
            raise ValueError(f"embedding must be (D,), got {self.embedding.shape}")

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        if isinstance(self.source, int):
            return f"frame {self.source}"
        return f"photo {self.source}" if self.pinned else self.source


def view_quality(
    embedding: NDArray[np.float32], sharpness: float, frontalness: float, eye_distance_px: float
) -> float:
    """How useful a view is as a reference; comparable only within one recogniser.

    Product of: norm of the raw embedding; square root of sharpness times size on screen (correlated; size saturates
    at 60 pixels between the eyes); a pose factor from 0.3 in profile to 1 from the front. In a product no good
    property outweighs a bad one.
    """
    size = min(max(eye_distance_px, 0.0) / 60, 1.0)
    pose_factor = 0.3 + 0.7 * frontalness
    return float(np.linalg.norm(embedding) * np.sqrt(max(sharpness, 0.0) * size) * pose_factor)


class ReferenceSet:
    """Best views of one person. One owner; threads exchange `snapshot`s."""

    def __init__(self, config: ReferenceConfig | None = None, pinned: Sequence[View] = ()) -> None:
        self.config = config or ReferenceConfig()
        self._pinned: tuple[View, ...] = ()
        self._rolling: tuple[View, ...] = ()
        self._snapshot = References()
        # Decayed sum of all offered raw embeddings: clear views have longer ones. Not of the kept views alone: one of
        # them may be a covered face.
        self._anchor: NDArray[np.float32] | None = None
        if pinned:
            self.pin(pinned)

    @property
    def version(self) -> int:
        """Increases with each change of the set."""
        return self._snapshot.version

    @property
    def views(self) -> tuple[View, ...]:
        """The kept views, best first."""
        return tuple(sorted((*self._pinned, *self._rolling), key=lambda view: -view.quality))

    def offer(self, view: View) -> bool:
        """Adds `view` if it shows the same person and improves the set. Returns whether the set changed."""
        room = self.config.capacity - len(self._pinned)
        if room <= 0:
            return False
        if not self._agrees(view):
            if not self._pinned:
                self._learn(view, _CONTRADICTION)
            return False
        self._learn(view)
        agreeing = [other for other in self._rolling if self._agrees(other)]
        alike = [other for other in agreeing if self._near_duplicates(view, other)]
        if any(view.quality < other.quality * self.config.improvement for other in alike):
            return False
        if any(self._near_duplicates(view, other) for other in self._pinned):
            return False
        others = [other for other in agreeing if all(other is not old for old in alike)]
        kept = self._best([*others, view], room, newcomer=view)
        if not any(other is view for other in kept):
            return False
        self._change(self._pinned, kept)
        return True

    def pin(self, views: Sequence[View]) -> None:
        """Adds photos of the user, which never leave; views of the video make room."""
        room = max(self.config.capacity - len(self._pinned) - len(views), 0)
        for view in views:
            self._learn(view)
        self._change((*self._pinned, *views), self._best(list(self._rolling), room, newcomer=None))

    def snapshot(self) -> References:
        """The current set as an immutable value, best view first."""
        return self._snapshot

    def _change(self, pinned: tuple[View, ...], rolling: tuple[View, ...]) -> None:
        self._pinned, self._rolling = pinned, rolling
        views = self.views
        embeddings = torch.from_numpy(np.stack([view.embedding for view in views]).astype(np.float32))
        self._snapshot = References(
            tuple(view.crop for view in views),
            embeddings,
            self.version + 1,
            tuple(view.origin for view in views),
        )

    def _agrees(self, view: View) -> bool:
        return self._anchor is None or cosine(self._anchor, view.embedding) >= self.config.min_similarity

    def _learn(self, view: View, weight: float = 1.0) -> None:
        known = 0 if self._anchor is None else _FORGETTING * self._anchor
        self._anchor = np.asarray(known + weight * view.embedding, np.float32)

    def _typicality(self, view: View) -> float:
        """Cosine to the anchor, at least 0: low for covered and misaligned faces."""
        return 1.0 if self._anchor is None else max(cosine(self._anchor, view.embedding), 0.0)

    def _near_duplicates(self, view: View, other: View) -> bool:
        if isinstance(view.source, int) and isinstance(other.source, int):
            near = abs(view.source - other.source) <= self.config.near_frames
            if near and cosine(view.embedding, other.embedding) >= self.config.near_similarity:
                return True
        return _crop_difference(view.crop, other.crop) < self.config.near_difference

    def _best(self, views: list[View], count: int, newcomer: View | None) -> tuple[View, ...]:
        """The `count` best views by quality and typicality, discounted for each better one in the same bin."""
        left = list(views)
        kept: list[View] = []
        bins = [self._bin(view) for view in self._pinned]
        while left and len(kept) < count:
            worths = [
                view.quality
                * self._typicality(view)
                * self.config.alike_factor ** bins.count(self._bin(view))
                / (self.config.improvement if view is newcomer and len(views) > count else 1)
                for view in left
            ]
            best = left.pop(int(np.argmax(worths)))
            bins.append(self._bin(best))
            kept.append(best)
        return tuple(kept)

    def _bin(self, view: View) -> int:
        return round(view.yaw / self.config.yaw_bin_degrees)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine similarity of two vectors; 0 where one of them is zero."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norms if norms > 0 else 0.0


def _crop_difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    small = [
        torch.nn.functional.adaptive_avg_pool2d(crop.float(), min(_THUMBNAIL, crop.shape[-1]))
        for crop in (a, b)
    ]
    return float((small[0] - small[1]).abs().mean())


_REMEMBERED = 200
"""Norms kept for the quantile."""


class Evidence:
    """How much an embedding says about identity: its norm relative to a clear view. One recogniser, one owner."""

    def __init__(self, clear_norm: float = 0.0) -> None:
        """`clear_norm`: of the recogniser; 0 = the 0.75 quantile of the observed norms."""
        self._clear_norm = clear_norm
        self._norms: deque[float] = deque(maxlen=_REMEMBERED)

    def note(self, embedding: NDArray[np.float32]) -> None:
        """Adds the norm of the raw `embedding` (D,) of one view to the statistics."""
        self._norms.append(float(np.linalg.norm(embedding)))

    def of(self, embedding: NDArray[np.float32]) -> float:
        """1 for a clear view, 0 for none; a sum of raw embeddings (D,) carries the evidence of all."""
        clear = self._clear_norm or (float(np.quantile(self._norms, 0.75)) if self._norms else 0.0)
        norm = float(np.linalg.norm(embedding))
        return norm / clear if clear > 0 else float(norm > 0)
