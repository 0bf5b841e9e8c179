"""Other views of a person to learn from: as references, and embedded for anchors as uncertain as in use.

Where the set has one picture of a person only, a view is the same picture turned, stretched and lit otherwise, so
strongly that copying it cannot be the answer.

Shapes: N pictures of a set, K kept views of each, R references, S side of a picture, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.degradation.batch import degrade_batch
from models.pictures import Picture, recogniser_view, to_floats
from models.recogniser import Encoder
from models.training.dataset import Faces
from models.training.pairs import PairSource

VIEW_STRENGTHS = (0.0, 0.25, 0.6)
"""How strongly the K kept views of a picture are degraded before they are embedded."""


def other_views(pictures: list[Picture], random: np.random.Generator) -> Tensor:
    """One view of another moment for each picture, at times a little degraded: float32 (R, 3, S, S) in [0, 1]."""
    views = np.stack([another_view(picture, random) for picture in pictures])
    tensor = to_floats(views)
    strengths = random.uniform(0, 0.25, len(pictures)) * (random.random(len(pictures)) < 0.5)
    seeds = [int(seed) for seed in random.integers(2**62, size=len(pictures))]
    some = np.flatnonzero(strengths)
    if len(some):
        chosen = [seeds[place] for place in some]
        tensor[some] = degrade_batch(tensor[some], chosen, strengths[some], pictures[0].shape[0])
    return tensor.contiguous(memory_format=torch.channels_last)


def another_view(picture: Picture, random: np.random.Generator) -> Picture:
    """`picture` as a view of another moment: turned, stretched, lit otherwise."""
    side = picture.shape[0]
    view = _moved(picture, random, angle=6, scale=0.08, shift_px=6)
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    pulled = corners + random.normal(0, 0.04 * side, (4, 2)).astype(np.float32)
    view = cv2.warpPerspective(
        view,
        cv2.getPerspectiveTransform(corners, pulled),
        (side, side),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.uint8)
    return _lit(_toned(view, random, 0.8, 0.1), random)


def _moved(
    picture: Picture, random: np.random.Generator, *, angle: float, scale: float, shift_px: float
) -> Picture:
    """Mirrored at times, turned and moved by normal amounts about the middle of the face."""
    side = picture.shape[0]
    image: NDArray[Any] = picture[:, ::-1] if random.random() < 0.5 else picture
    degrees, size = random.normal(0, angle), float(np.exp(random.normal(0, scale)))
    matrix: NDArray[Any] = cv2.getRotationMatrix2D((side / 2, side * 0.58), degrees, max(size, 0.85))
    matrix[:, 2] += random.normal(0, shift_px * side / 256, 2)
    return cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.uint8)


def _toned(picture: Picture, random: np.random.Generator, often: float, grey: float) -> Picture:
    """Exposure, black point and colour of the light; at times black-and-white."""
    values: NDArray[Any] = picture.astype(np.float32)
    if random.random() < grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
    if random.random() < often:
        gain = random.uniform(0.7, 1.2) * random.uniform(0.93, 1.07, 3).astype(np.float32)
        values = values * gain + random.uniform(-8, 12)
    codes: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return codes


def _lit(picture: Picture, random: np.random.Generator) -> Picture:
    """Light from one side, and a contrast of its own."""
    side = picture.shape[0]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    direction, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 0.3)
    light = 1 + strength * (np.cos(direction) * x + np.sin(direction) * y)
    values = (picture / 255.0) ** random.uniform(0.75, 1.35) * light[:, :, None]
    codes: Picture = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return codes


def embedded_views(
    encoder: Encoder,
    path: Path,
    source: PairSource,
    faces: Faces,
    cache: Path,
    strengths: tuple[float, ...] = VIEW_STRENGTHS,
) -> Tensor:
    """Raw embeddings, float32 (N, K, D), of each picture's clean and degraded views, made once and kept in `cache`.

    `path`: the checkpoint of `encoder`, whose content names the file. `source`: pictures of `faces`. `strengths`: how
    strongly each of the K views is degraded.
    """
    trained = hashlib.sha256(path.read_bytes()).hexdigest()
    text = f"{trained} {faces.folder} {faces.files} {strengths} 2"
    stored = cache / f"embedded_{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
    if not stored.exists():
        count = len(faces.files)
        embeddings = np.empty((count, len(strengths), encoder.shape.embedding), np.float32)
        for start in range(0, count, 32):
            indices = np.arange(start, min(start + 32, count))
            embeddings[indices] = _embed(encoder, source.pictures(indices), indices.tolist(), strengths)
        part = stored.with_suffix(f".{os.getpid()}.part.npy")
        np.save(part, embeddings)
        part.replace(stored)
    return torch.from_numpy(np.load(stored))


@torch.inference_mode()
def _embed(
    encoder: Encoder, pictures: Tensor, seeds: list[int], strengths: tuple[float, ...]
) -> NDArray[np.float32]:
    answers: list[Tensor] = []
    for strength in strengths:
        views = degrade_batch(pictures, seeds, strength, pictures.shape[-1]) if strength else pictures
        crops = recogniser_view(views).contiguous(memory_format=torch.channels_last)
        answers.append(encoder(crops))
    result: NDArray[np.float32] = torch.stack(answers, 1).cpu().numpy()
    return result
