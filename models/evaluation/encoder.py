"""What the identity encoder promises: the norm falls with damage, damaged views stay near the clean one,
and people stay apart. The norm is also drawn against damage and nearness, as SVG written by hand: small, sharp at any
size.

Shapes: N pictures, K steps of damage, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.degradation.stills import MODERATE, SEVERE, preset_sample
from models.evaluation.faces import PRESETS, Album, embed_pictures, recogniser_crops, reduced
from models.pictures import Picture
from models.recogniser import EmbeddedRecogniser
from models.training.fixed_networks import Teacher

STEPS = (
    ("clean", MODERATE, 0.0),
    ("moderate 0.33", MODERATE, 0.33),
    ("moderate 0.67", MODERATE, 0.67),
    ("moderate 1", MODERATE, 1.0),
    ("severe 0.33", SEVERE, 0.33),
    ("severe 0.67", SEVERE, 0.67),
    ("severe 1", SEVERE, 1.0),
)
"""Rising damage: its name, preset and strength."""

ALBUM_SEED = 5000
FALSE_ACCEPTS = 0.01

Embed = Callable[[list[Picture]], Tensor]
"""Raw embeddings (N, D) of pictures, uint8 (256, 256, 3) each."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How well an encoder says whether two pictures show the same person."""

    album: str
    views: str
    """What was done to the first picture of each pair; the second is clean."""
    encoder: str
    same_pairs: int
    other_pairs: int
    area: float
    """Under the receiver operating characteristic."""
    accepted: float
    """Part of the pairs of one person that is accepted where 1 % of the pairs of two people are."""
    same: float
    """Median cosine of two pictures of one person."""
    other: float
    """Median cosine of two people."""
    area_upper: float
    """Area for those pairs alone whose first picture is in the upper half by norm."""
    area_lower: float
    """Area for the others."""


def own_embed(recogniser: EmbeddedRecogniser) -> Embed:
    """The embeddings of the project's own encoder."""
    return lambda pictures: embed_pictures(recogniser, pictures)


def teacher_embed(teacher: Teacher) -> Embed:
    """The embeddings of the encoder's teacher."""

    @torch.inference_mode()
    def embed(pictures: list[Picture]) -> Tensor:
        return torch.cat(
            [
                teacher(recogniser_crops(pictures[k : k + 32]).float() / 255)
                for k in range(0, len(pictures), 32)
            ]
        )

    return embed


def step_embeddings(faces: list[Picture], embed: Embed) -> Tensor:
    """Raw embeddings (N, steps, D) of `faces`, uint8 (512, 512, 3) each, at the damage of all `STEPS`."""
    parts = [embed([reduced(face) for face in faces])]
    for _, preset, strength in STEPS[1:]:
        parts.append(
            embed([reduced(preset_sample(face, seed, preset, strength)) for seed, face in enumerate(faces)])
        )
    return torch.stack(parts, 1)


def encoder_numbers(
    faces: list[Picture], steps: Tensor, embed: Embed, teacher_embed: Embed | None
) -> dict[str, float]:
    """Norms by damage, nearness of severe views to the clean one, and four severe views together.

    `faces`: uint8 (512, 512, 3) each; `steps`: their `step_embeddings`.
    """
    clean, norms = steps[:, 0], steps.norm(dim=2)
    numbers = {
        "norm, clean": float(norms[:, 0].mean()),
        "norm, severe strength 0.33": float(norms[:, 4].mean()),
        "norm, worst": float(norms[:, -1].mean()),
        "rank correlation of norm and strength": _rank_correlation(norms),
    }
    severe_views = [
        [reduced(preset_sample(face, 4 * seed + k, SEVERE, None)) for seed, face in enumerate(faces)]
        for k in range(4)
    ]
    answers = torch.stack([embed(part) for part in severe_views], 1)  # (N, 4, D)
    numbers["cosine severe to clean"] = float(F.cosine_similarity(answers, clean[:, None], dim=2).mean())
    if teacher_embed is not None:
        taught = teacher_embed([reduced(face) for face in faces])
        severe = torch.stack([teacher_embed(part) for part in severe_views], 1)
        numbers["cosine severe to clean, teacher's own"] = float(
            F.cosine_similarity(severe, taught[:, None], dim=2).mean()
        )
        numbers["cosine clean to teacher's clean"] = float(F.cosine_similarity(clean, taught).mean())
        numbers["cosine severe to teacher's clean"] = float(
            F.cosine_similarity(answers, taught[:, None], dim=2).mean()
        )
    best = answers[torch.arange(len(answers)), answers.norm(dim=2).argmax(1)]
    numbers["four severe views: weighted by norm"] = float(F.cosine_similarity(answers.sum(1), clean).mean())
    numbers["four severe views: plain mean of directions"] = float(
        F.cosine_similarity(F.normalize(answers, dim=2).sum(1), clean).mean()
    )
    numbers["four severe views: the one of largest norm"] = float(F.cosine_similarity(best, clean).mean())
    return numbers


