"""The faces that the networks are measured on, and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from models.recogniser import EmbeddedRecogniser
from models.training.degrade import MODERATE, SEVERE, Picture
from models.training.index import read_face, read_index
from models.training.views import recogniser_view

SIDE_PX = 256
SOURCE_PX = 512
PRESETS = {"moderate": MODERATE, "severe": SEVERE}


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


def recogniser_crops(pictures: list[Picture]) -> Tensor:
    """The recogniser's crops, uint8 (N, 3, 112, 112), of FFHQ-aligned pictures, uint8 (H, W, 3) each."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return recogniser_view(stacked).round().clamp(0, 255).byte()


def embed_pictures(recogniser: EmbeddedRecogniser, pictures: list[Picture]) -> Tensor:
    """Raw embeddings (N, D) of FFHQ-aligned pictures, uint8 (H, W, 3) each."""
    return torch.cat(
        [recogniser.embed(recogniser_crops(pictures[k : k + 32])) for k in range(0, len(pictures), 32)]
    )
