"""Builds the parts, the source and the sink of a run from its settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from configs import ConfigError
from models.protocols import Restorer
from models.recogniser import EmbeddedRecogniser, LikenessMeter
from pipeline.build import build_detector, build_masker, build_pixels, build_recogniser
from pipeline.config import PipelineConfig
from pipeline.flow import Parts
from pipeline.media.photos import PhotoSink, PhotoSource
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from pipeline.people.cast import Cast, acquaintances, build_restorers, met_before, read_cast
from pipeline.pixels.geometry import Geometry, Shown
from pipeline.pixels.kinds import Pixels
from pipeline.report.provenance import SOURCE_TYPE, changes_faces, note
from pipeline.stages.gate import Gate
from pipeline.stages.perception import Perception
from pipeline.stages.portraits import Portraits
from trackers.people import Acquaintance, People
from trackers.shots import EveryFrame, ShotDetector
from trackers.tracks import NorfairTracker

Open = Callable[[FileSource | PhotoSource, str], None]


class Film(Protocol):
    """A video file or a live source: successive frames are close in time."""

    @property
    def info(self) -> Shown: ...


def build(config: PipelineConfig, source: PhotoSource | Film) -> Parts:
    """The parts of one run over `source`."""
    # First, so that a mistake in the list of people is reported at once.
    cast = read_cast(config.input, _name_of(source))
    restorer, casting = build_restorers(config, cast)
    masker = build_masker(config.masker)
    perception = _perception(config, restorer, source, replace(cast, casting=casting))
    pixels = Pixels() if restorer is None else build_pixels(config.pixels, config.restorer)
    return Parts(perception, restorer, masker, _gate(config, restorer), pixels)


def _name_of(source: object) -> str:
    """The file name; empty for a live source."""
    path = getattr(source, "path", None)
    return path.name if isinstance(path, Path) else ""


def _gate(config: PipelineConfig, restorer: Restorer | None) -> Gate | None:
    if restorer is None or not config.gate.enabled:
        return None
    # Always the embedded encoder, whatever the recogniser: the gate's thresholds are in its space.
    encoder = EmbeddedRecogniser(device=restorer.needs.device)
    return Gate(config.gate, LikenessMeter(encoder))


def open_source(path: Path, config: PipelineConfig) -> FileSource | PhotoSource:
    """The source for a path: a photo, a folder of photos, or a video."""
    settings = config.input
    # os.path: Path.is_dir raises for a name that is too long.
    if os.path.isdir(path) or PhotoSource.reads(path):
        ours = settings.start_seconds or settings.duration_seconds or config.output.compare
        if ours or settings.deinterlace != "none":
            raise ConfigError(
                f"{path}: --start, --duration, --compare and --deinterlace are for videos, not for photos"
            )
        return PhotoSource(path, strict=settings.strict)
    return FileSource(
        path,
        start_seconds=settings.start_seconds,
        duration_seconds=settings.duration_seconds,
        strict=settings.strict,
        deinterlace=settings.deinterlace,
        hardware=config.decode.hardware,
    )


def open_sink(
    output: Path, source: FileSource | PhotoSource, config: PipelineConfig, folder: Path | None = None
) -> FileSink | PhotoSink:
    """The sink for a path; the unfinished file of a video goes into `folder`."""
    if isinstance(source, PhotoSource):
        kind = SOURCE_TYPE if changes_faces(config) else ""
        return PhotoSink(
            output, source, overwrite=config.output.overwrite, note=note(config), source_type=kind
        )
    return FileSink(
        output,
        source,
        config.encode,
        overwrite=config.output.overwrite,
        columns=2 if config.output.compare else 1,
        note=note(config),
        folder=folder,
    )


def _perception(
    config: PipelineConfig, restorer: Restorer | None, source: PhotoSource | Film, cast: Cast
) -> Perception:
    # Photos of a folder are unrelated: each is a shot of its own.
    photos = isinstance(source, PhotoSource)
    geometry = Geometry() if isinstance(source, PhotoSource) else Geometry.of(source.info)
    detector, recogniser = build_detector(config.detector), build_recogniser(config.recogniser)
    # Similarity thresholds depend on the recogniser's embedding space.
    threshold = config.recogniser.same_person
    threshold = recogniser.same_person if threshold is None else threshold
    # Half the threshold for views of a track: the track itself is evidence of identity.
    references = replace(config.people.references, min_similarity=threshold / 2)
    settings = replace(config.people, min_similarity=threshold, references=references)
    people = People(settings, recogniser.clear_norm)
    crop_size = restorer.needs.crop_size if restorer is not None else 256
    portraits = Portraits(detector, recogniser, crop_size)
    # Named people first: photos of the same person join them.
    for somebody in _known_before(config, source, cast, portraits):
        people.acquaint(somebody)
    for views in portraits.people(config.input.references):
        people.add_photo_person(views)
    return Perception(
        config.track.perception,
        detector=detector,
        recogniser=recogniser,
        tracker=NorfairTracker(replace(config.tracker, min_similarity=threshold)),
        shots=EveryFrame() if photos else ShotDetector(config.shots),
        people=people,
        crop_size=crop_size,
        geometry=geometry,
        casting=cast.casting,
    )


def _known_before(
    config: PipelineConfig, source: PhotoSource | Film, cast: Cast, portraits: Portraits
) -> list[Acquaintance]:
    """People known from the start of the run."""
    if cast.gallery is not None:
        return acquaintances(cast.gallery, portraits)
    if not config.input.two_passes:
        return []
    if not isinstance(source, FileSource):
        raise ConfigError("--two-passes is for video files, not for photos and live video")
    return met_before(source, config, portraits)
