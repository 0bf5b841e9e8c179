"""The network of `fast`: a U-Net on pixel-unshuffled crops that answers with a correction of its input.

Most work is done at a quarter of the resolution and below, in dense 3 x 3 convolutions without
normalisation, which CPUs compute nearly at their peak. Two coordinate channels and a learned map tell where
in the aligned face a pixel lies, so that the network can be trained on parts of crops. The identity anchor
modulates the deeper blocks (FiLM, arXiv 1709.07871) through layers without bias: a zero anchor changes
nothing. A network made for video also takes its previous restoration, moved and gated: its difference from the crop is
a further input, and a learned gain draws the result towards it (the Kalman gain of KEEP, arXiv 2408.05205). A closed
gate gives the result of a face without a previous one.

Shapes: B crops, C channels, H W pixels of a crop or of an aligned part of it, D width of the anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CROP_PX = 256
UNSHUFFLE = 4
CELL_PX = 16
"""Parts of a crop start at multiples of this, the cell of the learned map."""


@dataclass(frozen=True, slots=True)
class FastShape:
    """What a `FastNetwork` is built from; kept in the header of its checkpoint."""

    widths: tuple[int, ...] = (64, 96, 160, 256)
    """Channels at 1/4, 1/8, 1/16 and 1/32 of the crop."""
    encoder_depths: tuple[int, ...] = (1, 2, 2)
    """Blocks on the way down, at all but the last resolution."""
    middle_depth: int = 2
    """Blocks at the last resolution."""
    decoder_depths: tuple[int, ...] = (2, 2, 2)
    """Blocks on the way up, in the order of `widths`."""
    anchor: int = 128
    """D."""
    grain: bool = False
    """Fixed noise as a further input, from which texture can grow that keeps its place in the face."""
    previous: bool = False
    """Whether what was restored of the frame before takes part."""


class FastNetwork(nn.Module):
    """Degraded crops and identity anchors in, restored crops out."""

    grain: Tensor

    def __init__(self, shape: FastShape) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.widths
        pixels = 3 * UNSHUFFLE**2
        grain = UNSHUFFLE**2 if shape.grain else 0
        previous = pixels + 1 if shape.previous else 0
        self.enter = nn.Conv2d(pixels + 2 + grain + previous, widths[0], 3, padding=1)
        self.identity = nn.Linear(shape.anchor, shape.anchor, bias=False)
        self.encoder = nn.ModuleList(
            _Stage(width, depth, shape.anchor if level else 0)
            for level, (width, depth) in enumerate(zip(widths[:-1], shape.encoder_depths, strict=True))
        )
        self.down = nn.ModuleList(nn.Conv2d(above, below, 2, 2) for above, below in pairwise(widths))
        self.middle = _Stage(widths[-1], shape.middle_depth, shape.anchor)
        self.up = nn.ModuleList(nn.Conv2d(below, 4 * above, 1) for above, below in pairwise(widths))
        self.decoder = nn.ModuleList(
            _Stage(width, depth, shape.anchor if level else 0)
            for level, (width, depth) in enumerate(zip(widths[:-1], shape.decoder_depths, strict=True))
        )
        self.leave = nn.Conv2d(widths[0], pixels, 3, padding=1)
        nn.init.normal_(self.leave.weight, std=1e-3)
        self.gain: nn.Conv2d | None = None
        if shape.previous:
            nn.init.zeros_(self.enter.weight[:, -previous:])
            self.gain = nn.Conv2d(widths[0], UNSHUFFLE**2, 3, padding=1)
            nn.init.zeros_(self.gain.weight)
            nn.init.zeros_(self.gain.bias)  # type: ignore[arg-type]
        cells = CROP_PX // CELL_PX
        self.place = nn.Parameter(torch.zeros(1, widths[2], cells, cells))
        if shape.grain:
            quarter = CROP_PX // UNSHUFFLE
            self.register_buffer("grain", torch.randn(1, grain, quarter, quarter))

    def forward(
        self,
        crops: Tensor,
        anchors: Tensor,
        previous: Tensor | None = None,
        corners: Tensor | None = None,
        side_px: int | None = None,
    ) -> Tensor:
        """Restored crops, float32 (B, 3, H, W), not clipped.

        `crops`: float32 (B, 3, H, W) in [0, 1], RGB, H and W multiples of 32. `anchors`: float32 (B, D),
        unit length or zero. `previous`: float32 (B, 4, H, W), RGB in [0, 1] of what was restored before and its gate
        in [0, 1]; ignored by a network without `shape.previous`. `corners`: int64 (B, 2), x and y of the upper
        left pixel within the aligned crop of `side_px`, a multiple of 32, both multiples of 16; None for whole crops.
        """
        if side_px is None:
            side_px = crops.shape[3] if corners is None else CROP_PX
        scale = side_px / CROP_PX
        if corners is None:
            corners = torch.zeros(len(crops), 2, dtype=torch.int64, device=crops.device)
        identity = F.silu(self.identity(anchors))  # (B, D)
        inputs = [F.pixel_unshuffle(crops * 2 - 1, UNSHUFFLE), _coordinates(crops, corners, scale)]
        if self.shape.grain:
            size = crops.shape[2] // UNSHUFFLE, crops.shape[3] // UNSHUFFLE
            tiles = ceil(scale)
            inputs.append(_window(self.grain.repeat(1, 1, tiles, tiles), corners // UNSHUFFLE, size))
        if self.shape.previous:
            inputs.append(_beside(crops, previous))
        x = torch.cat(inputs, 1)
        x = self.enter(x.contiguous(memory_format=torch.channels_last))  # (B, 64, H/4, W/4)
        skips: list[Tensor] = []
        for level, (stage, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            if level == 2:
                place: Tensor = self.place
                if side_px != CROP_PX:
                    cells = side_px // CELL_PX
                    place = F.interpolate(place, size=(cells, cells), mode="bilinear")
                x = x + _window(place, corners // CELL_PX, (x.shape[2], x.shape[3]))
            x = stage(x, identity)
            skips.append(x)
            x = down(x)
        x = self.middle(x, identity)  # (B, 256, H/32, W/32)
        for stage, up, skip in reversed(list(zip(self.decoder, self.up, skips, strict=True))):
            x = stage(F.pixel_shuffle(up(x), 2) + skip, identity)
        restored = crops + F.pixel_shuffle(self.leave(x), UNSHUFFLE)  # (B, 3, H, W)
        if self.gain is None or previous is None:
            return restored
        gain = previous[:, 3:] * torch.tanh(F.pixel_shuffle(self.gain(x), UNSHUFFLE))  # (B, 1, H, W)
        return restored + gain * (previous[:, :3] - restored)


def _beside(crops: Tensor, previous: Tensor | None) -> Tensor:
    """The input made of `previous`, (B, 49, H/4, W/4): its gated difference from the crops, and the gate."""
    if previous is None:
        count, _, height, width = crops.shape
        return crops.new_zeros(count, 3 * UNSHUFFLE**2 + 1, height // UNSHUFFLE, width // UNSHUFFLE)
    difference = previous[:, 3:] * (previous[:, :3] - crops) * 2
    gate = F.avg_pool2d(previous[:, 3:], UNSHUFFLE)
    return torch.cat([F.pixel_unshuffle(difference, UNSHUFFLE), gate], 1)


def _coordinates(crops: Tensor, corners: Tensor, scale: float) -> Tensor:
    """Where each cell of 4 pixels lies in the aligned crop, in [-1, 1]: (B, 2, H/4, W/4)."""
    count, _, height, width = crops.shape
    centre = UNSHUFFLE / 2
    x = torch.arange(0, width, UNSHUFFLE, device=crops.device) + centre + corners[:, :1]  # (B, W/4)
    y = torch.arange(0, height, UNSHUFFLE, device=crops.device) + centre + corners[:, 1:]  # (B, H/4)
    size = (count, height // UNSHUFFLE, width // UNSHUFFLE)
    grid = torch.stack([x[:, None, :].expand(size), y[:, :, None].expand(size)], 1)
    return grid.to(crops.dtype) * (2 / (scale * CROP_PX)) - 1


def _window(whole: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """The parts of a map (1, C, H, W) that belong to the crops' parts: (B, C, *size)."""
    height, width = size
    if height == whole.shape[2] and width == whole.shape[3]:
        return whole.expand(len(corners), -1, -1, -1)
    places = corners.tolist()
    return torch.cat([whole[:, :, top : top + height, left : left + width] for left, top in places])


class _Stage(nn.Module):
    def __init__(self, width: int, depth: int, anchor: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, anchor) for _ in range(depth))

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, identity)
        return x


class _Block(nn.Module):
    """x + conv(modulate(activate(conv(x)))); the last convolution starts near zero, so it is stable."""

    def __init__(self, width: int, anchor: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.normal_(self.second.weight, std=1e-2 / width**0.5)
        self.modulation = nn.Linear(anchor, 2 * width, bias=False) if anchor else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        inner = F.leaky_relu(self.first(x), 0.1, inplace=True)
        if self.modulation is not None:
            gain, offset = self.modulation(identity)[:, :, None, None].chunk(2, 1)  # (B, C, 1, 1)
            inner = torch.addcmul(offset.to(inner.dtype), inner, (1 + gain).to(inner.dtype))
        result: Tensor = self.second(inner)
        return result.add_(x)
