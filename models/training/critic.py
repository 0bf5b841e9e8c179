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

from configs import ConfigError
from models.training.losses import PerceptualLoss


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


def fresh_critic(perceptual: PerceptualLoss | None, weight: float) -> Critic | None:
    """A critic of the features of `perceptual`, or None where the adversarial term has no `weight`.

    Raises `ConfigError` where there are no features to look at.
    """
    if weight == 0:
        return None
    if perceptual is None:
        raise ConfigError(
            f"adversarial_weight = {weight:g}, but the critic looks at the features of `perceptual`, which is not set"
        )
    return Critic(perceptual.channels)


def adversarial_losses(
    critic: nn.Module,
    made: Sequence[Tensor],
    wanted: Sequence[Tensor],
    places: Tensor,
    weights: Tensor,
    weight: float,
) -> dict[str, Tensor]:
    """The restorer's term, `adversarial`, times `weight`, and the critic's own, `critic`, for one pass backwards.

    The first leaves the critic's parameters without gradients, the second the restorer's.
    `made`, `wanted`: features (B, C, h, w) of restored pictures and of targets, the latter without gradients.
    `places`: as for `Critic`. `weights`: float32 (B,) of the pictures.
    """
    scales = [1 / (features.abs().mean() + 1e-6) for features in wanted]
    real = [scale * features for scale, features in zip(scales, wanted, strict=True)]
    made = [scale * features for scale, features in zip(scales, made, strict=True)]
    critic.requires_grad_(False)
    deceiving = deceiving_loss(critic(made, places), weights)
    critic.requires_grad_(True)
    answers = critic([features.detach() for features in made], places)
    return {"adversarial": weight * deceiving, "critic": critic_loss(critic(real, places), answers, weights)}


@torch.no_grad()
def known(restored: Tensor, targets: Tensor) -> Tensor:
    """How well each face is known, (B,) in [0, 1]: 1 without error, a third at a mean error of 0.035.

    Pictures float32 (B, 3, H, W) in [0, 1]. Weights of the terms on texture, and of those on persons: both
    belong onto a face that is there, not onto one that is guessed.
    """
    error = (restored - targets).abs().mean((1, 2, 3))
    return torch.exp(-((error / 0.035) ** 2))


def _weighted(answers: Tensor, weights: Tensor) -> Tensor:
    return (answers.mean((1, 2, 3)) * weights).mean()
