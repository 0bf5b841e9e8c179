"""Training of `fast`: degraded crops and anchors in, the sharp picture out.

Most batches hold 128-pixel parts of crops; every fourth holds a quarter as many whole crops, as many pixels,
and adds the identity term, which needs the whole face. The anchor comes from other views of the person or
from differently degraded views of the picture, sometimes from a stranger, and is often missing; the target
never follows it, so the network learns how far it may be trusted.

Shapes: N pictures of the set, B of a batch, H W pixels, D width of an embedding, K kept views of a picture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.fast.anchor import identity_anchor
from models.fast.network import CELL_PX, CROP_PX, FastNetwork, FastShape
from models.recogniser import Encoder, build_encoder
from models.training.dataset import Faces, load_faces
from models.training.degrade import MODERATE, SEVERE, Picture, mixed_sample, preset_sample
from models.training.losses import PerceptualLoss, charbonnier, grid, texture
from models.training.views import recogniser_view
from models.weights import load_checkpoint

VIEW_STRENGTHS = (0.0, 0.25, 0.6)
"""How strongly the K kept views of a picture are degraded before they are embedded."""


@dataclass(frozen=True, slots=True)
class FastSettings:
    """What is special to the recipe of `fast`."""

    encoder: Path = Path("encoder.safetensors")
    """Checkpoint of the identity encoder: anchors and identity term."""
    perceptual: Path | None = None
    """Pruned VGG-19 for the perceptual term; without it the term is left out."""
    part_px: int = 128
    """Side of the parts."""
    whole_every: int = 4
    """One batch in so many holds whole crops."""
    no_anchor: float = 0.4
    """Part of the samples without an anchor."""
    wrong_anchor: float = 0.08
    """Part of the samples with a stranger's anchor."""
    smallest_true_px: int = 192
    """Pictures below are no targets."""
    soft_weight: float = 0.2
    """How often a picture below 256 true pixels is drawn, against 1 for the others."""
    perceptual_part: float = 0.5
    """Part of each batch that the perceptual term sees: it costs as much as the network."""
    perceptual_weight: float = 0.05
    texture_weight: float = 0.004
    identity_weight: float = 0.03
    grid_weight: float = 0.0
    """Of the term against patterns that repeat every few pixels."""
    shape: FastShape = field(default_factory=FastShape)


@dataclass(frozen=True, slots=True, eq=False)
class FastBatch:
    """Parts of crops, or whole crops."""

    degraded: Tensor
    """float32 (B, 3, H, W) in [0, 1]."""
    targets: Tensor
    """float32 (B, 3, H, W) in [0, 1]."""
    anchors: Tensor
    """float32 (B, D), unit length or zero."""
    corners: Tensor
    """int64 (B, 2), x and y of the part in the crop."""
    shift: Tensor
    """int64 (2,), rows and columns cut off before the perceptual term: its pooling meets other pixels each time."""


