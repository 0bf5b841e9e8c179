"""From settings to a run over files. `restore_video` is the library's front door."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import av

from configs import ConfigError
from models.likeness import LikenessMeter
from models.protocols import Restorer, uses_references
from models.recogniser import EmbeddedRecogniser
from pipeline.compare import side_by_side
from pipeline.config import PipelineConfig
from pipeline.flow import Note, Parts, Watch, keep_after, leave_unnoted, run
from pipeline.frames import RestoredFrame
from pipeline.gate import Gate
from pipeline.geometry import Geometry, Shown
from pipeline.manifest import load_credentials, sign
from pipeline.parts import build_detector, build_masker, build_pixels, build_recogniser, build_restorer
from pipeline.people.cast import Cast, build_restorers, read_cast
from pipeline.people.known import acquaintances, met_before
from pipeline.people.references_log import ReferencesLog
from pipeline.perception import Perception
from pipeline.photos import PhotoSink, PhotoSource
from pipeline.pixels import Pixels
from pipeline.portraits import Portraits
from pipeline.provenance import SOURCE_TYPE, changes_faces, note
from pipeline.report import Report
from pipeline.report_page import ReportPage
from pipeline.sink import FileSink
from pipeline.source import FileSource
from trackers.norfair_tracker import NorfairTracker
from trackers.people import Acquaintance, People
from trackers.shots import EveryFrame, ShotDetector

__all__ = [
    "build",
    "build_detector",
    "build_masker",
    "build_recogniser",
    "build_restorer",
    "open_sink",
    "open_source",
    "restore_video",
]

Open = Callable[[FileSource | PhotoSource], None]


class Film(Protocol):
    """A file or a live source: its neighbouring frames are neighbours in time."""

    @property
    def info(self) -> Shown: ...


def restore_video(
    input: Path | str,
    output: Path | str,
    config: PipelineConfig | None = None,
    *,
    opened: Open = lambda source: None,
    watch: Watch = lambda report: None,
) -> Report:
    """Restores the faces of a video, a photo or a folder of photos.

    `opened` is called once with the source (its `info` tells length and size), `watch` after each frame with the
    counts so far. Raises ConfigError, CheckpointError, SourceError or SinkError, each with one clear sentence;
    then, and when interrupted, nothing is left under the name `output` (but a film that could not be signed). With
    `chunks.resume`, several `chunks.workers` or a cluster (`chunks.ray`), finished chunks are kept beside it, and the
    same call with `chunks.resume` goes on from there.
    """
    config = config or PipelineConfig()
    input, output = Path(input), Path(output)
    signer = config.output.c2pa
    credentials = None if signer is None else load_credentials(signer, input, output)
    if config.chunks.asked_for:
        for option, file in (
            ("--report", config.output.report),
            ("--references-log", config.output.references_log),
        ):
            if file is not None:
                raise ConfigError(
                    f"{option} sees a film as a whole; leave it out, or --resume, --workers and --ray"
                )
        from pipeline.jobs.resume import restore_in_chunks

        report = restore_in_chunks(input, output, config, opened=opened, watch=watch)
    else:
        report = _restore_at_once(input, output, config, opened, watch)
    if credentials is not None:
        sign(output, input, config, report, credentials)
    return report


def _restore_at_once(input: Path, output: Path, config: PipelineConfig, opened: Open, watch: Watch) -> Report:
    source = open_source(input, config)
    # The output is checked first: nobody wants to wait for models and then hear that it exists already.
    sink = open_sink(output, source, config)
    page, log = _open_page(input, output, config), _open_log(input, output, config)
    parts = build(config, source)
    opened(source)
    report = Report(
        output=str(output), uses_references=parts.restorer is None or uses_references(parts.restorer)
    )
    people = parts.perception.people
    arrange = side_by_side if config.output.compare else keep_after
    note = _notes(page, log)
    with sink, log or nullcontext():
        run(source, sink, parts, config, report=report, arrange=arrange, watch=watch, note=note)
        report.damage = list(source.damage)
    report.merge_people(people.current)
    unmatched = [name for person, name in people.photos().items() if person not in report.people]
    report.warnings = [*source.warnings, *sink.warnings]
    report.warnings += [f"the reference {name} matched nobody in {input.name}" for name in unmatched]
    report.warnings += report.missed(config.input.only, input.name)
    if page is not None:
        page.write(report, people)
    return report


def _open_page(input: Path, output: Path, config: PipelineConfig) -> ReportPage | None:
    if config.output.report is None:
        return None
    return ReportPage(config.output.report.expanduser(), input=input, output=output, config=config)


def _open_log(input: Path, output: Path, config: PipelineConfig) -> ReferencesLog | None:
    path, page = config.output.references_log, config.output.report
    if path is None:
        return None
    if page is not None and os.path.abspath(path.expanduser()) == os.path.abspath(page.expanduser()):
        raise ConfigError(f"--references-log: {path} is the page of --report; give another name")
    return ReferencesLog(path.expanduser(), input=input, output=output, overwrite=config.output.overwrite)


def _notes(page: ReportPage | None, log: ReferencesLog | None) -> Note:
    """Tells all who want to hear of every frame."""

    def note(frame: RestoredFrame, after: av.VideoFrame) -> None:
        if page is not None:
            page.note(frame, after)
        if log is not None:
            log.note(frame)

    return note if page is not None or log is not None else leave_unnoted


def build(config: PipelineConfig, source: PhotoSource | Film) -> Parts:
    """The parts of one run over `source`."""
    # The list of people first: a mistake in it is told at once.
    cast = read_cast(config.input, _name_of(source))
    restorer, casting = build_restorers(config, cast)
    masker = build_masker(config.masker)
    perception = _perception(config, restorer, source, replace(cast, casting=casting))
    pixels = Pixels() if restorer is None else build_pixels(config.pixels, config.restorer)
    return Parts(perception, restorer, masker, _gate(config, restorer), pixels)


def _name_of(source: object) -> str:
    """Of a file; a live source has none."""
    path = getattr(source, "path", None)
    return path.name if isinstance(path, Path) else ""


def _gate(config: PipelineConfig, restorer: Restorer | None) -> Gate | None:
    if restorer is None or not config.gate.enabled:
        return None
    # Always the embedded encoder, whichever tells people apart: the thresholds are in its space.
    encoder = EmbeddedRecogniser(device=getattr(restorer, "device", "cpu"))
    return Gate(config.gate, LikenessMeter(encoder))


def open_source(path: Path, config: PipelineConfig) -> FileSource | PhotoSource:
    """The source for a path: a photo, a folder of photos, or a video."""
    settings = config.input
    # os.path, as Path.is_dir raises for a name that is too long.
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
    """The sink for a path; `folder` takes the unfinished file of a video."""
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
    # Neighbours in a folder of photos are not neighbours in time: each is a shot of its own.
    photos = isinstance(source, PhotoSource)
    geometry = Geometry() if isinstance(source, PhotoSource) else Geometry.of(source.info)
    detector, recogniser = build_detector(config.detector), build_recogniser(config.recogniser)
    # Thresholds on similarity belong to the recogniser: each has a space of its own.
    threshold = config.recogniser.same_person
    threshold = recogniser.same_person if threshold is None else threshold
    # A view of a followed face need not be as alike as one that comes from nowhere: the track itself vouches.
    references = replace(config.people.references, min_similarity=threshold / 2)
    settings = replace(config.people, min_similarity=threshold, references=references)
    people = People(settings, recogniser.clear_norm)
    crop_size = restorer.crop_size if restorer is not None else 256
    portraits = Portraits(detector, recogniser, crop_size)
    # People with a name first: photos of the same person join them.
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
    """People whom the run knows from its start."""
    if cast.gallery is not None:
        return acquaintances(cast.gallery, portraits)
    if not config.input.two_passes:
        return []
    if not isinstance(source, FileSource):
        raise ConfigError("--two-passes is for videos: photos and live pictures are seen once")
    return met_before(source, config, portraits)
