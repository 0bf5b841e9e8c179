"""What the recipes of the tasks may set; apart from the tasks, so that reading a recipe needs no diffusers.

What several tasks share is declared once, in the three classes that theirs extend; those have no slots, as a class with
slots cannot extend two others. Shares are in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from models.fast.network import FastShape
from models.iconface.shape import AutoencoderShape, IconFaceShape
from models.recogniser import EncoderShape


@dataclass(frozen=True)
class PictureSettings:
    """What all tasks share that end in pictures."""

    perceptual: Path | None = None
    """Pruned VGG-19 for the perceptual term; without it the term is left out."""
    perceptual_weight: float = 0.05
    smallest_true_px: int = 192
    """Pictures below are no targets."""


@dataclass(frozen=True)
class PartSettings(PictureSettings):
    """Training on parts of crops, and now and then on whole ones."""

    part_px: int = 128
    """Side of the parts."""
    whole_every: int = 4
    """One batch in this many holds whole crops."""
    perceptual_part: float = 0.5
    """Share of each batch that the perceptual term sees: it costs as much as the network."""


@dataclass(frozen=True)
class PersonSettings(PictureSettings):
    """What restorers share that know the person and are used in video."""

    encoder: Path = Path("encoder.safetensors")
    """Checkpoint of the identity encoder: anchors and identity terms."""
    teacher: Path | None = None
    """A recogniser of clean faces for a second identity term; without it the term is left out."""
    teacher_weight: float = 0.05
    soft_weight: float = 0.2
    """How often a picture below 256 true pixels is drawn, against 1 for the others."""
    grid_weight: float = 0.0
    """Of the term against patterns that repeat every few pixels."""
    adversarial_weight: float = 0.0
    """Of the critic's answer; 0 trains without a critic. It looks at the perceptual term's features."""
    previous: float = 0.0
    """Share of the batches whose faces were restored before, in a frame or two; asks for `shape.previous`."""
    previous_frames: int = 2
    """Maximum number of frames before."""
    steady_weight: float = 1.0
    """Of the term that asks for the same error as in the frame before, moved along."""

    def check_previous(self, shape: FastShape | IconFaceShape) -> None:
        """Raises `ValueError` for frames before that a network of this shape cannot use."""
        if self.previous > 0 and not shape.previous:
            raise ValueError("previous above 0 asks for shape.previous = true")
        if self.previous_frames < 1:
            raise ValueError(f"previous_frames must be at least 1, got {self.previous_frames}")


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What is special to the encoder's recipe."""

    teacher: Path = Path("mobilefacenet_112x96_128d.safetensors")
    """Weights of the recogniser to learn from."""
    invented_people: int = 8000
    """Blended or stretched faces beside the real ones."""
    clean_part: float = 0.35
    """Share of the views left clean."""
    cosine_weight: float = 0.3
    """Weight of (1 - cosine) beside the squared error."""
    shape: EncoderShape = field(default_factory=EncoderShape)


@dataclass(frozen=True, slots=True)
class FastSettings(PartSettings, PersonSettings):
    """What is special to the recipe of `fast`."""

    no_anchor: float = 0.4
    """Share of the samples without an anchor."""
    wrong_anchor: float = 0.08
    """Share of the samples with a stranger's anchor."""
    large_part: float = 0.2
    """Share of the batches of parts that are cut from crops of 512 pixels."""
    coded_faces: int = 6000
    """Faces that go through a real video encoder beforehand; 0 leaves video to the model of a codec."""
    texture_weight: float = 0.004
    identity_weight: float = 0.03
    shape: FastShape = field(default_factory=FastShape)

    def __post_init__(self) -> None:
        self.check_previous(self.shape)


@dataclass(frozen=True, slots=True)
class AutoencoderSettings(PartSettings):
    """What is special to the recipe of the autoencoder."""

    whole_every: int = 3
    """One batch in this many holds whole crops and meets the teacher."""
    teacher: Path = Path("weights")
    """Folder of the teacher's two files."""
    draft: Path | None = None
    """Checkpoint of `fast`, whose drafts stand in for the degraded crops; without it they stand for themselves."""
    blind: float = 0.15
    """Share of the batches whose decoder does not see the degraded crop."""
    inexact: float = 0.6
    """Share of the samples whose latents are drawn towards the degraded ones, by up to `farthest`."""
    farthest: float = 0.7
    latent_weight: float = 0.5
    texture_weight: float = 0.001
    shape: AutoencoderShape = field(default_factory=AutoencoderShape)


@dataclass(frozen=True, slots=True)
class FlowSettings(PersonSettings):
    """What is special to the recipe of `iconface`. The critic looks at samples at sigma = 1 alone."""

    autoencoder: Path = Path("autoencoder.safetensors")
    """Checkpoint of the trained autoencoder."""
    draft: Path | None = None
    """Checkpoint of `fast`, which becomes a part of this model: its drafts stand in for the degraded faces."""
    references: tuple[float, ...] = (0.3, 0.3, 0.2, 0.2)
    """How often a batch has 0, 1, 2 ... references (IConFace's supplement)."""
    stranger: float = 0.08
    """Share of the samples whose references show another person."""
    no_degraded: float = 0.02
    """Share of the batches that do not see the degraded face: what image guidance is measured from."""
    pure_noise: float = 0.5
    """Share of the samples at sigma = 1, where a restorer of one step works; the others' logit is normal."""
    lowest_sigma: float = 0.2
    """No step of few starts below, and a velocity that follows from a clean face grows without bound there."""
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
    decoded_part: float = 0.5
    """Share of each batch that is decoded for the terms on pictures."""
    pixel_weight: float = 1.0
    texture_weight: float = 0.001
    decoder_learns: bool = True
    draft_learns: bool = False
    """Whether the drafting `fast` learns on, for what the whole makes of its drafts."""
    shape: IconFaceShape = field(default_factory=IconFaceShape)

    def __post_init__(self) -> None:
        self.check_previous(self.shape)
