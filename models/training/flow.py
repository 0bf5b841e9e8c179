"""Training of `iconface`: the velocity between noise and the sharp face, given the degraded one and references.

All samples of a batch have equally many references, so that no padding is computed. The autoencoder's encoder
stays as it is, or latents would drift; its decoder may learn on, as it meets latents that are guesses.

Shapes: B faces, R references, S = 256, N tokens of a picture, C their channels, E width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.iconface.conditions import Before
from models.iconface.model import IconFaceModel, build_autoencoder
from models.iconface.network import start_small
from models.iconface.sampling import (
    Condition,
    cleaned,
    fixed_noise,
    noised,
    sample,
    velocity,
)
from models.iconface.settings import SEED, IconFaceSettings
from models.pictures import Picture, recogniser_view, to_picture
from models.recogniser import identity_anchor
from models.training.dataset import load_targets
from models.training.fixed_networks import load_draft, load_encoder, load_perceptual, load_teacher
from models.training.losses import (
    Critic,
    adversarial_losses,
    anchored_identity,
    charbonnier,
    embedding_distance,
    feature_distance,
    flow_matching,
    fresh_critic,
    grid,
    hard_example_identity,
    identity_distance,
    known,
    noise_weight,
    texture,
)
from models.training.pairs import PairSource, other_views
from models.training.rollout import Step, frames_before, moved, steadiness
from models.training.settings import FlowSettings
from models.weights import load_checkpoint

CROP_PX = 256


@dataclass(frozen=True, slots=True, eq=False)
class FlowBatch:
    """Whole crops with their references and noise."""

    degraded: Tensor
    """float32 (B, 3, S, S) in [0, 1]."""
    targets: Tensor
    """float32 (B, 3, S, S) in [0, 1]."""
    references: Tensor
    """float32 (B, R, 3, S, S) in [0, 1]."""
    strangers: Tensor
    """bool (B,), whether the references show another person."""
    noise: Tensor
    """float32 (B, N, C)."""
    sigma: Tensor
    """float32 (B,)."""
    blind: Tensor
    """bool (), whether the degraded face is left out."""
    steps: tuple[Step, ...]
    """Frames before, the oldest first; none for a face that is new."""


class FlowTask:
    """Batches, losses, network and sheets of `iconface` for `loop.train`."""

    def __init__(
        self, settings: FlowSettings, faces: Path, cache: Path, seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.device = device
        self.faces, self.targets = load_targets(
            faces, CROP_PX, cache, settings.smallest_true_px, settings.soft_weight
        )
        self.partners = self.faces.partners()
        self.source = PairSource(self.faces, device)
        self.autoencoder = build_autoencoder(load_checkpoint(settings.autoencoder))
        self.draft = load_draft(settings.draft, device)
        self.encoder = load_encoder(settings.encoder, device)
        self.perceptual = load_perceptual(settings.perceptual, device)
        self.teacher = load_teacher(settings.teacher, device)

    def network(self) -> IconFaceModel:
        """A fresh transformer beside the trained autoencoder and `fast`."""
        model = self._model()
        model.autoencoder.load_state_dict(self.autoencoder.state_dict())
        if model.draft is not None and self.draft is not None:
            model.draft.load_state_dict(self.draft.state_dict())
        model.autoencoder.encoder.requires_grad_(False)
        model.autoencoder.decoder.requires_grad_(self.settings.decoder_learns)
        if model.draft is not None:
            model.draft.requires_grad_(self.settings.draft_learns)
        start_small(model.network)
        return model

    def critic(self) -> Critic | None:
        """A fresh critic, or None without an adversarial term."""
        return fresh_critic(self.perceptual, self.settings.adversarial_weight)

    def parameters(self) -> dict[str, object]:
        """What rebuilds the model, for the checkpoint's header."""
        return self._model().shapes()

    def _model(self) -> IconFaceModel:
        draft = None if self.draft is None else self.draft.shape
        return IconFaceModel(self.settings.shape, self.autoencoder.shape, draft)

    def batch(self, images_seen: int, batch_size: int) -> FlowBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number."""
        settings, random = self.settings, np.random.default_rng((self.seed, images_seen))
        views = int(random.choice(len(settings.references), p=settings.references))
        indices = self.targets.draw(random, batch_size)
        seeds = [int(seed) for seed in random.integers(2**62, size=batch_size)]
        pairs = self.source.pairs(indices, torch.zeros(batch_size, 2, dtype=torch.int64), CROP_PX, seeds)
        strangers = random.random(batch_size) < (settings.stranger if views else 0)
        references = [
            self._references(int(index), bool(stranger), views, random)
            for index, stranger in zip(indices, strangers, strict=True)
        ]
        shape = settings.shape
        noise = random.standard_normal((batch_size, shape.rows**2, shape.channels), np.float32)
        sigmas, blind = self._sigmas(batch_size, random), random.random() < settings.no_degraded
        return FlowBatch(
            pairs.degraded,
            pairs.targets,
            torch.stack(references),
            torch.from_numpy(strangers).to(self.device),
            torch.from_numpy(noise).to(self.device),
            torch.from_numpy(sigmas).to(self.device),
            torch.tensor(blind),
            frames_before(
                pairs.targets,
                0 if blind else settings.previous,
                settings.previous_frames,
                random,
                partial(self.source.degraded_again, seeds=seeds),
            ),
        )

    def losses(self, network: nn.Module, critic: nn.Module | None, batch: FlowBatch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted."""
        assert isinstance(network, IconFaceModel)
        settings, autoencoder = self.settings, network.autoencoder
        with torch.no_grad():
            clean = autoencoder.tokens(autoencoder.encode(batch.targets)[0])
        condition, anchors = self._condition(network, batch.degraded, batch.references)
        draft_anchors = self._draft_anchors(batch.references, anchors)
        earlier = rolled(network, batch.steps, condition, draft_anchors, batch.noise)
        before = None if earlier is None else earlier.before
        with torch.set_grad_enabled(settings.draft_learns and torch.is_grad_enabled()):
            latents, features = autoencoder.encode(network.drafted(batch.degraded, draft_anchors, before))
        degraded = autoencoder.tokens(latents)
        with torch.no_grad():
            scene, noise = begun(clean, degraded, batch.noise, batch.sigma, before)
        direction = velocity(
            network.network,
            scene,
            batch.sigma,
            None if batch.blind else degraded,
            replace(condition, before=before),
        )
        losses = {"flow": settings.flow_weight * flow_matching(direction, clean, noise)}
        if batch.blind:
            return losses
        seen = slice(max(1, round(settings.decoded_part * len(scene))))
        guess = cleaned(scene, direction, batch.sigma)[seen]
        restored = network.decoded(
            guess, (features[0][seen], features[1][seen]), None if before is None else before.part(seen)
        )
        if earlier is not None:
            calm = steadiness(restored, batch.targets[seen], earlier.restored[seen], earlier.step.part(seen))
            losses["steady"] = settings.steady_weight * calm
        losses |= self._picture_losses(critic, restored, batch.targets[seen], batch.sigma[seen])
        losses |= self._identity_losses(restored, batch, anchors, seen)
        if self.teacher is not None and settings.teacher_weight > 0:
            with torch.no_grad():
                wanted = self.teacher.one_sided(recogniser_view(batch.targets[seen]))
            distance = embedding_distance(self.teacher.one_sided(recogniser_view(restored)), wanted)
            weights = known(restored, batch.targets[seen])
            losses["teacher"] = settings.teacher_weight * (weights * distance).mean()
        return losses

    def _picture_losses(
        self, critic: nn.Module | None, restored: Tensor, targets: Tensor, sigma: Tensor
    ) -> dict[str, Tensor]:
        """Terms on decoded pictures and their features, and the critic's own."""
        settings = self.settings
        losses = {
            "pixel": settings.pixel_weight * charbonnier(restored, targets),
            "texture": settings.texture_weight * texture(restored, targets),
        }
        if settings.grid_weight > 0:
            losses["grid"] = settings.grid_weight * grid(restored, targets)
        if self.perceptual is None:
            return losses
        with torch.no_grad():
            wanted = self.perceptual.features(targets)
        got = self.perceptual.features(restored)
        losses["perceptual"] = settings.perceptual_weight * feature_distance(got, wanted)
        if critic is not None:
            # Only at sigma = 1, where the guess is what a restorer of one step shows. Below, the noised scene holds
            # the target already, and the critic would learn from faces that are never shown.
            weights = known(restored, targets) * (sigma == 1)
            places = sigma.new_tensor([0, 0, 1, 1]).expand(len(sigma), 4)
            losses |= adversarial_losses(critic, got, wanted, places, weights, settings.adversarial_weight)
        return losses

    def _identity_losses(
        self, restored: Tensor, batch: FlowBatch, anchors: Tensor, seen: slice
    ) -> dict[str, Tensor]:
        """Terms on embeddings; those that ask for the references' person only where there are any (IConFace)."""
        settings = self.settings
        referred = bool(batch.references.shape[1]) and settings.identity_weight > 0
        if not referred and settings.own_identity_weight == 0:
            return {}
        got = self._embed(restored)
        wanted = self._embed(batch.targets[seen]).detach()
        weight = noise_weight(batch.sigma[seen]).clamp_min(settings.least_noise_weight)
        losses: dict[str, Tensor] = {}
        if settings.own_identity_weight > 0:
            own = (weight * identity_distance(got, wanted)).mean()
            losses["own_identity"] = settings.own_identity_weight * own
        if referred:
            # No face is drawn towards a stranger.
            reference = torch.where(batch.strangers[seen, None], F.normalize(wanted, dim=1), anchors[seen])
            if settings.identity == "iconface":
                distance = anchored_identity(got, reference, wanted)
            else:
                distance = hard_example_identity(got, reference, wanted, settings.hard_weight)
            weighted = (weight * distance).mean()
            losses["identity"] = settings.identity_weight * weighted
        return losses

    def _condition(
        self, model: IconFaceModel, degraded: Tensor, references: Tensor
    ) -> tuple[Condition, Tensor]:
        """The condition on the person, and the anchors (B, E) in it."""
        count, views = references.shape[:2]
        if not views:
            with torch.no_grad():
                anchors = F.normalize(self._embed(degraded), dim=1)
            return Condition(anchors, model.network.without_references(count)), anchors
        with torch.no_grad():
            pictures = references.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            embeddings = self._embed(pictures).reshape(count, views, -1)
            # Clearest first, as in the restorer.
            order = embeddings.norm(dim=2).argsort(dim=1, descending=True)
            embeddings = embeddings.gather(1, order[:, :, None].expand_as(embeddings))
            tokens = model.autoencoder.tokens(model.autoencoder.encode(pictures)[0])
            tokens = tokens.reshape(count, views, *tokens.shape[1:])
            tokens = tokens.gather(1, order[:, :, None, None].expand_as(tokens))
            anchors = torch.stack([identity_anchor(each) for each in embeddings])
        return Condition(anchors, model.network.remember(tokens, embeddings)), anchors

    @staticmethod
    def _draft_anchors(references: Tensor, anchors: Tensor) -> Tensor:
        """The anchors of `fast` for its drafts: those of references only."""
        return anchors if references.shape[1] else torch.zeros_like(anchors)

    def _embed(self, pictures: Tensor) -> Tensor:
        """Raw embeddings (B, E) of aligned pictures, the mirrored view averaged in; differentiable."""
        view = recogniser_view(pictures).contiguous(memory_format=torch.channels_last)
        embeddings: Tensor = (self.encoder(view) + self.encoder(view.flip(3))) / 2
        return embeddings

    def _references(self, index: int, stranger: bool, views: int, random: np.random.Generator) -> Tensor:
        """float32 (R, 3, S, S), views of the person of a picture, or of a stranger."""
        if not views:
            return torch.zeros(0, 3, CROP_PX, CROP_PX, device=self.device)
        person = int(random.choice(self.targets.indices)) if stranger else index
        partners = self.partners[person]
        chosen = [int(random.choice(partners)) if len(partners) else person for _ in range(views)]
        pictures = [np.asarray(self.faces.pictures[one]) for one in chosen]
        return other_views(pictures, random).to(self.device)

    def _sigmas(self, count: int, random: np.random.Generator) -> NDArray[np.float32]:
        drawn = 1 / (1 + np.exp(-random.standard_normal(count)))
        pure = random.random(count) < self.settings.pure_noise
        sigmas = np.where(pure, 1, np.maximum(drawn, self.settings.lowest_sigma))
        return sigmas.astype(np.float32)

    @torch.inference_mode()
    def sheet(self, network: nn.Module) -> Picture | None:
        """Rows of degraded; restored in one step without and with two references, in four with; reference; target."""
        assert isinstance(network, IconFaceModel)
        random = np.random.default_rng(self.seed + 1)
        shape, autoencoder = self.settings.shape, network.autoencoder
        noise = fixed_noise(SEED, shape.rows**2, shape.channels)
        rows: list[Tensor] = []
        indices = self.targets.draw(random, 6)
        pairs = self.source.pairs(indices, torch.zeros(6, 2, dtype=torch.int64), CROP_PX, list(range(6)))
        for place, index in enumerate(indices):
            degraded = pairs.degraded[place : place + 1]
            references = self._references(int(index), False, 2, random)
            alone, _ = self._condition(network, degraded, references[None, :0])
            view, _ = self._condition(network, degraded, references[None])
            columns = [degraded]
            for views, steps in (((), 1), ((view,), 1), ((view,), 4)):
                settings = replace(IconFaceSettings(), steps=steps)
                start = noise.to(degraded)
                shown = references[None] if views else references[None, :0]
                draft = network.drafted(degraded, self._draft_anchors(shown, view.anchors))
                latents, features = autoencoder.encode(draft)
                tokens = sample(network.network, start, autoencoder.tokens(latents), alone, views, settings)
                columns.append(network.decoded(tokens, features))
            rows.append(torch.cat([*columns, references[:1], pairs.targets[place : place + 1]], 3))
        return to_picture(torch.cat(rows, 2)[0])


