"""Training of the identity encoder: a degraded view in, the teacher's clean raw embedding out.

Squared error towards the clean raw embedding makes the answer the mean over all people who could look like
the view, so its norm shrinks as evidence vanishes; the cosine term keeps the direction sharp without
touching the norm. Blends of two people and stretched faces, embedded by the teacher as well, add people to a
small set.

Shapes: B pictures, V views, S side, D = 128.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.degradation.batch import degrade_by_kind
from models.degradation.film import tone
from models.degradation.kernels import Draws
from models.pictures import Picture, recogniser_codes, recogniser_view, to_floats
from models.recogniser import Encoder
from models.training.dataset import Faces, load_faces
from models.training.fixed_networks import Teacher, embed_clean
from models.training.settings import EncoderSettings

TAUGHT_PX = 160
EMBEDDING_SCALE = 12.0
"""Mean norm of the teacher's embeddings; brings the squared error to the order of one."""


@dataclass(frozen=True, slots=True, eq=False)
class EncoderBatch:
    """Views and what the teacher says about them when clean."""

    views: Tensor
    """float32 (B, 3, 112, 112) in [0, 1]."""
    embeddings: Tensor
    """float32 (B, D), the teacher's, raw."""


class EncoderTask:
    """Batches, losses and network of the encoder for `loop.train`."""

    def __init__(
        self, settings: EncoderSettings, faces: Path, cache: Path, seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.device = device
        self.seed = seed
        self.pictures, self.embeddings = _taught_pictures(settings, load_faces(faces, 256, cache), cache)

    def network(self) -> Encoder:
        """A fresh network."""
        return Encoder(self.settings.shape)

    def critic(self) -> None:
        """None: nothing here is adversarial."""

    def parameters(self) -> dict[str, object]:
        """What rebuilds the network, for the checkpoint's header."""
        return asdict(self.settings.shape)

    def batch(self, images_seen: int, batch_size: int) -> EncoderBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number."""
        random = np.random.default_rng((self.seed, images_seen))
        indices = random.integers(0, len(self.pictures), batch_size)
        seeds = [int(seed) for seed in random.integers(2**62, size=batch_size)]
        stacked = np.stack([self.pictures[index] for index in indices])
        pictures = to_floats(torch.from_numpy(stacked).to(self.device))
        views = _views(pictures, seeds, self.settings.clean_part)
        crops = recogniser_view(views, _jitter(random, batch_size).to(self.device)).clamp_(0, 1)
        crops = crops.contiguous(memory_format=torch.channels_last)
        return EncoderBatch(crops, torch.from_numpy(self.embeddings[indices]).to(self.device))

    def losses(self, network: nn.Module, critic: nn.Module | None, batch: EncoderBatch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted."""
        answers = network(batch.views)  # (B, D)
        squared = (answers - batch.embeddings).square().sum(1).mean() / EMBEDDING_SCALE**2
        cosine = 1 - F.cosine_similarity(answers, batch.embeddings).mean()
        return {"squared": squared, "cosine": self.settings.cosine_weight * cosine}

    def sheet(self, network: nn.Module) -> Picture | None:
        """Nothing to look at: embeddings are no pictures."""
        return None


def _views(pictures: Tensor, seeds: list[int], clean_part: float) -> Tensor:
    """What a recogniser meets: toned, mirrored, and all but `clean_part` of them degraded."""
    draws = Draws(seeds, "views")
    rest = 1 - clean_part
    kind = draws.choice((clean_part, 0.1 * rest, 0.1 * rest, 0.8 * rest))
    strength, mirrored = draws.uniform() ** 1.7, torch.from_numpy(draws.uniform() < 0.5)
    # Its kinds are clean, moderate, severe and the free course.
    views = degrade_by_kind(tone(pictures, seeds), np.array([3, 1, 2, 0])[kind], strength, seeds, TAUGHT_PX)
    return torch.where(mirrored.to(pictures.device)[:, None, None, None], views.flip(3), views)


def _jitter(random: np.random.Generator, count: int) -> Tensor:
    """Small rotations, scales and shifts: landmarks of degraded faces are off by a few pixels."""
    angle = random.normal(0, 0.035, count)
    scale = np.exp(random.normal(0, 0.03, count))
    shift = random.normal(0, 0.025, (count, 2))
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    rows = [np.stack([cosine, -sine, shift[:, 0]], 1), np.stack([sine, cosine, shift[:, 1]], 1)]
    return torch.from_numpy(np.stack(rows, 1).astype(np.float32))  # (B, 2, 3)


def _taught_pictures(
    settings: EncoderSettings, faces: Faces, cache: Path
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures (V, 160, 160, 3) with the teacher's embeddings (V, D), made once and cached."""
    text = f"{settings.teacher.name} {settings.invented_people} {faces.folder} {faces.files} {TAUGHT_PX} 1"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    pictures_path, embeddings_path = cache / f"taught_{key}.npy", cache / f"taught_{key}_embeddings.npy"
    if not embeddings_path.exists():
        pictures, embeddings = _teach(settings, faces)
        part = cache / f"{os.getpid()}.part.npy"
        np.save(part, pictures)
        part.replace(pictures_path)
        np.save(part, embeddings)
        part.replace(embeddings_path)
    return np.load(pictures_path, mmap_mode="r"), np.load(embeddings_path)


def _teach(settings: EncoderSettings, faces: Faces) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    teacher = Teacher(settings.teacher)
    usable = faces.targets(1)
    count = len(usable) + settings.invented_people
    pictures = np.empty((count, TAUGHT_PX, TAUGHT_PX, 3), np.uint8)
    embeddings = np.empty((count, 128), np.float32)
    for start in range(0, count, 64):
        stop = min(start + 64, count)
        large = np.stack([_person(faces.pictures, usable, index) for index in range(start, stop)])
        for index, picture in enumerate(large, start):
            pictures[index] = cv2.resize(picture, (TAUGHT_PX, TAUGHT_PX), interpolation=cv2.INTER_AREA)
        embeddings[start:stop] = embed_clean(teacher, recogniser_codes(large)).numpy()
    return pictures, embeddings


def _person(pictures: NDArray[np.uint8], usable: NDArray[np.int64], index: int) -> Picture:
    """A real face first, then invented people: half of two faces each, or another stretch of the face."""
    if index < len(usable):
        return np.asarray(pictures[usable[index]])
    random = np.random.default_rng(index)
    first, second = (
        np.asarray(pictures[usable[k]], np.float32) for k in random.integers(len(usable), size=2)
    )
    if random.random() < 0.65:
        part = random.uniform(0.3, 0.7)
        first = part * first + (1 - part) * second
    side = first.shape[0]
    stretch_x, stretch_y = np.exp(random.normal(0, 0.06, 2))
    centre_x, centre_y = side * 0.5, side * 0.58
    matrix = np.array(
        [[stretch_x, 0, centre_x * (1 - stretch_x)], [0, stretch_y, centre_y * (1 - stretch_y)]], np.float32
    )
    image = cv2.warpAffine(first, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
