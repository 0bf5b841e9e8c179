"""Decoding by a graphics card: what it gives is software's, and whatever goes wrong, software goes on from there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from numpy.typing import NDArray

from pipeline import cli
from pipeline.config import PipelineConfig, RestorerConfig
from pipeline.errors import SourceError
from pipeline.media import decode, hardware, layout
from pipeline.media.coding import planes_of
from pipeline.media.decode import video_stream
from pipeline.media.hardware import DecodeConfig
from pipeline.media.layout import repack
from pipeline.media.source import FileSource
from pipeline.runs.film import restore_video
from support.clips import Tags, truncate, write_clip

FRAMES = 30
B_FRAMES = {"preset": "ultrafast", "qp": "12", "bf": "2", "b_strategy": "0", "g": "12"}
Seen = list[tuple[Fraction, list[NDArray[Any]]]]


def seen(source: FileSource) -> Seen:
    return [(frame.pts * frame.time_base, [p.copy() for p in planes_of(frame.native)]) for frame in source]


def assert_same(ours: Seen, theirs: Seen, apart: int = 0) -> None:
    assert [time for time, _ in ours] == [time for time, _ in theirs]
    for (_, planes), (_, others) in zip(ours, theirs, strict=True):
        for ours_now, theirs_now in zip(planes, others, strict=True):
            assert np.abs(ours_now.astype(int) - theirs_now).max() <= apart


class Card:
    """Stands for the decoder of a graphics card: software's frames, changed by `change`, or none of them.

    `change` gets the number of a frame and the frame, and gives what the card makes of it, None for nothing.
    `fails_at` is the number of the packet that it does not decode; the one after the last is the draining.
    """

    def __init__(
        self, change: Callable[[int, av.VideoFrame], av.VideoFrame | None], fails_at: int | None = None
    ) -> None:
        self.change, self.fails_at = change, fails_at
        self.opened = self.packets = self.frames = 0

    def open(self, path: Path, stream_index: int, accelerator: HWAccel) -> hardware.Opened:
        self.opened += 1
        self.packets = self.frames = 0
        container = hardware.open_input(path)
        stream = video_stream(container, stream_index)
        stream.thread_type = "SLICE"
        self.context, self.name = stream.codec_context, stream.codec_context.name
        return container, stream, self  # type: ignore[return-value]

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        if self.packets == self.fails_at:
            raise av.error.ExternalError(542398533, "Generic error in an external library")
        self.packets += 1
        return list(self._changed(self.context.decode(packet)))

    def _changed(self, natives: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for native in natives:
            result = self.change(self.frames, native)
            self.frames += 1
            if result is not None:
                yield result


@pytest.fixture
def insert(monkeypatch: pytest.MonkeyPatch) -> Callable[[Card], Card]:
    """Puts a card into this machine."""
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["cuda"])

    def put(card: Card) -> Card:
        monkeypatch.setattr(hardware, "open_decoder", card.open)
        return card

    return put


Insert = Callable[[Card], Card]


def untouched(number: int, native: av.VideoFrame) -> av.VideoFrame:
    return native


def lighter(by: int, first: int = 0) -> Callable[[int, av.VideoFrame], av.VideoFrame]:
    def change(number: int, native: av.VideoFrame) -> av.VideoFrame:
        if number >= first:
            native.make_writable()
            planes_of(native)[0][20, 30] += by
        return native

    return change


def clip(tmp_path: Path, name: str = "in.mkv", **settings: Any) -> Path:
    return write_clip(tmp_path / name, **{"frames": FRAMES, "options": B_FRAMES} | settings)


@pytest.mark.parametrize(
    ("pixel_format", "layout", "codec", "tags"),
    [
        ("yuv420p", "nv12", "libx264", Tags()),
        ("yuv420p", "nv12", "libx264", Tags(range=2)),
        ("yuvj420p", "nv12", "mjpeg", Tags(2, 5, 6, 5)),
        ("yuv420p10le", "p010le", "libx264", Tags(1, 9, 14, 9)),
        ("yuv444p", "yuv444p", "libx264", Tags()),
    ],
)
def test_the_cards_frames_are_those_of_software(
    tmp_path: Path, insert: Insert, pixel_format: str, layout: str, codec: str, tags: Tags
) -> None:
    card = insert(Card(lambda number, native: repack(native, layout)))
    options = B_FRAMES if codec == "libx264" else {}
    path = clip(tmp_path, codec=codec, pixel_format=pixel_format, options=options, tags=tags)
    source = FileSource(path, hardware="cuda")
    assert_same(seen(source), seen(FileSource(path)))
    assert (card.opened, card.frames) == (1, FRAMES)
    assert (source.warnings, source.damage) == ([], [])
    first = next(iter(source)).native
    assert (first.color_range, first.colorspace) == (tags.range, tags.matrix)


def test_one_code_value_is_no_reason_to_leave_the_card(tmp_path: Path, insert: Insert) -> None:
    insert(Card(lighter(1)))
    path = clip(tmp_path)
    source = FileSource(path, hardware="cuda")
    frames, plain = seen(source), seen(FileSource(path))
    assert_same(frames, plain, apart=1)
    assert frames[20][1][0][20, 30] != plain[20][1][0][20, 30]
    assert source.warnings == []


@pytest.mark.parametrize("first", [0, 5])
def test_other_samples_are_refused_and_none_of_them_is_used(
    tmp_path: Path, insert: Insert, first: int
) -> None:
    insert(Card(lighter(2, first)))
    path = clip(tmp_path)
    source = FileSource(path, hardware="cuda")
    assert_same(seen(source), seen(FileSource(path)))
    [warning] = source.warnings
    place = f" from its frame {first + 1} on" if first else ""
    assert warning == (
        f"decode.hardware=cuda: frame {first + 1} is up to 2 code values away from software's; "
        f"the video is decoded in software{place}"
    )


def retimed(number: int, native: av.VideoFrame) -> av.VideoFrame:
    assert native.pts is not None
    native.pts += 1
    return native


def smaller(number: int, native: av.VideoFrame) -> av.VideoFrame:
    return native.reformat(width=80, height=60)


def untagged(number: int, native: av.VideoFrame) -> av.VideoFrame:
    native.colorspace = 2
    return native


def flattened(number: int, native: av.VideoFrame) -> av.VideoFrame:
    return repack(native, "yuv444p")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (retimed, "frame 1 has another time than in software"),
        (smaller, r"frame 1 has another size than in software \(\(80, 60\), not \(160, 120\)\)"),
        (untagged, "frame 1 has another matrix than in software"),
        (flattened, "it gives yuv444p where software gives yuv420p"),
        (lambda number, native: repack(native, "grayf32le"), "it gives grayf32le, which cannot be used"),
    ],
)
def test_other_pictures_are_refused(
    tmp_path: Path,
    insert: Insert,
    change: Callable[[int, av.VideoFrame], av.VideoFrame],
    reason: str,
) -> None:
    insert(Card(change))
    path = clip(tmp_path, tags=Tags())
    source = FileSource(path, hardware="cuda")
    assert_same(seen(source), seen(FileSource(path)))
    [warning] = source.warnings
    assert re.search(reason, warning), warning


@pytest.mark.parametrize("fails_at", [0, 5, 20, FRAMES])
@pytest.mark.parametrize("name", ["in.mkv", "in.mp4", "in.h264"])
def test_an_error_in_the_middle_loses_nothing(
    tmp_path: Path, insert: Insert, fails_at: int, name: str
) -> None:
    card = insert(Card(untouched, fails_at))
    path = clip(tmp_path, name)
    source = FileSource(path, hardware="cuda", strict=True)
    frames = seen(source)
    assert_same(frames, seen(FileSource(path)))
    assert len(frames) == FRAMES
    warnings = [warning for warning in source.warnings if "decode.hardware" in warning]
    assert len(warnings) == 1
    assert "cannot be decoded (generic error in an external library)" in warnings[0].lower()
    assert ("from its frame" in warnings[0]) == (fails_at > 0)
    assert source.damage == []
    # A card that failed once is left alone.
    assert_same(seen(source), frames)
    assert card.opened == 1


def test_a_part_of_the_film_is_that_part(tmp_path: Path, insert: Insert) -> None:
    path = clip(tmp_path)
    plain = seen(FileSource(path, start_seconds=0.5, duration_seconds=0.4))
    card = insert(Card(untouched))
    assert_same(seen(FileSource(path, start_seconds=0.5, duration_seconds=0.4, hardware="cuda")), plain)
    assert card.frames > 8
    insert(Card(untouched, fails_at=14))
    source = FileSource(path, start_seconds=0.5, duration_seconds=0.4, hardware="cuda")
    assert_same(seen(source), plain)
    assert len(source.warnings) == 1


def test_a_frame_that_a_card_leaves_out_is_told_as_damage(tmp_path: Path, insert: Insert) -> None:
    insert(Card(lambda number, native: None if number == 15 else native))
    path = clip(tmp_path)
    source = FileSource(path, hardware="cuda")
    plain = seen(FileSource(path))
    assert_same(seen(source), plain[:15] + plain[16:])
    assert source.damage == ["1 frame left out by the graphics card; use decode.hardware=none"]
    with pytest.raises(SourceError, match="the graphics card left out a frame"):
        seen(FileSource(path, hardware="cuda", strict=True))


def test_a_frame_that_a_card_leaves_out_at_once_is_not_missed(tmp_path: Path, insert: Insert) -> None:
    insert(Card(lambda number, native: None if number == 3 else native))
    path = clip(tmp_path, frames=4, codec="mpeg4", options={})
    source = FileSource(path, hardware="cuda")
    assert_same(seen(source), seen(FileSource(path)))
    assert "it gives only 3 frames" in source.warnings[0]


def test_damaged_files_are_left_to_software(tmp_path: Path, insert: Insert) -> None:
    card = insert(Card(untouched))
    path = truncate(clip(tmp_path, frames=40), 0.6)
    source, plain = FileSource(path, hardware="cuda"), FileSource(path)
    assert_same(seen(source), seen(plain))
    assert card.opened == 0
    assert source.damage == plain.damage != []
    assert "the file ends before its time; the video is decoded in software" in source.warnings[0]


def refusing(error: Exception) -> Callable[..., hardware.Opened]:
    def open_decoder(*given: Any) -> hardware.Opened:
        raise error

    return open_decoder


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (av.error.PermissionError(1, "Operation not permitted"), "no such device opens here"),
        (SourceError("in.mkv: no video that can be read"), "no such device opens here"),
        (NotImplementedError("No supported hardware config"), "cuda does not decode this kind of video"),
    ],
)
def test_without_a_device_software_decodes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["cuda"])
    monkeypatch.setattr(hardware, "open_decoder", refusing(error))
    path = clip(tmp_path)
    plain = seen(FileSource(path))
    source = FileSource(path, hardware="cuda")
    assert_same(seen(source), plain)
    [warning] = source.warnings
    assert f"decode.hardware=cuda: {reason}" in warning
    # `auto` takes what is there; that nothing is there is no news.
    source = FileSource(path, hardware="auto")
    assert_same(seen(source), plain)
    assert source.warnings == []


def test_a_device_that_is_not_built_in_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["cuda", "drm"])
    source = FileSource(clip(tmp_path), hardware="vaapi:/dev/dri/renderD128")
    assert len(seen(source)) == FRAMES
    [warning] = source.warnings
    assert (
        "vaapi:/dev/dri/renderD128: the FFmpeg inside PyAV is built without it, and with cuda, drm" in warning
    )


def test_auto_goes_on_to_the_next_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["cuda", "vaapi"])
    card, tried = Card(untouched), []

    def open_decoder(*given: Any) -> hardware.Opened:
        tried.append(given)
        if len(tried) == 1:
            raise av.error.PermissionError(1, "Operation not permitted")
        return card.open(*given)

    monkeypatch.setattr(hardware, "open_decoder", open_decoder)
    assert len(seen(FileSource(clip(tmp_path), hardware="auto"))) == card.frames == FRAMES


def test_the_summary_says_that_software_went_on(tmp_path: Path, insert: Insert) -> None:
    insert(Card(untouched, fails_at=12))
    config = PipelineConfig(restorer=RestorerConfig(kind="none"), decode=DecodeConfig("cuda"))
    report = restore_video(clip(tmp_path), tmp_path / "out.mkv", config)
    assert (report.frames, report.damage) == (FRAMES, [])
    assert [w for w in report.warnings if "decode.hardware=cuda" in w]
    assert "decode.hardware=cuda: packet 13 cannot be decoded" in report.summary()


class Accelerator:
    """Stands for PyAV's own, of which the codec is asked."""

    def __init__(self) -> None:
        self.codecs: list[str] = []

    def create(self, codec: av.Codec) -> None:
        self.codecs.append(codec.name)


