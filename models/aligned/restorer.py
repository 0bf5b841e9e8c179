"""`AlignedRestorer`: lays the person's own views and the frames beside it onto each face and restores it in one pass;
keeps no state.

Shapes: R references, V views that are laid on, S side of a crop, P dense points, D width of an embedding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.aligned.network import NEIGHBOUR, REFERENCE, AlignedNetwork, AlignedShape
from models.aligned.warp import similarity_residual, warp_views
from models.landmarks import DenseLandmarks, DensePoints
from models.packing import pack_convolutions
from models.precision import Mixed
from models.protocols import Needs, Neighbour, Recogniser, References, Request, Result
from models.quality import ramp
from models.recogniser import EmbeddedRecogniser, LikenessMeter, identity_anchor
from models.weights import Checkpoint, CheckpointError, load_embedded

CROP_PX = 256
CROP_SIZES = (CROP_PX, 2 * CROP_PX)
MOST_NEIGHBOURS = 4
_SURE, _UNSURE = 0.012, 0.035
"""Sigma of a point, as a share of the crop's side, up to which it is trusted fully and from which not at all."""
_RESEMBLANCE = (0.15, 0.35)
"""Cosine of a degraded face to the anchor of its references up to which they show somebody else, and from which they
show the person: .33 and more for 95 % of severely degraded portraits, below .35 for 90 % of strangers."""
_KEPT_POINTS = 256
"""Views whose points are kept: more than the people of a scene have together."""


@dataclass(frozen=True, slots=True, eq=False)
class _Views:
    """What is laid onto one crop, in the order of the network's inputs."""

    pictures: Tensor
    """float32 (V, 3, S, S) in [0, 1]."""
    confidence: Tensor
    """float32 (V, 1, S, S) in [0, 1]."""
    kinds: Tensor
    """float32 (V,) of `REFERENCE` and `NEIGHBOUR`."""
    anchor: Tensor
    """float32 (D,), unit length or shorter."""


@dataclass(frozen=True, slots=True)
class AlignedSettings:
    """How `aligned` uses references."""

    most_views: int = 3
    """V, the maximum number of references that are warped onto a face, nearest in pose and expression first. The first
    gives two thirds of the gain, more than three give nothing (ReF-LDM, arXiv 2412.05043)."""

    def __post_init__(self) -> None:
        if self.most_views < 1:
            raise ValueError(f"most_views must be at least 1, got {self.most_views}")


