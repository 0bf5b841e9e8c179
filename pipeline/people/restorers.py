"""Several restorers as one: each face goes to the one that the user wants for its person.

Legend: S side of a crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from torch import Tensor

from models.protocols import (
    Previous,
    References,
    Request,
    Restorer,
    Result,
    uses_kept,
    uses_previous,
    uses_references,
)
from pipeline.stages.views import resized


class Restorers:
    """A restorer made of restorers. All take crops of one size, the largest that one of them asks for."""

    def __init__(self, usual: Restorer | None, others: Mapping[str, Restorer]) -> None:
        """`usual`: for faces for which no other is wanted; None where no such face comes."""
        self._others = dict(others)
        self._usual = usual
        everyone = [*([usual] if usual is not None else []), *self._others.values()]
        self.crop_size = max(restorer.crop_size for restorer in everyone)
        self.uses_references = any(map(uses_references, everyone))
        self.uses_previous = any(map(uses_previous, everyone))
        self.uses_kept = any(map(uses_kept, everyone))
        self.device = getattr(everyone[0], "device", torch.device("cpu"))
        # Of views that many requests share, kept as long as somebody holds the whole set.
        self._smaller: dict[int, WeakKeyDictionary[References, References]] = {}

    def restorer_of(self, name: str) -> Restorer | None:
        """Who restores faces with this `Request.restorer`. Raises KeyError for a name that was not given."""
        return self._others[name] if name else self._usual

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises KeyError for the name of a restorer that was not given."""
        results: list[Result | None] = [None] * len(requests)
        for name in dict.fromkeys(request.restorer for request in requests):
            places = [place for place, request in enumerate(requests) if request.restorer == name]
            restorer = self.restorer_of(name)
            assert restorer is not None
            restored = self._by(restorer, [requests[place] for place in places])
            for place, result in zip(places, restored, strict=True):
                results[place] = result
        return [result for result in results if result is not None]

    def _by(self, restorer: Restorer, requests: Sequence[Request]) -> list[Result]:
        size = restorer.crop_size
        if size == self.crop_size:
            return restorer.restore(requests)
        small = [
            Request(
                resized(r.crop, size),
                self._resized(r.references, size),
                _smaller(r.previous, size),
                kept=r.kept,
            )
            for r in requests
        ]
        results = restorer.restore(small)
        return [
            Result(_changed(request.crop, asked.crop, result.image), result.kept)
            for request, asked, result in zip(requests, small, results, strict=True)
        ]

    def _resized(self, references: References, size: int) -> References:
        known = self._smaller.setdefault(size, WeakKeyDictionary())
        if references not in known:
            crops = tuple(resized(crop, size) for crop in references.crops)
            known[references] = References(
                crops, references.embeddings, references.version, references.sources
            )
        return known[references]


def _smaller(previous: Previous | None, size: int) -> Previous | None:
    if previous is None:
        return None
    gate = cv2.resize(previous.gate.numpy(), (size, size), interpolation=cv2.INTER_AREA)
    return Previous(resized(previous.image, size), torch.from_numpy(gate))


def _changed(crop: Tensor, small: Tensor, restored: Tensor) -> Tensor:
    """`crop`, uint8 (3, S, S), with the change from `small` to `restored`, both of another side: what the smaller
    crop could not hold stays as it is in the film."""
    change = restored.numpy().transpose(1, 2, 0).astype(np.float32) - small.numpy().transpose(1, 2, 0)
    side = crop.shape[-1]
    change = cv2.resize(change, (side, side), interpolation=cv2.INTER_CUBIC)
    image = crop.numpy().transpose(1, 2, 0) + change
    return torch.from_numpy(image.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
