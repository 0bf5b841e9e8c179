"""Aligned training faces, decoded once and kept as one uint8 array.

A folder of faces holds AVIF pictures aligned to the FFHQ-512 template and an `index.csv` with the columns
`file, identity, origin, true_px`. The decoded array lies in a cache folder outside the repository and is read
through a memory map, so that several runs share it.

Shapes: N pictures, S side in pixels.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class Faces:
    """All pictures of one folder at one size, with what the index says about each."""

    pictures: NDArray[np.uint8]
    """(N, S, S, 3) RGB, aligned to the FFHQ template; a read-only memory map."""
    files: tuple[str, ...]
    identities: tuple[str, ...]
    """Same text, same person; empty = unknown, or the only picture of the person."""
    origins: tuple[str, ...]
    true_px: NDArray[np.int64]
    """(N,) side up to which the picture is really sharp; 0 = an old print, never a target."""

    def targets(self, smallest_true_px: int) -> NDArray[np.int64]:
        """Indices of the pictures that are sharp enough to be a target."""
        return np.flatnonzero(self.true_px >= smallest_true_px)

    def partners(self) -> tuple[NDArray[np.int64], ...]:
        """For each picture the indices of the other pictures of the same person, possibly none."""
        groups: dict[str, list[int]] = {}
        for index, identity in enumerate(self.identities):
            if identity:
                groups.setdefault(identity, []).append(index)
        return tuple(
            np.array([other for other in groups.get(identity, []) if other != index], dtype=np.int64)
            for index, identity in enumerate(self.identities)
        )


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index says about one picture."""

    file: str
    identity: str
    origin: str
    true_px: int


def read_index(folder: Path) -> list[IndexRow]:
    """The rows of `index.csv` in `folder`, in its order. Raises `FileNotFoundError` without one."""
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        return [
            IndexRow(row["file"], row["identity"], row["origin"], int(float(row["true_px"] or 0)))
            for row in csv.DictReader(stream)
        ]


def load_faces(folder: Path, size_px: int, cache: Path) -> Faces:
    """The faces of `folder` at `size_px`, decoded into `cache` at the first call.

    Raises `FileNotFoundError` where the folder has no `index.csv`.
    """
    rows = read_index(folder)
    files = tuple(row.file for row in rows)
    return Faces(
        pictures=_decoded(folder, files, size_px, cache),
        files=files,
        identities=tuple(row.identity for row in rows),
        origins=tuple(row.origin for row in rows),
        true_px=np.array([row.true_px for row in rows], dtype=np.int64),
    )


def _decoded(folder: Path, files: tuple[str, ...], size_px: int, cache: Path) -> NDArray[np.uint8]:
    key = hashlib.sha256(json.dumps([str(folder.resolve()), size_px, files]).encode()).hexdigest()[:16]
    path = cache / f"faces_{size_px}_{key}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        pictures = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.uint8, shape=(len(files), size_px, size_px, 3)
        )
        for index, file in enumerate(files):
            pictures[index] = read_face(folder / file, size_px)
        pictures.flush()
        part.rename(path)
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return array


def read_face(path: Path, size_px: int) -> NDArray[np.uint8]:
    """One picture as uint8 (S, S, 3) RGB, reduced by area averaging."""
    with Image.open(path) as picture:
        image = np.asarray(picture.convert("RGB"))
    if image.shape[0] != size_px or image.shape[1] != size_px:
        image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image, dtype=np.uint8)
