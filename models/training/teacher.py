"""The recogniser that the identity encoder learns from; used in training only, never shipped.

A MobileFaceNet read from a safetensors file that is not part of this project. Its input is a crop of 112 x
96 pixels, which is the ArcFace crop of 112 x 112 without its outer 8 columns on both sides, RGB, (x - 127.5)
/ 128.

Shapes: B faces, C channels, D = 128.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


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
