"""The identity anchor: one direction for a person, from several views.

Shapes: R references, D width of an embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_anchor(embeddings: Tensor, temperature: float = 1.0) -> Tensor:
    """Direction of a person's identity, weighted by how clear each view is.

    `embeddings`: float32 (R, D), raw; the norm of each is its quality. Returns float32 (D,), unit length;
    zeros where no view says anything. Source: IConFace (arXiv 2605.02814): w = softmax(log |z| / T), anchor
    = Norm(sum of w_r z_r / |z_r|).
    """
    norms = embeddings.norm(dim=1).clamp_min(1e-6)  # (R,)
    weights = torch.softmax(norms.log() / temperature, dim=0)
    return F.normalize((weights[:, None] * embeddings / norms[:, None]).sum(0), dim=0)
