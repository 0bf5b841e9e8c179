"""The structure anchor: the degraded face holds pose, expression and light in place.

It enters twice: its tokens, low-rank, are added to the scene's; and before each block the scene reads a memory
with two routes, one drawn from the degraded tokens and one from what smoothing takes from them. Source: IConFace
(arXiv 2605.02814). The paper leaves open kernel, split and start: here 3 x 3 cells, halves, and zero
values, so that the backbone is itself at first. Only scene tokens read: the velocity is taken there, and
reference tokens must not depend on the frame if they are to be kept.

Shapes: B faces, N tokens of a picture, C their channels, D width of the transformer, M W memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.iconface.pooler import LearnedPooler


class InputResidual(nn.Module):
    """x_scene + W_in x_degraded with W_in of low rank, zero at the start."""

    def __init__(self, channels: int, rank: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, degraded: Tensor) -> Tensor:
        """What is added to the scene's embedded tokens, (B, N, D), of degraded tokens (B, N, C)."""
        residual: Tensor = self.up(self.down(degraded))
        return residual


class TwoRouteMemory(nn.Module):
    """[pool(x); pool(x - smooth(x))] of the degraded tokens x, half of the memory each."""

    def __init__(self, channels: int, tokens: int, count: int, width: int) -> None:
        super().__init__()
        self.base = LearnedPooler(channels, tokens, count // 2, width)
        self.detail = LearnedPooler(channels, tokens, count - count // 2, width)

    def forward(self, degraded: Tensor, rows: int) -> Tensor:
        """Memory (B, M, W) of degraded tokens (B, N, C) in `rows` rows."""
        return torch.cat([self.base(degraded), self.detail(degraded - smooth(degraded, rows))], 1)


class StructureRead(nn.Module):
    """mu * Attention(Q h, K memory, V memory) with K and V of low rank and V zero at the start."""

    def __init__(self, width: int, memory: int, rank: int, inner: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Sequential(nn.Linear(memory, rank, bias=False), nn.Linear(rank, inner, bias=False))
        up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(up.weight)
        self.value = nn.Sequential(nn.Linear(memory, rank, bias=False), up)
        self.strength = nn.Parameter(torch.ones(()))

    def forward(self, scene: Tensor, memory: Tensor) -> Tensor:
        """What is added to the scene's tokens, (B, N, D)."""
        queries = self.query(F.layer_norm(scene, scene.shape[-1:]))  # (B, N, inner)
        read = F.scaled_dot_product_attention(queries, self.key(memory), self.value(memory))
        return self.strength * read


def smooth(tokens: Tensor, rows: int) -> Tensor:
    """Mean of each token (B, N, C) and its neighbours in the grid of `rows` rows; fewer at the border."""
    count, _, channels = tokens.shape
    cells = tokens.transpose(1, 2).reshape(count, channels, rows, -1)  # (B, C, rows, columns)
    return F.avg_pool2d(cells, 3, 1, 1, count_include_pad=False).flatten(2).transpose(1, 2)
