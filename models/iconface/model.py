"""What one checkpoint holds: the transformer and the autoencoder it was trained with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from models.iconface.network import IconFace
from models.iconface.shape import AutoencoderShape, IconFaceShape
from models.iconface.tiny_autoencoder import TinyAutoencoder
from models.weights import Checkpoint, CheckpointError


class IconFaceModel(nn.Module):
    """Transformer and autoencoder."""

    def __init__(self, network: IconFaceShape, autoencoder: AutoencoderShape) -> None:
        super().__init__()
        if network.channels != 4 * autoencoder.latent:
            raise ValueError(f"{network.channels = } must be four times {autoencoder.latent = }")
        self.network = IconFace(network)
        self.autoencoder = TinyAutoencoder(autoencoder)

    def shapes(self) -> dict[str, object]:
        """What rebuilds the model, for the checkpoint's header."""
        return {"network": asdict(self.network.shape), "autoencoder": asdict(self.autoencoder.shape)}


def build_iconface(checkpoint: Checkpoint) -> IconFaceModel:
    """An `IconFaceModel` in evaluation mode. Raises `CheckpointError` for the weights of something else."""
    try:
        network, autoencoder = (_shape(checkpoint.parameters[name]) for name in ("network", "autoencoder"))
        model = IconFaceModel(IconFaceShape(**network), AutoencoderShape(**autoencoder))
        model.load_state_dict(checkpoint.state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: not the weights of an `iconface` restorer") from error
    return model.eval().requires_grad_(False)


def build_autoencoder(checkpoint: Checkpoint) -> TinyAutoencoder:
    """A `TinyAutoencoder` in evaluation mode. Raises `CheckpointError` for the weights of something else."""
    try:
        autoencoder = TinyAutoencoder(AutoencoderShape(**_shape(checkpoint.parameters)))
        autoencoder.load_state_dict(checkpoint.state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: not the weights of an autoencoder") from error
    return autoencoder.eval().requires_grad_(False)


def _shape(parameters: Any) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in dict(parameters).items()
    }
