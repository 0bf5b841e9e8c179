"""Training of `iconface`: the velocity between noise and the sharp face, given the degraded one and references.

All samples of a batch have equally many references, so that no padding is computed. The autoencoder's encoder
stays as it is, or latents would drift; its decoder may learn on, as it meets latents that are guesses.

Shapes: B faces, R references, S = 256, N tokens of a picture, C their channels, E width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.iconface.anchor import identity_anchor
from models.iconface.losses import (
    anchored_identity,
    flow_matching,
    hard_example_identity,
    noise_weight,
)
from models.iconface.model import IconFaceModel, build_autoencoder
from models.iconface.network import IconFaceShape, start_small
from models.iconface.sampling import (
    Condition,
    SamplingSettings,
    cleaned,
    fixed_noise,
    noised,
    sample,
    velocity,
)
from models.recogniser import build_encoder
from models.training.dataset import load_faces
from models.training.degrade import Picture
from models.training.losses import PerceptualLoss, charbonnier, texture
from models.training.pairs import another_view, degraded_pair, to_pictures, to_tensor
from models.training.views import recogniser_view
from models.weights import load_checkpoint

CROP_PX = 256


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """What is special to the recipe of `iconface`."""

    autoencoder: Path = Path("autoencoder.safetensors")
    """Checkpoint of the trained autoencoder."""
    encoder: Path = Path("encoder.safetensors")
    """Checkpoint of the identity encoder: anchors and identity terms."""
    perceptual: Path | None = None
    """Pruned VGG-19 for the perceptual term; without it the term is left out."""
    references: tuple[float, ...] = (0.3, 0.3, 0.2, 0.2)
    """How often a batch has 0, 1, 2 ... references (IConFace's supplement)."""
    stranger: float = 0.08
    """Part of the samples whose references show somebody else."""
    no_degraded: float = 0.02
    """Part of the batches that do not see the degraded face: what image guidance is measured from."""
    pure_noise: float = 0.5
    """Part of the samples at sigma = 1, where a restorer of one step works; the others' logit is normal."""
    lowest_sigma: float = 0.2
    """No step of few starts below, and a velocity told from a clean face grows without bound there."""
    smallest_true_px: int = 192
    soft_weight: float = 0.2
    """How often a picture below 256 true pixels is drawn, against 1 for the others."""
    flow_weight: float = 0.75
    identity_weight: float = 0.3
    identity: Literal["iconface", "refid"] = "iconface"
    """Whose identity term: IConFace's with its adaptive mix, or RefID's with a fixed one."""
    hard_weight: float = 0.5
    """RefID's share of the reference."""
    decoded_part: float = 0.5
    """Part of each batch that is decoded for the terms on pictures."""
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.05
    texture_weight: float = 0.001
    decoder_learns: bool = True
    shape: IconFaceShape = field(default_factory=IconFaceShape)


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
    """bool (B,), whose references show somebody else."""
    noise: Tensor
    """float32 (B, N, C)."""
    sigma: Tensor
    """float32 (B,)."""
    blind: Tensor
    """bool (), whether the degraded face is left out."""


class FlowTask:
    """Batches, losses, network and sheets of `iconface` for `loop.train`."""

    def __init__(self, settings: FlowSettings, faces: Path, cache: Path, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.faces = load_faces(faces, CROP_PX, cache)
        self.indices = self.faces.targets(settings.smallest_true_px)
        weights = np.where(self.faces.true_px[self.indices] >= CROP_PX, 1.0, settings.soft_weight)
        self.chances = weights / weights.sum()
        self.partners = self.faces.partners()
        self.autoencoder = build_autoencoder(load_checkpoint(settings.autoencoder))
        self.encoder = build_encoder(load_checkpoint(settings.encoder))
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.perceptual = PerceptualLoss(settings.perceptual) if settings.perceptual else None

    def network(self) -> IconFaceModel:
        """A fresh transformer beside the trained autoencoder."""
        model = IconFaceModel(self.settings.shape, self.autoencoder.shape)
        model.autoencoder.load_state_dict(self.autoencoder.state_dict())
        model.autoencoder.encoder.requires_grad_(False)
        model.autoencoder.decoder.requires_grad_(self.settings.decoder_learns)
        start_small(model.network)
        return model

    def parameters(self) -> dict[str, object]:
        """What rebuilds the model, for the checkpoint's header."""
        return IconFaceModel(self.settings.shape, self.autoencoder.shape).shapes()

    def batch(self, images_seen: int, batch_size: int) -> FlowBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number."""
        settings, random = self.settings, np.random.default_rng((self.seed, images_seen))
        views = int(random.choice(len(settings.references), p=settings.references))
        indices = random.choice(self.indices, batch_size, p=self.chances)
        pairs = [degraded_pair(np.asarray(self.faces.pictures[index]), random) for index in indices]
        strangers = random.random(batch_size) < (settings.stranger if views else 0)
        references = [
            self._references(int(index), bool(stranger), views, random)
            for index, stranger in zip(indices, strangers, strict=True)
        ]
        shape = settings.shape
        noise = random.standard_normal((batch_size, shape.rows**2, shape.channels), np.float32)
        return FlowBatch(
            to_tensor([degraded for degraded, _ in pairs]),
            to_tensor([target for _, target in pairs]),
            torch.stack(references),
            torch.from_numpy(strangers),
            torch.from_numpy(noise),
            torch.from_numpy(self._sigmas(batch_size, random)),
            torch.tensor(random.random() < settings.no_degraded),
        )

    def losses(self, network: nn.Module, batch: FlowBatch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted."""
        assert isinstance(network, IconFaceModel)
        settings, autoencoder = self.settings, network.autoencoder
        with torch.no_grad():
            clean = autoencoder.tokens(autoencoder.encode(batch.targets)[0])
            latents, features = autoencoder.encode(batch.degraded)
        condition, anchors = self._condition(network, batch.degraded, batch.references)
        scene = noised(clean, batch.noise, batch.sigma)
        degraded = None if batch.blind else autoencoder.tokens(latents)
        direction = velocity(network.network, scene, batch.sigma, degraded, condition)
        losses = {"flow": settings.flow_weight * flow_matching(direction, clean, batch.noise)}
        if batch.blind:
            return losses
        seen = slice(max(1, round(settings.decoded_part * len(scene))))
        guess = cleaned(scene, direction, batch.sigma)[seen]
        restored = autoencoder.decode(
            autoencoder.latents(guess, settings.shape.rows), (features[0][seen], features[1][seen])
        )
        return losses | self._picture_losses(restored, batch, anchors, seen)

    def _picture_losses(
        self, restored: Tensor, batch: FlowBatch, anchors: Tensor, seen: slice
    ) -> dict[str, Tensor]:
        """Terms on decoded pictures; the identity terms only where there are references (IConFace)."""
        settings, targets = self.settings, batch.targets[seen]
        losses = {
            "pixel": settings.pixel_weight * charbonnier(restored, targets),
            "texture": settings.texture_weight * texture(restored, targets),
        }
        if self.perceptual is not None:
            losses["perceptual"] = settings.perceptual_weight * self.perceptual(restored, targets)
        if batch.references.shape[1] and settings.identity_weight > 0:
            got = self._embed(restored)
            wanted = self._embed(targets).detach()
            # Nobody is drawn towards a stranger.
            reference = torch.where(batch.strangers[seen, None], F.normalize(wanted, dim=1), anchors[seen])
            if settings.identity == "iconface":
                distance = anchored_identity(got, reference, wanted)
            else:
                distance = hard_example_identity(got, reference, wanted, settings.hard_weight)
            weighted = (noise_weight(batch.sigma[seen]) * distance).mean()
            losses["identity"] = settings.identity_weight * weighted
        return losses

    def _condition(
        self, model: IconFaceModel, degraded: Tensor, references: Tensor
    ) -> tuple[Condition, Tensor]:
        """What the network is told of the person, and the anchors (B, E) in it."""
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

    def _embed(self, pictures: Tensor) -> Tensor:
        """Raw embeddings (B, E) of aligned pictures, the mirrored view averaged in; differentiable."""
        view = recogniser_view(pictures).contiguous(memory_format=torch.channels_last)
        embeddings: Tensor = (self.encoder(view) + self.encoder(view.flip(3))) / 2
        return embeddings

    def _references(self, index: int, stranger: bool, views: int, random: np.random.Generator) -> Tensor:
        """float32 (R, 3, S, S), views of the person of a picture, or of somebody else."""
        if not views:
            return torch.zeros(0, 3, CROP_PX, CROP_PX)
        person = int(random.choice(self.indices)) if stranger else index
        partners = self.partners[person]
        chosen = [int(random.choice(partners)) if len(partners) else person for _ in range(views)]
        return to_tensor([another_view(np.asarray(self.faces.pictures[one]), random) for one in chosen])

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
        noise = fixed_noise(SamplingSettings().seed, shape.rows**2, shape.channels)
        rows: list[Picture] = []
        for index in random.choice(self.indices, 6, p=self.chances):
            pair = degraded_pair(np.asarray(self.faces.pictures[index]), random)
            degraded = to_tensor([pair[0]])
            references = self._references(int(index), False, 2, random)
            alone, _ = self._condition(network, degraded, references[None, :0])
            view, _ = self._condition(network, degraded, references[None])
            latents, features = autoencoder.encode(degraded)
            pictures: list[Picture] = []
            for views, steps in (((), 1), ((view,), 1), ((view,), 4)):
                settings = replace(SamplingSettings(), steps=steps)
                tokens = sample(network.network, noise, autoencoder.tokens(latents), alone, views, settings)
                restored = autoencoder.decode(autoencoder.latents(tokens, shape.rows), features)
                pictures += to_pictures(restored)
            rows.append(np.concatenate([pair[0], *pictures, *to_pictures(references[:1]), pair[1]], 1))
        return np.concatenate(rows, 0)
