"""What a restorer's batch is made of: pairs of degraded and target windows, and other views of the person.

A window is a part of an aligned crop, cut, moved, toned and degraded in batch on the training device. It is degraded
with a margin around it, so that blur and blocks come in from outside as they do in a whole crop, and what lies far
away need not be computed.

Other views are references, or are embedded for anchors as uncertain as in use. Where the set has one picture of a
person only, a view is the same picture turned, stretched and lit otherwise, so strongly that copying it cannot be the
answer.

Shapes: N faces of a set, B windows, K kept views of each face, R references, S side of the crop, W side of a window,
D width of an embedding.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.degradation.batch import degrade_batch, degrade_by_kind
from models.degradation.film import tone
from models.degradation.kernels import Draws
from models.degradation.stills import CodedFaces
from models.pictures import Picture, recogniser_view, to_floats
from models.recogniser import Encoder
from models.training.dataset import Faces

KINDS = (0.56, 0.16, 0.16, 0.04, 0.08)
"""Chances of the free course, moderate, severe, untouched, and of a real video stream made beforehand."""
_CODED = 4
_MARGIN_PX = 40
"""At a crop of 512: the reach of the widest common blur."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Windows of one batch."""

    degraded: Tensor
    """float32 (B, 3, W, W) in [0, 1]."""
    targets: Tensor
    """float32 (B, 3, W, W) in [0, 1]."""


