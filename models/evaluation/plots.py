"""Drawings of an evaluation: contact sheets of pictures, and the encoder's norm against damage and nearness.

Sheets show pictures of several kinds beside each other, a row for each face. The norm is written as SVG by hand: text,
small, sharp at any size.

Shapes: S side of a picture, N faces, K steps of damage, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.pictures import Picture

_LABEL_PX = 28
_BLACK, _PAPER = (0, 0, 0), 255
_WIDTH, _HEIGHT = 860, 330
_INK, _BAND, _DOT = "#1f4e79", "#9dc3e6", "#c55a11"
_BINS = 8


def write_sheet(path: Path, kinds: dict[str, list[Picture]], rows: int) -> None:
    """Writes a PNG with a labelled column for each of `kinds` and `rows` faces spread over the lists.

    Pictures uint8 (S, S, 3) RGB, all of one size. Raises `ValueError` where the file cannot be written.
    """
    count = len(next(iter(kinds.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(rows, count)).round().astype(int))
    columns = [
        np.vstack([_label(name, pictures[0].shape[1]), *(pictures[index] for index in chosen)])
        for name, pictures in kinds.items()
    ]
    try:
        written = cv2.imwrite(str(path), np.hstack(columns)[..., ::-1])
    except cv2.error:
        written = False
    if not written:
        raise ValueError(f"{path}: the sheet cannot be written; name a .png file in an existing folder")


def _label(text: str, width: int) -> Picture:
    label = np.full((_LABEL_PX, width, 3), _PAPER, np.uint8)
    cv2.putText(label, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _BLACK, 1, cv2.LINE_AA)
    return label


@dataclass(frozen=True, slots=True)
class _Panel:
    """A rectangle of the drawing and the values at its edges."""

    left: float
    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 340
    top: float = 34
    height: float = 210

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * self.width, self.top + (1 - up) * self.height


def write_norm_plot(path: Path, steps: Tensor, names: Sequence[str]) -> None:
    """Writes the plot of `steps`, raw embeddings (N, K, D) at K rising steps of damage called `names`."""
    norms = steps.norm(dim=2).double().numpy()  # (N, K)
    directions = (steps / steps.norm(dim=2, keepdim=True)).double().numpy()
    cosines = (directions * directions[:, :1]).sum(2)  # (N, K)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *_norm_by_damage(norms, names),
        *_cosine_by_norm(norms[:, 1:].ravel(), cosines[:, 1:].ravel()),
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _norm_by_damage(norms: NDArray[np.float64], names: Sequence[str]) -> list[str]:
    panel = _Panel(60, (-0.3, len(names) - 0.7), (0, float(np.ceil(norms.max()))))
    low, high = np.percentile(norms, (10, 90), axis=0)
    places = np.arange(len(names), dtype=float)
    band = [*zip(places, high, strict=True), *zip(places[::-1], low[::-1], strict=True)]
    parts = [*_frame(panel, f"norm: mean and 10-90 % of {len(norms)} faces", "norm")]
    parts.append(f'<polygon points="{_points(panel, band)}" fill="{_BAND}" opacity="0.6"/>')
    mean = list(zip(places, norms.mean(0), strict=True))
    parts.append(f'<polyline points="{_points(panel, mean)}" fill="none" stroke="{_INK}" stroke-width="2"/>')
    for x, name in zip(places, names, strict=True):
        left, top = panel.place(x, panel.y[0])
        parts.append(
            f'<text x="{left:.1f}" y="{top + 14:.1f}" text-anchor="end" '
            f'transform="rotate(-35 {left:.1f} {top + 14:.1f})">{escape(name)}</text>'
        )
    return parts


def _cosine_by_norm(norms: NDArray[np.float64], cosines: NDArray[np.float64]) -> list[str]:
    panel = _Panel(
        490, (float(np.floor(norms.min())), float(np.ceil(norms.max()))), (min(0.0, cosines.min()), 1)
    )
    parts = [*_frame(panel, "cosine to the clean embedding, by norm", "cosine")]
    for x, y in zip(norms, cosines, strict=True):
        left, top = panel.place(x, y)
        parts.append(f'<circle cx="{left:.0f}" cy="{top:.0f}" r="1.4" fill="{_DOT}" opacity="0.45"/>')
    edges = np.quantile(norms, np.linspace(0, 1, _BINS + 1))
    bins = np.clip(np.searchsorted(edges, norms, "right") - 1, 0, _BINS - 1)
    means = [(norms[bins == k].mean(), cosines[bins == k].mean()) for k in range(_BINS) if (bins == k).any()]
    parts.append(f'<polyline points="{_points(panel, means)}" fill="none" stroke="{_INK}" stroke-width="2"/>')
    for value in np.linspace(*panel.x, 5):
        left, top = panel.place(float(value), panel.y[0])
        parts.append(f'<text x="{left:.1f}" y="{top + 16:.1f}" text-anchor="middle">{value:.1f}</text>')
    left, top = panel.place(float(np.mean(panel.x)), panel.y[0])
    parts.append(f'<text x="{left:.1f}" y="{top + 34:.1f}" text-anchor="middle">norm</text>')
    return parts


def _frame(panel: _Panel, title: str, axis: str) -> list[str]:
    """Title, box and grid lines with the values of the vertical axis."""
    parts = [
        f'<text x="{panel.left}" y="{panel.top - 14}" font-size="13">{escape(title)}</text>',
        f'<rect x="{panel.left}" y="{panel.top}" width="{panel.width}" height="{panel.height}" '
        'fill="none" stroke="#888"/>',
    ]
    for value in np.linspace(*panel.y, 5):
        left, top = panel.place(panel.x[0], float(value))
        parts.append(
            f'<line x1="{left}" x2="{left + panel.width}" y1="{top:.1f}" y2="{top:.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{left - 6}" y="{top + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    middle = panel.top + panel.height / 2
    parts.append(
        f'<text x="{panel.left - 42}" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 {panel.left - 42} {middle})">{escape(axis)}</text>'
    )
    return parts


def _points(panel: _Panel, values: Sequence[tuple[float, float]]) -> str:
    return " ".join("{:.1f},{:.1f}".format(*panel.place(float(x), float(y))) for x, y in values)
