"""Drawings of a person's series, as SVG inside the page."""

from __future__ import annotations

from html import escape

from pipeline.report.page.series import Series

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
