"""A person's figures over a whole film in bounded memory, and their charts as SVG."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html import escape
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_BINS = 400


@dataclass(slots=True)
class Mean:
    """A running mean."""

    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """Adds one value."""
        self.count, self.total = self.count + 1, self.total + value

    def join(self, other: Mean) -> None:
        """Adds all values of `other`."""
        self.count, self.total = self.count + other.count, self.total + other.total

    @property
    def value(self) -> float | None:
        """None without values."""
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Bin:
    """A group of successive frames."""

    seconds: float
    """Time of the first frame."""
    means: dict[str, Mean] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    """Frames by the reason that limited restoration; without a reason, not counted."""

    def join(self, other: Bin) -> None:
        """Adds all values of `other`."""
        self.seconds = min(self.seconds, other.seconds)
        for name, mean in other.means.items():
            self.means.setdefault(name, Mean()).join(mean)
        self.reasons.update(other.reasons)


class Series:
    """Figures per frame in at most `MOST_BINS` bins of equal width."""

    def __init__(self) -> None:
        self.width = 1
        """Frames in a bin."""
        self.bins: dict[int, Bin] = {}
        """By frame index // width."""

    def add(self, index: int, seconds: float, reason: str = "", **figures: float) -> None:
        """Adds the figures of one frame."""
        each = self.bins.setdefault(index // self.width, Bin(seconds))
        for name, value in figures.items():
            each.means.setdefault(name, Mean()).add(value)
        if reason:
            each.reasons[reason] += 1
        self._shrink()

    def join(self, other: Series) -> None:
        """Adds the figures of another series of the same film."""
        while self.width < other.width:
            self._halve()
        for number, each in other.bins.items():
            # Widths are powers of two, so each finer bin lies within one coarser bin.
            self._take(number * other.width // self.width, each)
        self._shrink()

    @property
    def last_seconds(self) -> float:
        """Start time of the last bin."""
        return max((each.seconds for each in self.bins.values()), default=0.0)

    def line(self, name: str) -> list[tuple[float, float]]:
        """Time and mean of one figure for each bin that has it."""
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
    """At most `most` items, spread evenly over a film of unknown length."""

    def __init__(self, most: int, every: int = 1) -> None:
        self._most, self._every = most, every
        self._kept: dict[int, T] = {}

    def wants(self, index: int) -> bool:
        """Whether an item of the frame `index` would be kept."""
        return not self._kept or index - max(self._kept) >= self._every

    def keep(self, index: int, item: T) -> None:
        """Keeps the item of a frame."""
        self._kept[index] = item
        while len(self._kept) > self._most:
            self._every *= 2
            self._kept = dict(list(self._kept.items())[::2])

    def join(self, other: Thinned[T]) -> None:
        """Adds the items of `other`."""
        for index, item in sorted(other._kept.items()):
            self.keep(index, item)
        self._kept = dict(sorted(self._kept.items()))

    def all(self) -> list[tuple[int, T]]:
        """Frame index and item, in order."""
        return sorted(self._kept.items(), key=lambda pair: pair[0])


Line = list[tuple[float, float]]

_WIDTH, _HEIGHT = 860.0, 130.0
_LEFT, _TOP, _BELOW = 44.0, 8.0, 32.0
_REASONS = {
    "identity": "#c62828",
    "covered": "#b8860b",
    "profile": "#7b1fa2",
    "small": "#1f4e79",
    "lost": "#555555",
    "easing": "#9aa7b0",
}
_OTHER_REASON = "#9aa7b0"
_BEFORE, _AFTER = "#8a8a8a", "#2e7d32"


def likeness_chart(series: Series, before: str, after: str) -> str:
    """The figures `before` and `after` of `series` over time; empty with fewer than two points."""
    lines = [(series.line(before), _BEFORE), (series.line(after), _AFTER)]
    if len(lines[1][0]) < 2:
        return ""
    values = [value for line, _ in lines for _, value in line]
    low, high = min(0.0, *values), 1.0
    last = series.last_seconds
    parts = _axes(low, high, last)
    parts += [_polyline(line, last, low, high, colour) for line, colour in lines]
    return _drawing(parts, "likeness over time")


def strength_chart(series: Series) -> str:
    """Strength over time above a ribbon in the colours of the limiting reasons; empty with fewer than two points."""
    line = series.line("strength")
    if len(line) < 2:
        return ""
    last = series.last_seconds
    parts = [*_axes(0.0, 1.0, last), _polyline(line, last, 0.0, 1.0, _AFTER)]
    bins = [each for _, each in sorted(series.bins.items())]
    ends = [each.seconds for each in bins[1:]] + [last]
    for each, end in zip(bins, ends, strict=True):
        if each.reasons:
            reason = each.reasons.most_common(1)[0][0]
            left = _across(each.seconds, last)
            width = max(_across(end, last) - left, 1.5)
            parts.append(
                f'<rect x="{left:.1f}" y="{_TOP + _HEIGHT + 4}" width="{width:.1f}" height="8" '
                f'fill="{_REASONS.get(reason, _OTHER_REASON)}"><title>{escape(reason)}</title></rect>'
            )
    return _drawing(parts, "strength over time")


def reason_legend(series: Series) -> str:
    """The limiting reasons of `series` in their colours, with their share of frames."""
    counts: dict[str, int] = {}
    frames = 0
    for each in series.bins.values():
        strength = each.means.get("strength")
        frames += strength.count if strength else 0
        for reason, count in each.reasons.items():
            counts[reason] = counts.get(reason, 0) + count
    items = [
        f'<svg class="key" viewBox="0 0 10 10"><rect width="10" height="10" '
        f'fill="{_REASONS.get(reason, _OTHER_REASON)}"/></svg>{escape(reason)} {count / max(frames, 1):.0%}'
        for reason, count in sorted(counts.items(), key=lambda pair: -pair[1])
    ]
    return " &nbsp; ".join(items)


def _drawing(parts: list[str], title: str) -> str:
    total = _TOP + _HEIGHT + _BELOW
    inside = "".join(parts)
    return (
        f'<svg class="chart" viewBox="0 0 {_LEFT + _WIDTH + 10:.0f} {total:.0f}" role="img">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )


def _axes(low: float, high: float, last: float) -> list[str]:
    parts = [f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#bbb"/>']
    for step in range(5):
        value = low + (high - low) * step / 4
        y = _TOP + (1 - step / 4) * _HEIGHT
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        x = _LEFT + _WIDTH * step / 4
        anchor = "end" if step == 4 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 26}" text-anchor="{anchor}">{_clock(last * step / 4)}</text>'
        )
    return parts


def _polyline(line: Line, last: float, low: float, high: float, colour: str) -> str:
    points = [
        f"{_across(time, last):.1f},{_TOP + (1 - (value - low) / (high - low)) * _HEIGHT:.1f}"
        for time, value in line
    ]
    # The line before is wider, so it shows under the line after.
    width = 4 if colour == _BEFORE else 1.6
    return (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="{width}" '
        'stroke-linecap="round"/>'
    )


def _across(seconds: float, last: float) -> float:
    return _LEFT + (seconds / last if last > 0 else 0.5) * _WIDTH


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"
