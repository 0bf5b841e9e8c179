"""Rows as a Markdown table for people and as values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.scores import ClipScores, Metric, Row

_ALL = "all clips"
_COUNTS = {"restored": 0, "given": 0, "calls": 0, "seconds": 1}
"""Counts of a row and their digits behind the point."""


def table(clips: Sequence[ClipScores]) -> str:
    """One table of all rows of all clips; of several clips also the means over them.

    A metric that no row has is left out.
    """
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
    """What each clip is, a line each."""
    return "\n".join(
        f"{clip.name}: {clip.frames} frames, {clip.faces} faces in them; motion measured on the {clip.flow_from}"
        + (f"; {clip.damage}" if clip.damage else "")
        for clip in clips
    )


def as_json(clips: Sequence[ClipScores]) -> list[dict[str, Any]]:
    """The same with the values of each frame; None where nothing was measured."""
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
    """Sums over `rows`; a dash where nothing was restored."""
    texts = []
    for name, digits in _COUNTS.items():
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        texts.append(f"{sum(values):.{digits}f}" if values else "–")
    return texts


def _names(clips: Sequence[ClipScores]) -> list[str]:
    """Names of rows in the order of the first clip that has all of them."""
    return [row.name for row in max((clip.rows for clip in clips), key=len)]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
