"""Degraded and restored faces against their targets.

Shapes: N faces; pictures uint8 (256, 256, 3) RGB in the FFHQ alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.evaluation import measures
from models.evaluation.cache import Cache, key_of
from models.evaluation.faces import embed_pictures, reduced
from models.evaluation.judge import Judge
from models.evaluation.skin import BANDS, skin_ratio, spectrum_ratios
from models.fast.restorer import FastRestorer
from models.protocols import References, Request
from models.recogniser import EmbeddedRecogniser
from models.training import degrade
from models.training.degrade import Picture, Preset, preset_sample

PAIR_SEED = 1000
"""Seed of the first picture of the pairs; those of the single faces begin at 0."""


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


@dataclass(frozen=True, slots=True)
class Difference:
    """What one kind of picture has above another, mean over the same faces, with its standard error."""

    name: str
    identity: float
    identity_error: float
    judge: float
    judge_error: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """Pictures of one kind of damage, and what was measured on them."""

    targets: list[Picture]
    kinds: dict[str, list[Picture]]
    """For the sheet: the pictures of each row of `scores`, and the references where there are some."""
    scores: list[Scores]
    differences: list[Difference]


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

    def measure(self, targets: list[Picture], kinds: dict[str, list[Picture]]) -> dict[str, Measured]:
        """Every measure of every kind of picture; each list goes with `targets`."""
        wanted = embed_pictures(self.recogniser, targets)
        judged = self.judge.describe(targets, targets) if self.judge else None
        fidelity = self._fidelity(targets, kinds)
        measured: dict[str, Measured] = {}
        for name, pictures in kinds.items():
            cosine = F.cosine_similarity(embed_pictures(self.recogniser, pictures), wanted)
            distance = np.full(len(targets), np.nan)
            if self.judge and judged is not None:
                distance = np.linalg.norm(self.judge.describe(pictures, targets) - judged, axis=1)
            both = list(zip(pictures, targets, strict=True))
            measured[name] = Measured(
                psnr=fidelity[name][:, 0],
                ssim=fidelity[name][:, 1],
                perceptual=fidelity[name][:, 2],
                identity=cosine.double().numpy(),
                distance=distance,
                gradient=np.array([measures.gradient_ratio(*pair) for pair in both]),
                skin=np.array([skin_ratio(*pair) for pair in both]),
                spectrum=np.stack([spectrum_ratios(*pair) for pair in both]),
            )
        return measured

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


def restoration_experiment(
    faces: list[Picture], preset: Preset, restorer: FastRestorer, meter: Meter
) -> Experiment:
    """Degraded and restored, without references. `faces`: uint8 (512, 512, 3) each."""
    targets = [reduced(face) for face in faces]
    damaged = degraded(faces, preset, 0, meter.cache)
    kinds = {"degraded": damaged, "restored": _restore(restorer, damaged, [References()] * len(faces))}
    measured = meter.measure(targets, kinds)
    return Experiment(targets, kinds, _scores(measured), [_difference(measured, "restored", "degraded")])


def reference_experiment(
    pairs: list[tuple[Picture, Picture]], preset: Preset, restorer: FastRestorer, meter: Meter
) -> Experiment:
    """Degraded, and restored without, with the right and with a wrong person's reference."""
    sources = [picture for pair in pairs for picture in pair]
    partners = [reduced(picture) for pair in pairs for picture in reversed(pair)]
    targets = [reduced(source) for source in sources]
    damaged = degraded(sources, preset, PAIR_SEED, meter.cache)
    references = [_reference(partner, meter.recogniser) for partner in partners]
    strangers = references[2:] + references[:2]
    kinds = {
        "degraded": damaged,
        "no reference": _restore(restorer, damaged, [References()] * len(damaged)),
        "right reference": _restore(restorer, damaged, references),
        "wrong reference": _restore(restorer, damaged, strangers),
    }
    measured = meter.measure(targets, kinds)
    differences = [
        _difference(measured, "no reference", "degraded"),
        _difference(measured, "right reference", "degraded"),
        _difference(measured, "right reference", "no reference"),
        _difference(measured, "right reference", "wrong reference"),
    ]
    return Experiment(targets, {"reference": partners} | kinds, _scores(measured), differences)


