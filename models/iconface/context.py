"""Composite Context: each reference as a fixed number of tokens, who it is and what it looks like.

High level: the identity embedding, the same for every pose and light. Low level: learned queries over the
reference's latents, where RefID takes FaRL features: skin, light and colour are there at no further network's cost.
Both get a learned position embedding and stand in the context stream. Source: RefID (arXiv 2505.21905).

Shapes: B faces, R references, E width of an embedding, N tokens of a picture, C their channels, K tokens a
reference, J width of the context.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.iconface.pooler import LearnedPooler

POOLED_WIDTH = 128


class CompositeContext(nn.Module):
    """References to context tokens; a learned null where there are none."""

    def __init__(self, embedding: int, channels: int, tokens: int, high: int, low: int, width: int) -> None:
        super().__init__()
        self.high = nn.Linear(embedding, high * width)
        self.pooler = LearnedPooler(channels, tokens, low, POOLED_WIDTH)
        self.low = nn.Linear(POOLED_WIDTH, width)
        self.position = nn.Parameter(0.02 * torch.randn(high + low, width))
        self.null = nn.Parameter(0.02 * torch.randn(high + low, width))

    def forward(self, references: Tensor, embeddings: Tensor) -> Tensor:
        """Context (B, R * K, J) of `references`, tokens (B, R, N, C), and `embeddings`, raw (B, R, E)."""
        count, views = references.shape[:2]
        directions = F.normalize(embeddings, dim=2) * embeddings.shape[2] ** 0.5
        width = self.null.shape[1]
        high = self.high(directions).reshape(count, views, -1, width)  # (B, R, high, J)
        low = self.low(self.pooler(references.flatten(0, 1)))  # (B * R, low, J)
        low = low.reshape(count, views, -1, width)
        return (torch.cat([high, low], 2) + self.position).flatten(1, 2)

    def without(self, count: int) -> Tensor:
        """The null context, (B, K, J), of `count` faces without references."""
        return self.null.expand(count, -1, -1)
