"""The faces that the networks are measured on, and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from models.degradation import stills
from models.degradation.stills import MODERATE, SEVERE, Preset, preset_sample
from models.evaluation.cache import Cache, key_of
from models.pictures import Picture, recogniser_codes
from models.recogniser import EmbeddedRecogniser
from models.training.dataset import read_face, read_index

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
