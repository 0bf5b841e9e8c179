"""One drawing for each metric: its values over time, a panel for each clip and a line for each setting.

Written as SVG by hand: text, small, sharp at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pipeline.evaluation.scores import ClipScores, Metric

_LEFT, _WIDTH, _HEIGHT, _LEGEND = 66.0, 640.0, 150.0, 170.0
_ABOVE, _BELOW = 34.0, 40.0
_COLOURS = ("#7f7f7f", "#1f4e79", "#c55a11", "#2e7d32", "#7b1fa2", "#b8860b", "#00838f", "#ad1457")
_GRID_LINES = 4


@dataclass(frozen=True, slots=True)
class _Panel:
    """A rectangle of the drawing and the values at its edges."""

    top: float
    last_frame: int
    low: float
    high: float

    def place(self, frame: float, value: float) -> str:
        x = _LEFT + frame / max(self.last_frame, 1) * _WIDTH
        y = self.top + (1 - (value - self.low) / (self.high - self.low)) * _HEIGHT
        return f"{x:.1f},{y:.1f}"


def write_plots(folder: Path, clips: Sequence[ClipScores]) -> list[Path]:
    """Writes `METRIC.svg` into `folder` for every metric that was measured; gives what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for metric in Metric:
        measured = [clip for clip in clips if any(row.mean(metric) is not None for row in clip.rows)]
        if measured:
            written.append(folder / f"{metric.key}.svg")
            written[-1].write_text(_drawing(metric, measured), encoding="utf-8")
    return written


def _drawing(metric: Metric, clips: Sequence[ClipScores]) -> str:
    each = _ABOVE + _HEIGHT + _BELOW
    width, height = _LEFT + _WIDTH + _LEGEND, each * len(clips)
    names = list(dict.fromkeys(row.name for clip in clips for row in clip.rows))
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
    ]
    for index, clip in enumerate(clips):
        parts += _clip(metric, clip, _ABOVE + index * each, colours)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _clip(metric: Metric, clip: ClipScores, top: float, colours: dict[str, str]) -> list[str]:
    """Box, axes, lines and legend of one clip."""
    factor = metric.value[2]
    lines = {row.name: row.series[metric].by_frame() for row in clip.rows}
    values = [factor * value for line in lines.values() for value in line.values()]
    low, high = min(values), max(values)
    spare = 0.05 * (high - low) or 0.5
    panel = _Panel(top, clip.frames - 1, low - spare, high + spare)
    parts = _axes(panel, f"{clip.name}: {metric.heading}", clip.seconds)
    shown = [name for name, line in lines.items() if line]
    for index, name in enumerate(shown):
        colour = colours[name]
        for stretch in _stretches(lines[name]):
            places = [panel.place(frame, factor * value) for frame, value in stretch]
            # A single value is drawn as a dot: a line from it to itself.
            points = " ".join(places if len(places) > 1 else 2 * places)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4" stroke-linecap="round"/>'
            )
        x, y = _LEFT + _WIDTH + 12, top + 14 + 16 * index
        parts.append(
            f'<line x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{x + 24}" y="{y}">{escape(name)}</text>')
    return parts


def _axes(panel: _Panel, title: str, seconds: float) -> list[str]:
    bottom = panel.top + _HEIGHT
    parts = [
        f'<text x="{_LEFT}" y="{panel.top - 12}" font-size="13">{escape(title)}</text>',
        f'<rect x="{_LEFT}" y="{panel.top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#888"/>',
    ]
    for step in range(_GRID_LINES + 1):
        value = panel.low + (panel.high - panel.low) * step / _GRID_LINES
        y = bottom - _HEIGHT * step / _GRID_LINES
        x = _LEFT + _WIDTH * step / _GRID_LINES
        parts += [
            f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{seconds * step / _GRID_LINES:.2f} s</text>',
        ]
    return parts


def _stretches(line: dict[int, float]) -> list[list[tuple[int, float]]]:
    """The values of `line` in stretches of frames that follow each other: a gap must not look measured."""
    stretches: list[list[tuple[int, float]]] = []
    for frame, value in line.items():
        if stretches and stretches[-1][-1][0] == frame - 1:
            stretches[-1].append((frame, value))
        else:
            stretches.append([(frame, value)])
    return stretches
