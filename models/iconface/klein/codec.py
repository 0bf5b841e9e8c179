"""FLUX.2's autoencoder as a codec of tokens: patches of 2 x 2 cells, normalised by its stored statistics.

Shapes: B pictures, S their side, N = (S / 16)^2 tokens, C = 4 * latent channels.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from torch import Tensor, nn

from models.iconface.klein.folder import KleinFolder, load_tensors
from models.iconface.sequence import pack, unpack
from models.weights import CheckpointError


class KleinCodec(nn.Module):
    """Pictures to klein's tokens and back."""

    def __init__(self, autoencoder: AutoencoderKLFlux2) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        statistics = autoencoder.bn
        self.register_buffer("mean", statistics.running_mean.float())
        deviation = (statistics.running_var.float() + autoencoder.config.batch_norm_eps).sqrt()
        self.register_buffer("deviation", deviation)

    def encode(self, pictures: Tensor) -> Tensor:
        """Tokens, float32 (B, N, C), of `pictures`, float32 (B, 3, S, S) in [0, 1], RGB: the mode, not drawn."""
        posterior = self.autoencoder.encode((pictures * 2 - 1).to(self.autoencoder.dtype)).latent_dist
        return (pack(posterior.mode().float()) - self.get_buffer("mean")) / self.get_buffer("deviation")

    def decode(self, tokens: Tensor, rows: int) -> Tensor:
        """Pictures, float32 (B, 3, S, S), about [0, 1] and not clipped, of tokens (B, N, C) in `rows` rows."""
        latents = unpack(tokens.float() * self.get_buffer("deviation") + self.get_buffer("mean"), rows)
        pictures: Tensor = self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample
        return pictures.float() * 0.5 + 0.5


def load_codec(folder: KleinFolder, dtype: torch.dtype, device: torch.device) -> KleinCodec:
    """The codec of a klein folder. Raises `CheckpointError` for weights that do not fit their config."""
    state = load_tensors(folder.files("vae"), dtype, device)
    # A count that only training reads; not every export has it.
    state.setdefault("bn.num_batches_tracked", torch.tensor(0))
    try:
        with torch.device("meta"):
            autoencoder = AutoencoderKLFlux2.from_config(folder.autoencoder)
        autoencoder.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder.path}/vae: the weights do not fit config.json") from error
    return KleinCodec(autoencoder).eval().requires_grad_(False)