@dataclass(frozen=True, slots=True, eq=False)
class Rolled:
    """The end of a rollout."""

    before: Before
    """The last restoration, moved into the frame that is trained on."""
    restored: Tensor
    """float32 (B, 3, S, S) in [0, 1], the same where it was made."""
    step: Step


@torch.no_grad()
def rolled(
    model: IconFaceModel, steps: Sequence[Step], condition: Condition, anchors: Tensor, noise: Tensor
) -> Rolled | None:
    """The model's own restorations of `steps`, in one step each and with one `noise`, (B, N, C); None without steps.

    `anchors`: (B, E), of the person, for `fast`. Without gradients.
    """
    result: Rolled | None = None
    for step in steps:
        before = None if result is None else result.before
        latents, features = model.autoencoder.encode(model.drafted(step.degraded, anchors, before))
        sigma = noise.new_ones(len(noise))
        degraded = model.autoencoder.tokens(latents)
        direction = velocity(model.network, noise, sigma, degraded, replace(condition, before=before))
        restored = model.decoded(cleaned(noise, direction, sigma), features, before).clamp(0, 1)
        result = Rolled(model.before(moved(restored, step.measured).clamp(0, 1), step.gate), restored, step)
    return result


def begun(
    clean: Tensor, degraded: Tensor, noise: Tensor, sigma: Tensor, before: Before | None
) -> tuple[Tensor, Tensor]:
    """Scenes (B, N, C) at `sigma`, (B,), and the noise that lies between them and the clean face.

    Of the clean face; or, where the face before is known, as a restorer begins then: what is noised is the previous
    face where it holds, and the degraded one elsewhere.
    """
    if before is None:
        return noised(clean, noise, sigma), noise
    scene = noised(before.mixed(degraded), noise, sigma)
    return scene, clean + (scene - clean) / sigma[:, None, None]
