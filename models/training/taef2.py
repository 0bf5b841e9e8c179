"""The tiny autoencoder of FLUX.2's latent space that ours learns from; used in training only, never shipped.

TAEF2 (Bohan, MIT) read from two safetensors files that are not part of this project. Their keys are positions
in a sequence, so the layers stand here in that order.

Shapes: B pictures, H W pixels, h = H / 8, w = W / 8.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.weights import CheckpointError, load_state

WIDTH = 64
LATENT_CHANNELS = 32


class Taef2(nn.Module):
    """Pictures to FLUX.2 latents and back; frozen.

    `folder` holds `taef2_encoder.safetensors` and `taef2_decoder.safetensors`. Raises `CheckpointError` where a
    file is missing or holds something else.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = _load(_encoder(), folder / "taef2_encoder.safetensors")
        self.decoder = _load(_decoder(), folder / "taef2_decoder.safetensors")
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents, float32 (B, 32, h, w), of `pictures`, float32 (B, 3, H, W) in [0, 1], RGB."""
        latents: Tensor = self.encoder(pictures)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures, float32 (B, 3, H, W), about [0, 1] and not clipped, of `latents` (B, 32, h, w)."""
        pictures: Tensor = self.decoder(latents)
        return pictures


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [_convolution(3, WIDTH), _Block()]
    for pool in (False, False, True):
        layers += [_convolution(WIDTH, WIDTH, stride=2, bias=False), *(_Block(pool) for _ in range(3))]
    return nn.Sequential(*layers, _convolution(WIDTH, LATENT_CHANNELS))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [_Bounded(), _convolution(LATENT_CHANNELS, WIDTH), nn.ReLU()]
    layers += [_Block(pool=True) for _ in range(3)]
    for count in (3, 3, 1):
        layers += [nn.Upsample(scale_factor=2), _convolution(WIDTH, WIDTH, bias=False)]
        layers += [_Block() for _ in range(count)]
    return nn.Sequential(*layers, _convolution(WIDTH, 3))


class _Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    """Three convolutions with a residual path; with `pool` a normalised layer over all channels first."""

    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _convolution(WIDTH, WIDTH),
            nn.ReLU(),
            _convolution(WIDTH, WIDTH),
            nn.ReLU(),
            _convolution(WIDTH, WIDTH),
        )
        self.pool = None
        if pool:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


def _convolution(width: int, out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, stride, padding=1, bias=bias)


def _load(network: nn.Sequential, path: Path) -> nn.Sequential:
    try:
        network.load_state_dict(load_state(path))
    except RuntimeError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not the weights of a TAEF2 encoder or decoder") from error
    return network
