"""Pixels: crops out of the decoder's planes, differences back into them, and nothing else touched."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.align import invert, transform
from pipeline.errors import SourceError
from pipeline.frames import Patch
from pipeline.media.coding import Siting, check_matrix, coding_of, planar_format, planes_of
from pipeline.pixels.colour import (
    add_patches,
    chroma_spread,
    copy_frame,
    luma_region,
    luma_thumbnail,
    luma_window,
    read_crop,
    rgb_thumbnail,
)
from support.clips import Tags, astronaut, native_frame
from support.codings import each_coding, placed


def soft_mask(size: int) -> NDArray[np.float32]:
    mask = np.zeros((size, size), np.float32)
    mask[size // 4 : -size // 4, size // 4 : -size // 4] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), size / 24)
    mask[mask < 0.01] = 0
    return np.asarray(mask, np.float32)


def patch(matrix: NDArray[np.float32], size: int, colour: tuple[float, float, float], **more: Any) -> Patch:
    mask = soft_mask(size)
    delta = mask[..., None] * np.array(colour, np.float32)
    return Patch(np.asarray(delta, np.float32), mask, matrix, more.pop("grain", None), **more)


def copies(native: av.VideoFrame) -> list[NDArray[Any]]:
    return [plane.copy() for plane in planes_of(native)]


def support(native: av.VideoFrame, used: Patch, index: int) -> NDArray[np.bool_]:
    """Samples of plane `index` that lie inside the mask or within a crop pixel or frame pixel of it."""
    plane = planes_of(native)[index]
    coding = coding_of(native)
    chroma = coding.kind == "yuv" and index > 0
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]].astype(np.float32)
    matrix = coding.to_plane(used.matrix, chroma=chroma)
    points = np.stack([columns.ravel(), rows.ravel()], 1) @ matrix[:, :2].T + matrix[:, 2]
    reach = 3 + 3 * int(np.ceil(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    grown = cv2.dilate((used.mask > 0).astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    grown = cv2.copyMakeBorder(grown, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    x, y = (np.rint(points[:, axis]).astype(int) + reach for axis in (0, 1))
    inside = (x >= 0) & (y >= 0) & (x < grown.shape[1]) & (y < grown.shape[0])
    found = np.zeros(len(points), bool)
    found[inside] = grown[y[inside], x[inside]] > 0
    return found.reshape(plane.shape)


@each_coding
@pytest.mark.parametrize("scale", [0.6, 1.0, 3.3])
def test_samples_outside_the_mask_keep_their_bits(pixel_format: str, tags: Tags, scale: float) -> None:
    native = native_frame(0, 160, 120, pixel_format, tags)
    before = copies(native)
    used = patch(placed(scale, (83.3, 55.7), 64, 12), 64, (30, -20, 10))

    after = planes_of(add_patches(native, [used]))

    changed = 0
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        inside = support(native, used, index)
        assert np.array_equal(old[~inside], new[~inside])
        assert (~inside).any()
        changed += int((old != new).sum())
    assert changed > 50
    assert all(np.array_equal(a, b) for a, b in zip(before, planes_of(native), strict=True)), (
        "native was written"
    )


@each_coding
def test_difference_of_zero_changes_nothing(pixel_format: str, tags: Tags) -> None:
    native = native_frame(0, 160, 120, pixel_format, tags)
    rng = np.random.default_rng(0)
    for plane in planes_of(native):  # codes outside the legal range too
        plane[:] = rng.integers(0, 1 << coding_of(native).depth, plane.shape)
    before = copies(native)
    size = 64
    zero = Patch(
        np.zeros((size, size, 3), np.float32),
        np.ones((size, size), np.float32),
        placed(0.9, (80, 60), size),
        None,
    )
    grain = Patch(zero.delta, zero.mask, zero.matrix, np.zeros((20, 20), np.float32), (70, 50))
    tiny = Patch(zero.delta + 1e-4, zero.mask, zero.matrix, None)
    for used in (zero, grain, tiny):
        after = planes_of(add_patches(native, [used]))
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@each_coding
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_difference_arrives_as_that_colour(pixel_format: str, tags: Tags, scale: float) -> None:
    native = native_frame(0, 160, 120, pixel_format, tags)
    for plane in planes_of(native):  # mid grey has room for any difference
        plane[:] = 1 << (coding_of(native).depth - 1)
    matrix = placed(scale, (80, 60), 96)
    wanted = (20.0, 20.0, 20.0) if pixel_format.startswith("gray") else (24.0, -12.0, 8.0)
    used = patch(matrix, 96, wanted)

    before = read_crop(native, matrix, 96).numpy().astype(float)[:, 40:56, 40:56]
    after = read_crop(add_patches(native, [used]), matrix, 96).numpy().astype(float)[:, 40:56, 40:56]

    change = (after - before).mean((1, 2))
    assert np.abs(change - wanted).max() < 1.6


@each_coding
def test_crop_shows_the_colours_of_the_picture(pixel_format: str, tags: Tags) -> None:
    # The picture is made large and smooth so that chroma subsampling costs nothing.
    smooth = cv2.GaussianBlur(cv2.resize(astronaut(), (256, 256)), (0, 0), 6)
    frame = av.VideoFrame.from_ndarray(smooth, "rgb24").reformat(
        format=pixel_format,
        dst_colorspace=tags.matrix,
        src_color_range=2,
        dst_color_range=2 if pixel_format.startswith("yuvj") else tags.range,
        interpolation="BICUBIC",
    )
    frame.colorspace, frame.color_range = tags.matrix, tags.range
    matrix = placed(0.75, (120, 90), 96, 20)
    expected = cv2.warpAffine(
        smooth, matrix, (96, 96), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    if pixel_format.startswith("gray"):
        expected = np.repeat(cv2.cvtColor(expected, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    got = read_crop(frame, matrix, 96).numpy().transpose(1, 2, 0)
    error = np.abs(got.astype(float) - expected)[3:-3, 3:-3]
    assert error.mean() < 1.2
    assert np.percentile(error, 99) < 5


@pytest.mark.parametrize(
    ("site", "x", "y"), [("left", 0.0, 0.5), ("center", 0.5, 0.5), ("topleft", 0.0, 0.0)]
)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_chroma_is_read_and_written_where_the_stream_says(
    site: str, x: float, y: float, pixel_format: str
) -> None:
    native = native_frame(0, 64, 64, pixel_format)
    luma, blue, red = planes_of(native)
    top = 1 << (coding_of(native).depth - 8)
    luma[:], red[:] = 128 * top, 128 * top
    # A ramp in luma pixels: the sample at column c lies at 2 c + x.
    columns = 2 * np.arange(32) + x
    rows = 2 * np.arange(32) + y
    blue[:] = np.rint((64 + columns[None] + rows[:, None] / 2) * top)
    native.opaque = Siting(site)
    matrix = placed(1, (31.5, 31.5), 64)
    shown = read_crop(native, matrix, 64)[2, 16:48, 16:48].numpy().astype(float)
    scale = 255 / 224 * 2 * (1 - 0.0722)
    expected = 130.4 + scale * (64 - 128 + np.arange(16, 48)[None] + np.arange(16, 48)[:, None] / 2)
    assert abs(np.mean(shown - expected)) < 0.35 + 0.6 * (top == 1)

    mask = np.ones((64, 64), np.float32)
    ramp = np.arange(64, dtype=np.float32)[None] + np.zeros((64, 1), np.float32)
    delta = np.dstack([0 * ramp, 0 * ramp, ramp]).astype(np.float32)
    written = planes_of(add_patches(native, [Patch(delta, mask, matrix, None)]))[1].astype(float)
    gained = (written - blue)[8:24, 8:24].mean(0) / top
    slope = 224 / 255 / 2
    assert abs(np.mean(gained - slope * columns[8:24])) < 0.1


def test_minified_patch_and_crop_do_not_alias() -> None:
    # Stripes of one crop pixel vanish on a face seven times smaller, and stripes of a frame in a small crop.
    native = native_frame(0, 160, 120, "gray", Tags(2, 1, 1, 2))
    planes_of(native)[0][:] = 128
    size = 448
    stripes = np.zeros((size, size, 3), np.float32)
    stripes[:, ::2], stripes[:, 1::2] = 60, -60
    used = Patch(stripes, np.ones((size, size), np.float32), placed(7.3, (80, 60), size), None)
    changed = planes_of(add_patches(native, [used]))[0][35:85, 55:105].astype(float)
    assert np.abs(changed - 128).max() <= 10  # the mean of seven stripes

    planes_of(native)[0][:, ::2], planes_of(native)[0][:, 1::2] = 188, 68
    crop = read_crop(native, placed(0.24, (80, 60), 24), 24).numpy().astype(float)
    assert np.abs(crop[:, 4:-4, 4:-4] - 128).max() <= 4


@pytest.mark.parametrize("scale", [0.35, 0.5, 1.0, 2.0, 3.7])
def test_patch_lands_where_the_crop_was_taken(scale: float) -> None:
    native = native_frame(0, 320, 240, "yuv444p10le", Tags(2, 1, 1, 1))
    for plane in planes_of(native):
        plane[:] = 512
    size = 128
    matrix = placed(scale, (150.25, 120.75), size, 8)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    blob = np.exp(-((x - 70) ** 2 + (y - 55) ** 2) / (2 * (6 * max(1.0, scale)) ** 2)).astype(np.float32)
    used = Patch(np.repeat(blob[..., None] * 100, 3, 2), np.ones((size, size), np.float32), matrix, None)
    luma = planes_of(add_patches(native, [used]))[0].astype(float) - 512
    rows, columns = np.mgrid[:240, :320]
    found = np.array([(columns * luma).sum(), (rows * luma).sum()]) / luma.sum()
    expected = transform(invert(matrix), np.array([[70, 55]], np.float32))[0]
    assert np.abs(found - expected).max() < 0.1


@pytest.mark.parametrize("scale", [0.21, 0.35, 0.6, 1.0, 1.6])
def test_crop_shows_what_lies_at_its_place(scale: float) -> None:
    native = native_frame(0, 320, 240, "yuv420p", Tags(2, 1, 1, 1))
    y, x = np.mgrid[:240, :320].astype(np.float32)
    blob = np.exp(-((x - 141) ** 2 + (y - 117) ** 2) / (2 * (3 * max(1.0, 1 / scale)) ** 2))
    planes_of(native)[0][:] = np.rint(200 * blob)
    for plane in planes_of(native)[1:]:
        plane[:] = 128
    matrix = placed(scale, (147.3, 120.2), 64, 10)
    crop = read_crop(native, matrix, 64)[0].numpy().astype(float)
    rows, columns = np.mgrid[:64, :64]
    found = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
    expected = transform(matrix, np.array([[141, 117]], np.float32))[0]
    assert np.abs(found - expected).max() < 0.1


def test_mask_rules_over_the_difference() -> None:
    native = native_frame()
    used = patch(placed(1, (80, 60), 64), 64, (30, -10, 5))
    everywhere = Patch(np.full((64, 64, 3), 25, np.float32), used.mask, used.matrix, None)
    for index, (old, new) in enumerate(
        zip(planes_of(native), planes_of(add_patches(native, [everywhere])), strict=True)
    ):
        assert np.array_equal(old[~support(native, used, index)], new[~support(native, used, index)])


def test_jpeg_formats_are_full_range_without_a_tag() -> None:
    assert coding_of(native_frame(0, 64, 64, "yuvj420p", Tags(0))).luma_scale == 1
    assert coding_of(native_frame(0, 64, 64, "yuv420p", Tags(0))).luma_offset == 16


def test_fresh_frame_has_all_properties_of_the_native_one() -> None:
    native = native_frame(0, 160, 120, "yuv420p10le", Tags(1, 9, 16, 9))
    native.pts, native.time_base, native.duration = 12345, Fraction(1, 90000), 3003
    native.pict_type = 1
    native.opaque = Siting("topleft")
    fresh = add_patches(native, [patch(placed(1, (80, 60), 64), 64, (9, 9, 9))])
    for name in [
        "pts",
        "time_base",
        "duration",
        "color_range",
        "color_primaries",
        "color_trc",
        "colorspace",
        "width",
        "height",
    ]:
        assert getattr(fresh, name) == getattr(native, name), name
    assert fresh.opaque == "topleft"
    assert fresh.pict_type == 0
    assert fresh.format.name == native.format.name


def test_copy_shares_nothing_with_its_original() -> None:
    native = native_frame()
    before = copies(native)
    fresh = copy_frame(native)
    for plane in planes_of(fresh):
        plane[:] = 0
    assert all(np.array_equal(a, b) for a, b in zip(before, planes_of(native), strict=True))


def test_results_stay_legal_but_illegal_sources_stay_too() -> None:
    native = native_frame(0, 160, 120, "yuv420p", Tags(1, 1, 1, 1))
    luma = planes_of(native)[0]
    luma[:] = 230
    luma[60, 80] = 250
    after = planes_of(add_patches(native, [patch(placed(1, (80, 60), 64), 64, (90, 90, 90))]))[0]
    assert after.max() == 250
    assert after[60, 80] == 250
    assert after[61, 80] == 235


def test_grain_is_added_at_its_place_inside_the_mask() -> None:
    native = native_frame(0, 160, 120, "yuv420p", Tags(1, 1, 1, 1))
    before = copies(native)
    grain = np.zeros((30, 40), np.float32)
    grain[5, 7], grain[29, 39], grain[0, 0] = 25.5, 25.5, 25.5
    used = Patch(np.zeros((64, 64, 3), np.float32), soft_mask(64), placed(1, (80, 60), 64), grain, (75, 50))
    after = planes_of(add_patches(native, [used]))
    change = after[0].astype(int) - before[0]
    assert change[55, 82] == round(25.5 * 219 / 255)
    assert (
        sorted(map(tuple, np.argwhere(change))) == [(50, 75), (55, 82), (79, 114)][: np.count_nonzero(change)]
    )
    assert all(np.array_equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))


def test_patches_may_lie_across_and_beyond_the_border() -> None:
    native = native_frame()
    for centre in ((0.0, 0.0), (159.0, 119.0), (-500.0, 60.0)):
        used = patch(placed(1, centre, 64), 64, (30, 30, 30))
        after = add_patches(native, [used])
        same = np.array_equal(planes_of(after)[0], planes_of(native)[0])
        assert same == (centre[0] == -500)


def test_crop_beyond_the_border_is_mirrored() -> None:
    native = native_frame(0, 160, 120, "yuv444p", Tags(2, 1, 1, 1))
    crop = read_crop(native, placed(1, (0, 60), 65), 65)
    assert np.abs(crop[..., 33:].numpy().astype(int) - crop[..., :32].numpy()[..., ::-1]).max() <= 1
    far = read_crop(native, placed(1, (-900, -900), 64), 64)
    assert (far.numpy().reshape(3, -1) == far.numpy()[:, :1, 0]).all()
    thin = read_crop(native, placed(1, (-1e7, 60), 64), 64)  # must not take for ever
    assert thin.shape == (3, 64, 64)


def test_chroma_is_read_linearly() -> None:
    native = native_frame(0, 160, 120, "yuv420p", Tags(2, 1, 1, 1))
    luma, blue, red = planes_of(native)
    luma[:], blue[:], red[:] = 128, 64, 128
    blue[:, 40:] = 192
    shown = read_crop(native, placed(4, (80, 60), 64), 64).numpy()[2].astype(int)
    # Cubic would go beyond both sides of an edge.
    assert shown.min() >= shown[:, 0].min() - 1
    assert shown.max() <= shown[:, -1].max() + 1


def test_odd_sizes_work() -> None:
    native = native_frame(0, 161, 121, "yuv420p")
    for centre in ((160.0, 120.0), (80.0, 60.0)):
        after = add_patches(native, [patch(placed(1, centre, 64), 64, (30, -10, 5))])
        assert not np.array_equal(planes_of(after)[1], planes_of(native)[1])
    assert luma_thumbnail(native, 80)[0].shape == (60, 80)


@each_coding
def test_thumbnails_are_means_of_the_picture(pixel_format: str, tags: Tags) -> None:
    native = native_frame(0, 320, 240, pixel_format, tags)
    whole = native_frame(0, 320, 240, "rgb24").to_ndarray()
    small = cv2.resize(whole, (80, 60), interpolation=cv2.INTER_AREA).astype(float)
    grey = small @ (0.299, 0.587, 0.114)

    colour, scale = rgb_thumbnail(native, 80)
    assert (colour.shape, scale) == ((60, 80, 3), 4.0)
    expected = small if not pixel_format.startswith("gray") else np.repeat(grey[..., None], 3, 2)
    assert np.abs(colour - expected).mean() < 3

    luma, scale = luma_thumbnail(native, 80)
    assert (luma.shape, luma.dtype, scale) == ((60, 80), np.uint8, 4.0)
    if tags.matrix in (5, 6, 0) or pixel_format.startswith("gray"):
        assert np.abs(luma - grey).mean() < 1.5


def test_thumbnails_are_never_enlarged() -> None:
    native = native_frame(0, 160, 120)
    assert rgb_thumbnail(native, 640)[0].shape == (120, 160, 3)
    assert luma_thumbnail(native, 640)[1] == 1.0


@each_coding
def test_luma_region_and_window_are_full_range(pixel_format: str, tags: Tags) -> None:
    native = native_frame(0, 160, 120, pixel_format, tags)
    region = luma_region(native, 30, 20, 62, 52)
    assert (region.shape, region.dtype) == ((32, 32), np.float32)
    window = luma_window(native, np.array([[1, 0, -30], [0, 1, -20]], np.float32), 32)
    assert (window.shape, window.dtype) == ((32, 32), np.uint8)
    assert np.abs(region - window).max() < 1.5


def test_unspecified_matrix_follows_the_size() -> None:
    small, large = native_frame(0, 160, 120), native_frame(0, 1280, 720)
    for native, matrix in ((small, 5), (large, 1)):
        native.colorspace = 2
        assumed = coding_of(native).to_rgb
        native.colorspace = matrix
        assert np.array_equal(assumed, coding_of(native).to_rgb)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "gbrp"])
def test_colourfulness_is_low_for_tinted_grey_and_high_for_colour(pixel_format: str) -> None:
    tags = Tags(2, 1, 1, 0 if pixel_format == "gbrp" else 1)
    assert chroma_spread(native_frame(0, 320, 240, pixel_format, tags)) > 12
    grey = np.repeat(cv2.cvtColor(astronaut(), cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    tinted = np.clip(grey * np.array([1.0, 0.97, 0.9]) + (9, 4, 0), 0, 255).astype(np.uint8)
    sepia = np.clip(grey * np.array([1.07, 0.95, 0.72]), 0, 255).astype(np.uint8)
    for pixels in (grey, tinted, sepia):
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format, dst_colorspace=1)
        frame.color_range = 2 if pixel_format == "gbrp" else 1
        assert chroma_spread(frame) < 4
    assert chroma_spread(native_frame(0, 160, 120, "gray")) == 0


@pytest.mark.parametrize(
    ("name", "planar"),
    [
        ("yuv420p", "yuv420p"),
        ("nv12", "yuv420p"),
        ("p010le", "yuv420p10le"),
        ("yuyv422", "yuv422p"),
        ("bgra", "gbrp"),
        ("yuva444p12le", "yuv444p12le"),
        ("pal8", "gbrp"),
        ("yuv420p10be", "yuv420p10le"),
        ("ya8", "gray"),
        ("rgb48le", "gbrp16le"),
        ("uyyvyy411", "yuv411p"),
    ],
)
def test_every_integer_format_has_planes(name: str, planar: str) -> None:
    assert planar_format(name) == planar


@pytest.mark.parametrize("name", ["gbrpf32le", "bayer_rggb8", "xyz12le", "grayf32le"])
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(SourceError, match=f"{name} is not supported"):
        planar_format(name)


def test_rare_matrices_are_refused() -> None:
    check_matrix(2)
    with pytest.raises(SourceError, match="colour matrix 8"):
        check_matrix(8)
