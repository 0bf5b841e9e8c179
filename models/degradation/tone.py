"""Changes of tone, which a restorer must leave alone: they go onto target and degraded picture alike.

A restorer trained to undo them would recolour the face but not the frame around it. So the target is toned first, and
the toned target is degraded. Each pixel is changed by itself; arguments as in `models.degradation.film`.

Shapes: B pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from models.degradation.draws import Draws, Numbers, column, derive, numbers
from models.degradation.film import Degradation, luma


def exposure(
    pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike = 512
) -> Tensor:
    """Too much or too little light, up to a stop, and another gamma."""
    draws, strength = Draws(seeds, "exposure"), numbers(strengths, len(pictures))
    direction = draws.signs()
    stops = strength * direction * np.where(direction > 0, draws.uniform(0.1, 0.45), draws.uniform(0.4, 1.1))
    gamma = 2 ** (strength * -direction * draws.uniform(0, 0.3))
    raised = (pictures.clamp(0, 1) + 1e-4) ** column(gamma, pictures) - 1e-4
    return (raised * column(2**stops, pictures)).clamp(0, 1)


def fading(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike = 512) -> Tensor:
    """Dyes that left: grey blacks, weak contrast and colour, often red or yellow as old prints are."""
    draws, strength = Draws(seeds, "fading"), numbers(strengths, len(pictures))
    floor, ceiling = strength * draws.uniform(0.1, 0.3), 1 - strength * draws.uniform(0, 0.15)
    tint = _colour(np.stack([draws.uniform(0.8, 1.5), draws.uniform(0.7, 1.1), draws.uniform(0.5, 1.0)]))
    grey = luma(pictures)
    weak = pictures + column(strength * draws.uniform(0.2, 0.75), pictures) * (grey - pictures)
    blacks = column(floor, pictures) * tint.to(pictures)
    return (blacks + weak * (column(ceiling, pictures) - blacks)).clamp(0, 1)


def colour_cast(
    pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike = 512
) -> Tensor:
    """Wrong light for the film or the camera's white balance: red against blue, and some green or magenta."""
    draws, strength = Draws(seeds, "colour_cast"), numbers(strengths, len(pictures))
    warm = strength * draws.signs() * draws.uniform(0.08, 0.26)
    green = strength * draws.uniform(-0.15, 0.15)
    gains = np.exp(np.stack([warm - green / 2, green, -warm - green / 2]))
    return (pictures * _colour(gains).to(pictures)).clamp(0, 1)


def black_and_white(
    pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike = 512
) -> Tensor:
    """Black-and-white film, from one blind to red (dark lips) to one with a red filter."""
    draws, strength = Draws(seeds, "black_and_white"), numbers(strengths, len(pictures))
    red = draws.uniform(0.05, 0.5)
    blue = draws.uniform(0.05, 0.3)
    weights = _colour(np.stack([red, 1 - red - blue, blue])).to(pictures)
    grey = (pictures * weights).sum(1, keepdim=True)
    return pictures + column(strength, pictures) * (grey - pictures)


def sepia(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike = 512) -> Tensor:
    """A toned print: grey turned brown, most in the middle tones."""
    draws, strength = Draws(seeds, "sepia"), numbers(strengths, len(pictures))
    gamma = _colour(np.stack([draws.uniform(0.65, 0.8), draws.uniform(0.97, 1.08), draws.uniform(1.3, 1.7)]))
    brown = (luma(pictures).clamp(0, 1) + 1e-4) ** gamma.to(pictures)
    return pictures + column(strength, pictures) * (brown - pictures)


TONES: dict[str, Degradation] = {
    "exposure": exposure,
    "colour cast": colour_cast,
    "fading": fading,
    "black and white": black_and_white,
    "sepia": sepia,
}
"""In the order in which `tone` applies them."""

_CHANCES = {"exposure": 0.3, "colour cast": 0.25, "fading": 0.12, "black and white": 0.12, "sepia": 0.04}


@torch.no_grad()
def tone(pictures: Tensor, seeds: Sequence[int]) -> Tensor:
    """`pictures` float32 (B, 3, H, W) in [0, 1] with none, one or several changes of tone for each seed.

    The same seed gives the same curve to every picture. Degrade what this returns; do not tone afterwards.
    Raises `ValueError` where seeds and pictures differ in number.
    """
    if len(seeds) != len(pictures):
        raise ValueError(f"one seed for each of {len(pictures)} pictures is needed, got {len(seeds)}")
    draws = Draws(seeds, "tone")
    result = pictures.clone()
    for name, change in TONES.items():
        chosen = np.flatnonzero(draws.uniform() < _CHANCES[name])
        strengths = draws.uniform(0.2, 1.0)
        if name in ("black and white", "sepia"):
            strengths = np.ones(len(seeds))  # half a grey picture does not exist
        if len(chosen):
            index = torch.from_numpy(chosen).to(pictures.device)
            some = derive([seeds[place] for place in chosen.tolist()], "tone")
            result[index] = change(result[index], strengths[chosen], some, 512)
    return result


def _colour(channels: Numbers) -> Tensor:
    """(3, B) values as (B, 3, 1, 1)."""
    return torch.from_numpy(np.ascontiguousarray(channels.T)).float()[:, :, None, None]
