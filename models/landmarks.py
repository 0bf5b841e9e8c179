"""Where 478 points of a face lie in an aligned crop, and how far off each of them may be.

A small network says where a few anchors of the face may be, and a linear model of face shapes gives all points, so
that what is destroyed is placed by what can still be seen. A sigma for each point grows where nothing is known. The
network was taught to answer a degraded view with the points of the clean picture. The order of the points is that
of the face mesh of mediapipe with irises.

Shapes: N crops, S side of a crop, P = 478 points, A anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.packing import fold_norms, pack_convolutions
from models.weights import Checkpoint, CheckpointError, load_embedded

POINTS = 478
"""P."""
OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
"""The face oval, from the middle of the forehead towards the right of the picture and round."""
EYES = ((33, 133), (362, 263))
"""Corners of the eye on the left of the picture and of the one on the right."""
NOSE_TIP = 4
MOUTH_CORNERS = (61, 291)
"""On the left of the picture and on the right."""
VIEW_PX = 64
"""Side that crops are reduced to."""
CELLS = VIEW_PX // 4
"""Rows and columns of the anchors' maps."""
SMALLEST_CROP_PX = 32
MOMENTUM = 0.03
"""Of the statistics of normalisations: batches are small, and the averaged weights use them as they stand."""


@dataclass(frozen=True, slots=True, eq=False)
class DensePoints:
    """The points of N faces."""

    points: Tensor
    """float32 (N, P, 2) on the CPU, x y, pixel centres at integers, in pixels of the crops given; may lie outside."""
    sigma: Tensor
    """float32 (N, P) on the CPU, standard deviation along x and along y, in pixels of the crops given."""


