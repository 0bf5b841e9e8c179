"""How a person fared over a whole film, in few numbers however long it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html import escape
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
    """Two lines over time, called `before` and `after` in `series`; empty where there are no two points to join."""
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
    """Strength over time, and below it a ribbon in the colours of what limited it; empty for a single point."""
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
    """The reasons that occur in `series`, in their colours, with the share of frames."""
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
    parts = [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#bbb"/>',
    ]
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
    # The line before is the broader one: it is seen where the line after lies upon it.
    width = 4 if colour == _BEFORE else 1.6
    return (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="{width}" '
        'stroke-linecap="round"/>'
    )


def _across(seconds: float, last: float) -> float:
    return _LEFT + (seconds / last if last > 0 else 0.5) * _WIDTH


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"
