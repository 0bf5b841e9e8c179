"""Losses of the one-pass restorer, each a small function or module.

Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


def charbonnier(restored: Tensor, target: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + eps^2), a smooth absolute difference (Charbonnier et al., ICIP 1994)."""
    return ((restored - target).square() + 1e-6).sqrt().mean()


def gradient_energy(pictures: Tensor, cell: int) -> Tensor:
    """Mean squared brightness gradient of each `cell` x `cell` square: (B, 1, H/cell, W/cell)."""
    grey = pictures.mean(1, keepdim=True)
    across = (grey[:, :, :-1, 1:] - grey[:, :, :-1, :-1]).square()
    down = (grey[:, :, 1:, :-1] - grey[:, :, :-1, :-1]).square()
    return F.avg_pool2d(F.pad(across + down, (0, 1, 0, 1), mode="replicate"), cell)


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
    Pictures float32 (B, 3, H, W). Errors are averaged over all cells of `period` x `period` pixels; whatever a
    cell then still holds, apart from its own mean, is a pattern and not a face.
    """
    batch, channels, *sides = restored.shape
    rows, columns = (side // period for side in sides)
    error = (restored - target)[:, :, : rows * period, : columns * period]
    cells = error.reshape(batch, channels, rows, period, columns, period).mean((2, 4))  # (B, 3, P, P)
    return (cells - cells.mean((2, 3), keepdim=True)).abs().mean()


def embedding_distance(got: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of raw embeddings (B, E), relative to the target's own length: (B,).

    Where the person cannot be known, a face that says little is better than one that is surely somebody else. A
    cosine would not know.
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
