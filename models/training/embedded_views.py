"""Embeddings of each training face as it is and degraded, for anchors that are as uncertain as in use.

Shapes: N pictures of a set, K kept views of each, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.recogniser import Encoder
from models.training.batch_degrade import degrade_batch
from models.training.dataset import Faces
from models.training.pairs import PairSource
from models.training.views import recogniser_view

VIEW_STRENGTHS = (0.0, 0.25, 0.6)
"""How strongly the K kept views of a picture are degraded before they are embedded."""


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
