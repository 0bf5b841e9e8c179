"""How much of what the network restores arrives in the written picture.

Aligned portraits are damaged with fixed seeds, shown at a size, restored as a folder of photos, and the written files
are compared with what the network itself gave for the same crops. docs/delivery.md explains the figures.

Legend: S side of the network's crop, m side at which pictures are compared: 256, or the shown size where that is less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from torch import Tensor

from models.align import at_size
from models.degradation.stills import preset_sample
from models.evaluation.faces import PRESETS
from models.evaluation.measures import SqueezeDistance, psnr, ssim
from models.pictures import Picture
from models.protocols import Request, Restorer, Result
from pipeline.config import PipelineConfig
from pipeline.evaluation.rows import CountingRestorer
from pipeline.flow import Chain, Hooks, run
from pipeline.frames import RestoredFace, RestoredFrame
from pipeline.media.photos import PhotoSource
from pipeline.pixels.colour import read_crop
from pipeline.runs.assembly import build, open_sink, open_source

COMPARED_PX = 256
FACE = slice(56, 232), slice(44, 212)
"""Brows to chin and cheek to cheek, rows and columns of 256."""
_LEAST_GAIN = (0.01, 0.1, 0.01)
"""In perceptual distance, dB and SSIM."""
_MARGIN = 0.25
"""Of the shown side, around the portrait."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One degraded portrait as it is shown, and the same undamaged; uint8 (H, W, 3) RGB."""

    degraded: Picture
    truth: Picture


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """One face cut out of what is compared, uint8 (m, m, 3) RGB each."""

    degraded: Picture
    truth: Picture
    bare: Picture
    """What the network gave."""
    written: Picture


@dataclass(frozen=True, slots=True)
class Arrival:
    """Means over faces. Gains are of perceptual distance (sign turned), PSNR and SSIM over the degraded crop."""

    faces: int
    distances: tuple[float, float, float]
    """Perceptual distance to the truth of the degraded, the written and the bare picture."""
    change: float
    """Share of the network's change that is found in the file: the projection of one onto the other."""
    gains: tuple[float | None, ...]
    """Share of the network's gain in perceptual distance, PSNR and SSIM that arrives; None where it gains next to
    nothing."""


def shown(source: Picture, seed: int, preset: str, side: int) -> Shown:
    """`source`, uint8 (512, 512, 3), damaged with `seed` and shown `side` pixels wide with a margin around it."""
    degraded = preset_sample(source, seed, PRESETS[preset], None)
    return Shown(_laid_out(degraded, side), _laid_out(source, side))


def _laid_out(picture: Picture, side: int) -> Picture:
    how = cv2.INTER_AREA if side < len(picture) else cv2.INTER_CUBIC
    margin = round(_MARGIN * side)
    sized = cv2.resize(picture, (side, side), interpolation=how)
    return np.asarray(
        cv2.copyMakeBorder(sized, margin, margin, margin, margin, cv2.BORDER_REPLICATE), np.uint8
    )


class Remembering(CountingRestorer):
    """A restorer, and what it gave for each crop it was asked for last."""

    def __init__(self, restorer: Restorer) -> None:
        super().__init__(restorer)
        self.given: list[tuple[Tensor, Tensor]] = []

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        results = super().restore(requests)
        self.given += [(r.crop, result.image) for r, result in zip(requests, results, strict=True)]
        return results

    def bare(self, crop: Tensor) -> Tensor | None:
        """What it made of this very crop; None where it was not asked."""
        return next((image for known, image in self.given if known is crop), None)


def restore_photos(photos: Sequence[Shown], config: PipelineConfig, folder: Path) -> list[Crops | None]:
    """Restores `photos` as the command does, through files in `folder`; None where no face is found."""
    before, after, truth = (folder / name for name in ("before", "after", "truth"))
    _save(before, [photo.degraded for photo in photos])
    _save(truth, [photo.truth for photo in photos])
    faces: dict[int, tuple[RestoredFace, Tensor | None]] = {}
    source = open_source(before, config)
    parts = build(config, source)
    assert parts.restorer is not None
    restorer = Remembering(parts.restorer)
    parts = replace(parts, restorer=restorer)

    def note(frame: RestoredFrame, _: object) -> None:
        face = max(frame.faces, key=lambda face: face.tracked.face.eye_distance_px, default=None)
        if face is not None:
            faces[frame.tracked.frame.pts] = face, restorer.bare(face.tracked.crop)

    with open_sink(after, source, config) as sink:
        run(source, sink, Chain(parts, config), Hooks(note=note))
    crops: list[Crops | None] = []
    for number, (photo, written, true) in enumerate(
        zip(photos, PhotoSource(after), PhotoSource(truth), strict=True)
    ):
        face, bare = faces.get(number, (None, None))
        if face is None or bare is None:
            crops.append(None)
            continue
        side = min(COMPARED_PX, round(len(photo.degraded) / (1 + 2 * _MARGIN)))
        matrix = at_size(face.tracked.matrix, bare.shape[-1], side)
        crops.append(
            Crops(
                _sized(face.tracked.crop, side),
                _picture(read_crop(true.native, matrix, side)),
                _sized(bare, side),
                _picture(read_crop(written.native, matrix, side)),
            )
        )
    return crops


def _save(folder: Path, pictures: Sequence[Picture]) -> None:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:04d}.png", compress_level=1)


def measure(crops: Sequence[Crops], distance: SqueezeDistance, *, face: bool) -> Arrival:
    """Means over `crops`; of the `face` alone, or of the whole crop."""
    rows = np.array([_figures(_cut(crop) if face else crop, distance) for crop in crops]).mean(0)
    before, bare, written, change = rows[:3], rows[3:6], rows[6:9], rows[9:]
    gains = [
        float((found - degraded) / (given - degraded)) if abs(given - degraded) >= least else None
        for found, given, degraded, least in zip(written, bare, before, _LEAST_GAIN, strict=True)
    ]
    return Arrival(
        len(crops),
        (-float(before[0]), -float(written[0]), -float(bare[0])),
        float(change[0] / change[1]),
        tuple(gains),
    )


def _figures(crop: Crops, distance: SqueezeDistance) -> list[float]:
    figures = []
    truth = distance.features(crop.truth)
    for picture in (crop.degraded, crop.bare, crop.written):
        figures += [
            -distance.between(distance.features(picture), truth),
            psnr(picture, crop.truth),
            ssim(picture, crop.truth),
        ]
    asked = crop.bare.astype(np.float64) - crop.degraded
    found = crop.written.astype(np.float64) - crop.degraded
    return [*figures, float((found * asked).mean()), float((asked * asked).mean())]


def _cut(crop: Crops) -> Crops:
    side = len(crop.truth)
    rows, columns = (slice(s.start * side // 256, s.stop * side // 256) for s in FACE)
    pictures = (crop.degraded, crop.truth, crop.bare, crop.written)
    return Crops(*(np.ascontiguousarray(picture[rows, columns]) for picture in pictures))


def _sized(crop: Tensor, side: int) -> Picture:
    picture = _picture(crop)
    how = cv2.INTER_AREA if side < len(picture) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=how), np.uint8)


def _picture(crop: Tensor) -> Picture:
    return np.ascontiguousarray(crop.permute(1, 2, 0).numpy())
