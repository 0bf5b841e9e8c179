"""What conditions the transformer: identity, the degraded face, references, and the previous restoration.

Identity modulation: one vector shifts how image tokens are modulated; the context stream stays untouched. FLUX.2's
modulation is shared by all blocks of a kind, so one shift for the double and one for the single blocks suffice.
Source: IConFace (arXiv 2605.02814), global identity modulation.

Structure anchor: the degraded face holds pose, expression and light in place. Its tokens, low-rank, are added to the
scene's; and before each block the scene reads a memory with two routes, one drawn from the degraded tokens and one
from what smoothing takes from them. Source: IConFace. The paper leaves open kernel, split and start: here 3 x 3
cells, halves, and zero values, so that the backbone is itself at first. Only scene tokens read: the velocity is taken
there, and reference tokens must not depend on the frame if they are to be kept.

Composite Context: each reference as a fixed number of tokens. High level: the identity embedding, the same for every
pose and light. Low level: learned queries over the reference's latents, where RefID takes FaRL features: skin, light
and colour are there at no further network's cost. Both get a learned position embedding and stand in the context
stream. Source: RefID (arXiv 2505.21905).

Recurrence: the restoration of the frame before enters in three places, each as far as the gate lets it: as a group of
tokens at t = 1, which attention may read; by a learned gain on the answer, between what the network says now and what
it said before; and by a learned gain on the features that the decoder sees of the degraded face, which flicker as the
degraded face does. Both gains are zero at the start. Source of the gains: Kalman gain of KEEP (arXiv 2408.05205),
which warps the previous picture, encodes it again and blends.

Shapes: B faces, R references, N tokens of a picture, C their channels, E width of an embedding, K context tokens of a
reference, J width of the context, D width of the transformer, M W tokens and width of a memory, S side of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.iconface.tiny_autoencoder import Features
from models.recogniser import identity_anchor

__all__ = ["IdentityModulation", "identity_anchor"]
POOLED_WIDTH = 128
_PACE = 10.0
"""Makes gains of a channel each learn as fast as those that many weights have a part in."""


class LearnedPooler(nn.Module):
    """One attention of M learned queries over N tokens whose place is learned as well."""

    def __init__(self, channels: int, tokens: int, count: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, width))
        self.place = nn.Parameter(torch.randn(tokens, width))
        # Marks each drawn token, as its content does not say where it was drawn.
        self.slots = nn.Parameter(torch.randn(count, width))
        self.key = nn.Linear(channels, width, bias=False)
        self.value = nn.Linear(channels, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Drawn tokens, (B, M, W), out of `tokens`, (B, N, C)."""
        queries = self.queries.expand(len(tokens), -1, -1)
        drawn = F.scaled_dot_product_attention(queries, self.key(tokens) + self.place, self.value(tokens))
        return drawn + self.slots


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
