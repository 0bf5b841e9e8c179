"""All that is measured of restored faces against their targets: face by face, in the mean, and as tables.

Shapes: N faces, D width of an embedding; pictures uint8 (256, 256, 3) RGB in the FFHQ alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from models.evaluation import measures
from models.evaluation.faces import Cache, embed_pictures, key_of
from models.evaluation.measures import BANDS, Judge, skin_ratio, spectrum_ratios
from models.pictures import Picture
from models.recogniser import EmbeddedRecogniser


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All measures of one kind of picture, face by face; float64 (N,) where no other shape is given."""

    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    perceptual: NDArray[np.float64]
    identity: NDArray[np.float64]
    distance: NDArray[np.float64]
    """Of dlib's descriptors to the target's, or nan."""
    gradient: NDArray[np.float64]
    skin: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    """(N, 3), low, mid, high."""
    embeddings: NDArray[np.float64]
    """(N, D), unit length, by the own encoder."""
    anchors: NDArray[np.float64] | None
    """(N, D), unit length: the people of the references the faces were restored with; None without."""

    def toward(self, anchors: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Cosine of each face's embedding to `anchors`, (N, D) of unit length; nan without."""
        if anchors is None:
            return np.full(len(self.embeddings), np.nan)
        cosines: NDArray[np.float64] = (self.embeddings * anchors).sum(1)
        return cosines


class Meter:
    """All measures of pictures of 256 pixels against their targets."""

    def __init__(
        self, recogniser: EmbeddedRecogniser, perceptual: Path | None, cache: Cache, *, judge: bool
    ) -> None:
        self.recogniser = recogniser
        self.cache = cache
        self.perceptual = measures.SqueezeDistance(perceptual) if perceptual else None
        self._weights_key = key_of(perceptual.read_bytes()) if perceptual else ""
        self.judge = Judge(cache) if judge else None

    def measure(
        self,
        targets: list[Picture],
        kinds: dict[str, list[Picture]],
        anchors: dict[str, NDArray[np.float64]] | None = None,
    ) -> dict[str, Measured]:
        """Every measure of every kind of picture; each list goes with `targets`.

        `anchors`: for kinds restored with references their people, (N, D), unit length.
        """
        wanted = self._directions(targets)
        judged = self.judge.describe(targets, targets) if self.judge else None
        fidelity = self._fidelity(targets, kinds)
        measured: dict[str, Measured] = {}
        for name, pictures in kinds.items():
            embeddings = self._directions(pictures)
            distance = np.full(len(targets), np.nan)
            if self.judge and judged is not None:
                distance = np.linalg.norm(self.judge.describe(pictures, targets) - judged, axis=1)
            both = list(zip(pictures, targets, strict=True))
            measured[name] = Measured(
                psnr=fidelity[name][:, 0],
                ssim=fidelity[name][:, 1],
                perceptual=fidelity[name][:, 2],
                identity=(embeddings * wanted).sum(1),
                distance=distance,
                gradient=np.array([measures.gradient_ratio(*pair) for pair in both]),
                skin=np.array([skin_ratio(*pair) for pair in both]),
                spectrum=np.stack([spectrum_ratios(*pair) for pair in both]),
                embeddings=embeddings,
                anchors=(anchors or {}).get(name),
            )
        return measured

    def _directions(self, pictures: list[Picture]) -> NDArray[np.float64]:
        """Embeddings (N, D) of unit length."""
        embeddings = F.normalize(embed_pictures(self.recogniser, pictures).double(), dim=1)
        return np.asarray(embeddings.numpy(), np.float64)

    def _fidelity(
        self, targets: list[Picture], kinds: dict[str, list[Picture]]
    ) -> dict[str, NDArray[np.float64]]:
        """PSNR, SSIM and perceptual distance, (N, 3) for each kind; face by face, so that the features of
        a target are worked out once."""
        rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in kinds}
        for index, target in enumerate(targets):
            features = None
            for name, pictures in kinds.items():
                key = key_of(measures, self._weights_key, pictures[index], target)
                row = self.cache.find(key)
                if row is None:
                    if self.perceptual and features is None:
                        features = self.perceptual.features(target)
                    distance = float("nan")
                    if self.perceptual and features is not None:
                        distance = self.perceptual.between(
                            self.perceptual.features(pictures[index]), features
                        )
                    row = np.array(
                        [
                            measures.psnr(pictures[index], target),
                            measures.ssim(pictures[index], target),
                            distance,
                        ]
                    )
                    self.cache.keep(key, row)
                rows[name].append(row.astype(np.float64))
        return {name: np.stack(values) for name, values in rows.items()}


