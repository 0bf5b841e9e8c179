"""Choices made on the page, validated, and uploaded reference photos."""

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
from pipeline.config import PipelineConfig

SHIPPED = ("aligned", "fast", "iconface", "none")
"""Restorers shipped with their weights, and none."""


MOST = 16
"""Maximum number of photos; the oldest is removed first."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Choices that take effect with the next frame."""

    strength: float = 1.0
    """Strength of the restoration, in [0, 1]."""
    bypass: bool = False
    """Whether frames are shown unrestored."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Choices that require new parts."""

    restorer: str
    photo: Path | None = None
    """Reference photo of the person in the pictures."""
    photo_name: str = ""
    """Name of the uploaded file."""


def restorers(config: PipelineConfig) -> tuple[str, ...]:
    """Restorers that can be chosen, the one of the command line first."""
    first = own_kind(config)
    return (first, *(name for name in SHIPPED if name != first))


def own_kind(config: PipelineConfig) -> str:
    """The restorer of the command line; for a checkpoint the file's name, without its private folder."""
    kind = AUTO if config.restorer.kind == "auto" else config.restorer.kind
    return kind if kind in (*SHIPPED, "klein") else Path(kind).name


def chosen(config: PipelineConfig, choice: Choice) -> PipelineConfig:
    """`config` with `choice` applied."""
    if choice.restorer != own_kind(config):
        config = replace(config, restorer=config.restorer.instead(choice.restorer))
    if choice.photo is not None:
        config = replace(config, input=replace(config.input, references=(str(choice.photo),)))
    return config


def restorer_of(values: Mapping[str, object], config: PipelineConfig) -> str:
    """The `restorer` of a request, by default the command line's. Raises ConfigError."""
    names = restorers(config)
    name = values.get("restorer", names[0])
    if name not in names:
        raise ConfigError(f"restorer must be one of {', '.join(names)}, got {str(name)[:40]!r}")
    return str(name)


def strength_of(values: Mapping[str, object], default: float) -> float:
    """The `strength` of a request, by default `default`. Raises ConfigError."""
    value = values.get("strength", default)
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"strength must be a number between 0 and 1, got {str(value)[:40]!r}")
    return number


@dataclass(frozen=True, slots=True)
class _Photo:
    path: Path
    name: str
    came: float = field(default_factory=time.monotonic)


class Photos:
    """Uploaded reference photos by secret ids. Belongs to the event loop."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._photos: dict[str, _Photo] = {}

    def add(self, path: Path, name: str) -> str:
        """Adds the photo at `path`, the only file in its folder; returns its id."""
        id = secrets.token_urlsafe(16)
        self._photos[id] = _Photo(path, name)
        for old in list(self._photos)[:-MOST]:
            self._remove(old)
        return id

    def choice(self, id: object, restorer: str = "") -> Choice:
        """A choice with the photo of this id; without a photo for None and "". Raises ConfigError."""
        if id in (None, ""):
            return Choice(restorer)
        photo = self._photos.get(id) if isinstance(id, str) else None
        if photo is None:
            raise ConfigError("this reference photo has been removed; upload it again")
        return Choice(restorer, photo.path, photo.name)

    def remove_old(self) -> None:
        """Removes photos older than the limit."""
        since = time.monotonic() - self._keep_seconds
        for id in [id for id, photo in self._photos.items() if photo.came < since]:
            self._remove(id)

    def _remove(self, id: str) -> None:
        # Runs that use it have read it.
        shutil.rmtree(self._photos.pop(id).path.parent, ignore_errors=True)
