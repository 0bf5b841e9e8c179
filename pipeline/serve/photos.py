"""Reference photos that people have given, by ids that only they know."""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from configs import ConfigError
from pipeline.serve.choice import Choice

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
