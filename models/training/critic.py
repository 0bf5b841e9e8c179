"""The critic of the light adversarial term: small heads on features of a fixed network.

Projected GANs (Sauer et al., NeurIPS 2021): a critic that looks at the features of a frozen, trained network
learns in minutes and stays calm; only the heads are trained. Each head also sees where in the aligned face it
looks, since skin, hair and eyes have each their own texture.

Shapes: B pictures, C channels, h w positions of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Critic(nn.Module):
    """One head for each feature map; high answers for real pictures."""

    def __init__(self, channels: Sequence[int], width: int = 48) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            _Head(count, min(width, count), stride=2 if level < 2 else 1)
            for level, count in enumerate(channels)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Sequence[Tensor], places: Tensor) -> list[Tensor]:
        """Answers (B, 1, h, w) for each map of `features`.

        `features`: float32 (B, C, h, w) each. `places`: float32 (B, 4), left, top, right and bottom of the
        picture in the aligned crop, 0 to 1.
        """
        return [head(x, places) for head, x in zip(self.heads, features, strict=True)]


class _Head(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _UnitConvolution(channels + 2, width, 3, stride)
        self.second = _UnitConvolution(width, width, 3)
        self.last = _UnitConvolution(width, 1, 1)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        x = torch.cat([x, _coordinates(places, x.shape[2], x.shape[3])], 1)
        x = F.leaky_relu(self.first(x.contiguous(memory_format=torch.channels_last)), 0.2)
        x = F.leaky_relu(self.second(x), 0.2)
        answers: Tensor = self.last(x)
        return answers


class _UnitConvolution(nn.Conv2d):
    """Filters of length one: the critic can only grow so steep, at hardly any cost."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.normalize(self.weight.flatten(1), dim=1).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride)


def _coordinates(places: Tensor, height: int, width: int) -> Tensor:
    """Positions in the aligned crop, -1 to 1: (B, 2, h, w)."""
    left, top, right, bottom = (places[:, k, None, None] * 2 - 1 for k in range(4))
    across = torch.linspace(0, 1, width, device=places.device)[None, None, :]
    down = torch.linspace(0, 1, height, device=places.device)[None, :, None]
    size = (len(places), height, width)
    return torch.stack(
        [(left + (right - left) * across).expand(size), (top + (bottom - top) * down).expand(size)], 1
    )


def critic_loss(real: Sequence[Tensor], restored: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Hinge loss of the critic (Lim and Ye, arXiv 1705.02894); `weights`: (B,) of the pictures."""
    terms = [
        _weighted(F.relu(1 - a), weights) + _weighted(F.relu(1 + b), weights)
        for a, b in zip(real, restored, strict=True)
    ]
    return torch.stack(terms).mean()


def deceiving_loss(restored: Sequence[Tensor], weights: Tensor) -> Tensor:
    """What the restorer adds to its losses: the critic's answers to its pictures, negated."""
    return -torch.stack([_weighted(answers, weights) for answers in restored]).mean()


def _weighted(answers: Tensor, weights: Tensor) -> Tensor:
    return (answers.mean((1, 2, 3)) * weights).mean()
