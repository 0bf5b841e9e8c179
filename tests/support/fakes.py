"""Stand-ins for the learned parts, so that tests of the pipeline are quick and exact."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.align import FFHQ_512
from models.protocols import Face, Needs, References, Request, Result
from pipeline.frames import Frame, TrackedFace, TrackedFrame

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU's oneDNN has no bfloat16"
)


class InvertingRestorer:
    """Turns a crop into its negative: any place it touches shows."""

    def __init__(self, crop_size: int = 64) -> None:
        self.needs = Needs(crop_size)
        self.batches: list[int] = []

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.batches.append(len(requests))
        return [Result(255 - request.crop) for request in requests]


class IdentityRestorer(InvertingRestorer):
    """Changes nothing."""

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.batches.append(len(requests))
        return [Result(request.crop.clone()) for request in requests]


class SofteningRestorer(InvertingRestorer):
    """Turns a crop into the negative of a soft copy."""

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        soft = [torch.nn.functional.avg_pool2d(request.crop.float(), 3, 1, 1) for request in requests]
        return [Result(255 - crop.round().to(torch.uint8)) for crop in soft]


class SquareDetector:
    """Finds bright squares on a dark ground: their corners' middles stand for a face's landmarks."""

    def __init__(self, threshold: int = 180) -> None:
        self.threshold = threshold
        self.calls = 0

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        import cv2

        self.calls += 1
        bright = (image.max(-1) > self.threshold).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
        faces = []
        for left, top, width, height, area in stats[1:count]:
            if area < 60:
                continue
            box = np.array([left, top, left + width, top + height], np.float32)
            faces.append(Face(box, square_landmarks(box), 0.9))
        return faces


def square_landmarks(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Landmarks of a face that fills `box` (x0 y0 x1 y1)."""
    centre, side = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
    return ((FFHQ_512 - np.array([256, 300])) / 300 * side + centre).astype(np.float32)


class ColourRecogniser:
    """The mean colour of a crop is the identity."""

    name = "colour"
    same_person = 0.95
    clear_norm = 0.0

    def embed(self, crops: Tensor) -> Tensor:
        centre = crops[:, :, 40:90, 30:80].float().mean((2, 3))
        return 20 * torch.nn.functional.normalize(centre - centre.mean(1, keepdim=True) * 0.8, dim=1)


def gray_frame(index: int, size: tuple[int, int] = (96, 96), level: int = 90) -> Frame:
    """A flat 4:2:0 frame; `size` is width, height."""
    width, height = size
    native = av.VideoFrame(width, height, "yuv420p")
    for number, plane in enumerate(native.planes):
        plane.update(np.full(plane.buffer_size, level if number == 0 else 128, np.uint8).tobytes())
    native.pts, native.time_base = index, Fraction(1, 25)
    return Frame(index, index, Fraction(1, 25), native)


def tracked_face(
    track_id: int = 1, *, size: int = 64, strength: float = 1.0, reason: str = ""
) -> TrackedFace:
    """A face in the middle of a 96x96 frame."""
    matrix = np.array([[1, 0, -16], [0, 1, -16]], np.float32)
    landmarks = ((FFHQ_512 + 0.5) * size / 512 - 0.5 + 16).astype(np.float32)
    crop = torch.full((3, size, size), 90, dtype=torch.uint8)
    face = Face(np.array([20, 20, 76, 76], np.float32), landmarks, 0.9)
    return TrackedFace(track_id, track_id, face, crop, matrix, References(), strength, reason)


def tracked_frame(index: int, faces: Sequence[TrackedFace]) -> TrackedFrame:
    """A flat frame with the given faces."""
    return TrackedFrame(gray_frame(index), tuple(faces), monochrome=False)
