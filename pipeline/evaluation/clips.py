"""The clips that are measured: as they are, or made from a ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from models.align import scale_of
from pipeline.config import InputConfig, PipelineConfig
from pipeline.errors import SourceError
from pipeline.evaluation.degrade import draw_damage, write_degraded
from pipeline.evaluation.meter import Instruments
from pipeline.evaluation.regions import SIDE_PX
from pipeline.media.source import FileSource
from pipeline.pixels.geometry import Geometry
from pipeline.runs.assembly import open_source


@dataclass(frozen=True, slots=True)
class Clip:
    """What is restored, and what it should look like."""

    name: str
    path: Path
    input: InputConfig
    """The stretch of `path` that is restored."""
    truth: FileSource | None = None
    """Frame by frame the undamaged pictures; None where nobody has them."""
    damage: str = ""

    def source(self, config: PipelineConfig) -> FileSource:
        """The clip to be restored; another one each time."""
        return open_video(self.path, replace(config, input=self.input))


def open_video(path: Path, config: PipelineConfig) -> FileSource:
    """The video at `path`. Raises SourceError, also for photos."""
    source = open_source(path, config)
    if not isinstance(source, FileSource):
        raise SourceError(f"{path}: no video; frames of photos have no neighbours in time to compare with")
    return source


def plain_clip(path: Path, config: PipelineConfig) -> Clip:
    """A clip without ground truth. Raises SourceError."""
    open_video(path, config)
    return Clip(path.name, path, config.input)


def degraded_clip(
    path: Path, config: PipelineConfig, folder: Path, *, strength: str, seed: int, instruments: Instruments
) -> Clip:
    """The ground truth at `path`, degraded into `folder`. Raises SourceError, also where it shows no face."""
    truth = open_video(path, config)
    if truth.info.rotation or (truth.info.sample_aspect_ratio or 1) != 1:
        raise SourceError(f"{path}: a turned or stretched video cannot be degraded; convert it first")
    damage = draw_damage(strength, seed)
    target = folder / f"{path.stem}.mkv"
    write_degraded(truth, target, damage, _crop_side_px(truth, instruments), seed)
    stretch = replace(config.input, start_seconds=0.0, duration_seconds=None)
    return Clip(path.name, target, stretch, truth, f"{strength}: {damage}")


def _crop_side_px(source: FileSource, instruments: Instruments) -> float:
    """Side in pixels of the FFHQ crop of the first face that is found."""
    geometry = Geometry()
    for frame in source:
        for landmarks in instruments.find(frame.native, geometry):
            return SIDE_PX / scale_of(geometry.crop_matrix(landmarks, SIDE_PX))
    raise SourceError(f"{source.path}: no face is found in it, so there is nothing to measure")
