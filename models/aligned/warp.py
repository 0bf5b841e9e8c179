"""Warp of a view onto a face by dense points: the picture at the face's place, and how far each pixel holds.

The displacement between two sets of points is spread over the crop by inverse distance. Sixteen points on the
crop's border move with the similarity between the two faces, so that hair and background stay smooth. The same tensor
operations run on every device.

Shapes: N pairs of a view and a face, P dense points, S side of the crop, G side of the grid.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.landmarks import OVAL

GRID = 64
"""G: cells along a side in which the displacement is computed; between them it is linear."""
_SOFTEST_PX = 2.0
"""Distance, in pixels of a crop of 256, within which points count alike."""
_POWER = 2.5
"""Exponent of the squared distance: points beyond the nearest few hardly count."""
_LOOSE = 0.035
"""Displacement beyond the similarity, as a share of the crop's side, at which a point holds by 1/e: another expression
or a turned head."""
_BORDER = tuple((x, y) for x in range(5) for y in range(5) if x in (0, 4) or y in (0, 4))


def warp_views(
    views: Tensor, view_points: Tensor, face_points: Tensor, certainty: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`views`, float (N, 3, S, S) in [0, 1], laid onto faces of the same side.

    `view_points` and `face_points`: float32 (N, P, 2), x and y of the same dense points in pixels of the crop.
    `certainty`: float32 (N, P) in [0, 1], how far each point can be trusted; None = fully. Returns the pictures
    (N, 3, S, S) and the confidence (N, 1, S, S) in [0, 1]: 0 outside the face's outline and where the view shows
    another expression or a part that the face does not show.
    """
    side = views.shape[-1]
    scale = 256 / side
    displacement, holds = displacement_between(
        (view_points + 0.5) * scale - 0.5, (face_points + 0.5) * scale - 0.5, certainty
    )
    whole = F.interpolate(displacement / scale, size=(side, side), mode="bilinear", align_corners=False)
    confidence = F.interpolate(holds, size=(side, side), mode="bilinear", align_corners=False)
    along = torch.arange(side, device=views.device, dtype=torch.float32)
    grid = torch.stack(
        [
            (along[None, None, :] + whole[:, 0] + 0.5) * (2 / side) - 1,
            (along[None, :, None] + whole[:, 1] + 0.5) * (2 / side) - 1,
        ],
        -1,
    )
    warped = F.grid_sample(views.float(), grid, "bilinear", "reflection", align_corners=False)
    return warped.to(views.dtype), confidence.to(views.dtype)


def displacement_between(
    view_points: Tensor, face_points: Tensor, certainty: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """From each cell of the face to where it lies in the view, (N, 2, G, G) in pixels, and confidence (N, 1, G, G).

    Points in pixels of a crop of 256.
    """
    count = len(face_points)
    similar = _similarity(face_points, view_points)  # (N, 2, 3), face to view
    border = face_points.new_tensor(_BORDER) * 64 - 0.5
    border = border[None].expand(count, -1, -1)
    moved_border = border @ similar[:, :, :2].transpose(1, 2) + similar[:, None, :, 2]
    expected = face_points @ similar[:, :, :2].transpose(1, 2) + similar[:, None, :, 2]
    loose = (view_points - expected).square().sum(-1).sqrt() / 256  # (N, P)
    holds = torch.exp(-((loose / _LOOSE) ** 2))
    if certainty is not None:
        holds = holds * certainty
    targets = torch.cat([face_points, border], 1)
    offsets = torch.cat([view_points - face_points, moved_border - border], 1)
    holds = torch.cat([holds, torch.ones_like(border[..., 0])], 1)
    cells = _cells(face_points.device)
    distance = torch.cdist(cells[None].expand(count, -1, -1), targets).square()  # (N, G*G, P)
    weights = (distance + _SOFTEST_PX**2).pow(-_POWER)
    weights = weights / weights.sum(2, keepdim=True)
    spread = torch.bmm(weights, torch.cat([offsets, holds[..., None]], 2))  # (N, G*G, 3)
    spread = _softened(spread.transpose(1, 2).reshape(count, 3, GRID, GRID))
    return spread[:, :2], spread[:, 2:] * inside(face_points[:, OVAL, :])


def similarity_residual(points: Tensor, others: Tensor) -> Tensor:
    """Mean distance in pixels, (N,), of `points` from `others`, both (N, P, 2), after the best similarity."""
    similar = _similarity(points, others)
    moved = points @ similar[:, :, :2].transpose(1, 2) + similar[:, None, :, 2]
    return (moved - others).square().sum(-1).sqrt().mean(1)


def inside(outline: Tensor) -> Tensor:
    """1 within the closed `outline`, float (N, Q, 2) in pixels of a crop of 256, with a soft edge: (N, 1, G, G)."""
    cells = _cells(outline.device)
    starts, ends = outline[:, None], outline.roll(-1, 1)[:, None]  # (N, 1, Q, 2)
    x, y = cells[None, :, None, 0], cells[None, :, None, 1]
    crosses = (starts[..., 1] > y) != (ends[..., 1] > y)
    slope = (ends[..., 0] - starts[..., 0]) / (ends[..., 1] - starts[..., 1] + 1e-6)
    left = x < starts[..., 0] + slope * (y - starts[..., 1])
    within = (crosses & left).sum(2) % 2
    mask = within.to(outline.dtype).reshape(len(outline), 1, GRID, GRID)
    return _softened(_softened(mask))


def _similarity(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity (N, 2, 3) that takes `source` to `target`, both (N, P, 2) (Umeyama, PAMI 1991)."""
    mean_a, mean_b = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    a, b = source - mean_a, target - mean_b
    variance = a.square().sum((1, 2)).clamp_min(1e-6)
    cosine = (a * b).sum((1, 2)) / variance
    sine = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(1) / variance
    linear = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    shift = mean_b[:, 0] - (linear @ mean_a.transpose(1, 2))[..., 0]
    return torch.cat([linear, shift[..., None]], 2)


@lru_cache(maxsize=4)
def _cells(device: torch.device) -> Tensor:
    """Centres of the grid's cells, (G*G, 2) x and y, row by row."""
    along = (torch.arange(GRID, device=device, dtype=torch.float32) + 0.5) * (256 / GRID) - 0.5
    return torch.stack(torch.meshgrid(along, along, indexing="xy"), -1).reshape(-1, 2)


def _softened(maps: Tensor) -> Tensor:
    """Binomial blur over 5 x 5 cells."""
    kernel = maps.new_tensor([1, 4, 6, 4, 1]) / 16
    channels = maps.shape[1]
    padded = F.pad(maps, (2, 2, 2, 2), mode="replicate")
    across = F.conv2d(padded, kernel.reshape(1, 1, 1, 5).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(across, kernel.reshape(1, 1, 5, 1).repeat(channels, 1, 1, 1), groups=channels)