class PairSource:
    """Makes pairs out of a set of faces, which rests as uint8: on an accelerator, or as the memory map."""

    def __init__(self, faces: Faces, device: torch.device, coded: CodedFaces | None = None) -> None:
        """`coded`: pictures of these faces after video coding; without them the free course takes their part."""
        self.device = device
        self._coded = coded
        self._coded_at: dict[int, list[int]] = {}
        for position, face in enumerate(coded.targets.tolist() if coded else []):
            self._coded_at.setdefault(face, []).append(position)
        self.side_px = int(faces.pictures.shape[1])
        self._mapped = faces.pictures
        self._resident: Tensor | None = None
        if device.type != "cpu":
            self._resident = torch.from_numpy(np.ascontiguousarray(faces.pictures)).to(device)

    def pairs(self, indices: NDArray[np.int64], corners: Tensor, window_px: int, seeds: list[int]) -> Pairs:
        """The windows at `corners`, int64 (B, 2), x and y in the crop, of the faces `indices`.

        A function of the arguments alone; no window depends on its neighbours.
        """
        wide_px, wide_corners = self._widened(corners, window_px)
        targets = tone(self._moved(self.pictures(indices), wide_corners, wide_px, seeds), seeds)
        draws = Draws(seeds, "degraded")
        kind, strength = draws.choice(KINDS), draws.uniform()
        streams = [self._coded_at.get(index, []) for index in indices.tolist()]
        kind[(kind == _CODED) & np.array([not each for each in streams])] = 0
        degraded = degrade_by_kind(targets, kind, strength, seeds, self.side_px)
        for place in np.flatnonzero(kind == _CODED).tolist():
            position = streams[place][int(strength[place] * len(streams[place]))]
            one = [seeds[place]]
            moved = self._moved(self._stream(position), wide_corners[place : place + 1], wide_px, one)
            degraded[place : place + 1] = tone(moved, one)
        places = (corners - wide_corners).tolist()
        cut = [
            torch.stack(
                [
                    picture[:, top : top + window_px, left : left + window_px]
                    for picture, (left, top) in zip(pictures, places, strict=True)
                ]
            ).contiguous(memory_format=torch.channels_last)
            for pictures in (degraded, targets)
        ]
        return Pairs(cut[0], cut[1])

    def degraded_again(self, targets: Tensor, noise_seeds: list[int], seeds: list[int]) -> Tensor:
        """Windows `targets` after the courses that `pairs` takes with `seeds`, with other noise: other frames.

        A picture that came out of a real video stream takes the free course instead.
        """
        draws = Draws(seeds, "degraded")
        kind, strength = draws.choice(KINDS), draws.uniform()
        kind = np.where(kind == _CODED, 0, kind)
        return degrade_by_kind(targets, kind, strength, seeds, self.side_px, noise_seeds)

    def _widened(self, corners: Tensor, window_px: int) -> tuple[int, Tensor]:
        margin = _MARGIN_PX * self.side_px // 512
        wide_px = min(self.side_px, window_px + 2 * margin)
        return wide_px, (corners - margin).clamp(0, self.side_px - wide_px)

    def pictures(self, indices: NDArray[np.int64]) -> Tensor:
        """Whole faces, float32 (B, 3, S, S) in [0, 1]."""
        if self._resident is not None:
            chosen = self._resident[torch.from_numpy(indices).to(self.device)]
        else:
            chosen = torch.from_numpy(np.stack([self._mapped[index] for index in indices]))
        return to_floats(chosen)

    def _stream(self, position: int) -> Tensor:
        """One coded picture, float32 (1, 3, S, S) in [0, 1]."""
        assert self._coded is not None
        picture = torch.from_numpy(np.array(self._coded.pictures[position])).to(self.device)
        return to_floats(picture[None])

    def _moved(self, pictures: Tensor, corners: Tensor, window_px: int, seeds: list[int]) -> Tensor:
        """Windows of `pictures` after mirroring and, for every second one, the small motions of inexact landmarks."""
        draws = Draws(seeds, "moved")
        mirrored, moved = draws.uniform() < 0.5, draws.uniform() < 0.5
        angle = np.radians(8.0 * (draws.uniform() + draws.uniform() - 1)) * moved
        scale = np.exp(0.1 * (draws.uniform() + draws.uniform() - 1) * moved)
        shift = [(draws.uniform() + draws.uniform() - 1) * 0.03 * moved for _ in range(2)]
        pictures = torch.where(_flags(mirrored, pictures), pictures.flip(3), pictures)
        windows = pictures.new_empty(len(pictures), 3, window_px, window_px)
        for place, (left, top) in enumerate(corners.tolist()):
            windows[place] = pictures[place, :, top : top + window_px, left : left + window_px]
        chosen = np.flatnonzero(moved)
        if len(chosen):
            index = torch.from_numpy(chosen).to(self.device)
            cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
            rows = np.stack([cosine, -sine, shift[0], sine, cosine, shift[1]], 1)[chosen].reshape(-1, 2, 3)
            grid = self._grid(torch.from_numpy(rows).float(), corners[torch.from_numpy(chosen)], window_px)
            windows[index] = F.grid_sample(
                pictures[index],
                grid.to(self.device),
                mode="bicubic",
                padding_mode="reflection",
                align_corners=False,
            ).clamp_(0, 1)
        return windows

    def _grid(self, matrices: Tensor, corners: Tensor, window_px: int) -> Tensor:
        """Where each pixel of the windows lies in the crop, in [-1, 1], after `matrices` (B, 2, 3)."""
        along = torch.arange(window_px) + 0.5
        x = (along[None] + corners[:, :1]) * (2 / self.side_px) - 1  # (B, W)
        y = (along[None] + corners[:, 1:]) * (2 / self.side_px) - 1
        size = (len(corners), window_px, window_px)
        points = torch.stack([x[:, None].expand(size), y[:, :, None].expand(size), torch.ones(size)], -1)
        return torch.einsum("bij,bhwj->bhwi", matrices, points)


def _flags(values: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)[:, None, None, None]


VIEW_STRENGTHS = (0.0, 0.25, 0.6)
"""How strongly the K kept views of a picture are degraded before they are embedded."""


def other_views(pictures: list[Picture], random: np.random.Generator) -> Tensor:
    """One view of another moment for each picture, at times a little degraded: float32 (R, 3, S, S) in [0, 1]."""
    views = np.stack([another_view(picture, random) for picture in pictures])
    tensor = to_floats(views)
    strengths = random.uniform(0, 0.25, len(pictures)) * (random.random(len(pictures)) < 0.5)
    seeds = [int(seed) for seed in random.integers(2**62, size=len(pictures))]
    some = np.flatnonzero(strengths)
    if len(some):
        chosen = [seeds[place] for place in some]
        tensor[some] = degrade_batch(tensor[some], chosen, strengths[some], pictures[0].shape[0])
    return tensor.contiguous(memory_format=torch.channels_last)


