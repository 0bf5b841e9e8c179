"""What the networks of `iconface` are built from, kept in the headers of their checkpoints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AutoencoderShape:
    """What a `TinyAutoencoder` is built from; kept in the header of its checkpoint."""

    widths: tuple[int, ...] = (64, 128)
    """Channels at 1/4 and 1/8 of the crop."""
    encoder_depths: tuple[int, ...] = (2, 3)
    """Blocks at each of them."""
    decoder_depths: tuple[int, ...] = (4, 4)
    latent: int = 32
    """C."""


@dataclass(frozen=True, slots=True)
class IconFaceShape:
    """What an `IconFace` is built from; kept in the header of its checkpoint. The defaults are `tiny`."""

    heads: int = 4
    head_width: int = 64
    double_blocks: int = 2
    single_blocks: int = 6
    rotary: tuple[int, ...] = (8, 24, 24, 8)
    """Channels of a head for t, h, w and l."""
    channels: int = 128
    """C."""
    rows: int = 16
    """Tokens a side."""
    context: int = 256
    """J."""
    prompt: int = 0
    """Fixed context tokens before those of the references; klein's prompt."""
    high_tokens: int = 4
    low_tokens: int = 12
    embedding: int = 128
    """E."""
    identity_width: int = 256
    rank: int = 16
    memory: int = 64
    """Tokens of both routes together: a quarter of a picture's, as in the paper."""
    memory_width: int = 128
    read_width: int = 64
    clean: bool = True
    """Whether the answer is the clean face's offset from the degraded one, or else the velocity itself.

    A small network cannot hand 128 channels of noise through its width, which predicting the velocity asks for.
    Source: "Back to Basics: Let Denoising Generative Models Denoise" (arXiv 2511.13720).
    """
    previous: bool = False
    """Whether what was restored of the frame before takes part (`recurrence`); only with `clean`."""

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_width


KLEIN = IconFaceShape(
    heads=24,
    head_width=128,
    double_blocks=5,
    single_blocks=20,
    rotary=(32, 32, 32, 32),
    rows=32,
    context=7680,
    prompt=512,
    identity_width=512,
    memory=256,
    memory_width=512,
    read_width=512,
    clean=False,
)
"""FLUX.2 klein 4B at 512 pixels."""
