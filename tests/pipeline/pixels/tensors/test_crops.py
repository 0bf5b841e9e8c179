"""Crops cut on a device are those that OpenCV cuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.media.coding import Siting, coding_of, planes_of
from pipeline.pixels.colour import read_crops
from pipeline.pixels.tensors.crops import CropReader
from support.clips import Tags, native_frame
from support.codings import IS_EXACT, codes_apart, each_coding, each_device, needs_cuda, placed

SIZE = 64


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Pictures are small: more threads would only wait for each other (`conftest.py` puts them back)."""
    torch.set_num_threads(1)


def places(seed: int, count: int) -> list[NDArray[np.float32]]:
    """Faces of all sizes, turned all ways, in a frame of 160x120 and across its border."""
    rng = np.random.default_rng(seed)
    return [
        placed(
            float(np.exp(rng.uniform(np.log(0.2), np.log(4)))),
            (float(rng.uniform(-20, 180)), float(rng.uniform(-20, 140))),
            SIZE,
            float(rng.uniform(-180, 180)),
        )
        for _ in range(count)
    ]


def stacked(crops: object) -> NDArray[np.int64]:
    return np.stack([crop.numpy() for crop in crops]).astype(np.int64)  # type: ignore[attr-defined]


@each_device
@each_coding
@pytest.mark.parametrize("is_noise", [False, True], ids=["picture", "noise"])
def test_crops_are_those_of_opencv(is_noise: bool, pixel_format: str, tags: Tags, device: str) -> None:
    native = native_frame(0, 161, 120, pixel_format, tags)
    native.opaque = Siting("topleft" if is_noise else "left")
    if is_noise:  # codes beyond the legal range too
        rng = np.random.default_rng(1)
        for plane in planes_of(native):
            plane[:] = rng.integers(0, 1 << coding_of(native).depth, plane.shape)
    matrices = places(1, 8)
    got = CropReader(torch.device(device)).read_crops(native, matrices, SIZE)
    assert all(crop.dtype == torch.uint8 and crop.device.type == "cpu" for crop in got)
    difference = np.abs(stacked(got) - stacked(read_crops(native, matrices, SIZE)))
    assert difference.max() <= codes_apart(is_noise=is_noise)
    if IS_EXACT:
        assert (difference > 0).mean() < 1e-3


@each_device
def test_crops_far_beyond_the_frame_and_very_large_ones_are_the_same(device: str) -> None:
    native = native_frame(0, 160, 120, "yuv420p")
    matrices = [
        placed(1, (-900, -900), SIZE),
        placed(1, (-1e7, 60), SIZE),
        placed(0.05, (80, 60), SIZE, 3),
        placed(30, (80, 60), SIZE, 3),
        placed(1, (0, 60), SIZE),
    ]
    got = CropReader(torch.device(device)).read_crops(native, matrices, SIZE)
    assert np.abs(stacked(got) - stacked(read_crops(native, matrices, SIZE))).max() <= codes_apart()


@each_device
def test_grey_of_limited_range_is_the_same_beyond_it_too(device: str) -> None:
    native = native_frame(0, 160, 120, "gray", Tags(1, 1, 1, 2))
    planes_of(native)[0][:] = np.random.default_rng(4).integers(0, 256, (120, 160))
    got = CropReader(torch.device(device)).read_crops(native, places(4, 3), SIZE)
    difference = np.abs(stacked(got) - stacked(read_crops(native, places(4, 3), SIZE)))
    assert difference.max() <= codes_apart(is_noise=True)


@each_device
def test_a_crop_depends_on_no_other(device: str) -> None:
    native = native_frame(0, 160, 120, "yuv422p10le")
    reader, matrices = CropReader(torch.device(device)), places(2, 8)
    together = reader.read_crops(native, matrices, SIZE)
    alone = [crop for matrix in reversed(matrices) for crop in reader.read_crops(native, [matrix], SIZE)]
    assert np.array_equal(stacked(together), stacked(reversed(alone)))
    assert reader.read_crops(native, [], SIZE) == []


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_cuda)])
def test_a_gpu_cuts_what_a_cpu_cuts(device: str) -> None:
    for pixel_format in ("yuv420p", "yuv444p12le", "gbrp"):
        native = native_frame(0, 160, 120, pixel_format)
        crops = [CropReader(torch.device(d)).read_crops(native, places(3, 8), SIZE) for d in ("cpu", device)]
        assert np.array_equal(stacked(crops[0]), stacked(crops[1]))
