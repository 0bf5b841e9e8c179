"""Shapes of an `iconface` that is small enough for tests."""

from __future__ import annotations

from models.iconface.shape import AutoencoderShape, IconFaceShape

SHAPE = IconFaceShape(
    heads=2,
    head_width=16,
    double_blocks=1,
    single_blocks=1,
    rotary=(4, 4, 4, 4),
    channels=16,
    rows=4,
    context=12,
    high_tokens=1,
    low_tokens=2,
    identity_width=16,
    memory=4,
    memory_width=16,
    read_width=8,
)
CODEC = AutoencoderShape(widths=(8, 16), encoder_depths=(1, 1), decoder_depths=(1, 1), latent=4)