def another_view(picture: Picture, random: np.random.Generator) -> Picture:
    """`picture` as a view of another moment: turned, stretched, lit otherwise."""
    side = picture.shape[0]
    view = _moved(picture, random, angle=6, scale=0.08, shift_px=6)
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    pulled = corners + random.normal(0, 0.04 * side, (4, 2)).astype(np.float32)
    view = cv2.warpPerspective(
        view,
        cv2.getPerspectiveTransform(corners, pulled),
        (side, side),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.uint8)
    return _lit(_toned(view, random, 0.8, 0.1), random)


def _moved(
    picture: Picture, random: np.random.Generator, *, angle: float, scale: float, shift_px: float
) -> Picture:
    """Mirrored at times, turned and moved by normal amounts about the middle of the face."""
    side = picture.shape[0]
    image: NDArray[Any] = picture[:, ::-1] if random.random() < 0.5 else picture
    degrees, size = random.normal(0, angle), float(np.exp(random.normal(0, scale)))
    matrix: NDArray[Any] = cv2.getRotationMatrix2D((side / 2, side * 0.58), degrees, max(size, 0.85))
    matrix[:, 2] += random.normal(0, shift_px * side / 256, 2)
    return cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.uint8)


def _toned(picture: Picture, random: np.random.Generator, often: float, grey: float) -> Picture:
    """Exposure, black point and colour of the light; at times black-and-white."""
    values: NDArray[Any] = picture.astype(np.float32)
    if random.random() < grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
    if random.random() < often:
        gain = random.uniform(0.7, 1.2) * random.uniform(0.93, 1.07, 3).astype(np.float32)
        values = values * gain + random.uniform(-8, 12)
    codes: Picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return codes


def _lit(picture: Picture, random: np.random.Generator) -> Picture:
    """Light from one side, and a contrast of its own."""
    side = picture.shape[0]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    direction, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 0.3)
    light = 1 + strength * (np.cos(direction) * x + np.sin(direction) * y)
    values = (picture / 255.0) ** random.uniform(0.75, 1.35) * light[:, :, None]
    codes: Picture = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return codes


def embedded_views(
    encoder: Encoder,
    path: Path,
    source: PairSource,
    faces: Faces,
    cache: Path,
    strengths: tuple[float, ...] = VIEW_STRENGTHS,
) -> Tensor:
    """Raw embeddings, float32 (N, K, D), of each picture's clean and degraded views, made once and kept in `cache`.

    `path`: the checkpoint of `encoder`, whose content names the file. `source`: pictures of `faces`. `strengths`: how
    strongly each of the K views is degraded.
    """
    trained = hashlib.sha256(path.read_bytes()).hexdigest()
    text = f"{trained} {faces.folder} {faces.files} {strengths} 2"
    stored = cache / f"embedded_{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
    if not stored.exists():
        count = len(faces.files)
        embeddings = np.empty((count, len(strengths), encoder.shape.embedding), np.float32)
        for start in range(0, count, 32):
            indices = np.arange(start, min(start + 32, count))
            embeddings[indices] = _embed(encoder, source.pictures(indices), indices.tolist(), strengths)
        part = stored.with_suffix(f".{os.getpid()}.part.npy")
        np.save(part, embeddings)
        part.replace(stored)
    return torch.from_numpy(np.load(stored))


@torch.inference_mode()
def _embed(
    encoder: Encoder, pictures: Tensor, seeds: list[int], strengths: tuple[float, ...]
) -> NDArray[np.float32]:
    answers: list[Tensor] = []
    for strength in strengths:
        views = degrade_batch(pictures, seeds, strength, pictures.shape[-1]) if strength else pictures
        crops = recogniser_view(views).contiguous(memory_format=torch.channels_last)
        answers.append(encoder(crops))
    result: NDArray[np.float32] = torch.stack(answers, 1).cpu().numpy()
    return result