@dataclass(frozen=True, slots=True)
class LandmarkShape:
    """What a `LandmarkNetwork` is built from; kept in the header of its checkpoint."""

    widths: tuple[int, ...] = (16, 40, 80, 112)
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the view."""
    depths: tuple[int, ...] = (0, 1, 2, 1)
    """Residual blocks at each of them."""
    joined: int = 48
    """Channels of the features that the maps are made from."""
    anchors: int = 64
    """A."""
    features: int = 96
    """Numbers that sigma, and what the anchors leave open, are read from."""
    spread: int = 24
    """Components of the logarithms of sigma."""


class DenseLandmarks:
    """The project's own dense landmarks, shipped with the package."""

    name = "dense-landmarks"

    def __init__(self, checkpoint: Checkpoint | None = None, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = build_landmarks(checkpoint or load_embedded("landmarks"))
        fold_norms(self.network)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            pack_convolutions(self.network, torch.zeros(1, 3, VIEW_PX, VIEW_PX))

    @torch.inference_mode()
    def find(self, crops: Tensor) -> DensePoints:
        """Points and sigmas of `crops`, uint8 (N, 3, S, S) RGB in the FFHQ alignment, on any device.

        S is 32 or more; nothing above 64 pixels is looked at. Raises `ValueError` for another shape or dtype.
        """
        side = crops.shape[-1] if crops.ndim == 4 else 0
        if crops.dtype != torch.uint8 or side < SMALLEST_CROP_PX or tuple(crops.shape[1:]) != (3, side, side):
            raise ValueError(
                f"crops must be uint8 (N, 3, S, S) with S of {SMALLEST_CROP_PX} or more, "
                f"got {crops.dtype} {tuple(crops.shape)}"
            )
        if len(crops) == 0:
            return DensePoints(torch.zeros(0, POINTS, 2), torch.zeros(0, POINTS))
        # Also where a caller computes in less: a point is a fraction of a pixel.
        with torch.autocast(self.device.type, enabled=False):
            places, log_sigma, _ = self.network(view_of(crops.to(self.device)))
        # From [-1, 1] between the outer edges of the crop to pixels.
        points = (places + 1) * (side / 2) - 0.5
        return DensePoints(points.cpu(), (log_sigma.exp() * (side / 2)).cpu())


def view_of(crops: Tensor) -> Tensor:
    """What the network sees of `crops`, uint8 (N, 3, S, S): float32 (N, 3, 64, 64) in [0, 1], channels last."""
    pictures = crops.float().div_(255)
    if pictures.shape[-1] != VIEW_PX:
        pictures = F.interpolate(
            pictures, (VIEW_PX, VIEW_PX), mode="bilinear", align_corners=False, antialias=True
        )
    return pictures.contiguous(memory_format=torch.channels_last)


def build_landmarks(checkpoint: Checkpoint) -> LandmarkNetwork:
    """A `LandmarkNetwork` in evaluation mode from a checkpoint that carries its shape."""
    parameters: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in checkpoint.parameters.items()
    }
    try:
        network = LandmarkNetwork(LandmarkShape(**parameters))
        network.load_state_dict(checkpoint.state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: not the weights of the dense landmarks") from error
    return network.eval().requires_grad_(False)


class LandmarkNetwork(nn.Module):
    """A small residual network that says where each of A anchors may be; a linear model of shapes gives the points.

    Each anchor is one of the points and has a map of chances over 16 x 16 cells. The maps are made from fine features
    and from coarse ones that see the whole face, so that an anchor that is covered is placed by the others. A position
    is the mean over its map (integral regression, arXiv 1711.08229).
    """

    def __init__(self, shape: LandmarkShape) -> None:
        super().__init__()
        self.shape = shape
        self.stages = nn.ModuleList()
        previous = 3
        for width, depth in zip(shape.widths, shape.depths, strict=True):
            stage: list[nn.Module] = [
                nn.Conv2d(previous, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width, momentum=MOMENTUM),
                nn.PReLU(width),
            ]
            self.stages.append(nn.Sequential(*stage, *(_Block(width) for _ in range(depth))))
            previous = width
        self.sides = nn.ModuleList(nn.Conv2d(width, shape.joined, 1) for width in shape.widths[1:])
        self.joins = nn.ModuleList(_Block(shape.joined) for _ in shape.widths[2:])
        self.maps = nn.Conv2d(shape.joined, shape.anchors, 1)
        self.model = nn.Linear(shape.anchors, POINTS, bias=False)
        self.offset = nn.Parameter(torch.zeros(POINTS, 2))
        self.whole = nn.Linear(3 * shape.anchors + shape.widths[-1], shape.features)
        self.whole_activation = nn.PReLU(shape.features)
        self.rest = nn.Linear(shape.features, 2 * POINTS)
        self.spread = nn.Linear(shape.features, shape.spread)
        self.log_sigma = nn.Linear(shape.spread, POINTS)
        centres = (torch.arange(CELLS) + 0.5) * (2 / CELLS) - 1
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`views`: float32 (N, 3, 64, 64) in [0, 1].

        Returns points (N, P, 2), where -1 and 1 are the outer edges of the crop, natural logarithms of sigma (N, P)
        in the same unit, and logarithms of the anchors' chances over rows and columns (N, A, 16, 16).
        """
        # Light and contrast of the crop cancel out; dark scenes look like lit ones.
        mean, deviation = views.mean((1, 2, 3), keepdim=True), views.std((1, 2, 3), keepdim=True)
        x = (views - mean) / (deviation + 0.02)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        overview = x.mean((2, 3))
        x = self.sides[-1](levels[-1])
        for level, side, join in zip(levels[-2:0:-1], list(self.sides)[-2::-1], self.joins, strict=True):
            x = join(side(level) + F.interpolate(x, scale_factor=2.0, mode="nearest"))
        log_chances = self.maps(x).float().flatten(2).log_softmax(2).unflatten(2, (CELLS, CELLS))
        anchors, width = self._places(log_chances.exp())
        points = self.model(anchors.transpose(1, 2)).transpose(1, 2) + self.offset  # (N, P, 2)
        told = torch.cat([anchors.flatten(1), width.log() + 2, overview], 1)
        features = self.whole_activation(self.whole(told))
        points = points + self.rest(features).unflatten(1, (POINTS, 2))
        return points.float(), self.log_sigma(self.spread(features)).float(), log_chances

    def _places(self, chances: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, A, 2) and standard deviations (N, A) of maps (N, A, 16, 16)."""
        columns, rows = chances.sum(2), chances.sum(3)  # (N, A, 16)
        mean = torch.stack([columns @ self.centres, rows @ self.centres], 2)
        square = (columns + rows) @ self.centres.square()
        return mean, (square - mean.square().sum(2)).clamp_min(1e-5).sqrt()


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.activation = nn.PReLU(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.last = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.first_norm(self.first(x)))
        return F.prelu(x + self.second_norm(self.second(inner)), self.last.weight)
