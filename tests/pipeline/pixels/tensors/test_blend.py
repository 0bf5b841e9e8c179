"""Faces blended on a device give the frames that OpenCV gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.frames import RestoredFrame
from pipeline.media.coding import coding_of, planes_of
from pipeline.pixels.blend import BlendConfig, blend
from pipeline.pixels.tensors import warp
from pipeline.pixels.tensors.blend import Blender
from pipeline.pixels.tensors.crops import CropReader
from support.clips import Tags
from support.codings import CROP_PX as SIZE
from support.codings import (
    IS_EXACT,
    codes_apart,
    each_coding,
    each_device,
    needs_cuda,
    noisy_frame,
    placed,
    restored,
    scattered,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Pictures are small: more threads would only wait for each other (`conftest.py` puts them back)."""
    torch.set_num_threads(1)


def differences(frame: RestoredFrame, config: BlendConfig, device: str) -> tuple[int, int]:
    """Largest difference of the two ways, in codes, and how many samples OpenCV changed. Says where only one did."""
    native = frame.tracked.frame.native
    before = [plane.copy() for plane in planes_of(native)]
    wanted, got = blend(frame, config), Blender(torch.device(device)).blend(frame, config)
    largest, changed = 0, 0
    for old, one, other in zip(before, planes_of(wanted), planes_of(got), strict=True):
        largest = max(largest, int(np.abs(one.astype(int) - other.astype(int)).max()))
        changed += int((old != one).sum())
    assert all(np.array_equal(old, new) for old, new in zip(before, planes_of(native), strict=True)), (
        "was written"
    )
    for name in ("pts", "time_base", "color_range", "colorspace", "width", "height"):
        assert getattr(got, name) == getattr(wanted, name), name
    return largest, changed


@each_device
@each_coding
@pytest.mark.parametrize("count", [1, 2, 8], ids=["one face", "two faces", "eight faces"])
def test_frames_are_those_of_opencv(count: int, pixel_format: str, tags: Tags, device: str) -> None:
    frame = restored(noisy_frame(pixel_format, tags, 0), scattered(count, count))
    largest, changed = differences(frame, BlendConfig(), device)
    assert largest <= codes_apart(coding_of(frame.tracked.frame.native).depth)
    assert changed > 500


@each_device
@each_coding
def test_grain_is_the_same(pixel_format: str, tags: Tags, device: str) -> None:
    frame = restored(noisy_frame(pixel_format, tags, 6), scattered(3, 5), smooth=True)
    most = codes_apart(coding_of(frame.tracked.frame.native).depth)
    assert differences(frame, BlendConfig(), device)[0] <= most
    with_grain, without = (planes_of(blend(frame, BlendConfig(grain=grain)))[0] for grain in (0.7, 0.0))
    assert not np.array_equal(with_grain, without)


@each_device
@pytest.mark.parametrize(
    "config",
    [BlendConfig(colour_match=0), BlendConfig(grain=0), BlendConfig(strength=0.4), BlendConfig(feather=0.3)],
    ids=["no colour match", "no grain", "weak", "wide edge"],
)
def test_settings_mean_the_same(config: BlendConfig, device: str) -> None:
    frame = restored(noisy_frame("yuv420p", Tags(1, 1, 1, 1), 4), scattered(3, 5))
    assert differences(frame, config, device)[0] <= codes_apart()


@each_device
@each_coding
def test_samples_outside_the_masks_keep_their_bits(pixel_format: str, tags: Tags, device: str) -> None:
    native = noisy_frame(pixel_format, tags, 6)
    frame = restored(native, [placed(1.2, (50, 50), SIZE, 10), placed(2, (110, 70), SIZE, -20)])
    config = BlendConfig()
    wanted, got = blend(frame, config), Blender(torch.device(device)).blend(frame, config)
    for old, one, other in zip(*map(planes_of, (native, wanted, got)), strict=True):
        outside = old == one
        # Where OpenCV changes nothing though a face is there, a difference of less than half a code may round up.
        assert (other[outside] != old[outside]).mean() < (1e-3 if IS_EXACT else 3e-3)
        frame_of_face = np.ones(old.shape, bool)
        rows, columns = np.nonzero(old != one)
        margin = 0 if IS_EXACT else 1
        top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
        frame_of_face[top : rows.max() + 1 + margin, left : columns.max() + 1 + margin] = False
        assert np.array_equal(old[frame_of_face], other[frame_of_face])
        assert frame_of_face.any()