@dataclass(frozen=True, slots=True)
class Scores:
    """One row of the table: a set of faces, one kind of picture."""

    name: str
    psnr: float
    """Decibels, over RGB in [0, 255]."""
    ssim: float
    perceptual: float
    """Distance of unit SqueezeNet features; nan without weights."""
    identity: float
    """Cosine of the own encoder's embeddings to the target's."""
    judge: float
    """One minus the distance of dlib's descriptors to the target's; above 0.4 = same person; or nan."""
    gradient: float
    """Gradient energy of the inner face against the target's, median of the faces' ratios."""
    skin: tuple[float, float, float]
    """Gradient energy of cheeks and forehead against the target's: median, 10th and 90th percentile."""
    spectrum: tuple[float, float, float]
    """Power of the skin at low, mid and high frequencies against the target's, medians of the ratios."""
    reference: float
    """Cosine of the own encoder's embeddings to the people of the references, wrong ones too; nan without."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What one kind of picture has above another, mean over the same faces, with its standard error."""

    name: str
    identity: float
    identity_error: float
    judge: float
    judge_error: float
    perceptual: float
    perceptual_error: float
    reference: float
    """Cosine to the people of the first kind's references, of the first above the second; nan without."""
    reference_error: float


def score(name: str, measured: Measured) -> Scores:
    """The row of one kind of picture."""
    return Scores(
        name=name,
        psnr=float(measured.psnr.mean()),
        ssim=float(measured.ssim.mean()),
        perceptual=float(measured.perceptual.mean()),
        identity=float(measured.identity.mean()),
        judge=1 - mean_and_error(measured.distance)[0],
        gradient=float(np.median(measured.gradient)),
        skin=_percentiles(measured.skin),
        spectrum=_medians(measured.spectrum),
        reference=float(measured.toward(measured.anchors).mean()),
    )


def difference(name: str, first: Measured, second: Measured) -> Difference:
    """What `first` has above `second`, face by face."""
    return Difference(
        name,
        *mean_and_error(first.identity - second.identity),
        *mean_and_error(second.distance - first.distance),
        *mean_and_error(first.perceptual - second.perceptual),
        *mean_and_error(first.toward(first.anchors) - second.toward(first.anchors)),
    )


def table(scores: list[Scores]) -> str:
    """Markdown; a column for each measure, that of the references only where there are some."""
    titles = ["", "PSNR", "SSIM", "perceptual", "identity", "judge", "gradient", "skin texture"]
    titles.append(f"spectrum {'/'.join(BANDS)}")
    rows = [
        [
            row.name,
            f"{row.psnr:.2f}",
            f"{row.ssim:.3f}",
            f"{row.perceptual:.4f}",
            f"{row.identity:.3f}",
            f"{row.judge:.3f}",
            f"{row.gradient:.2f}",
            f"{row.skin[0]:.2f} ({row.skin[1]:.2f} to {row.skin[2]:.2f})",
            " / ".join(f"{value:.2f}" for value in row.spectrum),
        ]
        for row in scores
    ]
    if any(np.isfinite(row.reference) for row in scores):
        titles.append("reference")
        for cells, row in zip(rows, scores, strict=True):
            cells.append(f"{row.reference:.3f}" if np.isfinite(row.reference) else "-")
    return _markdown(titles, rows)


def difference_table(differences: list[Difference]) -> str:
    """Markdown: mean differences and their standard errors."""
    titles = ["difference", "identity", "judge", "perceptual"]
    rows = [
        [
            row.name,
            _with_error(row.identity, row.identity_error),
            _with_error(row.judge, row.judge_error),
            _with_error(row.perceptual, row.perceptual_error),
        ]
        for row in differences
    ]
    if any(np.isfinite(row.reference) for row in differences):
        titles.append("reference")
        for cells, row in zip(rows, differences, strict=True):
            cells.append(_with_error(row.reference, row.reference_error))
    return _markdown(titles, rows)


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of `values` (N,) and its standard error, nan left out; nan where nothing is left."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return float(known.mean()) if len(known) else float("nan"), float("nan")
    return float(known.mean()), float(known.std(ddof=1) / np.sqrt(len(known)))


def _markdown(titles: list[str], rows: list[list[str]]) -> str:
    head = f"| {' | '.join(titles)} |".replace("|  |", "| |")
    return "\n".join([head, "|---" * len(titles) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)])


def _with_error(value: float, error: float) -> str:
    return f"{value:+.4f} ± {error:.4f}" if np.isfinite(value) else "-"


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
    return median, low, high


def _medians(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, mid, high = (float(value) for value in np.median(values, axis=0))
    return low, mid, high
