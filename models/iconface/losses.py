"""Losses of the reference-aware flow restorer; each is a formula of one of the two papers.

Embeddings come from a frozen encoder and are compared by cosine; those of references and targets carry no
gradient.

Shapes: B faces, N tokens, C channels, E width of an embedding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SMALLEST_WEIGHT = 0.25
MOST_HARD = 0.25


def flow_matching(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean of |u - (noise - z_0)|^2, w(sigma) = 1; all (B, N, C). Source: IConFace (arXiv 2605.02814)."""
    return F.mse_loss(velocity, noise - clean)


def noise_weight(sigma: Tensor) -> Tensor:
    """omega(sigma) = max(1 - sigma, 0.25)^2: a face guessed out of noise is no face to judge. Source: IConFace."""
    return (1 - sigma).clamp_min(SMALLEST_WEIGHT).square()


def identity_distance(restored: Tensor, wanted: Tensor) -> Tensor:
    """1 - cos, (B,), of embeddings (B, E); no gradient into `wanted`."""
    return 1 - F.cosine_similarity(restored, wanted.detach(), dim=1)


def anchored_identity(restored: Tensor, anchor: Tensor, target: Tensor) -> Tensor:
    """(1 - l) L_reference + l L_hard with l = (1 - cos(anchor, target)) / 4, (B,). Source: IConFace.

    The worse the references agree with the target, the more the target itself is asked for.
    """
    hard = MOST_HARD * identity_distance(anchor.detach(), target)
    return (1 - hard) * identity_distance(restored, anchor) + hard * identity_distance(restored, target)


def hard_example_identity(restored: Tensor, reference: Tensor, target: Tensor, weight: float) -> Tensor:
    """(1 - l) L(target) + l L(reference), (B,), l = `weight`. Source: RefID (arXiv 2505.21905), equation of L_HID.

    The target alone is too easy, as the degraded face often shows it already; another photograph stays hard.
    """
    return (1 - weight) * identity_distance(restored, target) + weight * identity_distance(
        restored, reference
    )