@each_device
def test_a_restorer_that_changes_nothing_changes_no_sample(device: str) -> None:
    native = noisy_frame("yuv420p10le", Tags(1, 1, 1, 1), 6)
    frame = restored(native, scattered(3, 5))
    same = replace(frame, faces=tuple(replace(face, image=face.tracked.crop) for face in frame.faces))
    after = Blender(torch.device(device)).blend(same, BlendConfig())
    assert all(np.array_equal(a, b) for a, b in zip(planes_of(native), planes_of(after), strict=True))


@each_device
def test_a_frame_that_is_not_changed_is_the_decoders_own(device: str) -> None:
    native, blender = noisy_frame("yuv420p", Tags(), 0), Blender(torch.device(device))
    assert blender.blend(restored(native, []), BlendConfig()) is native
    assert blender.blend(restored(native, scattered(2)), BlendConfig(strength=0)) is native
    assert blender.blend(restored(native, [placed(1, (-500, 60), SIZE)]), BlendConfig()) is native


@each_device
def test_a_black_and_white_shot_stays_black_and_white(device: str) -> None:
    native = noisy_frame("yuv420p", Tags(), 0)
    frame = restored(native, scattered(3, 5), monochrome=True)
    after = planes_of(Blender(torch.device(device)).blend(frame, BlendConfig()))
    assert all(np.array_equal(a, b) for a, b in zip(planes_of(native)[1:], after[1:], strict=True))
    assert not np.array_equal(planes_of(native)[0], after[0])


@each_device
def test_results_stay_legal_but_illegal_sources_stay_too(device: str) -> None:
    native = noisy_frame("yuv420p", Tags(1, 1, 1, 1), 0)
    luma = planes_of(native)[0]
    luma[:] = 200
    luma[60, 80] = 250
    frame = restored(native, [placed(1, (80, 60), SIZE)])
    # More than white: as much as a restorer that sharpens may want.
    dark = tuple(
        replace(
            face,
            tracked=replace(face.tracked, crop=face.image * 0 + 100),
            image=torch.full_like(face.image, 255),
        )
        for face in frame.faces
    )
    config = BlendConfig(colour_match=0, grain=0)
    after = planes_of(Blender(torch.device(device)).blend(replace(frame, faces=dark), config))[0]
    assert (int(after.max()), int(after[60, 80]), int(after[61, 80])) == (250, 250, 235)


@each_device
def test_a_face_depends_on_no_other(device: str) -> None:
    native = noisy_frame("yuv422p", Tags(1, 1, 1, 1), 6)
    apart = [placed(2, (25, 25), SIZE, 20), placed(2.4, (130, 30), SIZE), placed(3, (60, 95), SIZE, 80)]
    whole = restored(native, apart, smooth=True)
    blender = Blender(torch.device(device))
    together = planes_of(blender.blend(whole, BlendConfig()))
    one_by_one: Any = whole
    for face in whole.faces:
        picture = blender.blend(replace(one_by_one, faces=(face,)), BlendConfig())
        frame = replace(whole.tracked.frame, native=picture)
        one_by_one = replace(whole, tracked=replace(whole.tracked, frame=frame))
    alone = planes_of(one_by_one.tracked.frame.native)
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


@each_device
def test_large_faces_are_done_in_bands(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = restored(noisy_frame("yuv420p", Tags(1, 1, 1, 1), 6), scattered(4, 5), smooth=True)
    reader, blender = CropReader(torch.device(device)), Blender(torch.device(device))
    native, places = frame.tracked.frame.native, scattered(4, 5)
    whole = blender.blend(frame, BlendConfig()), reader.read_crops(native, places, SIZE)
    monkeypatch.setattr(warp, "_MOST_TAPS", 3000)
    banded = blender.blend(frame, BlendConfig()), reader.read_crops(native, places, SIZE)
    assert all(np.array_equal(*pair) for pair in zip(planes_of(whole[0]), planes_of(banded[0]), strict=True))
    assert all(torch.equal(*pair) for pair in zip(whole[1], banded[1], strict=True))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_cuda)])
def test_a_gpu_blends_what_a_cpu_blends(device: str) -> None:
    frame = restored(noisy_frame("yuv420p10le", Tags(1, 1, 1, 1), 6), scattered(8, 8))
    pictures = [Blender(torch.device(d)).blend(frame, BlendConfig()) for d in ("cpu", device)]
    for one, other in zip(*map(planes_of, pictures), strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