def degraded(sources: list[Picture], preset: Preset, first_seed: int, cache: Cache) -> list[Picture]:
    """`sources`, uint8 (512, 512, 3), after `preset` with a seed of their own each, at 256 pixels."""
    damaged: list[Picture] = []
    for seed, source in enumerate(sources, first_seed):
        key = key_of(degrade, source, preset, seed)
        picture = cache.find(key)
        if picture is None:
            picture = reduced(preset_sample(source, seed, preset, None))
            cache.keep(key, picture)
        damaged.append(np.asarray(picture, np.uint8))
    return damaged


def table(scores: list[Scores]) -> str:
    """Markdown; a column for each measure."""
    bands = "/".join(BANDS)
    lines = [
        f"| | PSNR | SSIM | perceptual | identity | judge | gradient | skin texture | spectrum {bands} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in scores:
        spectrum = " / ".join(f"{value:.2f}" for value in row.spectrum)
        lines.append(
            f"| {row.name} | {row.psnr:.2f} | {row.ssim:.3f} | {row.perceptual:.4f} | {row.identity:.3f} "
            f"| {row.judge:.3f} | {row.gradient:.2f} "
            f"| {row.skin[0]:.2f} ({row.skin[1]:.2f} to {row.skin[2]:.2f}) | {spectrum} |"
        )
    return "\n".join(lines)


def difference_table(differences: list[Difference]) -> str:
    """Markdown: mean difference and its standard error."""
    lines = ["| difference | identity | judge |", "|---|---|---|"]
    for row in differences:
        lines.append(
            f"| {row.name} | {row.identity:+.4f} ± {row.identity_error:.4f} "
            f"| {row.judge:+.4f} ± {row.judge_error:.4f} |"
        )
    return "\n".join(lines)


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of `values` (N,) and its standard error, nan left out; nan where nothing is left."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return float(known.mean()) if len(known) else float("nan"), float("nan")
    return float(known.mean()), float(known.std(ddof=1) / np.sqrt(len(known)))


def _scores(measured: dict[str, Measured]) -> list[Scores]:
    return [
        Scores(
            name=name,
            psnr=float(row.psnr.mean()),
            ssim=float(row.ssim.mean()),
            perceptual=float(row.perceptual.mean()),
            identity=float(row.identity.mean()),
            judge=1 - mean_and_error(row.distance)[0],
            gradient=float(np.median(row.gradient)),
            skin=_percentiles(row.skin),
            spectrum=_medians(row.spectrum),
        )
        for name, row in measured.items()
    ]


def _difference(measured: dict[str, Measured], name: str, other: str) -> Difference:
    first, second = measured[name], measured[other]
    return Difference(
        f"{name} - {other}",
        *mean_and_error(first.identity - second.identity),
        *mean_and_error(second.distance - first.distance),
    )


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
    return median, low, high


def _medians(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, mid, high = (float(value) for value in np.median(values, axis=0))
    return low, mid, high


def _restore(restorer: FastRestorer, pictures: list[Picture], references: list[References]) -> list[Picture]:
    requests = [
        Request(torch.from_numpy(picture).permute(2, 0, 1).contiguous(), own)
        for picture, own in zip(pictures, references, strict=True)
    ]
    return [
        np.ascontiguousarray(result.image.permute(1, 2, 0).numpy()) for result in restorer.restore(requests)
    ]


def _reference(picture: Picture, recogniser: EmbeddedRecogniser) -> References:
    crop = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
    return References((crop,), embed_pictures(recogniser, [picture]), version=1)
