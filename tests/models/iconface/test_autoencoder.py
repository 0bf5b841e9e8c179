"""The tiny autoencoder, and the teacher whose latents it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.iconface.model import build_autoencoder
from models.iconface.shape import AutoencoderShape
from models.iconface.tiny_autoencoder import TinyAutoencoder
from models.training.fixed_networks import Taef2
from models.weights import CheckpointError, load_checkpoint, save_checkpoint

TEACHER = Path(__file__).parents[4] / "shared" / "data" / "weights"
SMALL = AutoencoderShape(widths=(8, 16), encoder_depths=(1, 1), decoder_depths=(1, 1), latent=4)


def autoencoder() -> TinyAutoencoder:
    torch.manual_seed(0)
    return TinyAutoencoder(SMALL).eval()


def pictures(count: int = 2, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_latents_are_an_eighth_and_pictures_come_back_in_size() -> None:
    network = autoencoder()
    latents, features = network.encode(pictures())
    assert latents.shape == (2, 4, 8, 8)
    assert [tuple(part.shape) for part in features] == [(2, 8, 16, 16), (2, 16, 8, 8)]
    assert network.decode(latents, features).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("part", [0, 1])
@torch.inference_mode()
def test_the_decoder_looks_at_the_degraded_crop(part: int) -> None:
    network = autoencoder()
    latents, features = network.encode(pictures())
    changed = list(features)
    changed[part] = changed[part] + 1
    seen = network.decode(latents, (changed[0], changed[1]))
    assert not torch.allclose(seen, network.decode(latents, features), atol=1e-4)
    assert not torch.allclose(network.decode(latents), network.decode(latents, features), atol=1e-4)


@torch.inference_mode()
def test_tokens_have_unit_variance_by_the_stored_statistics() -> None:
    network = autoencoder()
    latents, _ = network.encode(pictures())
    network.mean, network.deviation = torch.full((16,), 2.0), torch.full((16,), 4.0)
    tokens = network.tokens(latents)
    assert tokens.shape == (2, 16, 16)
    assert torch.allclose(network.latents(tokens, 4), latents, atol=1e-6)
    assert float(tokens[1, 5, 3]) == pytest.approx((float(latents[1, 0, 3, 3]) - 2) / 4)


def test_shipped_sizes_stay_small() -> None:
    network = TinyAutoencoder(AutoencoderShape())
    for half in (network.encoder, network.decoder):
        assert sum(parameter.numel() for parameter in half.parameters()) < 4e6


def test_a_checkpoint_is_read_back_and_a_foreign_one_refused(tmp_path: Path) -> None:
    from dataclasses import asdict

    network = autoencoder()
    path = tmp_path / "autoencoder.safetensors"
    save_checkpoint(path, network.state_dict(), asdict(SMALL), 1)
    again = build_autoencoder(load_checkpoint(path))
    assert torch.allclose(again.encode(pictures())[0], network.encode(pictures())[0], atol=1e-2)
    save_checkpoint(path, nn.Linear(2, 2).state_dict(), {"width": 2}, 1)
    with pytest.raises(CheckpointError, match="not the weights of an autoencoder"):
        build_autoencoder(load_checkpoint(path))


def test_a_missing_or_foreign_teacher_gives_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"taef2_encoder\.safetensors"):
        Taef2(tmp_path)
    save_file({"0.weight": torch.ones(2, 2)}, tmp_path / "taef2_encoder.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of a TAEF2"):
        Taef2(tmp_path)


@pytest.mark.skipif(not TEACHER.is_dir(), reason="the teacher's weights are not part of the project")
@torch.inference_mode()
def test_the_teacher_reconstructs_a_face() -> None:
    import cv2
    import numpy as np
    from skimage.data import astronaut

    from models.align import crop_matrix

    landmarks = np.array([[197, 106], [244, 104], [219, 134], [204, 155], [243, 153]], np.float32)
    face = cv2.warpAffine(
        astronaut(),
        crop_matrix(landmarks, 256),
        (256, 256),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )
    picture = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255
    teacher = Taef2(TEACHER)
    latents = teacher.encode(picture)
    assert latents.shape == (1, 32, 32, 32)
    error = (teacher.decode(latents).clamp(0, 1) - picture).square().mean()
    assert float(-10 * error.log10()) > 32
