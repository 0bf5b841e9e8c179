"""The faces that the networks are measured on, what is done to them, and results kept between evaluations.

Everything kept is named by the hash of its inputs and of the code that made it. After another change, such as a new
release of a library, remove the folder; that is always safe.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.degradation import stills
from models.degradation.stills import MODERATE, SEVERE, Preset, preset_sample
from models.pictures import Picture, recogniser_codes
from models.recogniser import EmbeddedRecogniser
from models.training.dataset import read_face, read_index

_KEPT_IN_MEMORY_BYTES = 1 << 14


class Cache:
    """Arrays by what they were made from; without a folder only small ones are kept, in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, NDArray[np.generic]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> NDArray[np.generic] | None:
        """The array that was kept under `key`, or None."""
        if key in self._memory:
            return self._memory[key]
        if self.folder is None or not (path := self.folder / f"{key}.npy").exists():
            return None
        array: NDArray[np.generic] = np.load(path)
        return array

    def keep(self, key: str, array: NDArray[np.generic]) -> None:
        """Keeps `array` under `key`; a reader sees all of it or nothing."""
        if array.nbytes <= _KEPT_IN_MEMORY_BYTES:
            self._memory[key] = array
        if self.folder is not None:
            part = self.folder / f"{key}.{os.getpid()}.part"
            with part.open("wb") as stream:
                np.save(stream, array)
            part.rename(self.folder / f"{key}.npy")


def key_of(*parts: object) -> str:
    """Hash of `parts`: arrays by type, shape and content, modules by their source, all else by its text."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, ModuleType):
            digest.update(_source(part))
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


@cache
def _source(module: ModuleType) -> bytes:
    return inspect.getsource(module).encode()


SIDE_PX = 256
SOURCE_PX = 512
PRESETS = {"moderate": MODERATE, "severe": SEVERE}
CLIP_VIEWS = 4
"""Views of each person of clips: each is restored in turn with the other three as references."""


@dataclass(frozen=True, slots=True, eq=False)
class Album:
    """Pictures of several people, at least two of each."""

    pictures: list[Picture]
    """uint8 (512, 512, 3) RGB each, in the FFHQ alignment."""
    people: list[str]
    """Who is in each picture; same text, same person."""


def read_faces(folder: Path, count: int | None) -> list[Picture]:
    """The first `count` pictures of an indexed folder, uint8 (512, 512, 3) each; None for all."""
    return [read_face(folder / row.file, SOURCE_PX) for row in read_index(folder)[:count]]


def read_pairs(folder: Path) -> list[tuple[Picture, Picture]]:
    """The first two pictures of each person of an indexed folder, uint8 (512, 512, 3) each."""
    people: dict[str, list[str]] = {}
    for row in read_index(folder):
        people.setdefault(row.identity, []).append(row.file)
    return [
        (read_face(folder / files[0], SOURCE_PX), read_face(folder / files[1], SOURCE_PX))
        for identity, files in sorted(people.items())
        if identity and len(files) > 1
    ]


def read_clip_views(folder: Path, count: int | None) -> list[list[Picture]]:
    """Four views of each of the first `count` people of an indexed folder, uint8 (512, 512, 3) each; None for all.

    They are spread evenly over a person's pictures, as neighbours out of a clip look alike. Pictures that hold less
    than the 256 pixels they are restored at are left out, and people with fewer than four.
    """
    people: dict[str, list[str]] = {}
    for row in read_index(folder):
        if row.identity and row.true_px >= SIDE_PX:
            people.setdefault(row.identity, []).append(row.file)
    seen = [files for _, files in sorted(people.items()) if len(files) >= CLIP_VIEWS][:count]
    return [
        [read_face(folder / files[k * len(files) // CLIP_VIEWS], SOURCE_PX) for k in range(CLIP_VIEWS)]
        for files in seen
    ]


def read_album(folder: Path) -> Album:
    """All pictures of those people of an indexed folder who are there more than once."""
    rows = [row for row in read_index(folder) if row.identity]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.identity] = counts.get(row.identity, 0) + 1
    kept = [row for row in rows if counts[row.identity] > 1]
    return Album([read_face(folder / row.file, SOURCE_PX) for row in kept], [row.identity for row in kept])


def reduced(picture: Picture) -> Picture:
    """`picture` at the 256 pixels that the restorer works at, by area averaging."""
    return np.asarray(cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def degraded(sources: list[Picture], preset: Preset, first_seed: int, cache: Cache) -> list[Picture]:
    """`sources`, uint8 (512, 512, 3), after `preset` with a seed of their own each, at 256 pixels."""
    damaged: list[Picture] = []
    for seed, source in enumerate(sources, first_seed):
        key = key_of(stills, source, preset, seed)
        picture = cache.find(key)
        if picture is None:
            picture = reduced(preset_sample(source, seed, preset, None))
            cache.keep(key, picture)
        damaged.append(np.asarray(picture, np.uint8))
    return damaged


def recogniser_crops(pictures: list[Picture]) -> Tensor:
    """The recogniser's crops, uint8 (N, 3, 112, 112), of FFHQ-aligned pictures, uint8 (H, W, 3) each."""
    return recogniser_codes(np.stack(pictures))


def embed_pictures(recogniser: EmbeddedRecogniser, pictures: list[Picture]) -> Tensor:
    """Raw embeddings (N, D) of FFHQ-aligned pictures, uint8 (H, W, 3) each."""
    return torch.cat(
        [recogniser.embed(recogniser_crops(pictures[k : k + 32])) for k in range(0, len(pictures), 32)]
    )


_LABEL_PX = 28
_BLACK, _PAPER = (0, 0, 0), 255


def write_sheet(path: Path, kinds: dict[str, list[Picture]], rows: int) -> None:
    """Writes a PNG with a labelled column for each of `kinds` and `rows` faces spread over the lists.

    Pictures uint8 (S, S, 3) RGB, all of one size. Raises `ValueError` where the file cannot be written.
    """
    count = len(next(iter(kinds.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(rows, count)).round().astype(int))
    columns = [
        np.vstack([_label(name, pictures[0].shape[1]), *(pictures[index] for index in chosen)])
        for name, pictures in kinds.items()
    ]
    try:
        written = cv2.imwrite(str(path), np.hstack(columns)[..., ::-1])
    except cv2.error:
        written = False
    if not written:
        raise ValueError(f"{path}: the sheet cannot be written; name a .png file in an existing folder")


def _label(text: str, width: int) -> Picture:
    label = np.full((_LABEL_PX, width, 3), _PAPER, np.uint8)
    cv2.putText(label, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _BLACK, 1, cv2.LINE_AA)
    return label
