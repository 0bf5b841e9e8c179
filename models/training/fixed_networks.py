"""Networks that the tasks take as they are: who judges identity and features, and who drafts."""

from __future__ import annotations

from pathlib import Path

import torch

from models.fast.network import FastNetwork
from models.fast.restorer import build_fast
from models.packing import fold_norms
from models.recogniser import Encoder, build_encoder
from models.training.losses import PerceptualLoss
from models.training.teacher import Teacher
from models.weights import load_checkpoint


def load_encoder(path: Path, device: torch.device) -> Encoder:
    """The identity encoder on `device`. Raises `CheckpointError` for the weights of something else."""
    encoder = build_encoder(load_checkpoint(path)).to(device)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]


def load_perceptual(path: Path | None, device: torch.device) -> PerceptualLoss | None:
    """The perceptual network on `device`, or None where the recipe has none."""
    return None if path is None else PerceptualLoss(path).to(device)


def load_teacher(path: Path | None, device: torch.device) -> Teacher | None:
    """The recogniser of clean faces on `device`, or None where the recipe has none."""
    if path is None:
        return None
    teacher = Teacher(path).to(device)
    fold_norms(teacher)
    return teacher.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]


def load_draft(path: Path | None, device: torch.device) -> FastNetwork | None:
    """The network of `fast` that drafts on `device`, or None where the recipe has none.

    Raises `CheckpointError` for the weights of something else.
    """
    return None if path is None else build_fast(load_checkpoint(path)).to(device)
