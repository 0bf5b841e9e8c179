"""What a scan knows of the pictures that it wrote, by their hash, so that they may be moved and renamed.

Legend: N pictures, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from configs import ConfigError
from trackers.appearances import Portrait


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """One picture, aligned as the restorers want it."""

    embedding: NDArray[np.float32]
    """float32 (D,), raw, of the view."""
    look: NDArray[np.float32]
    """float32 (D,), raw: the sum over the shot that the view is of."""
    quality: float
    yaw: float
    origin: str
    """Film and time."""

    @classmethod
    def of(cls, portrait: Portrait) -> Self:
        """What is known of a view that a scan kept."""
        view = portrait.view
        return cls(view.embedding, portrait.look, view.quality, view.yaw, str(view.source))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """All pictures of a gallery that are of a scan."""

    recogniser: str
    """Whose embeddings these are."""
    pictures: Mapping[str, Known]
    """By sha256 of the file."""

    def to_bytes(self) -> bytes:
        """An .npz file without pickled parts."""
        known = list(self.pictures.values())
        width = len(known[0].embedding) if known else 0
        content = io.BytesIO()
        np.savez(
            content,
            recogniser=np.array(self.recogniser),
            sha256=np.array(list(self.pictures), np.str_),
            embedding=np.array([each.embedding for each in known], np.float32).reshape(-1, width),
            look=np.array([each.look for each in known], np.float32).reshape(-1, width),
            quality=np.array([each.quality for each in known], np.float64),
            yaw=np.array([each.yaw for each in known], np.float64),
            origin=np.array([each.origin.encode("utf-8", "surrogateescape") for each in known], np.bytes_),
        )
        return content.getvalue()


def read_record(file: Path) -> Record:
    """The record at `file`, an empty one where it is missing. Raises ConfigError where it is damaged."""
    if not file.exists():
        return Record("", {})
    try:
        with np.load(file, allow_pickle=False) as values:
            known = [
                Known(embedding, look, float(quality), float(yaw), origin.decode("utf-8", "surrogateescape"))
                for embedding, look, quality, yaw, origin in zip(
                    *(values[name] for name in ("embedding", "look", "quality", "yaw", "origin")), strict=True
                )
            ]
            names = [str(name) for name in values["sha256"]]
            return Record(str(values["recogniser"]), dict(zip(names, known, strict=True)))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{file}: is damaged; scan again, or remove it: then the pictures count as photos"
        ) from error


def sha256(content: bytes) -> str:
    """By which a picture is known."""
    return hashlib.sha256(content).hexdigest()
