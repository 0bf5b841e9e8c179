"""What one step of training the flow restorer sees.

Shapes: B faces, R references, S = 256, N tokens of a picture, C their channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.training.rollout import Step


@dataclass(frozen=True, slots=True, eq=False)
class FlowBatch:
    """Whole crops with their references and noise."""

    degraded: Tensor
    """float32 (B, 3, S, S) in [0, 1]."""
    targets: Tensor
    """float32 (B, 3, S, S) in [0, 1]."""
    references: Tensor
    """float32 (B, R, 3, S, S) in [0, 1]."""
    strangers: Tensor
    """bool (B,), whose references show somebody else."""
    noise: Tensor
    """float32 (B, N, C)."""
    sigma: Tensor
    """float32 (B,)."""
    blind: Tensor
    """bool (), whether the degraded face is left out."""
    steps: tuple[Step, ...]
    """Frames before, the oldest first; none for a face that is new."""