def pair_numbers(pairs: list[tuple[Picture, Picture]], embed: Embed) -> dict[str, float]:
    """One clean picture of each person looked for among the other clean ones."""
    first, second = (F.normalize(embed([reduced(pair[k]) for pair in pairs]), dim=1) for k in (0, 1))
    cosines = first @ second.T  # (N, N)
    same = cosines.diagonal()
    others = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    return {
        "pairs: cosine of the same person": float(same.mean()),
        "pairs: cosine of different people": float(others.mean()),
        "pairs: area under the curve": float((same[:, None] > others[None]).float().mean()),
        "pairs: found among all": float((cosines.argmax(1) == torch.arange(len(cosines))).float().mean()),
    }


def verification_rows(name: str, album: Album, embedders: dict[str, Embed]) -> list[Verification]:
    """Every picture, clean, moderately and severely degraded, against every other clean one of the album."""
    clean = [reduced(picture) for picture in album.pictures]
    views = {"clean": clean}
    for damage, preset in PRESETS.items():
        views[damage] = [
            reduced(preset_sample(picture, ALBUM_SEED + seed, preset, None))
            for seed, picture in enumerate(album.pictures)
        ]
    people = np.unique(album.people, return_inverse=True)[1]
    rows = []
    for encoder, embed in embedders.items():
        wanted = embed(clean)
        for damage, pictures in views.items():
            seen = wanted if damage == "clean" else embed(pictures)
            rows.append(verify(seen.numpy(), wanted.numpy(), people, (name, damage, encoder)))
    return rows


def verify(
    seen: NDArray[np.float32],
    wanted: NDArray[np.float32],
    people: NDArray[np.integer],
    names: tuple[str, str, str],
) -> Verification:
    """`seen` against `wanted`, raw embeddings (N, D) of the same pictures of `people` (N,).

    A picture is never held against itself. `names`: those of album, views and encoder.
    """
    norms = np.linalg.norm(seen, axis=1)
    cosines = (seen / norms[:, None]) @ (wanted / np.linalg.norm(wanted, axis=1, keepdims=True)).T
    same = (people[:, None] == people[None]) & ~np.eye(len(people), dtype=bool)
    other = people[:, None] != people[None]
    clear = norms >= np.median(norms)
    threshold = np.quantile(cosines[other], 1 - FALSE_ACCEPTS)
    return Verification(
        *names,
        same_pairs=int(same.sum()),
        other_pairs=int(other.sum()),
        area=area_under_curve(cosines[same], cosines[other]),
        accepted=float((cosines[same] > threshold).mean()),
        same=float(np.median(cosines[same])),
        other=float(np.median(cosines[other])),
        area_upper=area_under_curve(cosines[clear][same[clear]], cosines[clear][other[clear]]),
        area_lower=area_under_curve(cosines[~clear][same[~clear]], cosines[~clear][other[~clear]]),
    )


def area_under_curve(same: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Chance that a pair of `same` (A,) is more alike than one of `other` (B,); ties count half, nan if empty."""
    if not len(same) or not len(other):
        return float("nan")
    ordered = np.sort(other)
    below = np.searchsorted(ordered, same, "left") + np.searchsorted(ordered, same, "right")
    return float(below.mean() / (2 * len(other)))


def verification_table(rows: list[Verification]) -> str:
    """Markdown."""
    lines = [
        "| people | view - clean | encoder | pairs same / other | area | accepted at 1 % false "
        "| median same / other | area, upper / lower half by norm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.album} | {row.views} | {row.encoder} | {row.same_pairs} / {row.other_pairs} "
            f"| {row.area:.4f} | {row.accepted:.3f} | {row.same:.2f} / {row.other:.2f} "
            f"| {row.area_upper:.4f} / {row.area_lower:.4f} |"
        )
    return "\n".join(lines)


def _rank_correlation(norms: Tensor) -> float:
    """Spearman's correlation of each face's norms (N, strengths) with the order of strengths, averaged."""
    ranks = norms.argsort(1).argsort(1).double()
    order = torch.arange(norms.shape[1], dtype=torch.float64)
    centred, order = ranks - ranks.mean(1, keepdim=True), order - order.mean()
    return float(((centred * order).sum(1) / (centred.norm(dim=1) * order.norm())).mean())


_WIDTH, _HEIGHT = 860, 330
_INK, _BAND, _DOT = "#1f4e79", "#9dc3e6", "#c55a11"
_BINS = 8


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
