"""Reducing, softening and warping on a device: pictures of different sizes at once, each as OpenCV does it alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.pixels.placement import softness
from pipeline.pixels.tensors.warp import (
    Pictures,
    inverse_of,
    kernel_of,
    mirror,
    reduced,
    softened,
    warped,
    warped_in_steps,
)
from support.codings import IS_EXACT, codes_apart, each_device, placed

SHAPES = ((40, 57), (33, 20), (64, 64), (25, 61))
KINDS = [np.uint8, np.uint16]


def noise(dtype: Any) -> list[NDArray[Any]]:
    """One picture of each of `SHAPES`, rougher than any film."""
    rng = np.random.default_rng(0)
    top = 256 if dtype == np.uint8 else 65536
    return [rng.integers(0, top, shape).astype(dtype) for shape in SHAPES]


def pictures_of(images: list[NDArray[Any]], device: str) -> Pictures:
    """`images` one after the other in one buffer."""
    samples = torch.from_numpy(np.concatenate([image.ravel() for image in images]).astype(np.float32))
    starts = np.cumsum([0, *(image.size for image in images)])[:-1]
    height, width = zip(*(image.shape for image in images), strict=True)
    values = (torch.tensor(list(each), device=device) for each in (starts, width, height, width))
    return Pictures(samples.to(device), *values)


def pieces(pictures: Pictures) -> list[NDArray[np.float32]]:
    """Each picture of a stack, without what fills it up."""
    stride, heights, widths = int(pictures.stride[0]), pictures.height.tolist(), pictures.width.tolist()
    stack = pictures.samples.view(len(heights), -1, stride).cpu().numpy()
    return [one[:height, :width] for one, height, width in zip(stack, heights, widths, strict=True)]


@each_device
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("factor", [2, 3, 4, 7])
def test_blocks_become_their_rounded_means(factor: int, dtype: Any, device: str) -> None:
    images = noise(dtype)
    got = pieces(reduced(pictures_of(images, device), factor, -(-64 // factor), -(-64 // factor)))
    for image, one in zip(images, got, strict=True):
        more = [-side % factor for side in image.shape]
        whole = cv2.copyMakeBorder(image, 0, more[0], 0, more[1], cv2.BORDER_REPLICATE)
        size = (whole.shape[1] // factor, whole.shape[0] // factor)
        assert np.array_equal(one, cv2.resize(whole, size, interpolation=cv2.INTER_AREA))


@each_device
@pytest.mark.parametrize("dtype", [*KINDS, np.float32])
def test_each_picture_is_softened_by_its_own_kernel(dtype: Any, device: str) -> None:
    images = noise(dtype)
    if dtype == np.float32:
        images = [image / np.float32(256) for image in images]
    ratios, bits = (1.0, 1.2, 1.6, 1.99), {np.uint8: 8, np.uint16: 16, np.float32: 0}[dtype]
    kernels = torch.from_numpy(np.stack([kernel_of(ratio, bits) for ratio in ratios])).to(device)
    got = pieces(softened(pictures_of(images, device), kernels, 64, 64, bits))
    for image, one, ratio in zip(images, got, ratios, strict=True):
        wanted = image
        if ratio > 1.1:
            wanted = cv2.GaussianBlur(image, (0, 0), softness(ratio), borderType=cv2.BORDER_REPLICATE)
        assert np.abs(one - wanted.astype(np.float32)).max() <= (1e-4 if dtype == np.float32 else 0)


@each_device
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("cubic", [True, False], ids=["cubic", "linear"])
def test_each_picture_is_warped_by_its_own_transform(cubic: bool, dtype: Any, device: str) -> None:
    images = noise(dtype)
    places = (0.9, (20, 30), 10), (1.7, (1, 2), -80), (3.3, (60, 60), 170), (1.0, (30, 2), 0)
    matrices = [placed(scale, centre, 48, degrees).astype(np.float64) for scale, centre, degrees in places]
    inverse = torch.from_numpy(np.stack([inverse_of(matrix) for matrix in matrices])).float().to(device)
    how = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    for border, mirrored in (
        (cv2.BORDER_REFLECT_101, torch.ones(4, dtype=torch.bool, device=device)),
        (cv2.BORDER_REPLICATE, torch.zeros(4, dtype=torch.bool, device=device)),
        (cv2.BORDER_CONSTANT, None),
    ):
        got = warped(pictures_of(images, device), inverse, 50, 48, cubic=cubic, mirrored=mirrored)
        got = got.round().clamp(0, np.iinfo(dtype).max).cpu().numpy()
        for image, matrix, one in zip(images, matrices, got, strict=True):
            wanted = cv2.warpAffine(image, matrix, (48, 50), flags=how, borderMode=border)
            most = codes_apart(8 * np.dtype(dtype).itemsize, is_noise=True)
            assert np.abs(one - wanted.astype(np.float32)).max() <= most, border
            if IS_EXACT:
                assert (one != wanted).mean() < 1e-3, border


@each_device
def test_two_channels_at_once_are_warped_in_steps_as_opencv_does(device: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 30, (64, 64, 2)).astype(np.float32)
    for scale in (0.4, 1.3):
        matrix = inverse_of(placed(scale, (80, 60), 64, 33).astype(np.float64))
        wanted = cv2.warpAffine(image, matrix, (120, 100), flags=cv2.INTER_LINEAR)
        inverse = torch.from_numpy(inverse_of(matrix)).to(device).expand(2, 2, 3)
        both = Pictures.stacked(torch.from_numpy(image.transpose(2, 0, 1).copy()).to(device))
        got = warped_in_steps(both, inverse, 100, 120).cpu().numpy()
        assert np.abs(got - wanted.transpose(2, 0, 1)).max() < 1e-3


def test_mirrors_fold_as_often_as_needed() -> None:
    places = torch.arange(-12, 16).expand(2, -1)
    folded = mirror(places, torch.tensor([4, 1])[:, None])
    row = np.arange(4)
    assert folded[0].tolist() == np.pad(row, (12, 12), "reflect").tolist()
    assert folded[1].tolist() == [0] * 28
