"""Training of the tiny autoencoder: latents of the teacher, pictures out of imperfect latents.

Most batches hold parts of crops; every third holds a quarter as many whole crops, which alone go to the teacher:
its normalisation looks at whole pictures. The decoder gets the features of the degraded crop, or of its draft,
beside the target's latents, which are often drawn towards the degraded ones, as a restorer's latents are never
exact: so it learns what to take from where.

Shapes: B pictures, H W pixels, C latent channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.iconface.shape import pack
from models.iconface.tiny_autoencoder import TinyAutoencoder
from models.pictures import Picture, to_picture
from models.training.dataset import load_targets
from models.training.fixed_networks import Taef2, load_draft, load_perceptual
from models.training.losses import charbonnier, texture
from models.training.pairs import PairSource
from models.training.settings import AutoencoderSettings

CROP_PX = 256
CELL_PX = 16


@dataclass(frozen=True, slots=True, eq=False)
class AutoencoderBatch:
    """Parts of crops, or whole crops."""

    degraded: Tensor
    """float32 (B, 3, H, W) in [0, 1]; drafts of the degraded crops where the recipe has them."""
    targets: Tensor
    """float32 (B, 3, H, W) in [0, 1]."""
    inexact: Tensor
    """float32 (B,), how far the latents are drawn towards the degraded ones."""
    taught_degraded: Tensor
    """bool (B,), whether the teacher is asked about the degraded picture or the target."""
    blind: Tensor
    """bool (), whether the decoder does without the degraded crop."""


class AutoencoderTask:
    """Batches, losses, network and sheets of the autoencoder for `loop.train`."""

    def __init__(
        self, settings: AutoencoderSettings, faces: Path, cache: Path, seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.device = device
        self.faces, self.targets = load_targets(faces, CROP_PX, cache, settings.smallest_true_px)
        self.source = PairSource(self.faces, device)
        self.teacher = Taef2(settings.teacher).to(device)
        self.perceptual = load_perceptual(settings.perceptual, device)
        self.draft = load_draft(settings.draft, device)

    def network(self) -> TinyAutoencoder:
        """A fresh network that knows the statistics of the teacher's latents."""
        network = TinyAutoencoder(self.settings.shape)
        indices = self.targets.indices
        seen = indices[np.linspace(0, len(indices) - 1, min(32, len(indices))).astype(int)]
        with torch.inference_mode():
            tokens = [
                pack(self.teacher.encode(self.source.pictures(seen[k : k + 1]))) for k in range(len(seen))
            ]
        flat = torch.cat(tokens).flatten(0, 1).clone()  # (B * N, 4C)
        network.mean, network.deviation = flat.mean(0).cpu(), flat.std(0).cpu()
        return network

    def critic(self) -> None:
        """None: nothing here is adversarial."""

    def parameters(self) -> dict[str, object]:
        """What rebuilds the network, for the checkpoint's header."""
        return asdict(self.settings.shape)

    def batch(self, images_seen: int, batch_size: int) -> AutoencoderBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number."""
        settings, random = self.settings, np.random.default_rng((self.seed, images_seen))
        whole = (images_seen // batch_size) % settings.whole_every == 0
        size = CROP_PX if whole else settings.part_px
        count = max(1, batch_size // 4) if whole else batch_size
        indices = self.targets.draw(random, count)
        corners = torch.from_numpy(random.integers(0, (CROP_PX - size) // CELL_PX + 1, (count, 2)) * CELL_PX)
        seeds = [int(seed) for seed in random.integers(2**62, size=count)]
        pairs = self.source.pairs(indices, corners, size, seeds)
        drawn = (random.random(count) < settings.inexact) * random.uniform(0, settings.farthest, count)
        return AutoencoderBatch(
            self._drafted(pairs.degraded, corners),
            pairs.targets,
            torch.from_numpy(drawn.astype(np.float32)).to(self.device),
            torch.from_numpy(random.random(count) < 0.5).to(self.device),
            torch.tensor(random.random() < settings.blind),
        )

    @torch.no_grad()
    def _drafted(self, degraded: Tensor, corners: Tensor) -> Tensor:
        """What stands for `degraded`, parts (B, 3, H, W) at `corners`: their drafts where the recipe has them."""
        if self.draft is None:
            return degraded
        no_anchor = degraded.new_zeros(len(degraded), self.draft.shape.anchor)
        drafts: Tensor = self.draft(degraded, no_anchor, corners=corners.to(self.device))
        return drafts.clamp(0, 1)

    def losses(
        self, network: nn.Module, critic: nn.Module | None, batch: AutoencoderBatch
    ) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted."""
        assert isinstance(network, TinyAutoencoder)
        settings = self.settings
        latents, _ = network.encode(batch.targets)
        degraded, features = network.encode(batch.degraded)
        inexact = latents + batch.inexact[:, None, None, None] * (degraded.detach() - latents)
        restored = network.decode(inexact, None if batch.blind else features)
        losses = {
            "pixel": charbonnier(restored, batch.targets),
            "texture": settings.texture_weight * texture(restored, batch.targets),
        }
        if self.perceptual is not None:
            seen = max(1, round(settings.perceptual_part * len(restored)))
            distance = self.perceptual(restored[:seen], batch.targets[:seen])
            losses["perceptual"] = settings.perceptual_weight * distance
        if batch.targets.shape[-1] == CROP_PX:
            asked = batch.taught_degraded[:, None, None, None]
            with torch.no_grad():
                wanted = self.teacher.encode(torch.where(asked, batch.degraded, batch.targets))
            got = torch.where(asked, degraded, latents)
            losses["latent"] = settings.latent_weight * F.mse_loss(got, wanted) / wanted.var()
        return losses

    @torch.inference_mode()
    def sheet(self, network: nn.Module) -> Picture | None:
        """Rows of degraded or its draft, the target decoded without and with it, it decoded, target."""
        assert isinstance(network, TinyAutoencoder)
        random = np.random.default_rng(self.seed + 1)
        indices = self.targets.draw(random, 6)
        corners = torch.zeros(6, 2, dtype=torch.int64)
        pairs = self.source.pairs(indices, corners, CROP_PX, list(range(6)))
        degraded = self._drafted(pairs.degraded, corners)
        latents, _ = network.encode(pairs.targets)
        own, features = network.encode(degraded)
        decoded = [network.decode(*given) for given in ((latents,), (latents, features), (own, features))]
        rows = torch.cat([degraded, *decoded, pairs.targets], 3)
        return to_picture(torch.cat(list(rows), 1))
