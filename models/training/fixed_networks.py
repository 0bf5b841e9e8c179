"""Frozen networks of the tasks: judges of identity and features, the drafting `fast`, and teachers.

The two teachers are used in training only, never shipped, and read from safetensors files that are not part of this
project: MobileFaceNet for the identity encoder, and TAEF2, the tiny autoencoder of FLUX.2's latents, for ours.

Shapes: B faces, C channels, H W pixels, h = H / 8, w = W / 8, D = 128.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from models.fast.network import FastNetwork
from models.fast.restorer import build_fast
from models.packing import fold_norms
from models.recogniser import Encoder, build_encoder
from models.training.losses import PerceptualLoss
from models.weights import CheckpointError, load_checkpoint, load_state

TAEF2_WIDTH = 64
TAEF2_LATENT = 32


def load_encoder(path: Path, device: torch.device) -> Encoder:
    """The identity encoder on `device`. Raises `CheckpointError` for the weights of something else."""
    encoder = build_encoder(load_checkpoint(path)).to(device)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]


def load_perceptual(path: Path | None, device: torch.device) -> PerceptualLoss | None:
    """The perceptual network on `device`, or None where the recipe has none."""
    return None if path is None else PerceptualLoss(path).to(device)


def load_teacher(path: Path | None, device: torch.device) -> Teacher | None:
    """The recogniser of clean faces on `device`, or None where the recipe has none."""
    if path is None:
        return None
    teacher = Teacher(path).to(device)
    fold_norms(teacher)
    return teacher.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]


def load_draft(path: Path | None, device: torch.device) -> FastNetwork | None:
    """The network of `fast` that drafts on `device`, or None where the recipe has none.

    Raises `CheckpointError` for the weights of something else.
    """
    return None if path is None else build_fast(load_checkpoint(path)).to(device)


class Teacher(nn.Module):
    """Raw, flip-added embeddings of clean faces."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = MobileFaceNet()
        self.network.load_state_dict(load_file(weights))
        self.eval().requires_grad_(False)

    def forward(self, crops: Tensor) -> Tensor:
        """`crops`: float32 (B, 3, 112, 112) in [0, 1], RGB, ArcFace alignment. Returns float32 (B, 128)."""
        embeddings: Tensor = self.one_sided(crops) + self.one_sided(crops.flip(3))
        return embeddings

    def one_sided(self, crops: Tensor) -> Tensor:
        """As a call, but without the mirrored crop: half the cost, and less exact."""
        embeddings: Tensor = self.network((crops[:, :, :, 8:104] * 255 - 127.5) / 128)  # of (B, 3, 112, 96)
        return embeddings


class MobileFaceNet(nn.Module):
    """Chen et al., "MobileFaceNets", arXiv 1804.07573, table 1; names as in the weights file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _Unit(3, 64, 3, stride=2, padding=1)
        self.dw_conv1 = _Unit(64, 64, 3, padding=1, groups=64)
        rows = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
        blocks: list[nn.Module] = []
        width = 64
        for expansion, out, count, stride in rows:
            for index in range(count):
                blocks.append(_Bottleneck(width, out, expansion, stride if index == 0 else 1))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _Unit(128, 512, 1)
        self.linear7 = _Unit(512, 512, (7, 6), groups=512, linear=True)
        self.linear1 = _Unit(512, 128, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.dw_conv1(self.conv1(x)))  # (B, 128, 7, 6)
        x = self.linear1(self.linear7(self.conv2(x)))  # (B, 128, 1, 1)
        return x.flatten(1)


class _Unit(nn.Module):
    def __init__(
        self,
        width: int,
        out: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)
        if not linear:
            self.prelu = nn.PReLU(out)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.linear else self.prelu(x)


class _Bottleneck(nn.Module):
    def __init__(self, width: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = width * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return x + result if self.residual else result


def embed_clean(teacher: Teacher, crops: Tensor, batch_size: int = 64) -> Tensor:
    """Teacher embeddings (N, 128) of many crops, uint8 (N, 3, 112, 112)."""
    with torch.inference_mode():
        parts = [teacher(part.float() / 255) for part in torch.split(crops, batch_size)]
    return torch.cat(parts).clone()


class Taef2(nn.Module):
    """Pictures to FLUX.2 latents and back; frozen.

    `folder` holds `taef2_encoder.safetensors` and `taef2_decoder.safetensors`. Raises `CheckpointError` where a
    file is missing or holds something else.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = _load(taef2_encoder(), folder / "taef2_encoder.safetensors")
        self.decoder = _load(taef2_decoder(), folder / "taef2_decoder.safetensors")
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents, float32 (B, 32, h, w), of `pictures`, float32 (B, 3, H, W) in [0, 1], RGB."""
        latents: Tensor = self.encoder(pictures)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures, float32 (B, 3, H, W), about [0, 1] and not clipped, of `latents` (B, 32, h, w)."""
        pictures: Tensor = self.decoder(latents)
        return pictures


def taef2_encoder() -> nn.Sequential:
    layers: list[nn.Module] = [_convolution(3, TAEF2_WIDTH), _Block()]
    for pool in (False, False, True):
        layers += [
            _convolution(TAEF2_WIDTH, TAEF2_WIDTH, stride=2, bias=False),
            *(_Block(pool) for _ in range(3)),
        ]
    return nn.Sequential(*layers, _convolution(TAEF2_WIDTH, TAEF2_LATENT))


def taef2_decoder() -> nn.Sequential:
    layers: list[nn.Module] = [_Bounded(), _convolution(TAEF2_LATENT, TAEF2_WIDTH), nn.ReLU()]
    layers += [_Block(pool=True) for _ in range(3)]
    for count in (3, 3, 1):
        layers += [nn.Upsample(scale_factor=2), _convolution(TAEF2_WIDTH, TAEF2_WIDTH, bias=False)]
        layers += [_Block() for _ in range(count)]
    return nn.Sequential(*layers, _convolution(TAEF2_WIDTH, 3))


class _Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    """Three convolutions with a residual path; with `pool` a normalised layer over all channels first."""

    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _convolution(TAEF2_WIDTH, TAEF2_WIDTH),
            nn.ReLU(),
            _convolution(TAEF2_WIDTH, TAEF2_WIDTH),
            nn.ReLU(),
            _convolution(TAEF2_WIDTH, TAEF2_WIDTH),
        )
        self.pool = None
        if pool:
            self.pool = nn.Sequential(
                nn.Conv2d(TAEF2_WIDTH, 4 * TAEF2_WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * TAEF2_WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * TAEF2_WIDTH, TAEF2_WIDTH, 1, bias=False),
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
