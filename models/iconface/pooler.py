"""Learned queries that draw a fixed number of tokens out of a picture's tokens.

Shapes: B pictures, N tokens of a picture, C their channels, M drawn tokens, W their width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LearnedPooler(nn.Module):
    """One attention of M learned queries over N tokens whose place is learned as well."""

    def __init__(self, channels: int, tokens: int, count: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, width))
        self.place = nn.Parameter(torch.randn(tokens, width))
        # What the reader knows a drawn token by; its content alone would not tell where it was drawn.
        self.slots = nn.Parameter(torch.randn(count, width))
        self.key = nn.Linear(channels, width, bias=False)
        self.value = nn.Linear(channels, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Drawn tokens, (B, M, W), out of `tokens`, (B, N, C)."""
        queries = self.queries.expand(len(tokens), -1, -1)
        drawn = F.scaled_dot_product_attention(queries, self.key(tokens) + self.place, self.value(tokens))
        return drawn + self.slots
