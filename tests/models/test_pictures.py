"""Arrays and tensors hold the same pictures, and a recogniser's crop of a large one does not alias."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from models.align import ffhq_to_arcface
from models.pictures import (
    Picture,
    recogniser_codes,
    recogniser_crop,
    to_codes,
    to_floats,
    to_picture,
    to_tensor,
)
from support.portraits import aligned_astronaut


def at_side(side: int) -> Picture:
    return np.asarray(cv2.resize(aligned_astronaut(), (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def warped(picture: Picture) -> Picture:
    return np.asarray(cv2.warpAffine(picture, ffhq_to_arcface(picture.shape[0]), (112, 112)), np.uint8)


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 5, 7, 3)])
def test_a_picture_comes_back_from_its_tensor(shape: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    tensor = to_tensor(pictures)
    assert tensor.shape[-3:] == (3, 5, 7)
    assert tensor.is_contiguous()
    assert tensor[..., 1, 2, 3].tolist() == pictures[..., 2, 3, 1].tolist()
    assert np.array_equal(to_picture(tensor), pictures)
    assert np.array_equal(to_picture(to_floats(pictures)), pictures)


def test_a_tensor_is_a_copy_of_its_picture() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    tensor = to_tensor(picture)
    picture[:] = 9
    assert not tensor.any()


def test_code_values_are_rounded_and_clipped() -> None:
    codes = to_codes(torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 1.0, 1.5]))
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [0, 0, 1, 255, 255]


def test_a_crop_of_256_pixels_is_warped_and_nothing_else() -> None:
    picture = at_side(256)
    assert np.array_equal(to_picture(recogniser_crop(to_tensor(picture))), warped(picture))


def test_a_large_crop_does_not_alias() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    assert warped(stripes).std() > 20
    assert to_picture(recogniser_crop(to_tensor(stripes))).std() < 2


@pytest.mark.parametrize("side", [256, 512])
def test_the_view_with_gradients_shows_the_same(side: int) -> None:
    picture = at_side(side)
    difference = recogniser_codes(picture[None])[0].int() - recogniser_crop(to_tensor(picture)).int()
    assert float(difference.abs().float().mean()) < 0.5
    assert int(difference.abs().max()) <= 3
