"""Recipes of the flow restorer and its autoencoder; apart, so that reading a recipe needs no diffusers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.iconface.shape import AutoencoderShape, IconFaceShape


@dataclass(frozen=True, slots=True)
class AutoencoderSettings:
    """What is special to the recipe of the autoencoder."""

    teacher: Path = Path("weights")
    """Folder of the teacher's two files."""
    perceptual: Path | None = None
    """Pruned VGG-19 for the perceptual term; without it the term is left out."""
    draft: Path | None = None
    """Checkpoint of `fast`, whose drafts stand in for the degraded crops; without it they stand for themselves."""
    part_px: int = 128
    whole_every: int = 3
    """One batch in so many holds whole crops and meets the teacher."""
    smallest_true_px: int = 192
    blind: float = 0.15
    """Part of the batches whose decoder does not see the degraded crop."""
    inexact: float = 0.6
    """Part of the samples whose latents are drawn towards the degraded ones, by up to `farthest`."""
    farthest: float = 0.7
    latent_weight: float = 0.5
    perceptual_weight: float = 0.05
    perceptual_part: float = 0.5
    """Part of each batch that the perceptual term sees: it costs as much as the network."""
    texture_weight: float = 0.001
    shape: AutoencoderShape = field(default_factory=AutoencoderShape)


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """What is special to the recipe of `iconface`."""

    autoencoder: Path = Path("autoencoder.safetensors")
    """Checkpoint of the trained autoencoder."""
    encoder: Path = Path("encoder.safetensors")
    """Checkpoint of the identity encoder: anchors and identity terms."""
    draft: Path | None = None
    """Checkpoint of `fast`, which becomes a part of this model: its drafts stand in for the degraded faces."""
    perceptual: Path | None = None
    """Pruned VGG-19 for the perceptual term; without it the term is left out."""
    references: tuple[float, ...] = (0.3, 0.3, 0.2, 0.2)
    """How often a batch has 0, 1, 2 ... references (IConFace's supplement)."""
    stranger: float = 0.08
    """Part of the samples whose references show somebody else."""
    no_degraded: float = 0.02
    """Part of the batches that do not see the degraded face: what image guidance is measured from."""
    pure_noise: float = 0.5
    """Part of the samples at sigma = 1, where a restorer of one step works; the others' logit is normal."""
    lowest_sigma: float = 0.2
    """No step of few starts below, and a velocity told from a clean face grows without bound there."""
    smallest_true_px: int = 192
    soft_weight: float = 0.2
    """How often a picture below 256 true pixels is drawn, against 1 for the others."""
    flow_weight: float = 0.75
    identity_weight: float = 0.3
    least_noise_weight: float = 0.0625
    """Least weight of the identity term where there is much noise; the paper's (1/4)^2 all but turns it off at
    sigma = 1, where a restorer of one step works."""
    identity: Literal["iconface", "refid"] = "iconface"
    """Whose identity term: IConFace's with its adaptive mix, or RefID's with a fixed one."""
    hard_weight: float = 0.5
    """RefID's share of the reference."""
    own_identity_weight: float = 0.0
    """Of a term that asks for the target's own embedding, with references and without; 0 leaves it out."""
    teacher: Path | None = None
    """A recogniser of clean faces for a second identity term; without it the term is left out."""
    teacher_weight: float = 0.05
    decoded_part: float = 0.5
    """Part of each batch that is decoded for the terms on pictures."""
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.05
    texture_weight: float = 0.001
    grid_weight: float = 0.0
    """Of the term against patterns that repeat every few pixels."""
    adversarial_weight: float = 0.0
    """Of the critic's answer to samples at sigma = 1; 0 trains without a critic. It looks at the perceptual
    term's features."""
    decoder_learns: bool = True
    draft_learns: bool = False
    """Whether the drafting `fast` learns on, for what the whole makes of its drafts."""
    previous: float = 0.0
    """Part of the batches whose faces were restored before, in a frame or two; asks for `shape.previous`."""
    previous_frames: int = 2
    """Frames before, at most."""
    steady_weight: float = 1.0
    """Of the term that asks for the same error as in the frame before, moved along."""
    shape: IconFaceShape = field(default_factory=IconFaceShape)

    def __post_init__(self) -> None:
        if self.previous > 0 and not self.shape.previous:
            raise ValueError("previous above 0 asks for shape.previous = true")
        if self.previous_frames < 1:
            raise ValueError(f"previous_frames must be at least 1, got {self.previous_frames}")
