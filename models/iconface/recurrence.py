"""What was restored of the frame before takes part in the next restoration.

It enters in three places, each as far as the gate lets it: as a group of tokens at t = 1, which attention may read;
by a learned gain on the answer, between what the network says now and what it said before; and by a learned gain on
the features that the decoder sees of the degraded face, which flicker as the degraded face does. Both gains are zero
at the start. Source of the gains: Kalman gain of KEEP (arXiv 2408.05205), which warps the previous picture, encodes
it again and blends.

Shapes: B faces, N tokens of a picture, C their channels, D width of the transformer, S side of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.iconface.tiny_autoencoder import Features

_PACE = 10.0
"""Makes gains of a channel each learn as fast as those that many weights have a part in."""


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """The previous restoration of a batch of faces, moved to where the faces lie now, as the networks take it."""

    picture: Tensor
    """float32 (B, 4, S, S): RGB in [0, 1] and the gate in [0, 1]."""
    tokens: Tensor
    """(B, N, C) of the picture."""
    features: Features
    """What the encoder saw in the picture."""
    gate: Tensor
    """(B, N, 1) in [0, 1], the gate over each token."""

    def mixed(self, degraded: Tensor) -> Tensor:
        """The previous tokens where they hold, and `degraded` ones elsewhere, (B, N, C)."""
        return degraded + self.gate * (self.tokens - degraded)

    def part(self, chosen: slice) -> Before:
        """The same of some faces of the batch."""
        features = self.features[0][chosen], self.features[1][chosen]
        return Before(self.picture[chosen], self.tokens[chosen], features, self.gate[chosen])


class TokenRecurrence(nn.Module):
    """The group of tokens, and the gain on the answer."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.zeros(width))
        self.gain = nn.Linear(width, channels)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)

    def gated(self, embedded: Tensor, gate: Tensor) -> Tensor:
        """The group's `embedded` tokens (B, N, D), those that the gate keeps out replaced by the absent one."""
        return self.absent + gate * (embedded - self.absent)

    def corrected(self, answer: Tensor, hidden: Tensor, before: Before, degraded: Tensor) -> Tensor:
        """`answer` (B, N, C), an offset from `degraded`, drawn towards the previous face's offset.

        `hidden`: (B, N, D), what the answer was read from.
        """
        gain = before.gate * torch.tanh(self.gain(hidden))  # (B, N, C)
        return answer + gain * (before.tokens - degraded - answer)


class FeatureRecurrence(nn.Module):
    """The gain on what the decoder sees of the degraded face, one for each channel."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.gains = nn.ParameterList(nn.Parameter(torch.zeros(1, width, 1, 1)) for width in widths)

    def forward(self, features: Features, before: Before) -> Features:
        """`features` of the degraded face, drawn towards those of the previous one."""
        fine, coarse = (
            now
            + F.adaptive_avg_pool2d(before.picture[:, 3:], (now.shape[2], now.shape[3]))
            * torch.tanh(_PACE * gain)
            * (earlier - now)
            for now, earlier, gain in zip(features, before.features, self.gains, strict=True)
        )
        return fine, coarse