class FastTask:
    """Batches, losses, network and sheets of `fast` for `loop.train`."""

    def __init__(self, settings: FastSettings, faces: Path, cache: Path, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.faces = load_faces(faces, CROP_PX, cache)
        self.indices = self.faces.targets(settings.smallest_true_px)
        weights = np.where(self.faces.true_px[self.indices] >= CROP_PX, 1.0, settings.soft_weight)
        self.chances = weights / weights.sum()
        self.partners = self.faces.partners()
        self.encoder = build_encoder(load_checkpoint(settings.encoder))
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.embeddings = _embedded_views(self.encoder, settings.encoder, self.faces, cache)
        self.perceptual = PerceptualLoss(settings.perceptual) if settings.perceptual else None

    def network(self) -> FastNetwork:
        """A fresh network."""
        return FastNetwork(self.settings.shape)

    def parameters(self) -> dict[str, object]:
        """What rebuilds the network, for the checkpoint's header."""
        return {key: getattr(self.settings.shape, key) for key in self.settings.shape.__slots__}

    def batch(self, images_seen: int, batch_size: int) -> FastBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number."""
        random = np.random.default_rng((self.seed, images_seen))
        whole = (images_seen // batch_size) % self.settings.whole_every == 0
        size = CROP_PX if whole else self.settings.part_px
        count = max(1, batch_size // 4) if whole else batch_size
        indices = random.choice(self.indices, count, p=self.chances)
        pairs = [_pair(np.asarray(self.faces.pictures[index]), random) for index in indices]
        corners = random.integers(0, (CROP_PX - size) // CELL_PX + 1, (count, 2)) * CELL_PX
        parts = [
            [picture[top : top + size, left : left + size] for picture in pair]
            for pair, (left, top) in zip(pairs, corners, strict=True)
        ]
        anchors = [self._anchor(index, random) for index in indices]
        return FastBatch(
            _pictures([degraded for degraded, _ in parts]),
            _pictures([target for _, target in parts]),
            torch.stack(anchors),
            torch.from_numpy(corners),
            torch.from_numpy(random.integers(0, 8, 2)),
        )

    def losses(self, network: nn.Module, batch: FastBatch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted."""
        restored = network(batch.degraded, batch.anchors, batch.corners)
        losses = {
            "pixel": charbonnier(restored, batch.targets),
            "texture": self.settings.texture_weight * texture(restored, batch.targets),
        }
        if self.settings.grid_weight > 0:
            losses["grid"] = self.settings.grid_weight * grid(restored, batch.targets)
        if self.perceptual is not None:
            seen = max(1, round(self.settings.perceptual_part * len(restored)))
            top, left = batch.shift.tolist()
            distance = self.perceptual(restored[:seen, :, top:, left:], batch.targets[:seen, :, top:, left:])
            losses["perceptual"] = self.settings.perceptual_weight * distance
        if batch.targets.shape[-1] == CROP_PX and self.settings.identity_weight > 0:
            with torch.no_grad():
                wanted = self.encoder(recogniser_view(batch.targets))
            got = self.encoder(recogniser_view(restored))
            identity = 1 - F.cosine_similarity(got, wanted).mean()
            losses["identity"] = self.settings.identity_weight * identity
        return losses

    @torch.inference_mode()
    def sheet(self, network: nn.Module) -> Picture | None:
        """Rows of degraded, restored without and with the clean view's anchor, target."""
        random = np.random.default_rng(self.seed + 1)
        rows: list[Picture] = []
        for index in random.choice(self.indices, 8, p=self.chances):
            degraded, target = _pair(np.asarray(self.faces.pictures[index]), random)
            anchors = torch.stack(
                [torch.zeros(self.embeddings.shape[2]), identity_anchor(self.embeddings[index, :1])]
            )
            restored = network(_pictures([degraded, degraded]), anchors)
            images = (restored.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            rows.append(np.concatenate([degraded, *images, target], 1))
        columns = [np.concatenate(rows[:4], 0), np.concatenate(rows[4:], 0)]
        return np.concatenate(columns, 1)

    def _anchor(self, index: int, random: np.random.Generator) -> Tensor:
        kind = random.random()
        if kind < self.settings.no_anchor:
            return torch.zeros(self.embeddings.shape[2])
        person = index
        if kind > 1 - self.settings.wrong_anchor:
            person = int(random.integers(len(self.embeddings)))
        elif len(self.partners[index]):
            person = int(random.choice(self.partners[index]))
        count = int(random.integers(1, self.embeddings.shape[1] + 1))
        views = random.choice(self.embeddings.shape[1], count, replace=False)
        return identity_anchor(self.embeddings[person][torch.from_numpy(views)])


def _pair(picture: Picture, random: np.random.Generator) -> tuple[Picture, Picture]:
    """(degraded, target) of one picture, both mirrored, moved and toned alike."""
    target = _vary(picture, random)
    kind, strength, seed = random.random(), random.random(), int(random.integers(2**62))
    if kind < 0.64:
        return mixed_sample(target, seed, strength), target
    if kind < 0.96:
        return preset_sample(target, seed, MODERATE if kind < 0.8 else SEVERE, None), target
    return target, target


def _vary(picture: Picture, random: np.random.Generator) -> Picture:
    """Mirroring, small rotations and scales as of inexact landmarks, exposure, black-and-white, sepia."""
    image: NDArray[Any] = picture[:, ::-1] if random.random() < 0.5 else picture
    if random.random() < 0.5:
        side = image.shape[0]
        angle, scale = random.normal(0, 2.5), float(np.exp(random.normal(0, 0.04)))
        matrix: NDArray[Any] = cv2.getRotationMatrix2D((side / 2, side * 0.58), angle, max(scale, 0.9))
        matrix[:, 2] += random.normal(0, 3, 2)
        image = cv2.warpAffine(
            image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
    grey, toned = random.random() < 0.1, random.random() < 0.4
    if not grey and not toned:
        return np.ascontiguousarray(image)
    values: NDArray[Any] = image.astype(np.float32)
    if grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
        if random.random() < 0.3:
            values = values * np.array([1.05, 1.0, random.uniform(0.75, 0.98)], np.float32)
    if toned:
        gain = random.uniform(0.7, 1.2) * random.uniform(0.93, 1.07, 3).astype(np.float32)
        values = values * (1.0 if grey else gain) * random.uniform(0.9, 1.05) + random.uniform(-8, 12)
    codes: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return codes


def _pictures(pictures: list[Picture]) -> Tensor:
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.float().div_(255).contiguous(memory_format=torch.channels_last)


def _embedded_views(encoder: Encoder, path: Path, faces: Faces, cache: Path) -> Tensor:
    """Raw embeddings (N, K, D) of each picture's clean and degraded views, made once and cached."""
    text = hashlib.sha256(path.read_bytes()).hexdigest() + str(faces.files) + str(VIEW_STRENGTHS)
    stored = cache / f"embedded_{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
    if not stored.exists():
        embeddings = np.empty((len(faces.files), len(VIEW_STRENGTHS), encoder.shape.embedding), np.float32)
        for start in range(0, len(faces.files), 64):
            embeddings[start : start + 64] = _embed_views(encoder, faces.pictures[start : start + 64], start)
        part = stored.with_suffix(".part.npy")
        np.save(part, embeddings)
        part.replace(stored)
    return torch.from_numpy(np.load(stored))


@torch.inference_mode()
def _embed_views(encoder: Encoder, pictures: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
    answers: list[Tensor] = []
    for strength in VIEW_STRENGTHS:
        views = [
            mixed_sample(np.asarray(picture), seed + index, strength) if strength else np.asarray(picture)
            for index, picture in enumerate(pictures)
        ]
        crops = recogniser_view(_pictures(views)).contiguous(memory_format=torch.channels_last)
        answers.append(encoder(crops))
    result: NDArray[np.float32] = torch.stack(answers, 1).numpy()
    return result
