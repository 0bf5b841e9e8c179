"""Metrics and the rows that hold them, as Markdown table, JSON and SVG plots.

Plots have a panel for each clip and a line for each setting; SVG is written directly: small text, sharp at any size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

_ALL = "all clips"
_COUNTS = {"restored": 0, "given": 0, "calls": 0, "seconds": 1}
"""Counts of a row and their decimals."""
_LEFT, _WIDTH, _HEIGHT, _LEGEND = 66.0, 640.0, 150.0, 170.0
_ABOVE, _BELOW = 34.0, 40.0
_COLOURS = ("#7f7f7f", "#1f4e79", "#c55a11", "#2e7d32", "#7b1fa2", "#b8860b", "#00838f", "#ad1457")
_GRID_LINES = 4


class Metric(Enum):
    """Each with its heading, decimals and factor in the table."""

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
        """Name in JSON and of the plot."""
        return self.name.lower()

    def text(self, value: float | None) -> str:
        """`value` for the table; a dash for None."""
        return "–" if value is None else f"{value * self.value[2]:.{self.value[1]}f}"


class Series:
    """Values of one metric, any number for each frame."""

    def __init__(self) -> None:
        self._values: dict[int, list[float]] = defaultdict(list)

    def add(self, frame: int, value: float | None) -> None:
        """Adds `value` to the frame; None = not measured."""
        if value is not None:
            self._values[frame].append(value)

    def mean(self) -> float | None:
        """Mean of all values; None without any."""
        return float(np.mean(list(self._all()))) if self._values else None

    def by_frame(self) -> dict[int, float]:
        """Mean of each frame with values, in order of time."""
        return {frame: float(np.mean(values)) for frame, values in sorted(self._values.items())}

    def _all(self) -> list[float]:
        return [value for values in self._values.values() for value in values]


@dataclass(slots=True)
class Row:
    """One setting, the source or the ground truth, on one clip."""

    name: str
    series: dict[Metric, Series] = field(default_factory=lambda: {metric: Series() for metric in Metric})
    calls: int | None = None
    """Calls of the restorer; None without a restorer."""
    given: int | None = None
    """Faces passed to the restorer in all calls."""
    restored: int | None = None
    """Faces restored, counted per frame."""
    seconds: float | None = None
    """Work of all stages from decoding to blending, without measuring."""

    def mean(self, metric: Metric) -> float | None:
        """Mean of `metric` over the clip."""
        return self.series[metric].mean()


@dataclass(frozen=True, slots=True)
class ClipScores:
    """All rows of one clip."""

    name: str
    damage: str
    """Degradation of the ground truth; empty without one."""
    flow_from: str
    """Pictures for measuring motion: "ground truth" or "source"."""
    frames: int
    faces: int
    """Faces measured, counted per frame."""
    seconds: float
    """Length of the clip."""
    rows: tuple[Row, ...]


def table(clips: Sequence[ClipScores]) -> str:
    """Table of all rows of all clips, with means over several clips; metrics without values are left out."""
    shown = [m for m in Metric if any(row.mean(m) is not None for clip in clips for row in clip.rows)]
    headings = ["clip", "setting", *(metric.heading for metric in shown), *_COUNTS]
    lines = [_line(headings), _line(["---"] * len(headings))]
    for clip in clips:
        lines += [
            _line([clip.name, row.name, *(m.text(row.mean(m)) for m in shown), *_counts([row])])
            for row in clip.rows
        ]
    if len(clips) > 1:
        for name in _names(clips):
            rows = [row for clip in clips for row in clip.rows if row.name == name]
            means = [m.text(_mean([row.mean(m) for row in rows])) for m in shown]
            lines.append(_line([_ALL, name, *means, *_counts(rows)]))
    return "\n".join(lines)


def notes(clips: Sequence[ClipScores]) -> str:
    """One line on each clip."""
    return "\n".join(
        f"{clip.name}: {clip.frames} frames, {clip.faces} faces in them; motion measured on the {clip.flow_from}"
        + (f"; {clip.damage}" if clip.damage else "")
        for clip in clips
    )


def as_json(clips: Sequence[ClipScores]) -> list[dict[str, Any]]:
    """All values for JSON, also of each frame; None = not measured."""
    return [
        {
            "clip": clip.name,
            "damage": clip.damage,
            "flow_from": clip.flow_from,
            "frames": clip.frames,
            "faces": clip.faces,
            "seconds": clip.seconds,
            "rows": [_row(row) for row in clip.rows],
        }
        for clip in clips
    ]


def _row(row: Row) -> dict[str, Any]:
    return {
        "setting": row.name,
        "means": {metric.key: row.mean(metric) for metric in Metric},
        **{name: getattr(row, name) for name in _COUNTS},
        "by_frame": {metric.key: row.series[metric].by_frame() for metric in Metric},
    }


def _counts(rows: Sequence[Row]) -> list[str]:
    """Sums over `rows`; a dash without values."""
    texts = []
    for name, digits in _COUNTS.items():
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        texts.append(f"{sum(values):.{digits}f}" if values else "–")
    return texts


def _names(clips: Sequence[ClipScores]) -> list[str]:
    """Names of rows in the order of the clip with most rows."""
    return [row.name for row in max((clip.rows for clip in clips), key=len)]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


@dataclass(frozen=True, slots=True)
class _Panel:
    """A rectangle of the plot and the values at its edges."""

    top: float
    last_frame: int
    low: float
    high: float

    def place(self, frame: float, value: float) -> str:
        x = _LEFT + frame / max(self.last_frame, 1) * _WIDTH
        y = self.top + (1 - (value - self.low) / (self.high - self.low)) * _HEIGHT
        return f"{x:.1f},{y:.1f}"


def write_plots(folder: Path, clips: Sequence[ClipScores]) -> list[Path]:
    """Writes `METRIC.svg` into `folder` for every measured metric; returns the paths."""
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
            # A single value is drawn as a dot: a line of length 0.
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
    """The values of `line` in runs of successive frames, so that gaps stay empty."""
    stretches: list[list[tuple[int, float]]] = []
    for frame, value in line.items():
        if stretches and stretches[-1][-1][0] == frame - 1:
            stretches[-1].append((frame, value))
        else:
            stretches.append([(frame, value)])
    return stretches
