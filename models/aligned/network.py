"""The network of `aligned`: the generator of Real-ESRGAN with the person's views laid onto the face.

The trunk is the RRDB network of ESRGAN (arXiv 1809.00219) with the weights of Real-ESRGAN (arXiv 2107.10833, BSD-3) as
its start. It works at a quarter of the crop: it sees the crop's mean over 4 x 4 pixels through its first convolution,
and the crop itself pixel-unshuffled beside it. Views enter first as pictures: the fine band of a reference is added to
the crop, its middle band takes the place of the crop's, and a frame beside this one is averaged with it, as far as a
score per cell asks for it. Then they enter at three depths: each cell of the face looks at 3 x 3 cells of every view,
weighted by likeness and confidence, and may choose none. So the order of views does not matter, a view of confidence 0
changes nothing, and without views the network is the single-picture one. Fine detail of the crop and of the views also
enters at full resolution, before the last two convolutions. The identity anchor modulates the blocks through layers
without bias (FiLM, arXiv 1709.07871): a zero anchor changes nothing.

Shapes: B crops, V views of each, C channels, H W pixels of a crop or of a part of it (multiples of 4), D width of the
anchor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL_PX = 4
"""Side in pixels of the cells in which the trunk works."""
REFERENCE, NEIGHBOUR = 0.0, 1.0
"""Kinds of view: a clear picture of the person, and a frame beside this one that is damaged alike."""
_RELUCTANCE = -3.0
"""Added to scores of the middle band, so that training begins with the crop's own."""
_SLOPE = 0.2
_SHARE = 0.2
"""Of a residual that is added (arXiv 1809.00219, section 3.1)."""


@dataclass(frozen=True, slots=True)
class AlignedShape:
    """What an `AlignedNetwork` is built from; kept in the header of its checkpoint."""

    blocks: int = 12
    """Residual-in-residual dense blocks; Real-ESRGAN has 23."""
    width: int = 64
    growth: int = 32
    keys: int = 32
    """Channels in which cells of the face and of the views are compared."""
    anchor: int = 128
    """D."""
    bands: int = 1
    """Of a reference that may be laid over the crop: 1 = the fine one; 2 = also the middle one, which takes the place
    of the crop's own where damage left nothing of it."""

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "growth", "keys", "anchor", "bands"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.bands > 2:
            raise ValueError(f"bands must be 1 or 2, got {self.bands}")


