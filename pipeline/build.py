"""From settings to parts: the only file that knows concrete classes. `restore_video` is the library's front door."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from configs import ConfigError
from models.adaface import AdaFaceRecogniser
from models.arcface import ArcFaceRecogniser
from models.detector import CenterFaceDetector, InsightFaceDetector
from models.fast.restorer import FastRestorer
from models.protocols import Detector, Recogniser, Restorer
from models.recogniser import EmbeddedRecogniser
from models.spandrel_restorer import SpandrelRestorer
from models.weights import WEIGHTS, Checkpoint, CheckpointError, is_own, load_checkpoint
from pipeline import __version__
from pipeline.compare import side_by_side
from pipeline.config import (
    DetectorConfig,
    PipelineConfig,
    RecogniserConfig,
    RestorerConfig,
)
from pipeline.flow import Parts, Watch, keep_after, run
from pipeline.geometry import Geometry
from pipeline.perception import Perception
from pipeline.photos import PhotoSink, PhotoSource
from pipeline.portraits import Portraits
from pipeline.report import Report
from pipeline.sink import FileSink
from pipeline.source import FileSource
from trackers.norfair_tracker import NorfairTracker
from trackers.people import People
from trackers.shots import EveryFrame, ShotDetector

Open = Callable[[FileSource | PhotoSource], None]


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
    then, and when interrupted, nothing is left under the name `output`.
    """
    config = config or PipelineConfig()
    input, output = Path(input), Path(output)
    source = open_source(input, config)
    # The output is checked first: nobody wants to wait for models and then hear that it exists already.
    sink = _open_sink(output, source, config)
    parts = build(config, source)
    opened(source)
    report = Report(output=str(output))
    people = parts.perception.people
    arrange = side_by_side if config.output.compare else keep_after
    with sink:
        run(source, sink, parts, config, report=report, arrange=arrange, watch=watch)
        report.damage = list(source.damage)
    # People who turned out to be the same while the film went on count once.
    report.people = {now for person in report.people if (now := people.current(person)) is not None}
    unmatched = [name for person, name in people.photos().items() if person not in report.people]
    report.warnings = [*source.warnings, *sink.warnings]
    report.warnings += [f"the reference {name} matched nobody in {input.name}" for name in unmatched]
    return report


def build(config: PipelineConfig, source: FileSource | PhotoSource) -> Parts:
    """The parts of one run over `source`."""
    # Strength 0 asks for nothing: no network needs to run.
    restorer = build_restorer(config.restorer) if config.blend.strength else None
    masker = None if config.masker.kind == "none" else _stranger(config.masker.kind, "masker.kind")
    return Parts(_perception(config, restorer, source), restorer, masker)


def open_source(path: Path, config: PipelineConfig) -> FileSource | PhotoSource:
    """The source for a path: a photo, a folder of photos, or a video."""
    settings = config.input
    # os.path, as Path.is_dir raises for a name that is too long.
    if os.path.isdir(path) or PhotoSource.reads(path):
        if settings.start_seconds or settings.duration_seconds or config.output.compare:
            raise ConfigError(f"{path}: --start, --duration and --compare are for videos, not for photos")
        return PhotoSource(path, strict=settings.strict)
    return FileSource(
        path,
        start_seconds=settings.start_seconds,
        duration_seconds=settings.duration_seconds,
        strict=settings.strict,
    )


def build_detector(config: DetectorConfig) -> Detector:
    """The detector that `config.kind` names."""
    if config.kind == "centerface":
        return CenterFaceDetector(min_score=config.min_score)
    if _is_stranger(config.kind):
        return cast(Detector, _stranger(config.kind, "detector.kind"))
    try:
        return InsightFaceDetector(config.kind, min_score=config.min_score)
    except (OSError, ValueError) as error:
        raise ConfigError(f"detector.kind: {error}") from error


def build_recogniser(config: RecogniserConfig) -> Recogniser:
    """The recogniser that `config.kind` names."""
    if config.kind == "embedded":
        return EmbeddedRecogniser()
    if _is_stranger(config.kind):
        return cast(Recogniser, _stranger(config.kind, "recogniser.kind"))
    path = _existing(config.kind, "recogniser.kind", "embedded")
    if path.suffix == ".onnx":
        return ArcFaceRecogniser(path)
    return AdaFaceRecogniser(path, allow_pickle=config.allow_pickle)


