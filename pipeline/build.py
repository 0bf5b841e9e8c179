"""From settings to detector, recogniser and restorer: names, paths and classes of the user's own."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, cast

import torch

from configs import ConfigError
from models.aligned.restorer import CROP_SIZES as ALIGNED_SIZES
from models.aligned.restorer import AlignedRestorer
from models.detector import CenterFaceDetector, InsightFaceDetector
from models.fast.restorer import FastRestorer
from models.precision import restorer_precision
from models.protocols import Detector, Masker, Recogniser, Restorer, with_needs
from models.published_recognisers import AdaFaceRecogniser, ArcFaceRecogniser
from models.recogniser import EmbeddedRecogniser
from models.spandrel_restorer import SpandrelRestorer
from models.weights import WEIGHTS, Checkpoint, CheckpointError, is_own, load_checkpoint
from pipeline.config import DetectorConfig, MaskerConfig, RecogniserConfig, RestorerConfig
from pipeline.pixels.kinds import Pixels, PixelsConfig, make_pixels, pixels_kind

logger = logging.getLogger(__name__)

AUTO = "aligned"
"""What `--restorer auto` means: the shipped restorer with the best figures in docs/quality.md. `live` and `serve`
choose `fast` (configs/live.toml)."""
_WITH_PRECISION = ("aligned", "fast", "iconface")


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
    """The restorer that `config.kind` names, on its device; None for `none`.

    Raises `ConfigError` for an unknown kind and for a crop size that it cannot take, `CheckpointError` for weights that
    are missing, damaged or of something else.
    """
    kind, checkpoint = _kind_and_checkpoint(config.kind)
    if kind == "none":
        return None
    restorer = _built(config, kind, checkpoint)
    asked, taken = config.crop_size, restorer.needs.crop_size
    if asked not in (taken, RestorerConfig().crop_size):
        raise ConfigError(
            f"restorer.crop_size is {asked}, but {config.kind} takes crops of {taken} pixels; leave it out"
        )
    if config.precision != "auto" and kind not in _WITH_PRECISION:
        logger.warning("restorer.precision has no effect on %s", config.kind)
    return restorer


def _built(config: RestorerConfig, kind: str, checkpoint: Checkpoint | None) -> Restorer:
    device = restorer_device(config.device)
    precision = resolved_precision(config)
    if kind == "aligned":
        if config.crop_size not in ALIGNED_SIZES:
            raise ConfigError(
                f"restorer.crop_size of aligned must be one of {ALIGNED_SIZES}, got {config.crop_size}"
            )
        return AlignedRestorer(checkpoint, device, config.crop_size, precision, settings=config.aligned)
    if kind == "fast":
        return FastRestorer(checkpoint, device, config.crop_size, config.fast.engine, precision)
    if kind in ("iconface", "klein"):
        return _flow_restorer(config, device, kind, checkpoint, precision)
    if kind == "spandrel":
        path = Path(config.kind).expanduser()
        return SpandrelRestorer(path, device, allow_pickle=config.allow_pickle)
    try:
        return with_needs(_stranger(config.kind, "restorer.kind"))
    except ValueError as error:
        raise ConfigError(f"restorer.kind: {config.kind!r} is no restorer ({error})") from error


def resolved_precision(config: RestorerConfig) -> torch.dtype:
    """What `restorer.precision` means on this machine. Raises `ConfigError` for what its device cannot do."""
    try:
        return restorer_precision(config.precision, restorer_device(config.device))
    except ValueError as error:
        raise ConfigError(f"restorer.precision: {error}") from error


def build_masker(config: MaskerConfig) -> Masker | None:
    """The masker that `config.kind` names; None for `none`."""
    return None if config.kind == "none" else cast(Masker, _stranger(config.kind, "masker.kind"))


def build_pixels(config: PixelsConfig, restorer: RestorerConfig) -> Pixels:
    """What cuts crops and blends, for one run. Raises `ConfigError` for what the restorer's device cannot do."""
    kind, device = resolved_pixels(config, restorer), restorer_device(restorer.device)
    return make_pixels(kind, device, prove=config.kind == "auto")


def resolved_pixels(config: PixelsConfig, restorer: RestorerConfig) -> str:
    """What `pixels.kind` means on this machine. Raises `ConfigError` for what the restorer's device cannot do."""
    try:
        return pixels_kind(config.kind, restorer_device(restorer.device))
    except ValueError as error:
        raise ConfigError(f"pixels.kind: {error}") from error


def _kind_and_checkpoint(name: str) -> tuple[str, Checkpoint | None]:
    """The kind that stands behind `restorer.kind`, and the weights that it names if they are ours."""
    if name == "auto":
        return AUTO, None
    if name in ("none", "aligned", "fast", "iconface", "klein") or _is_stranger(name):
        return name, None
    if Path(name).suffix in WEIGHTS and not Path(name).expanduser().exists():
        raise CheckpointError(f"{name}: no such file of weights")
    path = _existing(name, "restorer.kind", "auto, aligned, fast, iconface, klein, none")
    if not is_own(path):
        return "spandrel", None
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.parameters, dict):
        raise CheckpointError(
            f"{path}: the header's parameters are no table; it is not the weights of a restorer"
        )
    if "klein" in checkpoint.parameters:
        raise CheckpointError(
            f"{path}: an adapter for klein; use --restorer klein --set restorer.klein.adapter={path}"
        )
    # A flow restorer's header has a transformer and an autoencoder, that of `aligned` the blocks of its trunk.
    marks = {"network": "iconface", "blocks": "aligned"}
    return next((kind for mark, kind in marks.items() if mark in checkpoint.parameters), "fast"), checkpoint


def _flow_restorer(
    config: RestorerConfig,
    device: torch.device,
    kind: str,
    checkpoint: Checkpoint | None,
    precision: torch.dtype,
) -> Restorer:
    """Imported here alone: diffusers, on which both are built, takes seconds."""
    if kind == "klein":
        from models.iconface.klein import KleinRestorer

        return KleinRestorer(config.klein, device, seed=config.seed)
    from models.iconface.restorer import IconFaceRestorer

    return IconFaceRestorer(checkpoint, device, config.iconface, precision, config.seed)


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


def restorer_device(name: str) -> torch.device:
    """What `restorer.device` means on this machine. Raises `ConfigError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"restorer.device must be auto, cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("restorer.device is cuda, but torch finds no CUDA device; use auto or cpu")
    return device