@pytest.mark.parametrize(
    ("name", "codec", "asked"),
    [("in.mp4", "libx264", "h264"), ("in.mp4", "libsvtav1", "av1"), ("in.mkv", "libsvtav1", "av1")],
)
def test_the_card_is_asked_for_the_codec_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, asked: str
) -> None:
    """FFmpeg decodes AV1 by a library first, which knows no hardware; its own decoder needs a card."""
    monkeypatch.setenv("SVT_LOG", "1")
    options = B_FRAMES if codec == "libx264" else {"preset": "12"}
    path = clip(tmp_path, name, codec=codec, options=options)
    accelerators, contexts, opened = [], [], []

    def create_accelerator(kind: str, device: str | None, **given: Any) -> Accelerator:
        accelerators.append((kind, device, given, Accelerator()))
        return accelerators[-1][-1]

    def create_context(codec: av.Codec, mode: str, accelerator: Accelerator) -> Any:
        contexts.append((codec.name, mode, accelerator))
        return context("libdav1d", "r")

    def open_input(path: Path, accelerator: Any = None) -> Any:
        opened.append(accelerator)
        return decode.open_input(path)

    context = av.CodecContext.create
    monkeypatch.setattr(hardware, "HWAccel", create_accelerator)
    monkeypatch.setattr(hardware, "open_input", open_input)
    monkeypatch.setattr(av.CodecContext, "create", create_context)
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["cuda"])
    source = FileSource(path, hardware="cuda:1")
    assert_same(seen(source), seen(FileSource(path)))
    assert source.warnings == []
    [(kind, device, given, accelerator)] = accelerators
    assert (kind, device, given) == ("cuda", "1", {"allow_software_fallback": False})
    assert accelerator.codecs == [asked]
    own = [("av1", "r", accelerator)] if asked == "av1" else []
    assert contexts == own
    assert (accelerator in opened) == (not own)


