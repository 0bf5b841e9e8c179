"""Training of `aligned`: degraded crops and the views laid onto them in, the sharp picture out.

Views are other pictures of the same person, the same picture in another light, strangers, and frames beside this one:
the same face moved by parts of a pixel, with noise of its own and coded anew. They are laid onto the face by its dense
points with errors added, so that the network learns how far a view may be trusted. The target never follows a view.

Most batches hold 128-pixel parts of crops; some hold whole crops, a quarter as many.

Shapes: B of a batch, V views, H W pixels, P dense points, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.aligned.network import CELL_PX, NEIGHBOUR, REFERENCE, AlignedNetwork, AlignedShape
from models.aligned.warp import warp_views
from models.degradation.batch import degrade_batch, plain_passage, preset_batch
from models.degradation.film import tone
from models.degradation.kernels import Draws
from models.degradation.passage import through
from models.degradation.stills import MODERATE, SEVERE
from models.pictures import Picture, recogniser_view
from models.recogniser import identity_anchor
from models.training.dataset import load_partners, load_points, load_targets
from models.training.fixed_networks import load_encoder, load_perceptual, load_teacher
from models.training.losses import charbonnier, embedding_distance, feature_distance, known
from models.training.pairs import PairSource, embedded_views

SIDE_PX = 256
KINDS = (0.4, 0.2, 0.22, 0.13, 0.05)
"""Chances of the free course, moderate, severe, noise alone, untouched."""
_MARGIN_PX = 20
"""What lies around a part while it is degraded, so that blur and blocks come in from outside."""


@dataclass(frozen=True, slots=True)
class AlignedSettings:
    """What is special to the recipe of `aligned`."""

    encoder: Path = Path("encoder.safetensors")
    """Checkpoint of the identity encoder, for anchors."""
    perceptual: Path | None = None
    """Pruned VGG-19 for the perceptual term; without it the term is left out."""
    teacher: Path | None = None
    """A recogniser of clean faces for the identity term on whole crops; without it the term is left out."""
    part_px: int = 128
    """Side of the parts."""
    whole_every: int = 5
    """One batch in this many holds whole crops."""
    smallest_true_px: int = 192
    """Pictures below are no targets."""
    soft_weight: float = 0.2
    """How often a picture below 256 true pixels is drawn, against 1 for the others."""
    no_views: float = 0.3
    """Share of the samples without references."""
    neighbours: float = 0.25
    """Share of the samples with frames beside this one."""
    wrong_view: float = 0.1
    """Share of the references that show a stranger."""
    most_views: int = 3
    """V, at most."""
    no_anchor: float = 0.4
    """Share of the samples without an identity anchor, though they have references."""
    point_error_px: float = 2.5
    """Largest error of the dense points, in pixels of the crop."""
    trunk_rate: float = 0.2
    """Learning rate of the trunk, which comes trained, against 1 for the rest."""
    perceptual_weight: float = 0.15
    teacher_weight: float = 0.02
    shape: AlignedShape = field(default_factory=AlignedShape)

    def __post_init__(self) -> None:
        for name in ("no_views", "neighbours", "wrong_view", "no_anchor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.part_px % CELL_PX or not CELL_PX <= self.part_px <= SIDE_PX:
            raise ValueError(f"part_px must be a multiple of {CELL_PX} up to {SIDE_PX}, got {self.part_px}")


@dataclass(frozen=True, slots=True, eq=False)
class AlignedBatch:
    """Parts of crops, or whole crops."""

    degraded: Tensor
    """float32 (B, 3, H, W) in [0, 1]."""
    targets: Tensor
    """float32 (B, 3, H, W) in [0, 1]."""
    views: Tensor
    """float32 (B, V, 3, H, W) in [0, 1]; V is 0 where no sample has any."""
    confidence: Tensor
    """float32 (B, V, 1, H, W) in [0, 1]; 0 fills up what a sample lacks."""
    kinds: Tensor
    """float32 (B, V) of `REFERENCE` and `NEIGHBOUR`."""
    anchors: Tensor
    """float32 (B, D), unit length or zero."""
    shift: Tensor
    """int64 (2,), rows and columns cut off before the perceptual term: its pooling meets other pixels each time."""
    whole: bool


class AlignedTask:
    """Batches, losses, network and sheets of `aligned` for `loop.train`."""

    def __init__(
        self, settings: AlignedSettings, faces: Path, cache: Path, seed: int, device: torch.device
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, device
        self.faces, self.targets = load_targets(
            faces, SIDE_PX, cache, settings.smallest_true_px, settings.soft_weight
        )
        self.points, self.found = load_points(faces, self.faces.files, SIDE_PX)
        self.partners = load_partners(faces, self.faces.files)
        usable = self.found[self.targets.indices]
        self.targets = self.targets.chosen(usable)
        self.paired = self.targets.chosen(
            np.array([len(self.partners[index]) > 0 for index in self.targets.indices])
        )
        self.encoder = load_encoder(settings.encoder, device)
        source = PairSource(self.faces, device)
        self.embeddings = embedded_views(self.encoder, settings.encoder, source, self.faces, cache, (0.0,))
        self.perceptual = load_perceptual(settings.perceptual, device)
        self.teacher = load_teacher(settings.teacher, device)

    def network(self) -> AlignedNetwork:
        """A fresh network."""
        return AlignedNetwork(self.settings.shape)

    def critic(self) -> None:
        """No adversarial term."""

    def parameters(self) -> dict[str, object]:
        """What rebuilds the network, for the checkpoint's header."""
        return {key: getattr(self.settings.shape, key) for key in self.settings.shape.__slots__}

    def rate_of(self, name: str) -> float:
        """Learning rate of the parameter `name`, against 1."""
        return self.settings.trunk_rate if name.startswith("trunk.") and "modulation" not in name else 1.0

    def batch(self, images_seen: int, batch_size: int) -> AlignedBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number."""
        random = np.random.default_rng((self.seed, images_seen))
        whole = (images_seen // batch_size) % self.settings.whole_every == 0
        count = max(1, batch_size // 4) if whole else batch_size
        return self._drawn(random, count, SIDE_PX if whole else self.settings.part_px, KINDS)

    def _drawn(
        self, random: np.random.Generator, count: int, size: int, kinds: Sequence[float]
    ) -> AlignedBatch:
        samples = [self._sample(random) for _ in range(count)]
        seeds = [int(seed) for seed in random.integers(2**62, size=count)]
        targets = tone(_stacked([sample.picture for sample in samples]), seeds)
        corners = [tuple(random.integers(0, (SIDE_PX - size) // CELL_PX + 1, 2) * CELL_PX) for _ in samples]
        wide = min(SIDE_PX, size + 2 * _MARGIN_PX)
        outer = [tuple(np.clip(np.array(corner) - _MARGIN_PX, 0, SIDE_PX - wide)) for corner in corners]
        inner = [tuple(np.array(a) - np.array(b)) for a, b in zip(corners, outer, strict=True)]
        around = _cut(targets, outer, wide)
        degraded = _cut(_degraded(around, seeds, seeds, kinds), inner, size)
        views, confidence, view_kinds = self._views(samples, random, corners, size)
        for place, sample in enumerate(samples):
            for number in range(sample.neighbours):
                slot = len(sample.references) + number
                picture, sure = _beside(around[place : place + 1], seeds[place], number, random, kinds)
                views[place, slot] = _cut(picture, inner[place : place + 1], size)[0]
                confidence[place, slot] = sure
                view_kinds[place, slot] = NEIGHBOUR
        anchors = torch.stack([sample.anchor for sample in samples])
        parts = [degraded, _cut(targets, corners, size), views, confidence]
        if random.random() < 0.5:
            parts = [part.flip(-1) for part in parts]
        degraded, targets, views, confidence = (part.contiguous().to(self.device) for part in parts)
        return AlignedBatch(
            degraded,
            targets,
            views,
            confidence,
            view_kinds.to(self.device),
            anchors.to(self.device),
            torch.from_numpy(random.integers(0, 8, 2)),
            size == SIDE_PX,
        )

    def _sample(self, random: np.random.Generator) -> _Sample:
        """One face with its views, not yet cut and degraded."""
        settings = self.settings
        references: list[tuple[Picture, NDArray[np.float32]]] = []
        anchor = torch.zeros(self.embeddings.shape[2])
        has_references = random.random() >= settings.no_views
        index = int(
            (self.paired if has_references and random.random() < 0.8 else self.targets).draw(random, 1)[0]
        )
        neighbours = (
            int(random.integers(1, settings.most_views + 1)) if random.random() < settings.neighbours else 0
        )
        if has_references:
            chosen = self._references_of(index, random, int(random.integers(1, settings.most_views + 1)))
            references = [
                (_as_people_have_it(self.faces.pictures[one], random, one == index), self.points[one])
                for one in chosen
            ]
            if random.random() >= settings.no_anchor:
                anchor = identity_anchor(self.embeddings[chosen, 0])
        references = references[: settings.most_views - min(neighbours, settings.most_views - 1)]
        neighbours = min(neighbours, settings.most_views - len(references))
        picture, points = np.array(self.faces.pictures[index]), self.points[index]
        if random.random() < 0.5:
            angle, scale = random.triangular(-8, 0, 8), float(np.exp(random.triangular(-0.1, 0, 0.1)))
            matrix = np.asarray(cv2.getRotationMatrix2D((SIDE_PX / 2, SIDE_PX / 2), angle, scale), np.float64)
            matrix[:, 2] += random.triangular(-0.03, 0, 0.03, 2) * SIDE_PX
            picture = cv2.warpAffine(
                picture, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
            )
            points = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        return _Sample(picture, points, references, neighbours, anchor)

    def _references_of(self, index: int, random: np.random.Generator, count: int) -> list[int]:
        """Pictures that stand as references of `index`: of the person, of a stranger, or the very picture."""
        if random.random() < self.settings.wrong_view:
            return [int(self.targets.draw(random, 1)[0])]
        partners = self.partners[index][self.found[self.partners[index]]]
        if not len(partners):
            return [index]
        return [int(one) for one in random.permutation(partners)[:count]]

    def _views(
        self,
        samples: Sequence[_Sample],
        random: np.random.Generator,
        corners: Sequence[tuple[int, ...]],
        size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """References laid onto their faces, with room for the neighbours: views, confidence and kinds of a batch."""
        count = max(len(sample.references) + sample.neighbours for sample in samples)
        views = torch.zeros(len(samples), count, 3, size, size)
        confidence = torch.zeros(len(samples), count, 1, size, size)
        for place, sample in enumerate(samples):
            if not sample.references:
                continue
            pictures, own = (list(each) for each in zip(*sample.references, strict=True))
            faces = np.stack([self._inexact(sample.points, random) for _ in own])
            laid, sure = warp_views(
                _stacked(pictures), torch.from_numpy(np.stack(own)), torch.from_numpy(faces)
            )
            here = [corners[place]] * len(own)
            views[place, : len(own)] = _cut(laid, here, size)
            confidence[place, : len(own)] = _cut(sure, here, size)
        return views, confidence, torch.full((len(samples), count), REFERENCE)

    def _inexact(self, points: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
        """Points (P, 2) with errors as a landmark network makes them on a damaged face: smooth over the face."""
        size = random.uniform(0, self.settings.point_error_px)
        moved = points + random.normal(0, 0.7 * size, 2)
        centres = moved[random.integers(0, len(points), 8)]
        weights = np.exp(-((moved[:, None] - centres[None]) ** 2).sum(2) / (2 * 40**2))
        return np.asarray(moved + weights @ random.normal(0, size, (8, 2)), np.float32)

    def losses(self, network: nn.Module, critic: nn.Module | None, batch: AlignedBatch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted."""
        restored = network(
            batch.degraded.contiguous(memory_format=torch.channels_last),
            batch.views,
            batch.confidence,
            batch.kinds,
            batch.anchors,
        ).float()
        losses = {"pixel": charbonnier(restored, batch.targets)}
        if self.perceptual is not None:
            top, left = batch.shift.tolist()
            with torch.no_grad():
                wanted = self.perceptual.features(batch.targets[:, :, top:, left:])
            got = self.perceptual.features(restored[:, :, top:, left:].clamp(0, 1))
            losses["perceptual"] = self.settings.perceptual_weight * feature_distance(got, wanted)
        if self.teacher is not None and batch.whole:
            with torch.no_grad():
                person = self.teacher.one_sided(recogniser_view(batch.targets))
            distance = embedding_distance(self.teacher.one_sided(recogniser_view(restored)), person)
            weights = known(restored, batch.targets)
            losses["teacher"] = self.settings.teacher_weight * (weights * distance).mean()
        return losses

    @torch.inference_mode()
    def sheet(self, network: nn.Module) -> Picture | None:
        """Rows of degraded, restored without and with views, first view, target; severe faces first."""
        random = np.random.default_rng(self.seed + 1)
        severe, moderate = (self._drawn(random, 4, SIDE_PX, kinds) for kinds in ((0, 0, 1, 0), (0, 1, 0, 0)))
        blocks = []
        for batch in (severe, moderate):
            columns = [
                batch.degraded,
                network(batch.degraded),
                network(batch.degraded, batch.views, batch.confidence, batch.kinds, batch.anchors),
                (batch.views * batch.confidence)[:, 0] if batch.views.shape[1] else batch.degraded,
                batch.targets,
            ]
            rows = torch.cat(columns, 3).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            blocks.append(np.concatenate(list(rows), 0))
        return np.concatenate(blocks, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """One face before it is cut and degraded."""

    picture: Picture
    points: NDArray[np.float32]
    """(P, 2) in pixels of the crop."""
    references: list[tuple[Picture, NDArray[np.float32]]]
    neighbours: int
    anchor: Tensor


def _degraded(pictures: Tensor, seeds: list[int], noise_seeds: list[int], kinds: Sequence[float]) -> Tensor:
    """Windows (B, 3, W, W) of crops of 256 after a course of damage each; `noise_seeds` differ between frames."""
    draws = Draws(seeds, "degraded")
    kind, strength, noise = draws.choice(kinds), draws.uniform(0.1, 1), draws.uniform(2, 30) / 255
    quality = np.where(draws.uniform() < 0.5, 100, draws.uniform(40, 95))
    degraded = pictures.clone()
    for number in range(4):
        chosen = np.flatnonzero(kind == number)
        if not len(chosen):
            continue
        index = torch.from_numpy(chosen)
        some, grains = ([each[place] for place in chosen] for each in (seeds, noise_seeds))
        if number == 0:
            made = degrade_batch(pictures[index], some, strength[chosen], SIDE_PX, grains)
        elif number == 3:
            passage = plain_passage(
                len(chosen),
                grid_px=np.full(len(chosen), SIDE_PX),
                noise=noise[chosen],
                noise_spread=0.8 * (strength[chosen] < 0.4),
                quality=np.round(quality[chosen]),
            )
            made = through(pictures[index], grains, passage, SIDE_PX)
        else:
            made = preset_batch(pictures[index], some, MODERATE if number == 1 else SEVERE, SIDE_PX, grains)
        degraded[index] = made
    return degraded.clamp(0, 1)


def _beside(
    picture: Tensor, seed: int, number: int, random: np.random.Generator, kinds: Sequence[float]
) -> tuple[Tensor, float]:
    """A frame beside this one, (1, 3, W, W): the face moved, damaged with its own noise, moved back inexactly."""
    side = picture.shape[-1]
    away = random.uniform(-6, 6, 2) * 2 / side
    error = random.normal(0, random.uniform(0, 0.6), 2) * 2 / side
    there = _shifted(picture, away)
    frame = _degraded(there, [seed], [int(random.integers(2**62))], kinds)
    return _shifted(frame, error - away), float(random.uniform(0.4, 1))


def _shifted(pictures: Tensor, shift: NDArray[np.float64]) -> Tensor:
    """`pictures` moved by `shift` (2,), x and y in units of half a side."""
    matrix = torch.tensor([[[1, 0, shift[0]], [0, 1, shift[1]]]], dtype=torch.float32)
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, "bicubic", "reflection", align_corners=False).clamp_(0, 1)


def _as_people_have_it(picture: Picture, random: np.random.Generator, is_same: bool) -> Picture:
    """A reference as people have them: a little soft or coded; the very picture also in another light."""
    made = np.array(picture)
    if is_same:
        lit = made.astype(np.float32) * random.uniform(0.7, 1.3, 3) + random.uniform(-25, 25)
        made = np.clip(lit, 0, 255).astype(np.uint8)
    if random.random() < 0.4:
        made = np.asarray(cv2.GaussianBlur(made, (0, 0), random.uniform(0.3, 1.4)), np.uint8)
    if random.random() < 0.3:
        _, coded = cv2.imencode(".jpg", made, (cv2.IMWRITE_JPEG_QUALITY, int(random.integers(50, 95))))
        made = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return made


def _stacked(pictures: Sequence[Picture]) -> Tensor:
    """float32 (B, 3, S, S) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)


def _cut(pictures: Tensor, corners: Sequence[tuple[int, ...]], size: int) -> Tensor:
    """Parts (B, C, size, size) of `pictures` at `corners`, x and y."""
    parts = [
        picture[:, top : top + size, left : left + size]
        for picture, (left, top) in zip(pictures, corners, strict=True)
    ]
    return torch.stack(parts)
