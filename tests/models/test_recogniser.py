"""The embedded encoder: the norm knows doubt, mirroring does not matter, borders are guarded."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from models.align import ARCFACE_112, crop_matrix, embedding_matrix, ffhq_to_arcface, template, transform
from models.degradation.stills import MODERATE, SEVERE, preset_sample
from models.pictures import Picture, recogniser_view
from models.recogniser import EmbeddedRecogniser, build_encoder
from models.weights import load_embedded

ASTRONAUT_LANDMARKS = np.array([[197, 106], [244, 104], [219, 134], [204, 155], [243, 153]], np.float32)


@pytest.fixture(scope="module")
def recogniser() -> EmbeddedRecogniser:
    return EmbeddedRecogniser()


@pytest.fixture(scope="module")
def face() -> Picture:
    """The astronaut in the FFHQ alignment, uint8 (256, 256, 3)."""
    import cv2

    matrix = crop_matrix(ASTRONAUT_LANDMARKS, 256)
    return cv2.warpAffine(
        astronaut(), matrix, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def view(picture: Picture) -> Tensor:
    return (
        recogniser_view(torch.from_numpy(picture).permute(2, 0, 1)[None].float()).round().clamp(0, 255).byte()
    )


def test_norm_falls_as_evidence_vanishes(recogniser: EmbeddedRecogniser, face: Picture) -> None:
    levels = [(MODERATE, 0.0), (MODERATE, 1.0), (SEVERE, 0.5), (SEVERE, 1.0)]
    norms = [
        np.mean(
            [float(recogniser.embed(view(preset_sample(face, seed, *level))).norm()) for seed in range(4)]
        )
        for level in levels
    ]
    assert all(clearer > poorer for clearer, poorer in pairwise(norms)), norms


def test_a_degraded_view_is_nearer_to_the_clean_one_than_to_another_person(
    recogniser: EmbeddedRecogniser, face: Picture
) -> None:
    stretched = np.ascontiguousarray(face[::-1])  # upside down: nobody
    clean, degraded, nobody = (
        recogniser.embed(view(picture))[0]
        for picture in (face, preset_sample(face, 1, MODERATE, 0.8), stretched)
    )
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(degraded, clean, dim=0) > cosine(degraded, nobody, dim=0) + 0.2


def test_mirrored_crop_gives_the_same_embedding(recogniser: EmbeddedRecogniser, face: Picture) -> None:
    crop = view(face)
    assert torch.allclose(recogniser.embed(crop), recogniser.embed(crop.flip(3)), atol=1e-4)


def test_embedding_does_not_depend_on_the_batch(recogniser: EmbeddedRecogniser, face: Picture) -> None:
    crops = torch.cat([view(face), view(preset_sample(face, 1, SEVERE, 0.5)), view(face).flip(2)])
    alone = torch.cat([recogniser.embed(crops[k : k + 1]) for k in range(3)])
    assert torch.allclose(recogniser.embed(crops), alone, atol=1e-3)


def test_embeddings_are_those_of_the_network_as_trained(recogniser: EmbeddedRecogniser) -> None:
    """Folding, packing and one batch for both mirror images change nothing; light crops are taken as they are."""
    crops = torch.randint(0, 256, (3, 3, 112, 112), generator=torch.Generator().manual_seed(0)).byte()
    trained, pictures = build_encoder(load_embedded("encoder")), crops.float() / 255
    assert float(pictures.mean((1, 2, 3)).min()) > 0.41
    with torch.inference_mode():
        expected = (trained(pictures) + trained(pictures.flip(3))) / 2
    error = (recogniser.embed(crops) - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.max()) < 1e-4


def test_the_network_as_trained_passes_gradients() -> None:
    """Training looks at restored pictures through it."""
    pictures = torch.rand(1, 3, 112, 112, requires_grad=True)
    build_encoder(load_embedded("encoder"))(pictures).norm().backward()
    assert pictures.grad is not None
    assert float(pictures.grad.abs().max()) > 0


def test_no_crops_give_no_embeddings(recogniser: EmbeddedRecogniser) -> None:
    assert recogniser.embed(torch.zeros(0, 3, 112, 112, dtype=torch.uint8)).shape == (0, 128)


def test_crops_of_another_form_are_refused(recogniser: EmbeddedRecogniser) -> None:
    with pytest.raises(ValueError, match="crops must be uint8"):
        recogniser.embed(torch.zeros(1, 3, 112, 112))


def test_view_puts_a_point_where_the_alignment_says() -> None:
    """A bright spot at the FFHQ template's nose lands on the ArcFace template's nose."""
    picture = torch.zeros(1, 1, 256, 256)
    x, y = (round(float(value)) for value in template(256)[2])
    picture[0, 0, y - 1 : y + 2, x - 1 : x + 2] = 1
    cropped = recogniser_view(picture)[0, 0]
    spot = np.array(np.unravel_index(int(cropped.argmax()), cropped.shape))[::-1]
    expected = transform(ffhq_to_arcface(256), np.array([[x, y]], np.float32))[0]
    assert np.abs(spot - expected).max() <= 1
    assert np.abs(expected - ARCFACE_112[2]).max() <= 4


def test_view_of_a_crop_agrees_with_the_crop_from_the_frame(
    recogniser: EmbeddedRecogniser, face: Picture
) -> None:
    """Recognising from the restored crop and from the frame must see the same person."""
    import cv2

    direct = cv2.warpAffine(
        astronaut(), embedding_matrix(ASTRONAUT_LANDMARKS), (112, 112), flags=cv2.INTER_LINEAR
    )
    crops = torch.cat([view(face), torch.from_numpy(direct).permute(2, 0, 1)[None]])
    first, second = recogniser.embed(crops)
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) > 0.9
