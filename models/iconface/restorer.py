"""`IconFaceRestorer`: a face restored from its own degraded crop and from clear views of the person.

Shapes: B requests, R references, E width of an embedding, S side of a crop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.align import ffhq_to_arcface
from models.iconface.anchor import identity_anchor
from models.iconface.model import build_iconface
from models.iconface.network import stack
from models.iconface.sampling import Condition, SamplingSettings, fixed_noise, sample
from models.protocols import References, Request, Result
from models.recogniser import CROP_PX, EmbeddedRecogniser
from models.weights import Checkpoint, load_embedded

MOST_REFERENCES = 3
"""As many as in training; of more, the clearest are taken."""
_KEPT_SETS = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """What was worked out of one set of references; holds its crops, so that their ids stay theirs."""

    crops: tuple[Tensor, ...]
    views: tuple[Condition, ...]


class IconFaceRestorer:
    """Restores aligned faces with 0 to N references; the shipped weights take crops of 256 pixels."""

    def __init__(
        self,
        checkpoint: Checkpoint | None = None,
        device: str | torch.device = "cpu",
        settings: SamplingSettings | None = None,
    ) -> None:
        """Raises `CheckpointError` where there are no shipped weights or `checkpoint` holds something else."""
        self.device = torch.device(device)
        self.settings = settings or SamplingSettings()
        self.model = build_iconface(checkpoint or load_embedded("iconface"))
        self.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = self.model.network.shape
        self.crop_size = 16 * shape.rows
        self.noise = fixed_noise(self.settings.seed, shape.rows**2, shape.channels).to(self.device)
        self._encoder = EmbeddedRecogniser(device=self.device)
        self._kept: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()

    @torch.inference_mode()
    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises `ValueError` for crops of another form.

        On a CPU the requests go one by one, so that the result is the same to the bit in any company. On a GPU
        those with equally many references form one batch.
        """
        for request in requests:
            for crop in (request.crop, *request.references.crops):
                self._check(crop)
        results: list[Result | None] = [None] * len(requests)
        for group in self._groups(requests):
            for index, image in zip(group, self._batch([requests[index] for index in group]), strict=True):
                results[index] = Result(image)
        return [result for result in results if result is not None]

    def _groups(self, requests: Sequence[Request]) -> list[list[int]]:
        if self.device.type == "cpu":
            return [[index] for index in range(len(requests))]
        groups: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(min(len(request.references), MOST_REFERENCES), []).append(index)
        return list(groups.values())

    def _batch(self, requests: list[Request]) -> list[Tensor]:
        network, autoencoder = self.model.network, self.model.autoencoder
        crops = self._pictures([request.crop for request in requests])
        latents, features = autoencoder.encode(crops)
        own = self._embeddings([request.crop for request in requests])
        alone = Condition(F.normalize(own, dim=1), network.without_references(len(requests)))
        kept = [self._views(request.references) for request in requests]
        views = [
            Condition(torch.cat([view.anchors for view in each]), stack([view.memory for view in each]))
            for each in zip(*kept, strict=True)
        ]
        tokens = sample(network, self.noise, autoencoder.tokens(latents), alone, views, self.settings)
        restored = autoencoder.decode(autoencoder.latents(tokens, network.shape.rows), features)
        images = restored.mul_(255).round_().clamp_(0, 255).to(torch.uint8).contiguous().cpu()
        return list(images)

    def _views(self, references: References) -> tuple[Condition, ...]:
        """The conditions that a set of references gives, worked out once for the set."""
        if not len(references):
            return ()
        key = (references.version, *(id(crop) for crop in references.crops))
        if key not in self._kept:
            if len(self._kept) >= _KEPT_SETS:
                self._kept.popitem(last=False)
            self._kept[key] = _Kept(references.crops, self._worked_out(references))
        self._kept.move_to_end(key)
        return self._kept[key].views

    def _worked_out(self, references: References) -> tuple[Condition, ...]:
        network, autoencoder = self.model.network, self.model.autoencoder
        embeddings = references.embeddings.float()
        if embeddings.shape[1] != network.shape.embedding:
            # They are of another recogniser's space.
            embeddings = self._embeddings(list(references.crops))
        # Clearest first, so that the order in which they were found does not matter.
        order = embeddings.norm(dim=1).argsort(descending=True, stable=True)[:MOST_REFERENCES].tolist()
        latents, _ = autoencoder.encode(self._pictures([references.crops[index] for index in order]))
        tokens = autoencoder.tokens(latents)  # (R, N, C)
        ordered = embeddings[order].to(self.device)
        one_each = self.settings.average_references
        groups = [[index] for index in range(len(order))] if one_each else [list(range(len(order)))]
        return tuple(
            Condition(
                identity_anchor(ordered[group])[None],
                network.remember(tokens[group][None], ordered[group][None]),
            )
            for group in groups
        )

    def _embeddings(self, crops: list[Tensor]) -> Tensor:
        """Raw embeddings, float32 (B, E), of aligned crops."""
        matrix = ffhq_to_arcface(self.crop_size)
        faces = [
            cv2.warpAffine(crop.permute(1, 2, 0).numpy(), matrix, (CROP_PX, CROP_PX), flags=cv2.INTER_AREA)
            for crop in crops
        ]
        embeddings = self._encoder.embed(torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2))
        return embeddings.to(self.device)

    def _pictures(self, crops: list[Tensor]) -> Tensor:
        return torch.stack(crops).to(self.device).float().div_(255)

    def _check(self, crop: Tensor) -> None:
        size = self.crop_size
        if crop.dtype != torch.uint8 or tuple(crop.shape) != (3, size, size):
            raise ValueError(f"crop must be uint8 (3, {size}, {size}), got {crop.dtype} {tuple(crop.shape)}")