def build_restorer(config: RestorerConfig) -> Restorer | None:
    """The restorer that `config.kind` names, on its device; None for `none`."""
    if config.kind == "none":
        return None
    device = _device(config.device)
    if config.kind in ("auto", "fast"):
        return FastRestorer(device=device, crop_size=config.crop_size)
    if config.kind in ("iconface", "klein"):
        return _flow_restorer(config, device)
    if _is_stranger(config.kind):
        stranger = _stranger(config.kind, "restorer.kind")
        if not (hasattr(stranger, "crop_size") and hasattr(stranger, "restore")):
            raise ConfigError(
                f"restorer.kind: {config.kind!r} is no restorer (it lacks crop_size or restore)"
            )
        return cast(Restorer, stranger)
    if Path(config.kind).suffix in WEIGHTS and not Path(config.kind).expanduser().exists():
        raise CheckpointError(f"{config.kind}: no such file of weights")
    path = _existing(config.kind, "restorer.kind", "auto, fast, iconface, klein, none")
    if is_own(path):
        checkpoint = load_checkpoint(path)
        # A flow restorer's header has a transformer and an autoencoder.
        if "network" in checkpoint.parameters:
            return _flow_restorer(config, device, checkpoint)
        return FastRestorer(checkpoint, device, config.crop_size)
    return SpandrelRestorer(path, device, allow_pickle=config.allow_pickle)


def _flow_restorer(
    config: RestorerConfig, device: torch.device, checkpoint: Checkpoint | None = None
) -> Restorer:
    """Imported here alone: diffusers, which both are built on, takes seconds."""
    if config.kind == "klein":
        from models.iconface.klein import KleinRestorer

        adapter = config.adapter.expanduser() if config.adapter else None
        return KleinRestorer(config.klein, adapter, device)
    from models.iconface.restorer import IconFaceRestorer

    return IconFaceRestorer(checkpoint, device)


def _open_sink(
    output: Path, source: FileSource | PhotoSource, config: PipelineConfig
) -> FileSink | PhotoSink:
    if isinstance(source, PhotoSource):
        return PhotoSink(output, source, overwrite=config.output.overwrite)
    return FileSink(
        output,
        source,
        config.encode,
        overwrite=config.output.overwrite,
        columns=2 if config.output.compare else 1,
        note=f"faces restored by anchorface {__version__} ({config.restorer.kind})",
    )


def _perception(
    config: PipelineConfig, restorer: Restorer | None, source: FileSource | PhotoSource
) -> Perception:
    # Neighbours in a folder of photos are not neighbours in time: each is a shot of its own.
    photos = isinstance(source, PhotoSource)
    geometry = Geometry() if isinstance(source, PhotoSource) else _geometry(source)
    detector, recogniser = build_detector(config.detector), build_recogniser(config.recogniser)
    # Thresholds on similarity belong to the recogniser: each has a space of its own.
    threshold = config.recogniser.same_person
    threshold = recogniser.same_person if threshold is None else threshold
    # A view of a followed face need not be as alike as one that comes from nowhere: the track itself vouches.
    references = replace(config.people.references, min_similarity=threshold / 2)
    settings = replace(config.people, min_similarity=threshold, references=references)
    people = People(settings, recogniser.clear_norm)
    crop_size = restorer.crop_size if restorer is not None else 256
    for views in Portraits(detector, recogniser, crop_size).people(config.input.references):
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
    )


def _geometry(source: FileSource) -> Geometry:
    return Geometry(source.info.rotation, float(source.info.sample_aspect_ratio or 1))


def _is_stranger(kind: str) -> bool:
    """Whether `kind` names a class as `package.module:Class`."""
    module, colon, name = kind.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _stranger(kind: str, setting: str) -> Any:
    """A part of the user's own, made without arguments."""
    module, _, name = kind.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{setting}: {kind!r} cannot be made ({error})") from error


def _existing(value: str, setting: str, names: str) -> Path:
    path = Path(value).expanduser()
    if not path.exists():
        raise ConfigError(f"{setting} must be {names} or the path of a model; {value!r} is neither")
    return path


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"restorer.device must be auto, cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("restorer.device is cuda, but torch finds no CUDA device; use auto or cpu")
    return device
