"""The identity anchor: one vector shifts how image tokens are modulated; the context stream stays untouched.

FLUX.2's modulation is shared by all blocks of a kind, so one shift for the double and one for the single
blocks suffice. Source: IConFace (arXiv 2605.02814), global identity modulation.

Shapes: B faces, E width of an embedding, D width of the transformer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.fast.anchor import identity_anchor

__all__ = ["IdentityModulation", "identity_anchor"]


class IdentityModulation(nn.Module):
    """h = phi(e); shifts psi_double(h), psi_single(h), both zero at the start."""

    def __init__(self, embedding: int, hidden: int, width: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.hidden = nn.Sequential(nn.Linear(embedding, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.double_shift = nn.Linear(hidden, 6 * width, bias=False)
        self.single_shift = nn.Linear(hidden, 3 * width, bias=False)
        nn.init.zeros_(self.double_shift.weight)
        nn.init.zeros_(self.single_shift.weight)

    def forward(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts of (shift, scale, gate) for double, (B, 6D), and single blocks, (B, 3D).

        `anchors`: float32 (B, E), unit length. They are brought to unit variance, or the first layer would see
        next to nothing.
        """
        hidden = F.silu(self.hidden(anchors * self.embedding**0.5))  # (B, H)
        return self.double_shift(hidden), self.single_shift(hidden)
