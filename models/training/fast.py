"""Training of `fast`: degraded crops and anchors in, the sharp picture out.

Most batches hold 128-pixel parts of crops; every fourth holds a quarter as many whole crops, as many pixels,
and adds the identity term, which needs the whole face. The anchor comes from other views of the person or
from differently degraded views of the picture, sometimes from a stranger, and is often missing; the target
never follows it, so the network learns how far it may be trusted.

Shapes: N pictures of the set, B of a batch, H W pixels, D width of an embedding, K kept views of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.degradation.stills import coded_faces
from models.fast.network import CELL_PX, CROP_PX, FastNetwork
from models.packing import fold_norms
from models.pictures import Picture, recogniser_view, to_picture
from models.recogniser import identity_anchor
from models.training.dataset import load_faces, load_targets
from models.training.fixed_networks import load_encoder, load_perceptual, load_teacher
from models.training.losses import (
    Critic,
    PerceptualLoss,
    adversarial_losses,
    charbonnier,
    embedding_distance,
    feature_distance,
    fresh_critic,
    grid,
    known,
    texture,
)
from models.training.pairs import PairSource, embedded_views
from models.training.rollout import Step, frames_before, moved, steadiness
from models.training.settings import FastSettings


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
    side_px: int
    """Side of the crop."""
    shift: Tensor
    """int64 (2,), rows and columns cut off before the perceptual term: its pooling meets other pixels each time."""
    steps: tuple[Step, ...]
    """Frames before, the oldest first; none for a face that is new."""


class FastTask:
    """Batches, losses, network and sheets of `fast` for `loop.train`."""

    def __init__(
        self, settings: FastSettings, faces: Path, cache: Path, seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.device = device
        self.faces, self.targets = load_targets(
            faces, CROP_PX, cache, settings.smallest_true_px, settings.soft_weight
        )
        self.partners = self.faces.partners()
        coded = None
        if settings.coded_faces > 0:
            name = f"{self.faces.folder} {self.faces.files}"
            count = settings.coded_faces
            coded = coded_faces(self.faces.pictures, self.targets.indices, count, cache, name, seed)
        self.source = PairSource(self.faces, device, coded)
        self.large: PairSource | None = None
        if settings.large_part > 0 and len(self.faces.targets(2 * CROP_PX)):
            large = load_faces(faces, 2 * CROP_PX, cache, smallest_true_px=2 * CROP_PX)
            places = {file: index for index, file in enumerate(self.faces.files)}
            self.large_indices = np.array([places[file] for file in large.files], np.int64)
            self.large = PairSource(large, device)
        self.encoder = load_encoder(settings.encoder, device)
        self.embeddings = embedded_views(self.encoder, settings.encoder, self.source, self.faces, cache)
        self.perceptual = load_perceptual(settings.perceptual, device)
        self.teacher = load_teacher(settings.teacher, device)
        fold_norms(self.encoder)

    def network(self) -> FastNetwork:
        """A fresh network."""
        return FastNetwork(self.settings.shape)

    def critic(self) -> Critic | None:
        """A fresh critic, or None without an adversarial term."""
        return fresh_critic(self.perceptual, self.settings.adversarial_weight)

    def parameters(self) -> dict[str, object]:
        """What rebuilds the network, for the checkpoint's header."""
        return asdict(self.settings.shape)

    def batch(self, images_seen: int, batch_size: int) -> FastBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number."""
        random = np.random.default_rng((self.seed, images_seen))
        whole = (images_seen // batch_size) % self.settings.whole_every == 0
        if not whole and self.large is not None and random.random() < self.settings.large_part:
            source = self.large
            positions = random.integers(len(self.large_indices), size=batch_size)
            indices = self.large_indices[positions]
        else:
            source = self.source
            count = max(1, batch_size // 4) if whole else batch_size
            positions = indices = self.targets.draw(random, count)
        size = source.side_px if whole else self.settings.part_px
        cells = random.integers(0, (source.side_px - size) // CELL_PX + 1, (len(indices), 2))
        corners = torch.from_numpy(cells * CELL_PX)
        seeds = [int(seed) for seed in random.integers(2**62, size=len(indices))]
        pairs = source.pairs(positions, corners, size, seeds)
        anchors = torch.stack([self._anchor(index, random) for index in indices])
        shift = torch.from_numpy(random.integers(0, 8, 2))
        again = partial(source.degraded_again, seeds=seeds)
        settings = self.settings
        steps = frames_before(pairs.targets, settings.previous, settings.previous_frames, random, again)
        return FastBatch(
            pairs.degraded, pairs.targets, anchors.to(self.device), corners, source.side_px, shift, steps
        )

    def losses(self, network: nn.Module, critic: nn.Module | None, batch: FastBatch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted."""
        settings = self.settings
        previous, before = self._rolled(network, batch)
        restored = self._restored(network, batch.degraded, batch, previous)
        weights = known(restored, batch.targets)
        losses = {
            "pixel": charbonnier(restored, batch.targets),
            "texture": settings.texture_weight * texture(restored, batch.targets, weights),
        }
        if before is not None:
            calm = steadiness(restored, batch.targets, before, batch.steps[-1])
            losses["steady"] = settings.steady_weight * calm
        if settings.grid_weight > 0:
            losses["grid"] = settings.grid_weight * grid(restored, batch.targets)
        if self.perceptual is not None:
            losses |= self._seen(self.perceptual, critic, restored, weights, batch)
        if batch.targets.shape[-1] == batch.side_px:
            losses |= self._recognised(restored, batch.targets, weights)
        return losses

    def _restored(
        self, network: nn.Module, degraded: Tensor, batch: FastBatch, previous: Tensor | None
    ) -> Tensor:
        restored: Tensor = network(
            degraded, batch.anchors, previous, batch.corners.to(self.device), batch.side_px
        )
        return restored

    @torch.no_grad()
    def _rolled(self, network: nn.Module, batch: FastBatch) -> tuple[Tensor | None, Tensor | None]:
        """The network's own restoration of the frame before, moved here with its gate, and as it was made."""
        previous, restored = None, None
        for step in batch.steps:
            restored = self._restored(network, step.degraded, batch, previous).clamp(0, 1)
            previous = torch.cat([moved(restored, step.measured).clamp(0, 1), step.gate], 1)
        return previous, restored

    def _seen(
        self,
        perceptual: PerceptualLoss,
        critic: nn.Module | None,
        restored: Tensor,
        weights: Tensor,
        batch: FastBatch,
    ) -> dict[str, Tensor]:
        """Perceptual and adversarial terms, and the critic's own, on a part of the batch."""
        seen = max(1, round(self.settings.perceptual_part * len(restored)))
        top, left = batch.shift.tolist()
        with torch.no_grad():
            wanted = perceptual.features(batch.targets[:seen, :, top:, left:])
        got = perceptual.features(restored[:seen, :, top:, left:])
        losses = {"perceptual": self.settings.perceptual_weight * feature_distance(got, wanted)}
        if critic is not None:
            side = batch.corners.new_tensor([restored.shape[3], restored.shape[2]])
            ends = [batch.corners[:seen] + batch.shift.flip(0), batch.corners[:seen] + side]
            places = (torch.cat(ends, 1) / batch.side_px).to(self.device)
            weight = self.settings.adversarial_weight
            losses |= adversarial_losses(critic, got, wanted, places, weights[:seen], weight)
        return losses

    def _recognised(self, restored: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Identity terms: the own encoder forgives degradation, a recogniser of clean faces does not.

        `weights`: (B,), how well each face is known. Asked for a person in a face that is not, a network draws
        scribbles that only recognisers take for features.
        """
        losses: dict[str, Tensor] = {}
        views, wanted_views = recogniser_view(restored), recogniser_view(targets)
        recognisers: list[tuple[str, float, Callable[[Tensor], Tensor]]] = [
            ("identity", self.settings.identity_weight, self.encoder)
        ]
        if self.teacher is not None:
            recognisers.append(("teacher", self.settings.teacher_weight, self.teacher.one_sided))
        for name, weight, recogniser in recognisers:
            if weight > 0:
                with torch.no_grad():
                    wanted = recogniser(wanted_views)
                distance = embedding_distance(recogniser(views), wanted)
                losses[name] = weight * (weights * distance).mean()
        return losses

    @torch.inference_mode()
    def sheet(self, network: nn.Module) -> Picture | None:
        """Rows of degraded, restored without and with the clean view's anchor, target."""
        random = np.random.default_rng(self.seed + 1)
        indices = self.targets.draw(random, 8)
        pairs = self.source.pairs(indices, torch.zeros(8, 2, dtype=torch.int64), CROP_PX, list(range(8)))
        anchors = torch.stack([identity_anchor(self.embeddings[index, :1]) for index in indices])
        columns = [
            pairs.degraded,
            network(pairs.degraded, torch.zeros_like(anchors).to(self.device)),
            network(pairs.degraded, anchors.to(self.device)),
            pairs.targets,
        ]
        rows = to_picture(torch.cat(columns, 3))
        return np.concatenate([np.concatenate(list(half), 0) for half in (rows[:4], rows[4:])], 1)

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
