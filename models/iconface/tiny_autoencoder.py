"""Pictures to FLUX.2's latents and back, small enough for CPUs; the decoder may look at the degraded crop.

Latents lose fine detail, and a mildly degraded face has much of it left to lose. So the decoder also takes the
encoder's features of the degraded crop, which cost nothing more: the encoder has been there for the latents.
Work is done at a quarter of the resolution and below, in dense 3 x 3 convolutions without normalisation.

Shapes: B pictures, H W pixels, h = H / 8, w = W / 8, C latent channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.iconface.shape import AutoencoderShape, pack, unpack

UNSHUFFLE = 4
Features = tuple[Tensor, Tensor]
"""What the encoder saw: (B, widths[0], H/4, W/4) and (B, widths[1], h, w)."""


class TinyAutoencoder(nn.Module):
    """An encoder into, and a decoder out of, the latents of FLUX.2's autoencoder."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _Encoder(shape)
        self.decoder = _Decoder(shape)
        # Tokens are brought to zero mean and unit variance, as FLUX.2 does with stored statistics of its own.
        self.register_buffer("mean", torch.zeros(4 * shape.latent))
        self.register_buffer("deviation", torch.ones(4 * shape.latent))

    def encode(self, pictures: Tensor) -> tuple[Tensor, Features]:
        """Latents, float32 (B, C, h, w), and features of `pictures`.

        `pictures`: float32 (B, 3, H, W) in [0, 1], RGB, H and W multiples of 16.
        """
        latents, features = self.encoder(pictures)
        return latents, features

    def decode(self, latents: Tensor, degraded: Features | None = None) -> Tensor:
        """Pictures, float32 (B, 3, H, W), about [0, 1] and not clipped, of `latents` (B, C, h, w).

        `degraded`: features of the degraded crop; None where there is none, as for a reference.
        """
        pictures: Tensor = self.decoder(latents, degraded)
        return pictures

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as tokens of unit variance, (B, h/2 * w/2, 4C)."""
        return (pack(latents) - self.get_buffer("mean")) / self.get_buffer("deviation")

    def latents(self, tokens: Tensor, rows: int) -> Tensor:
        """The way back of `tokens`, in `rows` rows."""
        return unpack(tokens * self.get_buffer("deviation") + self.get_buffer("mean"), rows)


class _Encoder(nn.Module):
    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        fine, coarse = shape.widths
        self.enter = nn.Conv2d(3 * UNSHUFFLE**2, fine, 3, padding=1)
        self.fine = _blocks(fine, shape.encoder_depths[0])
        self.down = nn.Conv2d(fine, coarse, 2, 2)
        self.coarse = _blocks(coarse, shape.encoder_depths[1])
        self.leave = nn.Conv2d(coarse, shape.latent, 3, padding=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Features]:
        x = F.pixel_unshuffle(pictures * 2 - 1, UNSHUFFLE).contiguous(memory_format=torch.channels_last)
        fine = self.fine(self.enter(x))  # (B, 64, H/4, W/4)
        coarse = self.coarse(self.down(fine))  # (B, 128, h, w)
        return self.leave(coarse), (fine, coarse)


class _Decoder(nn.Module):
    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        fine, coarse = shape.widths
        self.enter = nn.Conv2d(shape.latent, coarse, 3, padding=1)
        self.coarse_skip = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.coarse = _blocks(coarse, shape.decoder_depths[1])
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.fine_skip = nn.Conv2d(fine, fine, 1, bias=False)
        self.fine = _blocks(fine, shape.decoder_depths[0])
        self.leave = nn.Conv2d(fine, 3 * UNSHUFFLE**2, 3, padding=1)

    def forward(self, latents: Tensor, degraded: Features | None) -> Tensor:
        x = self.enter(latents.contiguous(memory_format=torch.channels_last))  # (B, 128, h, w)
        if degraded is not None:
            x = x + self.coarse_skip(degraded[1])
        x = F.pixel_shuffle(self.up(self.coarse(x)), 2)  # (B, 64, H/4, W/4)
        if degraded is not None:
            x = x + self.fine_skip(degraded[0])
        x = self.fine(x)
        # These are code values: the eight bits of bfloat16 would show as bands.
        with torch.autocast(x.device.type, enabled=False):
            return F.pixel_shuffle(self.leave(x.float()), UNSHUFFLE) * 0.5 + 0.5


class _Block(nn.Module):
    """x + conv(activate(conv(x))); the last convolution starts near zero, so it is stable."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        nn.init.normal_(self.second.weight, std=1e-2 / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(F.leaky_relu(self.first(x), 0.1, inplace=True))
        return result


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))
