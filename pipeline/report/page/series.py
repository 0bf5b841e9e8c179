"""How a person fared over a whole film, in few numbers however long it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_BINS = 400


@dataclass(slots=True)
class Mean:
    """A mean that is added to."""

    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self.count, self.total = self.count + 1, self.total + value

    def join(self, other: Mean) -> None:
        """Counts all that `other` has counted."""
        self.count, self.total = self.count + other.count, self.total + other.total

    @property
    def value(self) -> float | None:
        """None where nothing was counted."""
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Bin:
    """Successive frames, taken together."""

    seconds: float
    """When the first of them is shown."""
    means: dict[str, Mean] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why restoration was limited, counted per frame; empty reasons are not counted."""

    def join(self, other: Bin) -> None:
        """Takes in all that `other` holds."""
        self.seconds = min(self.seconds, other.seconds)
        for name, mean in other.means.items():
            self.means.setdefault(name, Mean()).join(mean)
        self.reasons.update(other.reasons)


class Series:
    """Figures by frame, gathered into at most `MOST_BINS` bins of equally many frames."""

    def __init__(self) -> None:
        self.width = 1
        """Frames in a bin."""
        self.bins: dict[int, Bin] = {}
        """By number: frame index // width."""

    def add(self, index: int, seconds: float, reason: str = "", **figures: float) -> None:
        """Counts the figures of one frame."""
        each = self.bins.setdefault(index // self.width, Bin(seconds))
        for name, value in figures.items():
            each.means.setdefault(name, Mean()).add(value)
        if reason:
            each.reasons[reason] += 1
        self._shrink()

    def join(self, other: Series) -> None:
        """Takes in the figures of another series of the same film."""
        while self.width < other.width:
            self._halve()
        for number, each in other.bins.items():
            # Both widths are powers of two, so no bin of the finer series lies in two of the coarser one.
            self._take(number * other.width // self.width, each)
        self._shrink()

    @property
    def last_seconds(self) -> float:
        """When the last bin begins."""
        return max((each.seconds for each in self.bins.values()), default=0.0)

    def line(self, name: str) -> list[tuple[float, float]]:
        """Seconds and mean of one figure, bin by bin, where there is one."""
        found = []
        for _, each in sorted(self.bins.items()):
            mean = each.means.get(name)
            if mean is not None and mean.value is not None:
                found.append((each.seconds, mean.value))
        return found

    def _take(self, number: int, each: Bin) -> None:
        self.bins.setdefault(number, Bin(each.seconds)).join(each)

    def _shrink(self) -> None:
        while len(self.bins) > MOST_BINS:
            self._halve()

    def _halve(self) -> None:
        bins, self.bins = self.bins, {}
        self.width *= 2
        for number, each in bins.items():
            self._take(number // 2, each)


class Thinned(Generic[T]):
    """At most `most` things, spread evenly over a film of unknown length."""

    def __init__(self, most: int, every: int = 1) -> None:
        self._most, self._every = most, every
        self._kept: dict[int, T] = {}

    def wants(self, index: int) -> bool:
        """Whether a thing of the frame `index` would be kept for now."""
        return not self._kept or index - max(self._kept) >= self._every

    def keep(self, index: int, thing: T) -> None:
        """Keeps the thing of a frame."""
        self._kept[index] = thing
        while len(self._kept) > self._most:
            self._every *= 2
            self._kept = dict(list(self._kept.items())[::2])

    def join(self, other: Thinned[T]) -> None:
        """Takes in what `other` kept."""
        for index, thing in sorted(other._kept.items()):
            self.keep(index, thing)
        self._kept = dict(sorted(self._kept.items()))

    def all(self) -> list[tuple[int, T]]:
        """Frame and thing, in the order of time."""
        return sorted(self._kept.items(), key=lambda pair: pair[0])
