"""Pictures as tokens with a place: `[scene; degraded; previous; references]` and the context, as in FLUX.2.

A token is a square of 2 x 2 latent cells. Its place has four axes: t tells whose picture it is of, h and w
where in the picture, l the number of a context token. All pictures share one grid, so degraded and scene
tokens of one spot differ in t alone. Source: IConFace (arXiv 2605.02814), rotary ids.

Shapes: B faces, C latent channels, h w latent cells, N tokens of a picture, R references, K context tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCENE_TIME = 0
PREVIOUS_TIME = 1
"""What was restored of the frame before, where it takes part."""
DEGRADED_TIME = 2
FIRST_REFERENCE_TIME = 10
"""Reference r stands at 10 + r (FLUX.2 itself uses 10, 20, 30 ...)."""


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
