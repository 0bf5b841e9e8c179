"""`IconFaceRestorer`: a face restored from its own degraded crop and from clear views of the person.

Shapes: B requests, R references, E width of an embedding, S side of a crop.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.iconface.conditions import Before
from models.iconface.model import build_iconface
from models.iconface.network import stack
from models.iconface.requests import ReferenceRestorer, images_of
from models.iconface.sampling import Condition, fixed_noise, sample
from models.iconface.settings import SEED, IconFaceSettings
from models.packing import pack_convolutions
from models.precision import computing, lower_weights
from models.protocols import Needs, References, Request, Result
from models.recogniser import identity_anchor
from models.weights import Checkpoint, load_embedded

_MOST = 0.6
"""Share of a face that the previous one must hold for, if the way shall begin at it."""


class IconFaceRestorer(ReferenceRestorer[tuple[Condition, ...]]):
    """Restores aligned faces with 0 to N references; the shipped weights take crops of 256 pixels."""

    def __init__(
        self,
        checkpoint: Checkpoint | None = None,
        device: str | torch.device = "cpu",
        settings: IconFaceSettings | None = None,
        precision: torch.dtype = torch.float32,
        seed: int = SEED,
    ) -> None:
        """`precision`: of matrix products and convolutions; noise and velocities stay in float32. `seed`: of the noise
        from which all faces start: the same place of every face starts alike, so video is steady.

        Raises `CheckpointError` where there are no shipped weights or `checkpoint` holds something else.
        """
        self.settings = settings or IconFaceSettings()
        self.model = build_iconface(checkpoint or load_embedded("iconface"))
        shape = self.model.network.shape
        super().__init__(16 * shape.rows, device)
        self.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = precision
        if self.device.type == "cpu" and self.model.draft is not None:
            side, width = self._crop_size, self.model.draft.shape.anchor
            example = torch.zeros(1, 3, side, side), torch.zeros(1, width)
            pack_convolutions(self.model.draft, *example, precision=precision)
        lower_weights(self.model, precision, keep=[self.model.autoencoder.decoder.leave])
        self.noise = fixed_noise(seed, shape.rows**2, shape.channels).to(self.device)
        self._sees_before = shape.previous and self.settings.previous_group

    @property
    def needs(self) -> Needs:
        """As the settings say, and `kept` on a CPU alone: on a GPU faces of one track would leave its batches."""
        return replace(
            super().needs,
            previous=self._sees_before or self.settings.previous_sigma < 1,
            kept=self.settings.most_change > 0 and self.device.type == "cpu",
        )

    def _batch(self, requests: list[Request]) -> list[Result]:
        with computing(self.device, self.precision):
            return self._restored(requests)

    def _restored(self, requests: list[Request]) -> list[Result]:
        network, autoencoder = self.model.network, self.model.autoencoder
        kept = [self._known(request.references) if len(request.references) else () for request in requests]
        anchors = [
            F.normalize(torch.stack([view.anchors for view in views]).sum(0), dim=1)
            if views
            else torch.zeros(1, network.shape.embedding, device=self.device)
            for views in kept
        ]
        crops = self._pictures([request.crop for request in requests])
        before = self._before(requests)
        seen = before if self._sees_before else None
        latents, features = autoencoder.encode(self.model.drafted(crops, torch.cat(anchors), seen))
        degraded = autoencoder.tokens(latents)
        if (answer := self._answer(requests, degraded)) is not None:
            images = images_of(self.model.decoded(degraded + answer, features))
            return [Result(images[0], requests[0].kept)]
        own = F.normalize(self._embeddings([request.crop for request in requests]), dim=1)
        alone = Condition(own, network.without_references(len(requests)), seen)
        views = [
            Condition(torch.cat([view.anchors for view in each]), stack([view.memory for view in each]), seen)
            for each in zip(*kept, strict=True)
        ]
        known = before.mixed(degraded) if before is not None and self._starts_late(requests[0]) else None
        tokens = sample(network, self._noise(requests), degraded, alone, views, self.settings, known)
        images = images_of(self.model.decoded(tokens, features, seen))
        if not self.needs.kept:
            return [Result(image) for image in images]
        keeps = torch.stack([degraded, tokens - degraded], 1).float()  # (B, 2, N, C)
        return [Result(image, each) for image, each in zip(images, keeps, strict=True)]

    def _answer(self, requests: list[Request], degraded: Tensor) -> Tensor | None:
        """What the transformer would add to `degraded` tokens (1, N, C), if they are nearly those of the face before.

        The whole answer, not that of the blocks after the first, which FBCache (of ParaAttention) takes: it costs
        less, and is as near here, where no noise changes from one face to the next.
        """
        kept = requests[0].kept
        if kept is None or not self.needs.kept or len(requests) > 1 or requests[0].previous is not None:
            return None
        if kept.shape != (2, *degraded.shape[1:]):
            return None  # another restorer's
        before, answer = kept[:1], kept[1:]
        change = float((degraded.float() - before).abs().mean() / before.abs().mean().clamp_min(1e-6))
        return answer if change <= self.settings.most_change else None

    def _kind(self, request: Request) -> Hashable:
        return super()._kind(request), request.previous is None, self._starts_late(request)

    def _starts_late(self, request: Request) -> bool:
        """Whether the way to a face begins at the previous one: it is not new, turned or uncovered for the most."""
        if request.previous is None or self.settings.previous_sigma == 1:
            return False
        return bool(request.previous.gate.mean() >= _MOST)

    def _before(self, requests: list[Request]) -> Before | None:
        previous = [request.previous for request in requests if request.previous is not None]
        if not previous or not self.needs.previous:
            return None
        gates = torch.stack([each.gate for each in previous])[:, None].to(self.device)
        return self.model.before(self._pictures([each.image for each in previous]), gates)

    def _noise(self, requests: list[Request]) -> Tensor:
        if not self.settings.own_noise:
            return self.noise
        shape = self.model.network.shape
        seeds = [zlib.crc32(request.crop.numpy().tobytes()) for request in requests]
        return torch.cat([fixed_noise(seed, shape.rows**2, shape.channels) for seed in seeds]).to(self.device)

    def _worked_out(self, references: References) -> tuple[Condition, ...]:
        """The conditions that a set of references gives."""
        network, autoencoder = self.model.network, self.model.autoencoder
        crops, embeddings = self._clearest(references, network.shape.embedding)
        latents, _ = autoencoder.encode(self._pictures(crops))
        tokens = autoencoder.tokens(latents)  # (R, N, C)
        one_each = self.settings.average_references
        groups = [[index] for index in range(len(crops))] if one_each else [list(range(len(crops)))]
        return tuple(
            Condition(
                identity_anchor(embeddings[group])[None],
                network.remember(tokens[group][None], embeddings[group][None]),
            )
            for group in groups
        )
