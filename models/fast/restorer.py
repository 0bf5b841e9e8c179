"""`FastRestorer`: one pass, no state; a result depends on its request alone.

Shapes: B requests, R references, D width of an embedding, S = 192, 256 or 512.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from models.engine import Engine, EngineConfig
from models.engine_builders import Run
from models.fast.network import CROP_PX, FastNetwork, FastShape
from models.packing import pack_convolutions
from models.pictures import recogniser_crop, to_codes, to_floats
from models.precision import Mixed
from models.protocols import Needs, References, Request, Result, check_crop, check_previous
from models.recogniser import EmbeddedRecogniser, identity_anchor
from models.weights import Checkpoint, built, load_embedded

CROP_SIZES = (192, CROP_PX, 2 * CROP_PX)
SMALLER = {2 * CROP_PX: CROP_PX, CROP_PX: 192}
"""The crop size to fall back to where time is short. Of the gradient energy that the network adds to a face, 192 keeps
about four fifths and 128 a third; they take .68 and .47 of the time of 256."""
_KEPT_ANCHORS = 64
_REDUCTIONS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class FastSettings:
    """How `fast` runs."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    """How its network is run on a GPU."""


class FastRestorer:
    """Restores aligned faces of 256 or 512 pixels, or in less time of 192, with the embedded network."""

    def __init__(
        self,
        checkpoint: Checkpoint | None = None,
        device: str | torch.device = "cpu",
        crop_size: int = CROP_PX,
        engine: EngineConfig | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Raises `CheckpointError` for weights of another network, `ValueError` for a `crop_size` it is not for.

        `engine`: how the network runs on a GPU, None = eagerly; ignored on a CPU. `precision`: of the convolutions;
        their result is added to the crop in float32.
        """
        if crop_size not in CROP_SIZES:
            raise ValueError(f"crop_size must be one of {CROP_SIZES}, got {crop_size}")
        self.device = torch.device(device)
        self.precision = precision
        self.network = build_fast(checkpoint or load_embedded("fast"))
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.needs = Needs(crop_size, previous=self.network.shape.previous, device=self.device)
        self._run: Run = self.network
        if self.device.type == "cpu":
            example = [torch.zeros(1, 3, crop_size, crop_size), torch.zeros(1, self.network.shape.anchor)]
            if self.needs.previous:
                example.append(torch.zeros(1, 4, crop_size, crop_size))
            pack_convolutions(self.network, *example, precision=precision)
        elif engine is None:
            self._run = Mixed(self.network, precision)
        else:
            samples = sample_inputs(crop_size, self.network.shape.anchor, previous=self.needs.previous)
            on_device = [tensor.to(self.device) for tensor in samples]
            self._run = Engine(self.network, on_device, engine, eager_precision=precision)
        self._encoder: EmbeddedRecogniser | None = None
        # By the ids of the crops, which are kept beside the anchor so that their ids stay theirs.
        self._own_anchors: dict[tuple[int, ...], tuple[tuple[Tensor, ...], Tensor]] = {}

    @torch.inference_mode()
    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises `ValueError` for crops or embeddings of another form.

        On a CPU the requests go one by one: two cores are busy with one crop already, and the result is then
        the same to the bit in any company. On a GPU they form one batch, equal within one code value.
        """
        for request in requests:
            check_crop(request.crop, self.needs.crop_size)
            check_previous(request)
        size = len(requests) if self.device.type != "cpu" else 1
        results: list[Result] = []
        for start in range(0, len(requests), max(size, 1)):
            results += self._batch(requests[start : start + size])
        return results

    def _batch(self, requests: Sequence[Request]) -> list[Result]:
        crops = torch.stack([request.crop for request in requests]).to(self.device).float().div_(255)
        anchors = torch.stack([self._anchor(request.references) for request in requests]).to(self.device)
        inputs = [crops.contiguous(memory_format=torch.channels_last), anchors]
        if self.needs.previous:
            inputs.append(torch.stack([_previous(request) for request in requests]).to(self.device))
        restored = self._run(*inputs)  # (B, 3, S, S)
        return [Result(image) for image in to_codes(restored).contiguous().cpu()]

    def _anchor(self, references: References) -> Tensor:
        width = self.network.shape.anchor
        if len(references) == 0:
            return torch.zeros(width)
        if references.embeddings.shape[1] == width:
            return identity_anchor(references.embeddings.float().cpu())
        return self._own_anchor(references)

    def _own_anchor(self, references: References) -> Tensor:
        """The anchor from the crops, where the embeddings are another recogniser's."""
        key = tuple(id(crop) for crop in references.crops)
        if key not in self._own_anchors:
            if self._encoder is None:
                self._encoder = EmbeddedRecogniser(device=self.device)
            if len(self._own_anchors) >= _KEPT_ANCHORS:
                self._own_anchors.pop(next(iter(self._own_anchors)))
            embeddings = self._encoder.embed(
                torch.stack([recogniser_crop(crop) for crop in references.crops])
            )
            self._own_anchors[key] = references.crops, identity_anchor(embeddings)
        return self._own_anchors[key][1]


def build_fast(checkpoint: Checkpoint) -> FastNetwork:
    """A `FastNetwork` in evaluation mode. Raises `CheckpointError` for the weights of something else."""
    return built(checkpoint, lambda shape: FastNetwork(FastShape(**shape)), "a `fast` restorer")


def _previous(request: Request) -> Tensor:
    """The previous restoration and its gate, (4, S, S) in [0, 1]; a closed gate where there is none."""
    previous = request.previous
    if previous is None:
        return torch.zeros(4, *request.crop.shape[1:])
    return torch.cat([previous.image.float().div(255), previous.gate[None]])


def sample_inputs(side: int, anchor: int, *, previous: bool = False) -> tuple[Tensor, ...]:
    """Crops, float32 (8, 3, side, side) in [0, 1], RGB, and identity anchors, float32 (8, anchor).

    With `previous` also what was restored before, (8, 4, side, side): the clear face, behind a gate that is open on
    the left.

    The face is Eileen Collins in NASA's picture (public domain, part of scikit-image), roughly aligned. Reduced
    up to eightfold and enlarged again; the second half has random anchors of unit length. The same at each call.
    """
    from skimage.data import astronaut

    picture = astronaut()[56:206, 146:296]  # type: ignore[no-untyped-call]
    face = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    crops = []
    for reduction in _REDUCTIONS:
        small = cv2.resize(face, (side // reduction, side // reduction), interpolation=cv2.INTER_AREA)
        crops.append(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR))
    pictures = to_floats(np.stack(crops))
    draws = torch.randn(len(crops), anchor, generator=torch.Generator().manual_seed(0))
    anchors = torch.cat([torch.zeros_like(draws), torch.nn.functional.normalize(draws)])
    inputs = [pictures.repeat(2, 1, 1, 1), anchors]
    if previous:
        gate = (torch.arange(side) < side // 2).float().expand(8, 1, side, side)
        inputs.append(torch.cat([pictures[:1].expand(8, -1, -1, -1), gate], 1))
    return tuple(inputs)