class AlignedNetwork(nn.Module):
    """Degraded crops and the views laid onto them in, restored crops out."""

    def __init__(self, shape: AlignedShape) -> None:
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape)
        width = shape.width
        unshuffled = 3 * CELL_PX**2
        self.detail = nn.Sequential(
            nn.Conv2d(unshuffled, width, 3, padding=1), nn.LeakyReLU(_SLOPE), _silent(width, width, 3)
        )
        # Masked view, its masked difference from the crop, confidence, kind.
        self.view = nn.Sequential(
            nn.Conv2d(2 * unshuffled + CELL_PX**2 + 1, width, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.score = nn.Sequential(
            nn.Conv2d(width + unshuffled, width, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            _silent(width, shape.bands, 3),
        )
        """How much of each band of each view is laid over the crop, against none."""
        self.looks = nn.ModuleList(Look(width, shape.keys) for _ in self._depths)
        # The crop, the mean view and its confidence, at full resolution.
        self.fine = _silent(7, width, 3, bias=False)

    @property
    def _depths(self) -> tuple[int, ...]:
        """Blocks before which views enter."""
        return (0, self.shape.blocks // 3, 2 * self.shape.blocks // 3)

    def forward(
        self,
        crops: Tensor,
        views: Tensor | None = None,
        confidence: Tensor | None = None,
        kinds: Tensor | None = None,
        anchors: Tensor | None = None,
    ) -> Tensor:
        """Restored crops, float (B, 3, H, W), not clipped.

        `crops`: float (B, 3, H, W) in [0, 1]. `views`: float (B, V, 3, H, W) in [0, 1], laid onto the crops;
        `confidence`: float (B, V, 1, H, W) in [0, 1]; `kinds`: float (B, V) of `REFERENCE` and `NEIGHBOUR`. All
        three or none. `anchors`: float (B, D), unit length or zero.
        """
        seen: tuple[Tensor, Tensor] | None = None
        picture, fine = crops, F.pad(crops, (0, 0, 0, 0, 0, 4))
        if views is not None and views.shape[1]:
            if confidence is None or kinds is None:
                raise ValueError("views come with their confidence and their kinds")
            seen = self.seen(crops, views, confidence, kinds)
            picture = self.laid_over(crops, views, confidence, kinds, seen)
            fine = torch.cat([crops, picture - crops, confidence.amax(1)], 1)
        x: Tensor = self.trunk.first(F.avg_pool2d(picture, CELL_PX))
        x = x + self.detail(F.pixel_unshuffle(picture, CELL_PX))
        first = x
        for place, block in enumerate(self.trunk.body):
            if seen is not None and place in self._depths:
                look = self.looks[self._depths.index(place)]
                x = x + look(x, *seen)
            x = block(x, anchors)
        return self.trunk.enlarged(first + self.trunk.tail(x), self.fine(fine))

    def laid_over(
        self, crops: Tensor, views: Tensor, confidence: Tensor, kinds: Tensor, seen: tuple[Tensor, Tensor]
    ) -> Tensor:
        """`crops` with the fine band of references added and neighbours averaged in, (B, 3, H, W)."""
        features, sure = seen
        cells = F.pixel_unshuffle(crops, CELL_PX)[:, None].expand(-1, views.shape[1], -1, -1, -1)
        scores = self.score(torch.cat([features, cells.to(features.dtype)], 2).flatten(0, 1))
        scores = scores.unflatten(0, sure.shape[:2]).float().movedim(2, 0)  # (bands, B, V, h, w)
        soft = _smooth(views.flatten(0, 1), CELL_PX).reshape(views.shape)
        beside = kinds[:, :, None, None, None] == NEIGHBOUR
        added = torch.where(beside, views - crops[:, None], views - soft)
        laid = crops + (_shares(scores[0], sure)[:, :, None] * confidence * added).sum(1)
        if self.shape.bands > 1:
            wide = _smooth(views.flatten(0, 1), 4 * CELL_PX).reshape(views.shape)
            own = _smooth(crops, CELL_PX) - _smooth(crops, 4 * CELL_PX)
            middle = torch.where(beside, torch.zeros_like(views), soft - wide - own[:, None])
            shares = _shares(scores[1] + _RELUCTANCE, sure)
            laid = laid + (shares[:, :, None] * confidence * middle).sum(1)
        return laid

    def seen(self, crops: Tensor, views: Tensor, confidence: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the views (B, V, C, h, w) and the confidence of their cells (B, V, h, w)."""
        count = views.shape[1]
        difference = (views - crops[:, None]) * confidence
        parts = torch.cat([views * confidence, difference, confidence], 2).flatten(0, 1)
        cells = F.pixel_unshuffle(parts, CELL_PX)
        kind = kinds.flatten()[:, None, None, None].expand(-1, 1, *cells.shape[2:]).to(cells.dtype)
        features = self.view(torch.cat([cells, kind], 1))
        sure = F.avg_pool2d(confidence.flatten(0, 1), CELL_PX)
        height, width = features.shape[2:]
        return features.reshape(-1, count, features.shape[1], height, width), sure.reshape(
            -1, count, height, width
        )


def _shares(scores: Tensor, sure: Tensor) -> Tensor:
    """Share of each view in each pixel, (B, V, H, W), from scores of cells, (B, V, h, w); the crop has the rest."""
    scores = scores.masked_fill(sure <= 0, float("-inf"))
    shares = torch.cat([scores, torch.zeros_like(scores[:, :1])], 1).softmax(1)[:, :-1]
    return F.interpolate(shares, scale_factor=CELL_PX, mode="bilinear", align_corners=False)


def _smooth(pictures: Tensor, cell: int) -> Tensor:
    """`pictures`, (B, C, H, W), without what is finer than about three cells of `cell` pixels."""
    kernel = pictures.new_tensor([1, 4, 6, 4, 1]) / 16
    wide = F.avg_pool2d(pictures, cell)
    channels = wide.shape[1]
    for _ in range(2):
        padded = F.pad(wide, (2, 2, 2, 2), mode="replicate")
        across = F.conv2d(padded, kernel.reshape(1, 1, 1, 5).repeat(channels, 1, 1, 1), groups=channels)
        wide = F.conv2d(across, kernel.reshape(1, 1, 5, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.interpolate(wide, scale_factor=cell, mode="bilinear", align_corners=False)


class Look(nn.Module):
    """Each cell of the face looks at 3 x 3 cells of every view: attention that absorbs a misplacement of a cell."""

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(width, keys, 1)
        self.key = nn.Conv2d(width, keys, 1)
        self.value = nn.Conv2d(width, width, 1)
        self.out = _silent(width, width, 1, bias=False)
        self.none = nn.Parameter(torch.zeros(()))
        """What a view has to beat to be looked at."""
        self.place = nn.Parameter(torch.zeros(9))
        """How welcome each of the 3 x 3 cells is."""

    def forward(self, x: Tensor, features: Tensor, sure: Tensor) -> Tensor:
        """What the views add to `x`, (B, C, h, w); exactly 0 where all confidence is 0."""
        count = features.shape[1]
        flat = features.flatten(0, 1)
        query = self.query(x)[:, None]  # (B, 1, K, h, w)
        keys, values = (_windows(part(flat).unflatten(0, (-1, count))) for part in (self.key, self.value))
        near = torch.stack(_windows(sure), 2)  # (B, V, 9, h, w)
        logits = torch.stack([(query * cells).sum(2) for cells in keys], 2) / query.shape[2] ** 0.5
        logits = logits + self.place[:, None, None] + near.clamp_min(1e-4).log()
        logits = logits.masked_fill(near <= 0, float("-inf")).flatten(1, 2)  # (B, 9V, h, w)
        nothing = self.none.to(logits.dtype).expand_as(logits[:, :1])
        weights = torch.cat([logits, nothing], 1).softmax(1)[:, :-1].reshape(*near.shape)
        gathered = sum((weights[:, :, place, None] * cells).sum(1) for place, cells in enumerate(values))
        result: Tensor = self.out(gathered)
        return result


def _windows(maps: Tensor) -> list[Tensor]:
    """`maps`, (..., h, w), seen from each cell at its 3 x 3 cells: nine of the same shape, 0 beyond the border."""
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (1, 1, 1, 1))
    return [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]


class Trunk(nn.Module):
    """The RRDB network: blocks at a quarter of the resolution, then two enlargements."""

    def __init__(self, shape: AlignedShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.tail = nn.Conv2d(width, width, 3, padding=1)
        self.up1 = nn.Conv2d(width, width, 3, padding=1)
        self.up2 = nn.Conv2d(width, width, 3, padding=1)
        self.hr = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def enlarged(self, x: Tensor, fine: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of features `x` (B, C, h, w); `fine` (B, C, H, W) is added at full resolution."""
        x = F.leaky_relu(self.up1(F.interpolate(x, scale_factor=2)), _SLOPE)
        x = F.leaky_relu(self.up2(F.interpolate(x, scale_factor=2)), _SLOPE)
        result: Tensor = self.last(F.leaky_relu(self.hr(x + fine), _SLOPE))
        return result


class Block(nn.Module):
    """Residual-in-residual dense block (arXiv 1809.00219, figure 4), modulated by the identity anchor."""

    def __init__(self, shape: AlignedShape) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(Dense(shape.width, shape.growth) for _ in range(3)))
        self.modulation = nn.Linear(shape.anchor, 2 * shape.width, bias=False)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, x: Tensor, anchors: Tensor | None) -> Tensor:
        inner: Tensor = self.dense(x)
        if anchors is not None:
            gain, offset = self.modulation(anchors)[:, :, None, None].chunk(2, 1)  # (B, C, 1, 1)
            inner = torch.addcmul(offset.to(inner.dtype), inner, (1 + gain).to(inner.dtype))
        return inner * _SHARE + x


class Dense(nn.Module):
    """Five densely connected convolutions."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width + place * growth, growth if place < 4 else width, 3, padding=1)
            for place in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for convolution in self.convolutions[:-1]:
            features.append(F.leaky_relu(convolution(torch.cat(features, 1)), _SLOPE))
        result: Tensor = self.convolutions[-1](torch.cat(features, 1))
        return result * _SHARE + x


def _silent(inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
    """A convolution that gives 0 until it is trained."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
