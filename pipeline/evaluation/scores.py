"""What is measured, and the figures of one setting on one clip."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum

import numpy as np


class Metric(Enum):
    """Each with its heading, digits behind the point and what the figure is multiplied by for the table."""

    WARPING = ("warping error", 2, 1)
    VIDD = ("VIDD", 3, 1)
    LANDMARKS = ("landmark jitter %", 2, 100)
    SHARPNESS = ("sharpness", 1, 1)
    FLICKER = ("its flicker %", 2, 100)
    RIM_SHARPNESS = ("rim sharpness", 1, 1)
    RIM_FLICKER = ("rim flicker %", 2, 100)
    PSNR = ("PSNR", 2, 1)
    SSIM = ("SSIM", 4, 1)
    PERCEPTUAL = ("perceptual", 4, 1)
    IDENTITY = ("identity", 3, 1)
    JUDGE = ("judge", 3, 1)

    @property
    def heading(self) -> str:
        return self.value[0]

    @property
    def key(self) -> str:
        """Its name in JSON and of its plot."""
        return self.name.lower()

    def text(self, value: float | None) -> str:
        """`value` for the table; a dash where nothing was measured."""
        return "–" if value is None else f"{value * self.value[2]:.{self.value[1]}f}"


class Series:
    """Values of one metric: any number for each frame."""

    def __init__(self) -> None:
        self._values: dict[int, list[float]] = defaultdict(list)

    def add(self, frame: int, value: float | None) -> None:
        """Counts `value` to the frame; None was not measured."""
        if value is not None:
            self._values[frame].append(value)

    def mean(self) -> float | None:
        """Mean of all values, each alike; None without any."""
        return float(np.mean(list(self._all()))) if self._values else None

    def by_frame(self) -> dict[int, float]:
        """Mean of each frame that has values, in the order of time."""
        return {frame: float(np.mean(values)) for frame, values in sorted(self._values.items())}

    def _all(self) -> list[float]:
        return [value for values in self._values.values() for value in values]


@dataclass(slots=True)
class Row:
    """One setting, the source or the ground truth on one clip."""

    name: str
    series: dict[Metric, Series] = field(default_factory=lambda: {metric: Series() for metric in Metric})
    calls: int | None = None
    """Calls of the restorer; None where there is none."""
    given: int | None = None
    """Faces given to the restorer in all calls together."""
    restored: int | None = None
    """Faces restored, counted per frame."""
    seconds: float | None = None
    """Work of all stages from decoding to blending, measuring apart."""

    def mean(self, metric: Metric) -> float | None:
        """The clip's figure."""
        return self.series[metric].mean()


@dataclass(frozen=True, slots=True)
class ClipScores:
    """All rows of one clip."""

    name: str
    damage: str
    """What was done to the ground truth; empty for a clip without."""
    flow_from: str
    """The pictures motion was measured on: "ground truth" or "source"."""
    frames: int
    faces: int
    """Faces measured, counted per frame."""
    seconds: float
    """Length of the clip."""
    rows: tuple[Row, ...]
