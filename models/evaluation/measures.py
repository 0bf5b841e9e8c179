"""Measures of one picture against its target; both uint8 (256, 256, 3) RGB in the FFHQ alignment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from torch import Tensor

from models.training.degrade import Picture
from models.training.losses import gradient_energy


def psnr(picture: Picture, target: Picture) -> float:
    """Decibels, over RGB in [0, 255]."""
    error = float(np.mean((picture.astype(np.float64) - target.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def ssim(picture: Picture, target: Picture) -> float:
    """Structural similarity (Wang et al., 2004), Gaussian windows, mean of the colour channels."""
    similarity = structural_similarity(  # type: ignore[no-untyped-call]
        picture, target, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False
    )
    return float(similarity)


def gradient_ratio(picture: Picture, target: Picture) -> float:
    """Ratio of the mean gradient energies of the inner face, eyes to chin."""
    inner = [
        torch.from_numpy(image[80:210, 70:186].astype(np.float32)).permute(2, 0, 1)[None]
        for image in (picture, target)
    ]
    energies: list[float] = [float(gradient_energy(part, 1).mean()) for part in inner]
    return energies[0] / max(energies[1], 1e-9)


class SqueezeDistance:
    """Distance of unit SqueezeNet 1.1 features, all layers alike (LPIPS, CVPR 2018, without its weights)."""

    pools = ("fire2", "fire4", "fire6")
    taps = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.state = load_file(weights)

    def __call__(self, picture: Picture, target: Picture) -> float:
        """Mean over layers of the squared distance, averaged over positions."""
        return self.between(self.features(picture), self.features(target))

    @staticmethod
    def between(first: list[Tensor], second: list[Tensor]) -> float:
        """The distance of two pictures' `features`."""
        return float(
            np.mean([float((a - b).square().sum(1).mean()) for a, b in zip(first, second, strict=True)])
        )

    @torch.inference_mode()
    def features(self, picture: Picture) -> list[Tensor]:
        """Unit features of each tapped layer, float32 (1, C, h, w)."""
        mean_bgr = torch.tensor([103.939, 116.779, 123.68])
        x = (torch.from_numpy(picture[..., ::-1].astype(np.float32)) - mean_bgr).permute(2, 0, 1)[None]
        features: list[Tensor] = []
        for name in ("conv1", "fire2", "fire3", "fire4", "fire5", "fire6", "fire7", "fire8", "fire9"):
            if name in self.pools:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(self._convolve(x, name, 2)) if name == "conv1" else self._fire(x, name)
            if name in self.taps:
                features.append(F.normalize(x, dim=1, eps=1e-10))
        return features

    def _fire(self, x: Tensor, name: str) -> Tensor:
        x = F.relu(self._convolve(x, f"{name}.squeeze1x1"))
        wide = [self._convolve(x, f"{name}.expand1x1"), self._convolve(x, f"{name}.expand3x3", padding=1)]
        return F.relu(torch.cat(wide, 1))

    def _convolve(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride, padding)
