"""What the networks of `iconface` are built from, and how pictures lie in the transformer's sequence.

Shapes are kept in the headers of checkpoints; reading them needs no diffusers. The sequence is `[scene; degraded;
previous; references]` and the context, as in FLUX.2. A token is a square of 2 x 2 latent cells. Its place has four
axes: t says which picture, h and w where in the picture, l the number of a context token. All pictures
share one grid, so degraded and scene tokens of one spot differ in t alone. Source: IConFace (arXiv 2605.02814),
rotary ids.

Shapes: B faces, C latent channels, h w latent cells, N tokens of a picture, R references, K context tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SCENE_TIME = 0
PREVIOUS_TIME = 1
"""The previous restoration, where it takes part."""
DEGRADED_TIME = 2
FIRST_REFERENCE_TIME = 10
"""Reference r stands at 10 + r (FLUX.2 itself uses 10, 20, 30 ...)."""


@dataclass(frozen=True, slots=True)
class AutoencoderShape:
    """What a `TinyAutoencoder` is built from; kept in the header of its checkpoint."""

    widths: tuple[int, ...] = (64, 128)
    """Channels at 1/4 and 1/8 of the crop."""
    encoder_depths: tuple[int, ...] = (2, 3)
    """Blocks at each of them."""
    decoder_depths: tuple[int, ...] = (4, 4)
    latent: int = 32
    """C."""


@dataclass(frozen=True, slots=True)
class IconFaceShape:
    """What an `IconFace` is built from; kept in the header of its checkpoint. The defaults are `tiny`."""

    heads: int = 4
    head_width: int = 64
    double_blocks: int = 2
    single_blocks: int = 6
    rotary: tuple[int, ...] = (8, 24, 24, 8)
    """Channels of a head for t, h, w and l."""
    channels: int = 128
    """C."""
    rows: int = 16
    """Tokens a side."""
    context: int = 256
    """J."""
    prompt: int = 0
    """Fixed context tokens before those of the references; klein's prompt."""
    high_tokens: int = 4
    low_tokens: int = 12
    embedding: int = 128
    """E."""
    identity_width: int = 256
    rank: int = 16
    memory: int = 64
    """Tokens of both routes together: a quarter of a picture's, as in the paper."""
    memory_width: int = 128
    read_width: int = 64
    clean: bool = True
    """Whether the network predicts the clean face's offset from the degraded one, or else the velocity.

    A small network cannot hand 128 channels of noise through its width, which predicting the velocity asks for.
    Source: "Back to Basics: Let Denoising Generative Models Denoise" (arXiv 2511.13720).
    """
    previous: bool = False
    """Whether the previous restoration takes part (`conditions`); only with `clean`."""

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_width


KLEIN = IconFaceShape(
    heads=24,
    head_width=128,
    double_blocks=5,
    single_blocks=20,
    rotary=(32, 32, 32, 32),
    rows=32,
    context=7680,
    prompt=512,
    identity_width=512,
    memory=256,
    memory_width=512,
    read_width=512,
    clean=False,
)
"""FLUX.2 klein 4B at 512 pixels."""


def pack(latents: Tensor) -> Tensor:
    """Tokens, (B, h/2 * w/2, 4C), row by row, of latents (B, C, h, w)."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int) -> Tensor:
    """Latents (B, C, h, w) of tokens (B, N, 4C) in `rows` rows: the way back of `pack`."""
    count, _, channels = tokens.shape
    cells = tokens.transpose(1, 2).reshape(count, channels, rows, -1)  # (B, 4C, h/2, w/2)
    return F.pixel_shuffle(cells, 2)


def image_ids(time: int, rows: int, columns: int) -> Tensor:
    """Places (t, h, w, l) of one picture's tokens, int64 (rows * columns, 4)."""
    return torch.cartesian_prod(
        torch.tensor([time]), torch.arange(rows), torch.arange(columns), torch.tensor([0])
    )


def scene_ids(rows: int, columns: int, *, degraded: bool, previous: bool = False) -> Tensor:
    """Places of the scene, then of the degraded and the previous picture where there are any, int64 (1-3 N, 4)."""
    times = (SCENE_TIME, *(DEGRADED_TIME,) * degraded, *(PREVIOUS_TIME,) * previous)
    return torch.cat([image_ids(time, rows, columns) for time in times])


def reference_ids(count: int, rows: int, columns: int) -> Tensor:
    """Places of `count` references, int64 (count * N, 4)."""
    ids = [image_ids(FIRST_REFERENCE_TIME + index, rows, columns) for index in range(count)]
    return torch.cat(ids) if ids else torch.zeros(0, 4, dtype=torch.int64)


def context_ids(count: int) -> Tensor:
    """Places (0, 0, 0, l) of `count` context tokens, int64 (count, 4)."""
    ids = torch.zeros(count, 4, dtype=torch.int64)
    ids[:, 3] = torch.arange(count)
    return ids