@pytest.mark.parametrize(
    "wrong",
    ["gpu", "auto:1", "auto:x", "auto:", "none:0", "none:x", "none:", "cuda:first", "cuda:", "vaapi:", ""],
)
def test_wrong_names_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="hardware must"):
        DecodeConfig(wrong)
    for right in ("auto", "none", "cuda", "cuda:1", "vaapi:/dev/dri/renderD129", "videotoolbox", "d3d11va"):
        assert DecodeConfig(right).hardware == right


@pytest.mark.parametrize("wrong", ["none:", "cuda:", "none:x", "auto:x"])
def test_wrong_names_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    command = [str(clip(tmp_path)), str(tmp_path / "out.mkv"), "--restorer", "none", "--progress", "none"]
    assert cli.main([*command, "--set", f"decode.hardware={wrong}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("anchorface: decode: hardware must be one of auto, none, cuda")
    assert told.endswith(f"got {wrong!r}\n")
    assert told.count("\n") == 1


def test_a_frame_keeps_its_tags_where_it_cannot_be_repacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> None:
        raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(layout, "through_filters", fail)
    native = next(iter(FileSource(clip(tmp_path, tags=Tags(2, 9, 14, 9))))).native
    with pytest.raises(av.error.ArgumentError):
        repack(native, "nv12")
    assert (native.color_range, native.colorspace) == (2, 9)
    assert (native.color_primaries, native.color_trc) == (9, 14)


def _has_card() -> bool:
    try:
        HWAccel("cuda").create(av.Codec("h264", "r"))
    except (av.error.FFmpegError, NotImplementedError):
        return False
    return True


@pytest.mark.gpu
@pytest.mark.skipif(not _has_card(), reason="needs an NVIDIA card with its driver")
@pytest.mark.parametrize(
    ("codec", "pixel_format", "options"),
    [
        ("libx264", "yuv420p", B_FRAMES),
        ("libx264", "yuvj420p", B_FRAMES),
        ("libx265", "yuv420p", {"x265-params": "log-level=error"}),
        ("libx265", "yuv420p10le", {"x265-params": "log-level=error"}),
        ("libvpx-vp9", "yuv420p", {"deadline": "realtime"}),
        ("libsvtav1", "yuv420p", {"preset": "10"}),
        ("mpeg2video", "yuv420p", {}),
    ],
)
def test_a_real_card_gives_softwares_frames(
    tmp_path: Path, codec: str, pixel_format: str, options: dict[str, str]
) -> None:
    path = clip(
        tmp_path, codec=codec, pixel_format=pixel_format, options=options, width=320, height=240, tags=Tags()
    )
    source = FileSource(path, hardware="cuda")
    assert_same(seen(source), seen(FileSource(path)), apart=1)
    if codec == "libx264":
        assert source.warnings == []
