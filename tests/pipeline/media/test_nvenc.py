"""Encoders of NVIDIA cards: asked for by name only, with settings that they have, and missed with a sentence."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.errors import SinkError
from pipeline.media import encode
from pipeline.media.coding import planes_of
from pipeline.media.encode import PRESETS, EncodeConfig, Encoding, add_encoder, choose_encoding
from pipeline.media.layout import repack
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from support.clips import Tags, shown_times, write_clip

BUILT = sorted(set(encode.NVENC_FORMATS) & av.codecs_available)


def chosen(path: Path, name: str = "out.mp4", **settings: Any) -> Encoding:
    info = FileSource(path).info
    return choose_encoding(path.with_name(name), info, info.width, info.height, EncodeConfig(**settings))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A machine where every encoder opens; what was opened."""
    opened: list[tuple[Any, ...]] = []
    monkeypatch.setattr(encode, "check_encoder", lambda *given: opened.append(given))
    return opened


class Encoder:
    """Stands for an encoder that opens, or fails to."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def open(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("pixel_format", "codec", "written"),
    [
        ("yuv420p", "h264_nvenc", "yuv420p"),
        ("yuv444p", "h264_nvenc", "yuv444p"),
        ("yuv420p10le", "hevc_nvenc", "p010le"),
        ("yuv420p10le", "av1_nvenc", "p010le"),
    ],
)
def test_a_named_encoder_of_a_card_is_used(
    tmp_path: Path, card: list[tuple[Any, ...]], pixel_format: str, codec: str, written: str
) -> None:
    path = write_clip(tmp_path / "in.mkv", codec="ffv1", options={}, pixel_format=pixel_format, frames=2)
    encoding = chosen(path, codec=codec, crf=20, preset="slow")
    assert (encoding.codec, encoding.pixel_format, encoding.warnings) == (codec, written, ())
    assert card == [(codec, written, 160, 120, encoding.options)]
    quality = f"{20 * 63 / 51:g}" if codec == "av1_nvenc" else "20"
    wanted = {"preset": "p5", "cq": quality, "rc": "vbr", "tune": "hq"}
    assert wanted.items() <= encoding.options.items()


def test_what_such_an_encoder_cannot_keep_is_said(tmp_path: Path, card: list[tuple[Any, ...]]) -> None:
    deep = write_clip(tmp_path / "deep.mkv", codec="ffv1", options={}, pixel_format="yuv420p10le", frames=2)
    [warning] = chosen(deep, codec="h264_nvenc").warnings
    assert warning == "h264_nvenc cannot hold yuv420p10le: the video is written as yuv420p"
    rgb = write_clip(tmp_path / "rgb.mkv", codec="ffv1", options={}, pixel_format="bgr0", frames=2)
    with pytest.raises(SinkError, match="h264_nvenc cannot encode frames of 160x120 gbrp"):
        chosen(rgb, codec="h264_nvenc")


def test_light_levels_that_are_not_written_are_told(tmp_path: Path, card: list[tuple[Any, ...]]) -> None:
    options = {
        "x265-params": "log-level=error:max-cll=1000,400:master-display="
        "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    }
    path = write_clip(
        tmp_path / "hdr.mp4", codec="libx265", options=options, pixel_format="yuv420p10le", frames=3
    )
    assert FileSource(path).info.content_light == (1000, 400)
    [warning] = chosen(path, codec="hevc_nvenc").warnings
    assert "no mastering data and light levels" in warning


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm", "out.ts"])
def test_auto_never_takes_an_encoder_of_a_card(
    tmp_path: Path, card: list[tuple[Any, ...]], name: str
) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=2)
    assert chosen(path, name).codec not in encode.NVENC_FORMATS
    assert card == []


@pytest.mark.parametrize("codec", BUILT)
def test_every_setting_is_one_of_the_encoders_own(codec: str) -> None:
    """By FFmpeg's own tables, which are there without a card."""
    context = av.CodecContext.create(codec, "w")
    options = context.supported_options
    own = {option.name: option for option in (*options.generic, *options.private)}
    for preset in PRESETS:
        for crf in (0.0, 16.0, 51.0):
            for name, value in encode.nvenc_options(codec, crf, preset).items():
                choices = {choice.name for choice in own[name].choices}
                assert value in choices or own[name].min <= float(value) <= own[name].max, name
                # 0 is the card's own choice.
                assert name != "cq" or float(value) > 0
    listed = {layout.name for layout in context.codec.video_formats or ()}
    assert set(encode.NVENC_FORMATS[codec]) <= listed


