"""Short rollouts of the flow restorer: what it made of the frames before, as it will meet it in a film.

Shapes: B faces, N tokens of a picture, C their channels, E width of an embedding, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.iconface.model import IconFaceModel
from models.iconface.recurrence import Before
from models.iconface.sampling import Condition, cleaned, noised, velocity
from models.training.rollout import Step, moved


@dataclass(frozen=True, slots=True, eq=False)
class Rolled:
    """The end of a rollout."""

    before: Before
    """The last restoration, moved into the frame that is trained on."""
    restored: Tensor
    """float32 (B, 3, S, S) in [0, 1], the same where it was made."""
    step: Step


@torch.no_grad()
def rolled(
    model: IconFaceModel, steps: Sequence[Step], condition: Condition, anchors: Tensor, noise: Tensor
) -> Rolled | None:
    """The model's own restorations of `steps`, in one step each and with one `noise`, (B, N, C); None without steps.

    `anchors`: (B, E), what `fast` is told of the person. Without gradients.
    """
    result: Rolled | None = None
    for step in steps:
        before = None if result is None else result.before
        latents, features = model.autoencoder.encode(model.drafted(step.degraded, anchors, before))
        sigma = noise.new_ones(len(noise))
        degraded = model.autoencoder.tokens(latents)
        direction = velocity(model.network, noise, sigma, degraded, replace(condition, before=before))
        restored = model.decoded(cleaned(noise, direction, sigma), features, before).clamp(0, 1)
        result = Rolled(model.before(moved(restored, step.measured).clamp(0, 1), step.gate), restored, step)
    return result


def begun(
    clean: Tensor, degraded: Tensor, noise: Tensor, sigma: Tensor, before: Before | None
) -> tuple[Tensor, Tensor]:
    """Scenes (B, N, C) at `sigma`, (B,), and the noise that lies between them and the clean face.

    Of the clean face; or, where the face before is known, as a restorer begins then: what is noised is the previous
    face where it holds, and the degraded one elsewhere.
    """
    if before is None:
        return noised(clean, noise, sigma), noise
    scene = noised(before.mixed(degraded), noise, sigma)
    return scene, clean + (scene - clean) / sigma[:, None, None]