class AlignedRestorer:
    """Restores aligned faces of 256 or 512 pixels with the embedded network."""

    def __init__(
        self,
        checkpoint: Checkpoint | None = None,
        device: str | torch.device = "cpu",
        crop_size: int = CROP_PX,
        precision: torch.dtype = torch.float32,
        landmarks: DenseLandmarks | None = None,
        recogniser: Recogniser | None = None,
        settings: AlignedSettings | None = None,
    ) -> None:
        """Raises `CheckpointError` for weights of another network, `ValueError` for a `crop_size` it is not for.

        `precision`: of the convolutions. `landmarks`: finds the dense points, `recogniser`: tells a stranger's
        references from the person's; None = the embedded networks.
        """
        if crop_size not in CROP_SIZES:
            raise ValueError(f"crop_size must be one of {CROP_SIZES}, got {crop_size}")
        self.settings = settings or AlignedSettings()
        self.device = torch.device(device)
        self.needs = Needs(crop_size, neighbours=MOST_NEIGHBOURS, device=self.device)
        self.network = build_aligned(checkpoint or load_embedded("aligned"))
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._landmarks = landmarks or DenseLandmarks(device=self.device)
        self._likeness = LikenessMeter(recogniser or EmbeddedRecogniser(device=self.device))
        if self.device.type == "cpu":
            crop = torch.zeros(1, 3, crop_size, crop_size)
            one = torch.zeros(1, 1, 1, crop_size, crop_size)
            pack_convolutions(self.network, crop, crop[:, None], one, torch.zeros(1, 1), precision=precision)
        self._run = Mixed(self.network, precision if self.device.type != "cpu" else torch.float32)
        # Points of views, found once: the same view always has the same points. The view is kept beside them, so that
        # its id stays its own.
        self._points: OrderedDict[int, tuple[Tensor, DensePoints]] = OrderedDict()

    @torch.inference_mode()
    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises `ValueError` for crops or embeddings of another form.

        The requests go one by one on a CPU, so that a result is the same to the bit in any company; on a GPU those
        with the same number of views form a batch.
        """
        for request in requests:
            _check(request.crop, self.needs.crop_size)
        if self.device.type == "cpu":
            return [self._batch([request])[0] for request in requests]
        results: dict[int, Result] = {}
        by_count: dict[tuple[int, bool], list[int]] = {}
        for place, request in enumerate(requests):
            count = min(len(request.references), self.settings.most_views), bool(request.neighbours)
            by_count.setdefault(count, []).append(place)
        for places in by_count.values():
            results |= dict(zip(places, self._batch([requests[place] for place in places]), strict=True))
        return [results[place] for place in range(len(requests))]

    def _batch(self, requests: Sequence[Request]) -> list[Result]:
        """Results of requests with the same number of references and of neighbours."""
        crops = torch.stack([request.crop for request in requests]).to(self.device).float().div_(255)
        inputs: list[Tensor] = [crops.contiguous(memory_format=torch.channels_last)]
        views = [self._views(request) for request in requests]
        if len(views[0].kinds):
            inputs += [torch.stack([getattr(one, part) for one in views]) for part in _Views.__slots__]
        restored: Tensor = self._run(*inputs)  # (B, 3, S, S)
        images = restored.float().mul_(255).round_().clamp_(0, 255).to(torch.uint8).contiguous().cpu()
        return [Result(image) for image in images]

    def _views(self, request: Request) -> _Views:
        """What is laid onto the crop of `request`: its references, then one view made of its neighbours."""
        side = self.needs.crop_size
        pictures, sure = torch.zeros(0, 3, side, side), torch.zeros(0, 1, side, side)
        anchor = torch.zeros(self.network.shape.anchor)
        if len(request.references):
            # A stranger's views and anchor have no part in the result.
            trust = ramp(self._likeness.resemblance(request.crop, request.references), _RESEMBLANCE)
            pictures, sure = self._laid_onto(request.crop, request.references)
            sure, anchor = sure * trust, self._anchor(request.references) * trust
        kinds = torch.full((len(pictures),), REFERENCE)
        if request.neighbours:
            beside, gate = _mean(request.neighbours, self.device)
            pictures = torch.cat([pictures.to(self.device), beside[None]])
            sure = torch.cat([sure.to(self.device), gate[None]])
            kinds = torch.cat([kinds, torch.tensor([NEIGHBOUR])])
        return _Views(pictures, sure, kinds.to(self.device), anchor.to(self.device))

    def _laid_onto(self, crop: Tensor, references: References) -> tuple[Tensor, Tensor]:
        """The nearest views of `references` laid onto `crop`, (V, 3, S, S), and their confidence, (V, 1, S, S)."""
        face = self._landmarks.find(crop[None])
        found = [self._points_of(view) for view in references.crops]
        points = torch.stack([one.points[0] for one in found])
        chosen = nearest_views(face.points[0], points, self.settings.most_views)
        pictures = torch.stack([_sized(references.crops[k], self.needs.crop_size) for k in chosen])
        certainty = certainty_of(face.sigma, self.needs.crop_size).expand(len(chosen), -1)
        return warp_views(
            pictures.to(self.device).float().div_(255),
            torch.stack([found[k].points[0] for k in chosen]).to(self.device),
            face.points.expand(len(chosen), -1, -1).to(self.device),
            certainty.to(self.device),
        )

    def _points_of(self, view: Tensor) -> DensePoints:
        """Points of a reference, in pixels of the restorer's own crop."""
        key = id(view)
        if key not in self._points:
            found = self._landmarks.find(view[None])
            scale = self.needs.crop_size / view.shape[-1]
            scaled = DensePoints((found.points + 0.5) * scale - 0.5, found.sigma * scale)
            self._points[key] = view, scaled
            if len(self._points) > _KEPT_POINTS:
                self._points.popitem(last=False)
        return self._points[key][1]

    def _anchor(self, references: References) -> Tensor:
        """The identity anchor; zero where the embeddings are not those of the embedded encoder."""
        width = self.network.shape.anchor
        if references.embeddings.shape[1] != width:
            return torch.zeros(width)
        return identity_anchor(references.embeddings.float().cpu())


def build_aligned(checkpoint: Checkpoint) -> AlignedNetwork:
    """An `AlignedNetwork` in evaluation mode from a checkpoint that carries its shape."""
    parameters: dict[str, Any] = dict(checkpoint.parameters)
    try:
        network = AlignedNetwork(AlignedShape(**parameters))
        network.load_state_dict(checkpoint.state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: not the weights of an `aligned` restorer") from error
    return network.eval().requires_grad_(False)


def nearest_views(face: Tensor, views: Tensor, most: int) -> list[int]:
    """Places of at most `most` of `views`, (R, P, 2), nearest to `face`, (P, 2), in pose and expression."""
    distances = similarity_residual(views, face.expand(len(views), -1, -1))
    return [int(place) for place in distances.argsort()[:most]]


def certainty_of(sigma: Tensor, side: int) -> Tensor:
    """How far points are trusted, in [0, 1], from their sigma in pixels of a crop of `side`."""
    return ((_UNSURE - sigma / side) / (_UNSURE - _SURE)).clamp(0, 1)


def _mean(neighbours: Sequence[Neighbour], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean of `neighbours` where they hold, float32 (3, S, S) in [0, 1], and its confidence, (1, S, S).

    It has less noise than each of them, and costs the network one view.
    """
    pictures = torch.stack([each.image for each in neighbours]).to(device).float().div_(255)
    gates = torch.stack([each.gate for each in neighbours])[:, None].to(device)
    shares = gates.clamp_min(1e-4)
    return (pictures * shares).sum(0) / shares.sum(0), gates.amax(0)


def _sized(view: Tensor, side: int) -> Tensor:
    """uint8 (3, S, S) of a view of any side."""
    if view.shape[-1] == side:
        return view
    scaled = torch.nn.functional.interpolate(
        view[None].float(), size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return scaled[0].round_().clamp_(0, 255).to(torch.uint8)


def _check(crop: Tensor, side: int) -> None:
    if crop.dtype != torch.uint8 or tuple(crop.shape) != (3, side, side):
        raise ValueError(f"crop must be uint8 (3, {side}, {side}), got {crop.dtype} {tuple(crop.shape)}")
