"""What one checkpoint holds: the transformer, the autoencoder it was trained with, and who drafts for them.

A small transformer need not learn to deblock and deblur once more: `fast` does that in one pass, and what stands for
the degraded face, as tokens and beside the decoder, is its draft. What remains is what references and attention are
for. Sources: DiffBIR (arXiv 2308.15070), restoration before generation; PMRF (arXiv 2410.00418), a flow that starts
from the mean estimate.

Shapes: B faces, E width of an embedding, S side of a crop.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fast.network import FastNetwork, FastShape
from models.iconface.conditions import Before, FeatureRecurrence
from models.iconface.network import IconFace
from models.iconface.shape import AutoencoderShape, IconFaceShape
from models.iconface.tiny_autoencoder import Features, TinyAutoencoder
from models.weights import Checkpoint, built


class IconFaceModel(nn.Module):
    """Transformer, autoencoder, and the network of `fast` where there is one to draft."""

    def __init__(
        self, network: IconFaceShape, autoencoder: AutoencoderShape, draft: FastShape | None = None
    ) -> None:
        super().__init__()
        if network.channels != 4 * autoencoder.latent:
            raise ValueError(f"{network.channels = } must be four times {autoencoder.latent = }")
        self.network = IconFace(network)
        self.autoencoder = TinyAutoencoder(autoencoder)
        self.draft = None if draft is None else FastNetwork(draft).requires_grad_(False)
        self.recurrence = FeatureRecurrence(autoencoder.widths) if network.previous else None

    def drafted(self, degraded: Tensor, anchors: Tensor, before: Before | None = None) -> Tensor:
        """What stands for `degraded`, both float32 (B, 3, S, S) in [0, 1]: itself, or a draft.

        `anchors`: float32 (B, E), unit length from references, zero without.
        """
        if self.draft is None:
            return degraded
        previous = None if before is None else before.picture
        drafts: Tensor = self.draft(degraded.contiguous(memory_format=torch.channels_last), anchors, previous)
        return drafts.clamp(0, 1)

    def before(self, pictures: Tensor, gates: Tensor) -> Before:
        """The previous restorations, float32 (B, 3, S, S) in [0, 1], with `gates`, (B, 1, S, S); without gradients."""
        with torch.no_grad():
            latents, features = self.autoencoder.encode(pictures)
            tokens = self.autoencoder.tokens(latents)
            gate = F.adaptive_avg_pool2d(gates, self.network.shape.rows).flatten(2).transpose(1, 2)
        return Before(torch.cat([pictures, gates], 1), tokens, features, gate)

    def decoded(self, tokens: Tensor, features: Features, before: Before | None = None) -> Tensor:
        """Pictures (B, 3, S, S), about [0, 1] and not clipped, of clean `tokens` (B, N, C).

        `features`: what the encoder saw of the degraded faces, or of their drafts.
        """
        if self.recurrence is not None and before is not None:
            features = self.recurrence(features, before)
        return self.autoencoder.decode(self.autoencoder.latents(tokens, self.network.shape.rows), features)

    def shapes(self) -> dict[str, object]:
        """What rebuilds the model, for the checkpoint's header."""
        shapes: dict[str, object] = {
            "network": asdict(self.network.shape),
            "autoencoder": asdict(self.autoencoder.shape),
        }
        if self.draft is not None:
            shapes["draft"] = asdict(self.draft.shape)
        return shapes


def build_iconface(checkpoint: Checkpoint) -> IconFaceModel:
    """An `IconFaceModel` in evaluation mode. Raises `CheckpointError` for the weights of something else."""

    def build(shapes: dict[str, Any]) -> IconFaceModel:
        draft = shapes.get("draft")
        return IconFaceModel(
            IconFaceShape(**shapes["network"]),
            AutoencoderShape(**shapes["autoencoder"]),
            None if draft is None else FastShape(**draft),
        )

    return built(checkpoint, build, "an `iconface` restorer")


def build_autoencoder(checkpoint: Checkpoint) -> TinyAutoencoder:
    """A `TinyAutoencoder` in evaluation mode. Raises `CheckpointError` for the weights of something else."""
    return built(checkpoint, lambda shape: TinyAutoencoder(AutoencoderShape(**shape)), "an autoencoder")
