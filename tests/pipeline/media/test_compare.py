"""Before and after side by side."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.coding import planes_of
from pipeline.media.encode import EncodeConfig
from pipeline.media.layout import side_by_side
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from support.clips import Tags, native_frame, write_clip


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "gray", "gbrp"])
def test_halves_are_the_frames_above_the_captions(pixel_format: str) -> None:
    before = native_frame(0, 320, 240, pixel_format)
    after = native_frame(60, 320, 240, pixel_format)
    before.pts, before.time_base = 77, Fraction(1, 1000)
    joined = side_by_side(before, after)
    assert (joined.width, joined.height, joined.format.name) == (640, 240, pixel_format)
    assert (joined.pts, joined.time_base) == (77, Fraction(1, 1000))
    assert (joined.color_range, joined.colorspace) == (before.color_range, before.colorspace)
    for left, right, both in zip(planes_of(before), planes_of(after), planes_of(joined), strict=True):
        upper = both.shape[0] * 3 // 4
        assert np.array_equal(np.hstack([left, right])[:upper], both[:upper])


def test_captions_are_bright_on_dark_and_legal() -> None:
    grey = native_frame(0, 320, 240, "yuv420p", Tags(1, 1, 1, 1))
    for plane in planes_of(grey):
        plane[:] = 100
    luma, blue, _ = planes_of(side_by_side(grey, grey))
    for left in (0, 320):
        label = luma[-14:, left : left + 40]
        assert label.min() == 16
        assert 200 < label.max() <= 235
        assert (blue[-6:, left // 2 : left // 2 + 12] == 128).all()
    assert not np.array_equal(luma[-20:, :60], luma[-20:, 320:380]), "the captions differ"


def test_frames_must_be_alike() -> None:
    with pytest.raises(ValueError, match="must be alike, got 160x120 yuv420p and 64x48 yuv420p"):
        side_by_side(native_frame(0, 160, 120), native_frame(0, 64, 48))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotated_videos_are_side_by_side_as_they_are_shown(tmp_path: Path, rotation: int) -> None:
    path = write_clip(tmp_path / "in.mp4", width=160, height=96, rotation=rotation, frames=1)
    source = FileSource(path)
    [frame] = source
    dark = native_frame(0, 160, 96)
    planes_of(dark)[0][:] = 20
    # `before` is the clip's own frame: it knows how players turn it.
    joined = side_by_side(frame.native, dark)
    shown = np.rot90(planes_of(joined)[0], rotation // 90)
    half = shown.shape[1] // 2
    assert shown.shape == ((96, 320) if rotation % 180 == 0 else (160, 192))
    upper = shown.shape[0] // 2
    original = np.rot90(planes_of(frame.native)[0], rotation // 90)
    assert np.array_equal(shown[:upper, :half], original[:upper])
    assert (shown[:upper, half:] == 20).all()
    assert (shown[-2:, :8] == 16).all(), "the caption is at the bottom"
    with FileSink(tmp_path / "out.mp4", source, EncodeConfig(preset="ultrafast"), columns=2) as sink:
        assert (sink.width, sink.height) == (joined.width, joined.height)
        sink.write(joined, frame.pts)


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_mirrored_videos_are_side_by_side_as_they_are_shown(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    a, b, c, d = (65536 * value for value in matrix)
    path = write_clip(
        tmp_path / "in.mp4", width=160, height=96, display_matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30), frames=1
    )
    source = FileSource(path)
    assert source.info.warnings == ()
    [frame] = source
    dark = native_frame(0, 160, 96)
    planes_of(dark)[0][:] = 20

    def shown(native: av.VideoFrame) -> np.ndarray:
        # x' = a x + c y and y' = b x + d y, wherever the origin comes to lie.
        luma = planes_of(native)[0]
        luma = luma if a else luma.T
        return luma[:: (b + d) // 65536, :: (a + c) // 65536]

    joined = shown(side_by_side(frame.native, dark))
    upper, half = joined.shape[0] // 2, joined.shape[1] // 2
    assert np.array_equal(joined[:upper, :half], shown(frame.native)[:upper])
    assert (joined[:upper, half:] == 20).all()
    assert (joined[-2:, :8] == 16).all(), "the caption is at the bottom"
    straight = native_frame(0, half, joined.shape[0])
    straight = planes_of(side_by_side(straight, straight))[0]
    assert np.array_equal(joined[-10:, :24], straight[-10:, :24]), "the caption can be read"


@pytest.mark.parametrize("rotation", [0, 45, 90])
@pytest.mark.parametrize(("pixel_format", "size"), [("yuv420p", (160, 120)), ("yuv422p", (160, 121))])
def test_odd_sizes_lose_what_has_no_chroma_of_its_own(
    tmp_path: Path, rotation: int, pixel_format: str, size: tuple[int, int]
) -> None:
    path = write_clip(
        tmp_path / "in.mkv",
        codec="ffv1",
        options={},
        width=161,
        height=121,
        pixel_format=pixel_format,
        rotation=rotation,
        frames=2,
    )
    source = FileSource(path)
    with FileSink(tmp_path / "out.mkv", source, EncodeConfig(preset="ultrafast"), columns=2) as sink:
        for frame in source:
            joined = side_by_side(frame.native, frame.native)
            assert (joined.width, joined.height) == (sink.width, sink.height)
            sink.write(joined, frame.pts)
    width, height = size
    expected = (width, 2 * height) if rotation == 90 else (2 * width, height)
    info = FileSource(tmp_path / "out.mkv").info
    assert (info.width, info.height) == expected


def test_tiny_frames_have_room_for_captions() -> None:
    tiny = native_frame(0, 32, 24)
    assert side_by_side(tiny, tiny).width == 64
