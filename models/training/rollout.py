"""Frames before a training picture: moved, lit and degraded otherwise, with the motion that leads back into them.

A restorer of video meets what it restored itself, moved by a motion that was measured, under a gate that is sometimes
wrong. So a training picture gets earlier frames by known smooth motions, each degraded as the picture is, with other
noise; what the network makes of the first is moved into the second, and so on. Parts of an earlier frame show another
picture, as when a hand or an eyelid was there, and the gate closes over them, though not always wholly.

Shapes: B pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Degrade = Callable[[Tensor, list[int]], Tensor]
"""Degrades targets (B, 3, H, W) with the noise of some seeds."""

_SHIFT, _BEND, _TURN = 0.012, 0.004, 0.03
"""Largest motion as a share of the side: of the whole face and of its parts; of the turn, in radians and in size."""
_MEASURED = 0.0015
"""Usual error of a measured motion, as a share of the side: a third of a pixel at 256."""
_ANOTHER, _COVERED = 0.06, 0.3
"""How often the earlier frame is another picture altogether, and how often a part of it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A frame, and the way from the frame after it."""

    degraded: Tensor
    """float32 (B, 3, H, W) in [0, 1]."""
    targets: Tensor
    """float32 (B, 3, H, W) in [0, 1]."""
    places: Tensor
    """float32 (B, H, W, 2): where each pixel of the following frame lies in this one, in [-1, 1]."""
    measured: Tensor
    """The same, as inexact as if it had been measured."""
    gate: Tensor
    """float32 (B, 1, H, W) in [0, 1], over the following frame: where this one is taken to hold."""
    holds: Tensor
    """float32 (B, 1, H, W) in [0, 1]: where the gate is open and this frame does hold."""

    def part(self, chosen: slice) -> Step:
        """The same of some pictures of the batch."""
        return Step(*(getattr(self, part.name)[chosen] for part in fields(self)))


def frames_before(
    targets: Tensor, chance: float, most: int, random: np.random.Generator, degrade: Degrade
) -> tuple[Step, ...]:
    """Frames before the frame of `targets`, float32 (B, 3, H, W) in [0, 1]; the oldest first.

    None, or with a chance of `chance` one to `most`.
    """
    steps: list[Step] = []
    count = int(random.integers(1, most + 1))
    for _ in range(count if random.random() < chance else 0):
        step = _before(steps[-1].targets if steps else targets, random, degrade)
        steps.append(step)
    return tuple(reversed(steps))


def moved(pictures: Tensor, places: Tensor) -> Tensor:
    """`pictures` (B, C, H, W) at `places` (B, H, W, 2)."""
    return F.grid_sample(pictures, places, mode="bicubic", padding_mode="reflection", align_corners=False)


def steadiness(restored: Tensor, targets: Tensor, before: Tensor, step: Step) -> Tensor:
    """How far the error of `restored`, (B, 3, H, W), differs from the moved error of the frame before, `before`.

    Mean absolute difference where the frame before holds; nothing beside errors moves or is lit otherwise, so what is
    asked for is steadiness and not stillness. No gradient into `before`.
    """
    with torch.no_grad():
        earlier = moved(before - step.targets, step.places)
    difference = (restored - targets - earlier).abs().mean(1, keepdim=True)
    return (step.holds * difference).sum() / step.holds.sum().clamp_min(1)


def _before(following: Tensor, random: np.random.Generator, degrade: Degrade) -> Step:
    count, _, height, width = following.shape
    flow = _motion(count, height, width, random)
    places = _identity(height, width) + flow
    measured = places + _smooth(count, 2, height, width, 8, random).permute(0, 2, 3, 1) * torch.from_numpy(
        (2 * _MEASURED * 2 * random.random((count, 1, 1, 1))).astype(np.float32)
    )
    inside = (measured.abs() <= 1).all(3)[:, None].float()
    openness = torch.from_numpy(random.normal(1.5, 1.0, (count, 1, 1, 1)).astype(np.float32))
    gate = torch.sigmoid(4 * (openness + 0.7 * _smooth(count, 1, height, width, 6, random))) * inside
    covered, known = _covers(count, height, width, random)
    seeds = [int(seed) for seed in random.integers(2**62, size=count)]
    gain = torch.from_numpy(np.exp(random.normal(0, 0.03, (count, 1, 1, 1))).astype(np.float32))
    offset = torch.from_numpy(random.normal(0, 0.01, (count, 1, 1, 1)).astype(np.float32))
    device = following.device
    covered, gain, offset = covered.to(device), gain.to(device), offset.to(device)
    shown = following + covered * (following.roll(1, 0) - following)
    back = (_identity(height, width) + _inverse(flow)).to(device)
    targets = (moved(shown, back) * gain + offset).clamp(0, 1)
    gate = (gate * (1 - known)).to(device)
    return Step(
        degrade(targets, seeds),
        targets,
        places.to(device),
        measured.to(device),
        gate,
        gate * (1 - covered),
    )


def _identity(height: int, width: int) -> Tensor:
    """Places of the pixels themselves, (1, H, W, 2)."""
    theta = torch.eye(2, 3)[None]
    return F.affine_grid(theta, [1, 1, height, width], align_corners=False)


def _motion(count: int, height: int, width: int, random: np.random.Generator) -> Tensor:
    """Smooth motions, (B, H, W, 2) in units of half the side; many small, few large."""
    size = random.random((count, 1, 1, 1)).astype(np.float32) ** 2 * 2
    shift, turn = random.normal(0, 1, (2, count, 1, 1, 2)).astype(np.float32)
    grid = _identity(height, width)
    across = torch.stack([-grid[..., 1], grid[..., 0]], -1)
    whole = torch.from_numpy(shift) * 2 * _SHIFT + _TURN * (
        torch.from_numpy(turn[..., :1]) * across + torch.from_numpy(turn[..., 1:]) * grid
    )
    bend = _smooth(count, 2, height, width, 5, random).permute(0, 2, 3, 1) * 2 * _BEND
    return torch.from_numpy(size) * (whole + bend)


def _inverse(flow: Tensor) -> Tensor:
    """m with m(p) = -f(p + m(p)): the way back of a smooth motion f, by fixed-point iteration."""
    height, width = flow.shape[1:3]
    grid, field = _identity(height, width), flow.permute(0, 3, 1, 2)
    back = -flow
    for _ in range(3):
        back = -F.grid_sample(field, grid + back, padding_mode="border", align_corners=False).permute(
            0, 2, 3, 1
        )
    return back


def _covers(count: int, height: int, width: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Where the earlier frame shows another picture, (B, 1, H, W), and how far the gate knows of it."""
    kind = random.random((count, 1, 1, 1))
    field = _smooth(count, 1, height, width, 4, random)
    blobs = torch.sigmoid(12 * (field - 0.8))
    another = torch.from_numpy(kind < _ANOTHER)
    covered = torch.from_numpy((kind >= _ANOTHER) & (kind < _ANOTHER + _COVERED))
    mask = torch.where(another, torch.ones_like(blobs), torch.where(covered, blobs, torch.zeros_like(blobs)))
    known = torch.from_numpy(random.uniform(0.5, 1.0, (count, 1, 1, 1)).astype(np.float32))
    return mask, mask * torch.where(another, known - 0.5, known)


def _smooth(
    count: int, channels: int, height: int, width: int, cells: int, random: np.random.Generator
) -> Tensor:
    """A smooth field of about unit variance, (B, C, H, W)."""
    field = random.standard_normal((count, channels, cells, cells), np.float32)
    return F.interpolate(torch.from_numpy(field), (height, width), mode="bicubic", align_corners=False) * 1.3