def test_slower_presets_are_slower() -> None:
    efforts = [int(encode.nvenc_options("h264_nvenc", 16, preset)["preset"][1:]) for preset in PRESETS]
    assert efforts == sorted(efforts)
    assert (efforts[0], efforts[-1]) == (1, 7)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            av.error.PermissionError(1, "Operation not permitted"),
            "--codec hevc_nvenc does not open here for frames of 160x120 yuv420p (operation not permitted): it "
            "needs an NVIDIA card with this encoder and its driver; use --codec auto",
        ),
        (
            av.codec.codec.UnknownCodecError("hevc_nvenc"),
            "--codec hevc_nvenc: the FFmpeg inside PyAV is built without it; use --codec auto",
        ),
    ],
)
def test_a_missing_encoder_is_a_wrong_option(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    sentence: str,
) -> None:
    path, target = write_clip(tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4"
    monkeypatch.setattr(encode.av.CodecContext, "create", lambda *given: Encoder(error))
    assert main([str(path), str(target), "--codec", "hevc_nvenc", "--restorer", "none"]) == 2
    assert capsys.readouterr().err.strip() == f"anchorface: {sentence}"
    assert not target.exists()


def test_an_encoder_that_opens_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = Encoder(None)
    monkeypatch.setattr(encode.av.CodecContext, "create", lambda *given: encoder)
    encode.check_encoder("h264_nvenc", "yuv420p", 320, 240, {"cq": "16"})
    assert (encoder.width, encoder.height, encoder.pix_fmt) == (320, 240, "yuv420p")
    assert encoder.options == {"cq": "16"}


def test_ten_bits_go_to_the_encoder_unchanged(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mkv",
        codec="ffv1",
        options={},
        pixel_format="yuv420p10le",
        frames=1,
        tags=Tags(1, 9, 16, 9),
    )
    [frame] = FileSource(path)
    there = repack(frame.native, "p010le")
    luma, chroma = (
        np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)[:, :160] >> 6
        for plane in there.planes
    )
    for ours, theirs in zip((luma, chroma[:, ::2], chroma[:, 1::2]), planes_of(frame.native), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_card_that_fails_in_the_middle_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with every encoder; an encoder cannot be changed in the middle of a stream."""
    monkeypatch.setattr(encode, "check_encoder", lambda *given: None)
    monkeypatch.setattr(encode, "nvenc_options", lambda *given: {"crf": "16"})
    monkeypatch.setattr("pipeline.media.sink.add_encoder", _failing())
    source = FileSource(write_clip(tmp_path / "in.mp4", frames=4))
    with (
        pytest.raises(
            SinkError, match=r"h264_nvenc in mp4 failed after 1 frames .*another container or --codec"
        ),
        FileSink(tmp_path / "out.mp4", source, EncodeConfig(codec="h264_nvenc")) as sink,
    ):
        for frame in source:
            sink.write(frame.native, frame.pts)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def _failing() -> Any:
    class Stream:
        def __init__(self, stream: Any) -> None:
            self._stream, self._count = stream, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

        def encode(self, native: av.VideoFrame | None) -> Any:
            self._count += 1
            if self._count > 1:
                raise av.error.ExternalError(542398533, "Generic error in an external library")
            return self._stream.encode(native)

    def add(output: Any, encoding: Encoding, *given: Any) -> Any:
        return Stream(add_encoder(output, replace(encoding, codec="libx264"), *given))

    return add


def _opens(codec: str) -> bool:
    try:
        encode.check_encoder(codec, "yuv420p", 640, 480, encode.nvenc_options(codec, 16, "medium"))
    except ValueError:
        return False
    return True


@pytest.mark.gpu
@pytest.mark.parametrize("codec", list(encode.NVENC_FORMATS))
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_real_card_writes_what_it_is_given(tmp_path: Path, codec: str, suffix: str) -> None:
    if not _opens(codec):
        pytest.skip(f"needs an NVIDIA card with {codec}")
    # Uneven times, so that a wrong order or a grid would show.
    times = [0, 1, 3, 4, 6, 9, 10, 11, 15, 16, 17, 18, 20, 25, 26, 27]
    tags = Tags(1, 9, 14, 9)
    path = write_clip(
        tmp_path / "in.mkv", width=640, height=480, times=times, time_base=Fraction(1, 30), tags=tags
    )
    source = FileSource(path)
    target = tmp_path / f"out{suffix}"
    with FileSink(target, source, EncodeConfig(codec=codec, crf=10)) as sink:
        for frame in source:
            sink.write(frame.native, frame.pts)
    assert shown_times(target) == shown_times(path)
    info = FileSource(target).info
    assert (info.color_range, info.color_primaries, info.color_transfer, info.color_matrix) == (1, 9, 14, 9)
    for ours, theirs in zip(FileSource(target), FileSource(path), strict=True):
        pairs = zip(planes_of(ours.native), planes_of(theirs.native), strict=True)
        assert max(np.abs(a.astype(int) - b).mean() for a, b in pairs) < 3
