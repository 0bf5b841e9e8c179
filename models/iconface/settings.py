"""Settings of the flow restorers `iconface` and `klein`, apart from their networks, which take seconds to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

SEED = 42
"""Usual seed of the noise that all faces start from."""
SMALLEST_SIGMA = 0.05
"""Below, a predicted clean face says little about the velocity (arXiv 2511.13720 clips at the same place)."""
MOST_STEPS = 1000
"""Noise levels that flow models are trained to distinguish; more steps have no effect."""


@dataclass(frozen=True, slots=True)
class IconFaceSettings:
    """How `iconface` samples a face."""

    steps: int = 1
    """Passes of the transformer per face."""
    guidance: float | None = None
    """Guidance towards the references: 1 = the conditional prediction alone, at no extra cost; `none` = 3 in one step,
    which brings severely degraded faces nearer to the person (docs/models.md), and 1 in more. Faces without references
    are not guided."""
    image_guidance: float = 1.0
    """Guidance towards the degraded face: 1 = the conditional prediction alone; other values cost one more pass."""
    average_references: bool = False
    """Condition on each reference alone and average the velocities, as in RefID, instead of on all in one sequence."""
    shift: float = 1.0
    """Above 1, more of the steps are taken at high noise levels."""
    own_noise: bool = False
    """Start each face from noise of its own instead of the same noise for all (for comparison)."""
    previous_sigma: float = 1.0
    """Where a face changed little, sampling starts from its previous restoration, noised to this level: above 0.05,
    with in proportion fewer steps; 1 always starts from noise alone. Below 1 needs `restore.previous`."""
    previous_group: bool = True
    """Let a network that is made for it see the previous restoration (`restore.previous`)."""
    most_change: float = 0.3
    """Relative change of a face's tokens up to which the transformer's last output for its track is used again, at
    about half the time; 0 = never. On a GPU it is never used again."""

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_guidance(guidance=self.guidance, image_guidance=self.image_guidance)
        if not SMALLEST_SIGMA < self.previous_sigma <= 1:
            raise ValueError(
                f"previous_sigma must be above {SMALLEST_SIGMA} and at most 1, got {self.previous_sigma}"
            )
        if not (math.isfinite(self.most_change) and self.most_change >= 0):
            raise ValueError(f"most_change must be finite and not negative, got {self.most_change}")
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise ValueError(f"shift must be finite and above 0, got {self.shift}")

    @property
    def towards_references(self) -> float:
        """The guidance that is meant."""
        if self.guidance is not None:
            return self.guidance
        return 3.0 if self.steps == 1 else 1.0


@dataclass(frozen=True, slots=True)
class KleinSettings:
    """Which model `klein` is, and how it samples a face."""

    model: str = "black-forest-labs/FLUX.2-klein-4B"
    """Its name in the hub's cache (this one or `-base-4B`), or a folder of the same layout."""
    adapter: Path | None = None
    """Adapter trained for restoration: `lora_weights.safetensors` or one of ours; none = the model alone."""
    prompt: str | None = None
    """Prompt for every face; none = the one that is stored encoded with the model, or else ours."""
    steps: int | None = None
    """Passes of the transformer per face; none = 4 for the distilled model, 12 for the base model."""
    guidance: float | None = None
    """Guidance towards the prompt: 1 = the conditional prediction alone, other values double the passes; none = 1 for
    the distilled model, 4 for the base model."""

    def __post_init__(self) -> None:
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("prompt must not be empty; none is the usual one")
        if self.steps is not None:
            _check_steps(self.steps)
        _check_guidance(guidance=self.guidance)


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps must be between 1 and {MOST_STEPS}, got {steps}")


def _check_guidance(**guidance: float | None) -> None:
    for name, value in guidance.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and not negative, got {value}")
