"""Losses of the restorers, each a small function or module, and the critic of the light adversarial term.

The critic is small heads on features of a fixed network: one that looks at the features of a frozen, trained network
learns in minutes and stays calm (Projected GANs, Sauer et al., NeurIPS 2021). Each head also sees where in the
aligned face it looks, since skin, hair and eyes each have their own texture.

Shapes: B pictures, C channels, H W pixels, h w positions of a feature map, N tokens, E width of an embedding.
Embeddings are compared by cosine where nothing else is said; those of references and targets carry no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from configs import ConfigError
from models.pictures import gradient_energy

SMALLEST_WEIGHT = 0.25
MOST_HARD = 0.25


def charbonnier(restored: Tensor, target: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + eps^2), a smooth absolute difference (Charbonnier et al., ICIP 1994)."""
    return ((restored - target).square() + 1e-6).sqrt().mean()


def texture(restored: Tensor, target: Tensor, weights: Tensor | None = None, cell: int = 8) -> Tensor:
    """Difference of log local gradient energy: asks for texture without asking where its grains lie.

    `weights`: (B,) of the pictures, or None for all alike.
    """
    floor = 1e-4
    energies = [torch.log(gradient_energy(pictures, cell) + floor) for pictures in (restored, target)]
    difference = (energies[0] - energies[1]).abs().mean((1, 2, 3))  # (B,)
    return difference.mean() if weights is None else (weights * difference).mean()


def grid(restored: Tensor, target: Tensor, period: int = 16) -> Tensor:
    """Size of what the error repeats every `period` pixels: dots and stripes from the network's own cells.

    A perceptual term with pooling and a critic both invite them. The period is a multiple of the cells' sides.
    Pictures float32 (B, 3, H, W). Errors are averaged over all cells of `period` x `period` pixels; what is then
    left apart from the mean is a pattern and not a face.
    """
    batch, channels, *sides = restored.shape
    rows, columns = (side // period for side in sides)
    error = (restored - target)[:, :, : rows * period, : columns * period]
    cells = error.reshape(batch, channels, rows, period, columns, period).mean((2, 4))  # (B, 3, P, P)
    return (cells - cells.mean((2, 3), keepdim=True)).abs().mean()


def embedding_distance(got: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of raw embeddings (B, E), relative to the target's own length: (B,).

    Where the person cannot be known, an uncertain face is better than one that is surely another person's; a cosine
    does not distinguish them.
    """
    return (got - wanted).square().sum(1) / wanted.square().sum(1)


def feature_distance(restored: list[Tensor], target: list[Tensor]) -> Tensor:
    """Mean over the layers of the absolute difference, each divided by the mean size of the target's."""
    terms = [
        (got - want).abs().mean() / (want.abs().mean() + 1e-6)
        for got, want in zip(restored, target, strict=True)
    ]
    return torch.stack(terms).mean()


class PerceptualLoss(nn.Module):
    """Difference of VGG-19 features (Johnson et al., ECCV 2016), from a 16 times pruned network.

    Layers relu1_2, relu2_2, relu3_4 and relu4_1; each difference is divided by the mean size of the target's
    features. Evaluation uses another network's features on purpose.
    """

    names = ("conv11", "conv12", "conv21", "conv22", "conv31", "conv32", "conv33", "conv34", "conv41")
    taps = ("conv12", "conv22", "conv34", "conv41")

    def __init__(self, weights: Path) -> None:
        super().__init__()
        state = load_file(weights)
        self.convolutions = nn.ModuleDict()
        for name in ("conv0", *self.names):
            out, width, kernel, _ = state[f"{name}.weight"].shape
            layer = nn.Conv2d(width, out, kernel)
            layer.load_state_dict({"weight": state[f"{name}.weight"], "bias": state[f"{name}.bias"]})
            self.convolutions[name] = layer
        self.channels = tuple(state[f"{name}.weight"].shape[0] for name in self.taps)
        self.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, restored: Tensor, target: Tensor) -> Tensor:
        """Mean over the layers; pictures float32 (B, 3, H, W) in [0, 1]."""
        with torch.no_grad():
            wanted = self.features(target)
        return feature_distance(self.features(restored), wanted)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The layers' features (B, C, h, w), at full, half, a quarter and an eighth of the size."""
        x = self.convolutions["conv0"](pictures)
        features: list[Tensor] = []
        for name in self.names:
            if name in {"conv21", "conv31", "conv41"}:
                x = F.max_pool2d(x, 2)
            x = F.relu(self.convolutions[name](F.pad(x, (1, 1, 1, 1), mode="reflect")))
            if name in self.taps:
                features.append(x)
        return features


def flow_matching(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean of |u - (noise - z_0)|^2, w(sigma) = 1; all (B, N, C). Source: IConFace (arXiv 2605.02814)."""
    return F.mse_loss(velocity, noise - clean)


def noise_weight(sigma: Tensor) -> Tensor:
    """omega(sigma) = max(1 - sigma, 0.25)^2: a face guessed out of noise is no face to judge. Source: IConFace."""
    return (1 - sigma).clamp_min(SMALLEST_WEIGHT).square()


def identity_distance(restored: Tensor, wanted: Tensor) -> Tensor:
    """1 - cos, (B,), of embeddings (B, E); no gradient into `wanted`."""
    return 1 - F.cosine_similarity(restored, wanted.detach(), dim=1)


def anchored_identity(restored: Tensor, anchor: Tensor, target: Tensor) -> Tensor:
    """(1 - l) L_reference + l L_hard with l = (1 - cos(anchor, target)) / 4, (B,). Source: IConFace.

    The worse the references agree with the target, the more the target itself is asked for.
    """
    hard = MOST_HARD * identity_distance(anchor.detach(), target)
    return (1 - hard) * identity_distance(restored, anchor) + hard * identity_distance(restored, target)


def hard_example_identity(restored: Tensor, reference: Tensor, target: Tensor, weight: float) -> Tensor:
    """(1 - l) L(target) + l L(reference), (B,), l = `weight`. Source: RefID (arXiv 2505.21905), equation of L_HID.

    The target alone is too easy, as the degraded face often shows it already; another photograph stays hard.
    """
    return (1 - weight) * identity_distance(restored, target) + weight * identity_distance(
        restored, reference
    )


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
