"""What a person chooses on the page, checked: it comes from outside."""

from __future__ import annotations

import math
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from configs import ConfigError
from pipeline.build import AUTO
from pipeline.config import PipelineConfig, RestorerConfig

SHIPPED = ("fast", "iconface", "none")
"""Restorers that need nothing else."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What takes effect with the next frame."""

    strength: float = 1.0
    """How much of the restoration is used, in [0, 1]."""
    bypass: bool = False
    """Frames go out as they came."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What parts must be built anew for."""

    restorer: str
    photo: Path | None = None
    """A reference photo of the person before the camera, or in the film."""
    photo_name: str = ""
    """As its owner calls it."""


def restorers(config: PipelineConfig) -> tuple[str, ...]:
    """Names that may be chosen, the one of the command line first."""
    first = own_kind(config)
    return (first, *(name for name in SHIPPED if name != first))


def own_kind(config: PipelineConfig) -> str:
    """The restorer that the command line chose; of a checkpoint its file's name, for its place is nobody's business."""
    kind = AUTO if config.restorer.kind == "auto" else config.restorer.kind
    return kind if kind in (*SHIPPED, "klein") else Path(kind).name


def chosen(config: PipelineConfig, choice: Choice) -> PipelineConfig:
    """`config` with what was chosen in it."""
    if choice.restorer != own_kind(config):
        # Settings of the other one, as its steps, would be refused.
        fresh = replace(RestorerConfig(), kind=choice.restorer, device=config.restorer.device)
        config = replace(config, restorer=fresh)
    if choice.photo is not None:
        config = replace(config, input=replace(config.input, references=(str(choice.photo),)))
    return config


def restorer_of(values: Mapping[str, object], config: PipelineConfig) -> str:
    """The `restorer` of a request, or the command line's. Raises ConfigError."""
    names = restorers(config)
    name = values.get("restorer", names[0])
    if name not in names:
        raise ConfigError(f"restorer must be one of {', '.join(names)}, got {str(name)[:40]!r}")
    return str(name)


def strength_of(values: Mapping[str, object], default: float) -> float:
    """The `strength` of a request, or `default`. Raises ConfigError."""
    value = values.get("strength", default)
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"strength must be a number between 0 and 1, got {str(value)[:40]!r}")
    return number


MOST = 16
"""Photos that are kept, at most; of more the oldest goes."""


@dataclass(frozen=True, slots=True)
class _Photo:
    path: Path
    name: str
    came: float = field(default_factory=time.monotonic)


class Photos:
    """Belongs to the event loop."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._photos: dict[str, _Photo] = {}

    def add(self, path: Path, name: str) -> str:
        """Keeps the photo at `path`, alone in its folder; gives its id."""
        id = secrets.token_urlsafe(16)
        self._photos[id] = _Photo(path, name)
        for old in list(self._photos)[:-MOST]:
            self._remove(old)
        return id

    def choice(self, id: object, restorer: str = "") -> Choice:
        """A choice with the photo of this id, or without one for None and "". Raises ConfigError."""
        if id in (None, ""):
            return Choice(restorer)
        photo = self._photos.get(id) if isinstance(id, str) else None
        if photo is None:
            raise ConfigError("this reference photo is not here any more; give it again")
        return Choice(restorer, photo.path, photo.name)

    def remove_old(self) -> None:
        """Removes those that were given too long ago."""
        since = time.monotonic() - self._keep_seconds
        for id in [id for id, photo in self._photos.items() if photo.came < since]:
            self._remove(id)

    def _remove(self, id: str) -> None:
        # A run that uses it has read it already.
        shutil.rmtree(self._photos.pop(id).path.parent, ignore_errors=True)
