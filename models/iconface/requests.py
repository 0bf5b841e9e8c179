"""What restorers with references share: checks, batches, and results kept for each set of references.

Shapes: B requests, R references, E width of an embedding, S side of a crop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from models.pictures import recogniser_crop, to_codes
from models.protocols import Needs, References, Request, Result, check_crop, check_previous
from models.recogniser import EmbeddedRecogniser

MOST_REFERENCES = 3
"""As in training; of more, the clearest are taken."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Kept(Generic[T]):
    """A result for one set of references; holds its crops, so that their ids stay theirs."""

    crops: tuple[Tensor, ...]
    content: T


class ReferenceRestorer(ABC, Generic[T]):
    """Restores aligned faces with 0 to N references; T is what it computes from a set of references."""

    kept_sets = 8
    """Maximum number of sets of references whose results are kept."""

    def __init__(self, crop_size: int, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._crop_size = crop_size
        self._encoder = EmbeddedRecogniser(device=self.device)
        self._kept: OrderedDict[tuple[int, ...], _Kept[T]] = OrderedDict()

    @property
    def needs(self) -> Needs:
        """Crops of its size and references."""
        return Needs(self._crop_size, device=self.device)

    @torch.inference_mode()
    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises `ValueError` for crops of another form.

        On a CPU the requests go one by one, so that the result is the same to the bit in any company. On a GPU
        those that are alike, with equally many references, form one batch.
        """
        for request in requests:
            check_previous(request)
            for crop in (request.crop, *request.references.crops):
                check_crop(crop, self._crop_size)
        results: list[Result | None] = [None] * len(requests)
        for group in self._groups(requests):
            for index, result in zip(group, self._batch([requests[index] for index in group]), strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    @abstractmethod
    def _batch(self, requests: list[Request]) -> list[Result]:
        """The results of requests of one kind."""

    @abstractmethod
    def _worked_out(self, references: References) -> T:
        """What is kept of a set of references that is not empty."""

    def _groups(self, requests: Sequence[Request]) -> list[list[int]]:
        if self.device.type == "cpu":
            return [[index] for index in range(len(requests))]
        groups: dict[Hashable, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(self._kind(request), []).append(index)
        return list(groups.values())

    def _kind(self, request: Request) -> Hashable:
        """Requests of the same kind may form a batch."""
        return min(len(request.references), MOST_REFERENCES)

    def _known(self, references: References) -> T:
        """What `_worked_out` makes of a set of references, computed once for the set."""
        key = (references.version, *(id(crop) for crop in references.crops))
        if key not in self._kept:
            if len(self._kept) >= self.kept_sets:
                self._kept.popitem(last=False)
            self._kept[key] = _Kept(references.crops, self._worked_out(references))
        self._kept.move_to_end(key)
        return self._kept[key].content

    def _clearest(self, references: References, width: int) -> tuple[list[Tensor], Tensor]:
        """Crops and raw embeddings, float32 (R, `width`), clearest first and at most `MOST_REFERENCES`."""
        embeddings = references.embeddings.float()
        if embeddings.shape[1] != width:
            # They are of another recogniser's space.
            embeddings = self._embeddings(list(references.crops))
        # Sorted, so that the order in which they were found does not matter.
        order = embeddings.norm(dim=1).argsort(descending=True, stable=True)[:MOST_REFERENCES].tolist()
        return [references.crops[index] for index in order], embeddings[order].to(self.device)

    def _embeddings(self, crops: list[Tensor]) -> Tensor:
        """Raw embeddings, float32 (B, E), of aligned crops."""
        embeddings = self._encoder.embed(torch.stack([recogniser_crop(crop) for crop in crops]))
        return embeddings.to(self.device)

    def _pictures(self, crops: list[Tensor]) -> Tensor:
        """float32 (B, 3, S, S) in [0, 1]."""
        return torch.stack(crops).to(self.device).float().div_(255)


def images_of(pictures: Tensor) -> list[Tensor]:
    """uint8 (3, S, S) each, on the CPU, of `pictures`, float (B, 3, S, S), about [0, 1]."""
    return list(to_codes(pictures).contiguous().cpu())
