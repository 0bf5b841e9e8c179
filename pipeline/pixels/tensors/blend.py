"""`blend.blend` for all faces of a frame at once, on a device: the same differences, added to the same samples.

Legend: S side of a crop, N faces, P planes, h w a rectangle of a plane.
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.frames import RestoredFace, RestoredFrame
from pipeline.media.coding import Coding, coding_of, planes_of
from pipeline.pixels.blend import (
    LUMA,
    BlendConfig,
    crop_mask,
    feather_px,
    giving_way,
    grain_level,
    grain_place,
    grain_seed,
    strength_of,
)
from pipeline.pixels.colour import copy_frame
from pipeline.pixels.tensors.grain import Ground, grain_for
from pipeline.pixels.tensors.layers import Layer, add, layers_of, onto_planes
from pipeline.pixels.tensors.surface import Box, download_surface, upload_surface
from pipeline.pixels.tensors.transfer import Transfer

_SMALL = 32
"""Side of the picture in which wide areas are measured, see `blend.py`."""
_KEPT_MASKS = 32


class Blender:
    """Puts restored faces back on a device; belongs to one stage."""

    def __init__(self, device: torch.device) -> None:
        self._transfer = Transfer(device)
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._areas: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.inference_mode()
    def blend(self, frame: RestoredFrame, config: BlendConfig) -> av.VideoFrame:
        """The picture of `frame` with its restored faces; the decoder's own frame object where nothing changes."""
        native = frame.tracked.frame.native
        faces = [face for face in frame.faces if strength_of(face, config) > 0]
        if not faces:
            return native
        coding, planes = coding_of(native), planes_of(native)[:3]
        size = int(faces[0].tracked.crop.shape[-1])
        layers = layers_of(coding, planes, [face.tracked.matrix for face in faces], size)
        if not any(layer.places for layer in layers):
            return native
        grounds = _grounds(native, faces, config)
        with self._transfer.stream():
            surface = upload_surface(planes, _boxes(layers, grounds, coding, len(planes)), self._transfer)
            delta, mask, weight = self._differences(faces, config, monochrome=frame.tracked.monochrome)
            coarse = self._coarse(faces, config, delta, weight)
            grain = grain_for(grounds, surface, coding, delta, weight, coarse, config.grain, self._transfer)
            for layer in layers:
                images = torch.cat([mask[None], _codes(delta, coding, layer.planes)])
                if coarse is not None and layer.has_grain:
                    images = _with_coarse(images, coarse, coding, layer.planes)
                changes = onto_planes(images, layer, self._transfer)
                add(changes, layer, surface, grain if layer.has_grain else {}, 1 / coding.luma_scale)
            # Copied while the device computes.
            fresh = copy_frame(native)
            download_surface(surface, planes_of(fresh)[:3], self._transfer)
        return fresh

    def _differences(
        self, faces: Sequence[RestoredFace], config: BlendConfig, *, monochrome: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be added, float32 (N, 3, S, S) RGB, the mask (N, S, S), and the weights it was weighted by."""
        upload = self._transfer.upload
        shape = (len(faces), *faces[0].tracked.crop.shape)
        degraded = upload([face.tracked.crop.numpy() for face in faces]).view(shape).float()
        delta = upload([face.image.numpy() for face in faces]).view(shape).float() - degraded
        mask = torch.stack([self._mask(face, config) for face in faces])
        if any(face.free is not None for face in faces):
            everywhere = np.ones(shape[2:], np.float32)
            free = [everywhere if face.free is None else face.free.numpy() for face in faces]
            mask = mask * upload(free).view(mask.shape)
        if monochrome:
            red, green, blue = (delta[:, i] * float(LUMA[i]) for i in range(3))
            # A grey difference touches no colour plane.
            delta = (red + green + blue)[:, None].expand(shape)
        if config.colour_match:
            delta = delta - config.colour_match * self._wide_area(delta, mask)
        strengths = upload([np.array([strength_of(face, config) for face in faces], np.float32)])
        weight = mask * strengths[:, None, None]
        return delta * weight[:, None], mask, weight

    def _coarse(
        self, faces: Sequence[RestoredFace], config: BlendConfig, delta: Tensor, weight: Tensor
    ) -> Tensor | None:
        """`Patch.coarse` of all faces, float32 (N, 4, S, S); None where everything stays that is finer than a crop."""
        away = np.array([giving_way(face.tracked, config) for face in faces], np.float32)
        if not away.any():
            return None
        shares = self._transfer.upload([away])[:, None, None] * weight
        # A restorer that changes nothing changes no sample.
        shares = shares * (delta != 0).flatten(1).any(1)[:, None, None]
        shape = (len(faces), *faces[0].tracked.crop.shape)
        degraded = self._transfer.upload([face.tracked.crop.numpy() for face in faces]).view(shape).float()
        return torch.cat([degraded, torch.ones_like(degraded[:, :1])], 1) * shares[:, None]

    def _mask(self, face: RestoredFace, config: BlendConfig) -> Tensor:
        size = int(face.tracked.crop.shape[-1])
        key = size, feather_px(face.tracked.matrix, size, config)
        if key not in self._masks:
            if len(self._masks) == _KEPT_MASKS:
                del self._masks[next(iter(self._masks))]
            self._masks[key] = self._transfer.upload([crop_mask(*key)]).view(size, size)
        return self._masks[key]

    def _wide_area(self, delta: Tensor, mask: Tensor) -> Tensor:
        """The part of `delta` that changes only over a third of the face, measured inside the mask."""
        size = int(mask.shape[-1])
        if size not in self._areas:
            narrow, widen = (self._transfer.upload([matrix]) for matrix in wide_area_matrices(size))
            self._areas[size] = narrow.view(_SMALL, size), widen.view(size, _SMALL)
        narrow, widen = self._areas[size]
        # In double, which no setting for quicker products of floats (TF32) touches.
        part = narrow @ (delta * mask[:, None]).double() @ narrow.T
        area = (narrow @ mask.double() @ narrow.T).clamp(min=1e-3)
        return (widen @ (part / area[:, None]) @ widen.T).float()


def wide_area_matrices(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `blend.py` does to measure wide areas, as products: (32, S) shrinks and blurs columns, (S, 32) enlarges.

    Both are OpenCV's own answers to unit vectors.
    """
    shrunk = cv2.resize(np.eye(size), (size, _SMALL), interpolation=cv2.INTER_AREA)
    sigma = _SMALL / 6
    blurred = cv2.GaussianBlur(shrunk, (1, round(8 * sigma + 1) | 1), sigma)
    enlarged = cv2.resize(np.eye(_SMALL), (_SMALL, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(blurred, np.float64), np.asarray(enlarged, np.float64)


def _codes(delta: Tensor, coding: Coding, planes: range) -> Tensor:
    """`delta` as differences of codes of `planes`, float32 (P, N, S, S)."""
    rows = [coding.from_rgb[plane] for plane in planes]
    return torch.stack([sum(delta[:, i] * float(row[i]) for i in range(3)) for row in rows])  # type: ignore[misc]


def _with_coarse(images: Tensor, coarse: Tensor, coding: Coding, planes: range) -> Tensor:
    """`images` (1 + P, N, S, S), the mask and differences of codes, with codes of `coarse`, and its weight last."""
    weight = coarse[:, 3]
    codes = _codes(coarse, coding, planes) + weight * coding.luma_offset
    return torch.cat([images[:1], images[1:] + codes, weight[None]])


def _grounds(native: av.VideoFrame, faces: Sequence[RestoredFace], config: BlendConfig) -> list[Ground]:
    """Where grain may be missing."""
    grounds = []
    for number, face in enumerate(faces):
        tracked, level = face.tracked, grain_level(face.tracked, config)
        box = grain_place(native, tracked.matrix, int(tracked.crop.shape[-1])) if level else None
        if box is not None:
            seed = grain_seed(native.pts, tracked.track_id, config.seed)
            grounds.append(Ground(number, box, tracked.matrix, seed, level))
    return grounds


def _boxes(
    layers: Sequence[Layer], grounds: Sequence[Ground], coding: Coding, planes: int
) -> list[list[Box]]:
    """What is wanted of each plane."""
    boxes: list[list[Box]] = [[] for _ in range(planes)]
    for layer in layers:
        for plane in layer.planes:
            boxes[plane] += [place.box for place in layer.places.values()]
    for plane in range(planes if coding.kind == "rgb" else 1):
        boxes[plane] += [ground.box for ground in grounds]
    return boxes
