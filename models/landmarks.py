"""Where 478 points of a face lie in an aligned crop, and how far off each of them may be.

A small network reads the whole crop, so that what is destroyed is placed by what can still be seen. It answers
with the coefficients of a linear model of face shapes, with the similarity that puts this shape into the crop,
and with a sigma for each point that grows where nothing is known. It was taught to answer a degraded view with
the points of the clean picture. The order of the points is that of the face mesh of mediapipe with irises.

Shapes: N crops, S side of a crop, P = 478 points, K shape components.
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
VIEW_PX = 96
"""Side that crops are reduced to."""
SMALLEST_CROP_PX = 32


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
    cell: int = 32
    """Channels of each of the 6 x 6 cells that the answer is read from."""
    features: int = 160
    """Numbers that shape, pose and sigma are read from."""
    components: int = 96
    """K."""
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

        S is 32 or more; nothing above 96 pixels is looked at. Raises `ValueError` for another shape or dtype.
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
            places, log_sigma = self.network(view_of(crops.to(self.device)))
        # From [-1, 1] between the outer edges of the crop to pixels.
        points = (places + 1) * (side / 2) - 0.5
        return DensePoints(points.cpu(), (log_sigma.exp() * (side / 2)).cpu())


def view_of(crops: Tensor) -> Tensor:
    """What the network sees of `crops`, uint8 (N, 3, S, S): float32 (N, 3, 96, 96) in [0, 1], channels last."""
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
    """A small residual network whose last layer is a linear model of face shapes.

    The fully connected layer sees every cell of the crop at its place, so that a point follows from the whole face.
    """

    def __init__(self, shape: LandmarkShape) -> None:
        super().__init__()
        self.shape = shape
        stages: list[nn.Module] = []
        previous = 3
        for width, depth in zip(shape.widths, shape.depths, strict=True):
            stages += [
                nn.Conv2d(previous, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.PReLU(width),
            ]
            stages += [_Block(width) for _ in range(depth)]
            previous = width
        self.stages = nn.Sequential(*stages)
        cells = VIEW_PX // 2 ** len(shape.widths)
        self.gather = nn.Sequential(
            nn.Conv2d(previous, shape.cell, 1, bias=False), nn.BatchNorm2d(shape.cell), nn.PReLU(shape.cell)
        )
        self.whole = nn.Linear(shape.cell * cells**2, shape.features)
        self.whole_activation = nn.PReLU(shape.features)
        self.pose = nn.Linear(shape.features, 4)
        self.coefficients = nn.Linear(shape.features, shape.components)
        self.model = nn.Linear(shape.components, 2 * POINTS)
        self.spread = nn.Linear(shape.features, shape.spread)
        self.log_sigma = nn.Linear(shape.spread, POINTS)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """`views`: float32 (N, 3, 96, 96) in [0, 1].

        Returns points (N, P, 2), where -1 and 1 are the outer edges of the crop, and natural logarithms of sigma
        (N, P) in the same unit.
        """
        # Light and contrast of the crop cancel out; dark scenes look like lit ones.
        mean, deviation = views.mean((1, 2, 3), keepdim=True), views.std((1, 2, 3), keepdim=True)
        x = self.gather(self.stages((views - mean) / (deviation + 0.02)))
        # NCHW order whatever the memory format, so that the weights mean the same everywhere.
        features = self.whole_activation(self.whole(x.flatten(1)))
        shape = self.model(self.coefficients(features)).unflatten(1, (POINTS, 2))
        growth, turn, right, down = (0.1 * self.pose(features)).float().unbind(1)
        scale, sine = (1 + growth)[:, None], turn[:, None]
        x_shape, y_shape = shape.float().unbind(2)
        points = torch.stack(
            [
                scale * x_shape - sine * y_shape + right[:, None],
                sine * x_shape + scale * y_shape + down[:, None],
            ],
            2,
        )
        return points, self.log_sigma(self.spread(features)).float()


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.activation = nn.PReLU(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.last = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.first_norm(self.first(x)))
        return F.prelu(x + self.second_norm(self.second(inner)), self.last.weight)
