"""From noise to a clean face: Euler steps along the flow, with guidance towards face and references.

z_sigma = (1 - sigma) z_0 + sigma noise; the velocity is noise - z_0. Source: IConFace (arXiv 2605.02814).

Shapes: B faces, N tokens of a picture, C their channels, E width of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.iconface.conditions import Before
from models.iconface.network import IconFace, ReferenceMemory
from models.iconface.settings import SMALLEST_SIGMA, IconFaceSettings


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """The identity, the references and the previous restoration that condition a velocity."""

    anchors: Tensor
    """float32 (B, E), unit length."""
    memory: ReferenceMemory
    before: Before | None = None
    """The previous restoration, if there is one."""


def sigmas(steps: int, shift: float = 1.0, start: float = 1.0) -> list[float]:
    """Noise levels from `start` to 0: s t / (1 + (s - 1) t) for t = 1 ... 0 in `steps` steps, if they start at 1.

    From a lower start as many steps are left as the levels below it ask for, and one at least.
    """
    latest = start / (shift - (shift - 1) * start)
    left = max(1, math.ceil(steps * latest - 1e-9))
    times = [latest * (1 - step / left) for step in range(left + 1)]
    return [shift * time / (1 + (shift - 1) * time) for time in times]


def klein_shift(tokens: int, steps: int) -> float:
    """The shift of FLUX.2 klein for a picture of `tokens` tokens: e^mu, mu linear in tokens and in steps.

    The two lines, for 10 and for 200 steps, are those of diffusers' pipeline, which cannot be imported without its
    language model. Above 4300 tokens the second holds for any number of steps.
    """
    many = 1.6927e-4 * tokens + 0.45666666
    if tokens > 4300:
        return math.exp(many)
    few = 8.73809524e-5 * tokens + 1.89833333
    return math.exp(few + (many - few) * (steps - 10) / 190)


def fixed_noise(seed: int, tokens: int, channels: int) -> Tensor:
    """The noise all faces start from, float32 (1, N, C); the same on every device."""
    return torch.randn(1, tokens, channels, generator=torch.Generator().manual_seed(seed))


def noised(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """z_sigma of clean tokens (B, N, C); `sigma` (B,)."""
    return clean + sigma[:, None, None] * (noise - clean)


def cleaned(scene: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The clean tokens that a velocity points to: z_sigma - sigma u."""
    return scene - sigma[:, None, None] * velocity


def velocity(
    network: IconFace, scene: Tensor, sigma: Tensor, degraded: Tensor | None, condition: Condition
) -> Tensor:
    """The velocity (B, N, C) at `scene`, whether the network predicts it or the clean face."""
    answer: Tensor = network(scene, sigma, degraded, condition.anchors, condition.memory, condition.before)
    if not network.shape.clean:
        return answer
    clean = answer if degraded is None else degraded + answer
    return (scene - clean) / sigma.clamp_min(SMALLEST_SIGMA)[:, None, None]


def guided_velocity(
    network: IconFace,
    scene: Tensor,
    sigma: Tensor,
    degraded: Tensor,
    alone: Condition,
    views: Sequence[Condition],
    settings: IconFaceSettings,
) -> Tensor:
    """(1 - s_i) u(-, -) + (s_i - s_c) u(degraded, -) + s_c / N sum of u(degraded, view).

    `alone` is the condition without references, `views` those with: one with all of them in its sequence, or N
    with one each. Terms of weight zero are not computed. Source: RefID (arXiv 2505.21905), two-scale guidance;
    with s_i = 1 and one view it is classifier-free guidance towards the references.
    """
    image, guidance = settings.image_guidance, settings.towards_references
    terms: list[tuple[float, Tensor | None, Condition]] = [
        (image - guidance if views else image, degraded, alone)
    ]
    terms += [(guidance / len(views), degraded, view) for view in views]
    if image != 1:
        unconditional = Condition(torch.zeros_like(alone.anchors), alone.memory)
        terms.append((1 - image, None, unconditional))
    total = torch.zeros_like(scene)
    for weight, picture, condition in terms:
        if weight:
            total = total + weight * velocity(network, scene, sigma, picture, condition)
    return total


def sample(
    network: IconFace,
    noise: Tensor,
    degraded: Tensor,
    alone: Condition,
    views: Sequence[Condition],
    settings: IconFaceSettings,
    known: Tensor | None = None,
) -> Tensor:
    """Clean tokens (B, N, C) of `degraded` tokens (B, N, C), from `noise`, (1 or B, N, C).

    `known`: tokens (B, N, C) near the clean ones; the way then begins at them, noised to `settings.previous_sigma`.
    """
    start = 1.0 if known is None else settings.previous_sigma
    scene = noise.expand_as(degraded)
    if known is not None:
        scene = noised(known, scene, scene.new_full((len(scene),), start))
    for now, following in pairwise(sigmas(settings.steps, settings.shift, start)):
        sigma = scene.new_full((len(scene),), now)
        direction = guided_velocity(network, scene, sigma, degraded, alone, views, settings)
        scene = scene + (following - now) * direction
    return scene
