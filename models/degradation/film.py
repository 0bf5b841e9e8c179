"""What old film, print and analogue television leave on a picture, and changes of tone; a seed for each sample.

All take `pictures` float32 (B, 3, H, W) in [0, 1] RGB, `strengths` in [0, 1] (one, or (B,)), a seed for each
sample and `side_px`, the nominal side of the aligned crop in pixels of `pictures` (one, or (B,)). Lengths are
stated for a crop of 512 pixels and scaled by `side_px / 512`, so a window of a crop is treated as the crop is;
rows of fields and lines are rows of `pictures`. All return the same shape in [0, 1].

Changes of tone, at the end, go onto target and degraded picture alike: a restorer trained to undo them would recolour
the face but not the frame around it. So the target is toned first, and the toned target is degraded. They change each
pixel by itself.

Shapes: B pictures, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from models.degradation.kernels import (
    Draws,
    Numbers,
    column,
    derive,
    gaussian_matrix,
    normal,
    numbers,
    soft_normal,
)
from models.degradation.stills import REFERENCE_SIDE_PX

Degradation = Callable[[Tensor, ArrayLike, Sequence[int], ArrayLike], Tensor]
"""(pictures, strengths, seeds, side_px) -> pictures, all as above."""


def luma(pictures: Tensor) -> Tensor:
    """Brightness (B, 1, H, W), ITU-R BT.601."""
    return 0.299 * pictures[:, :1] + 0.587 * pictures[:, 1:2] + 0.114 * pictures[:, 2:]


def interlacing(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """Two fields of a moving picture woven into one, or blended by a poor deinterlacer.

    Only an ellipse about a random place moves, as a head before a wall does; elsewhere both fields agree.
    """
    draws, strength, scale = _start("interlacing", pictures, strengths, seeds, side_px)
    height, width = pictures.shape[2:]
    rows, columns = _places(pictures)
    # Both centre and radii in the crop's lengths: for a window they may lie outside of it.
    side = scale * REFERENCE_SIDE_PX
    centre_x = width / 2 + side * draws.uniform(-0.25, 0.25)
    centre_y = height / 2 + side * draws.uniform(-0.2, 0.3)
    radius_x, radius_y = side * draws.uniform(0.2, 0.5), side * draws.uniform(0.25, 0.55)
    distance = torch.hypot(
        (columns - column(centre_x, pictures)) / column(radius_x, pictures),
        (rows - column(centre_y, pictures)) / column(radius_y, pictures),
    )
    moving = torch.sigmoid(8 * (1 - distance))
    step_x = strength * scale * draws.signs() * draws.uniform(7, 22)
    step_y = strength * scale * draws.uniform(-4, 4)
    later = _displaced(pictures, moving * column(step_x, pictures), moving * column(step_y, pictures))
    parity = column(draws.choice((0.5, 0.5)), pictures)
    second = (torch.remainder(rows + parity, 2) >= 1).to(pictures.dtype)
    blended = column(0.5 * (draws.uniform() < 0.25), pictures)
    part = torch.where(blended > 0, blended, second)
    return pictures + part * (later - pictures)


def scan_lines(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """A picture tube filmed: dark gaps between lines, lines that jitter, and a dark bar from the shutter."""
    draws, strength, scale = _start("scan_lines", pictures, strengths, seeds, side_px)
    height = pictures.shape[2]
    rows, _ = _places(pictures)
    period = np.maximum(2.0, scale * draws.uniform(5, 12))
    phase = 2 * np.pi * draws.uniform()
    gap = 0.5 + 0.5 * torch.cos(2 * np.pi * rows / column(period, pictures) + column(phase, pictures))
    # Bright lines bloom and close the gaps.
    depth = column(strength * draws.uniform(0.35, 0.75), pictures) * (1 - 0.5 * luma(pictures))
    side = scale * REFERENCE_SIDE_PX
    bar_place = height / 2 + side * draws.uniform(-0.7, 0.7)
    bar_distance = (rows - column(bar_place, pictures)) / column(side * draws.uniform(0.1, 0.3), pictures)
    bar = column(strength * draws.uniform(0, 0.35), pictures) * torch.exp(-0.5 * bar_distance.square())
    jitter = normal(seeds, "line jitter", (1, height, 1), pictures)
    jitter = jitter * column(strength * scale * draws.uniform(0, 2.0), pictures)
    moved = _displaced(pictures, jitter.expand(-1, 1, -1, pictures.shape[3]), None)
    # The camera's exposure makes up for two thirds of what the gaps take.
    lines = (1 - depth * gap) * (1 + depth / 3)
    return (moved * lines * (1 - bar)).clamp(0, 1)


def chroma_bleed(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """Colour of a video cassette: smeared along the lines, late against the brightness, and noisy."""
    draws, strength, scale = _start("chroma_bleed", pictures, strengths, seeds, side_px)
    height, width = pictures.shape[2:]
    sigma = strength * scale * draws.uniform(6, 20)
    delay = strength * scale * draws.uniform(-2, 10)
    amount = strength * draws.uniform(0, 0.04)
    streaks = normal(seeds, "chroma streaks", (2, height, width), pictures)
    bright = luma(pictures)
    colour = pictures - bright
    red, blue = colour[:, :1], colour[:, 2:]
    chroma = torch.cat([red, blue], 1) + streaks * column(amount * (1 + sigma), pictures)
    blur = gaussian_matrix(column(sigma, pictures).reshape(-1), width)
    smeared = torch.matmul(chroma, blur[:, None].mT)
    smeared = _displaced(smeared, column(delay, pictures).expand(-1, 1, height, width), None)
    red, blue = smeared[:, :1], smeared[:, 1:]
    green = -(0.299 * red + 0.114 * blue) / 0.587
    return (bright + torch.cat([red, green, blue], 1)).clamp(0, 1)


def halftone(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """The dots of a newspaper or a colour print: a turned screen, in print colours one for each ink."""
    draws, strength, scale = _start("halftone", pictures, strengths, seeds, side_px)
    rows, columns = _places(pictures)
    period = column(np.maximum(2.2, scale * draws.uniform(5, 11)), pictures)
    angle = draws.uniform(0.6, 0.97)
    coloured = draws.uniform() < 0.4
    bright = luma(pictures)
    chosen = column(coloured, pictures) > 0
    ink_source = torch.where(chosen, pictures, bright)
    inks = []
    for channel, turn in enumerate((15, 75, 0)):  # degrees between the screens of cyan, magenta and yellow
        turned = column(angle + np.radians(turn) * coloured, pictures)
        along = (columns * torch.cos(turned) + rows * torch.sin(turned)) / period
        across = (rows * torch.cos(turned) - columns * torch.sin(turned)) / period
        screen = 0.5 + 0.25 * (torch.cos(2 * np.pi * along) + torch.cos(2 * np.pi * across))
        # Thresholds of this screen crowd about one half; the slope keeps shadows and lights apart.
        value = 0.5 + (ink_source[:, channel : channel + 1] - 0.5) * 0.8
        inks.append(((value - screen) * (0.35 * period).clamp(min=1.2) + 0.5).clamp(0.04, 0.96))
    printed = torch.cat(inks, 1)
    part = column(strength * draws.uniform(0.5, 0.95), pictures)
    return pictures + part * (printed - pictures)


def film_grain(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """Grains of film: clumps of a few pixels, strongest in the middle tones, mostly without colour."""
    draws, strength, scale = _start("film_grain", pictures, strengths, seeds, side_px)
    spread = scale * draws.uniform(0.7, 2.0)
    amplitude = strength * draws.uniform(0.03, 0.1)
    own = np.where(draws.uniform() < 0.3, draws.uniform(0.2, 0.6), 0.0)
    grain = soft_normal(seeds, "grain", (4, *pictures.shape[2:]), spread, pictures)
    mixed = grain[:, :1] * column(np.sqrt(1 - own**2), pictures) + grain[:, 1:] * column(own, pictures)
    bright = luma(pictures).clamp(0, 1)
    visible = 0.2 + 0.8 * (4 * bright * (1 - bright)).sqrt()
    return (pictures + column(amplitude, pictures) * visible * mixed).clamp(0, 1)


def scratches(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """Vertical lines where film ran over grit: white through the emulsion, or dark, and wandering."""
    draws, strength, scale = _start("scratches", pictures, strengths, seeds, side_px)
    height, width = pictures.shape[2:]
    rows, columns = _places(pictures)
    side = scale * REFERENCE_SIDE_PX
    result = pictures
    for index in range(4):
        there = (draws.uniform() < 0.6) if index else np.ones(len(seeds), bool)
        wander = column(scale * draws.uniform(0, 5), pictures) * torch.sin(
            rows / column(side * draws.uniform(0.1, 0.5), pictures) + column(draws.uniform(0, 6.3), pictures)
        )
        place = column(width / 2 + side * draws.uniform(-0.5, 0.5), pictures) + wander
        half_width = column(np.maximum(0.5, scale * draws.uniform(0.5, 1.6)), pictures)
        line = (half_width + 0.5 - (columns - place).abs()).clamp(0, 1)
        middle = column(height / 2 + side * draws.uniform(-0.5, 0.5), pictures)
        length = column(side * draws.uniform(0.2, 1.5), pictures)
        line = line * torch.sigmoid(12 * (1 - (rows - middle).abs() / length))
        opacity = column(there * strength * draws.uniform(0.3, 0.9), pictures)
        tone = column(np.where(draws.uniform() < 0.7, 0.92, 0.08), pictures)
        result = result + opacity * line * (tone - result)
    return result


def dust(pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike) -> Tensor:
    """Specks and flakes, dark on a print, white on a copy of a negative: peaks of a coarse random field."""
    draws, strength, scale = _start("dust", pictures, strengths, seeds, side_px)
    spread = np.maximum(0.7, scale * draws.uniform(1.5, 4.5))
    level = column(draws.uniform(3.0, 3.6) - 0.7 * strength, pictures)
    field = soft_normal(seeds, "dust", (2, *pictures.shape[2:]), spread, pictures)
    specks = torch.sigmoid(14 * (field - level))
    opacity = column(np.minimum(1.0, 1.6 * strength) * draws.uniform(0.7, 1.0), pictures)
    dark = column(draws.uniform() < 0.5, pictures)
    tones = (torch.where(dark > 0, 0.1, 0.93), torch.where(dark > 0, 0.85, 0.93))
    result = pictures
    for index, tone in enumerate(tones):
        result = result + opacity * specks[:, index : index + 1] * (tone - result)
    return result


def _start(
    stage: str, pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike
) -> tuple[Draws, Numbers, Numbers]:
    """Draws, strengths and scales, one for each sample."""
    count = len(pictures)
    if len(seeds) != count:
        raise ValueError(f"one seed for each of {count} pictures is needed, got {len(seeds)}")
    return Draws(seeds, stage), numbers(strengths, count), numbers(side_px, count) / REFERENCE_SIDE_PX


def _places(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (W,) of the pixels."""
    height, width = pictures.shape[2:]
    rows = torch.arange(height, device=pictures.device, dtype=pictures.dtype)
    return rows[:, None], torch.arange(width, device=pictures.device, dtype=pictures.dtype)


def _displaced(pictures: Tensor, step_x: Tensor, step_y: Tensor | None) -> Tensor:
    """`pictures` moved by (B, 1, H, W) pixels, linearly between pixels; edges are repeated."""
    height, width = pictures.shape[2:]
    rows, columns = _places(pictures)
    from_x = (columns - step_x[:, 0] + 0.5) * (2 / width) - 1
    from_y = rows.expand_as(from_x) if step_y is None else rows - step_y[:, 0]
    grid = torch.stack([from_x, (from_y + 0.5) * (2 / height) - 1], -1)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


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
