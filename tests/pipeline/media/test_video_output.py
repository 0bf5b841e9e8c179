"""Outputs: whole or not at all, never over the input, and exact where that was promised."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline import cli
from pipeline.errors import SinkError
from pipeline.media.coding import planes_of
from pipeline.media.encode import NVENC_FORMATS, EncodeConfig, choose_encoding
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from support.clips import Tags, native_frame, shown_times, write_clip

ROOT = Path(__file__).parents[3]
QUICK = EncodeConfig(preset="ultrafast")


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(source: FileSource, target: Path, encode: EncodeConfig = QUICK, **settings: Any) -> FileSink:
    with FileSink(target, source, encode, **settings) as sink:
        for frame in source:
            sink.write(frame.native, frame.pts)
    return sink


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("pixel_format", "tags"),
    [
        ("yuv420p", Tags(1, 6, 6, 6)),
        ("yuv420p", Tags(2, 1, 1, 1)),
        ("yuvj420p", Tags(2, 5, 6, 5)),
        ("yuv444p", Tags(1, 1, 1, 1)),
        ("yuv422p10le", Tags(1, 1, 1, 1)),
        ("yuv420p10le", Tags(2, 9, 14, 9)),
        ("gbrp", Tags(2, 1, 13, 0)),
    ],
)
def test_lossless_output_keeps_every_sample(
    tmp_path: Path, suffix: str, pixel_format: str, tags: Tags
) -> None:
    path = tmp_path / "in.mkv"
    source_format = {"gbrp": "bgr0"}.get(pixel_format, pixel_format)
    codec = {"yuvj420p": "mjpeg"}.get(pixel_format, "ffv1")
    write_clip(path, codec=codec, pixel_format=source_format, options={}, tags=tags, frames=4)
    source = FileSource(path)
    before = [[plane.copy() for plane in planes_of(frame.native)] for frame in source]
    target = tmp_path / f"out{suffix}"
    write(source, target, EncodeConfig(preset="ultrafast", lossless=True))
    after = list(FileSource(target))
    assert len(after) == len(before) == 4
    for planes, frame in zip(before, after, strict=True):
        for old, new in zip(planes, planes_of(frame.native), strict=True):
            assert np.array_equal(old, new)
    info = FileSource(target).info
    assert info.color_range == tags.range or (info.color_range, tags.range) == (0, 1)
    assert info.color_matrix == source.info.color_matrix


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [
        *((codec, "yuv420p") for codec in ("h264", "h265", "vp9", "ffv1")),
        *((codec, "yuv420p10le") for codec in ("h264", "h265", "ffv1")),
    ],
)
def test_named_codecs_keep_every_sample_where_that_is_wanted(
    tmp_path: Path, codec: str, pixel_format: str
) -> None:
    path = write_clip(tmp_path / "in.mkv", codec="ffv1", pixel_format=pixel_format, options={}, frames=4)
    target = tmp_path / "out.mkv"
    write(FileSource(path), target, EncodeConfig(codec=codec, preset="ultrafast", lossless=True))
    for old, new in zip(FileSource(path), FileSource(target), strict=True):
        for before, after in zip(planes_of(old.native), planes_of(new.native), strict=True):
            assert np.array_equal(before, after)


@pytest.mark.parametrize("codec", ["av1", "libsvtav1", "mpeg2", "mpeg1", *NVENC_FORMATS])
def test_codecs_that_lose_are_refused_where_every_sample_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: str
) -> None:
    source, target = write_clip(tmp_path / "in.mp4", frames=2), tmp_path / "out.mkv"
    command = [str(source), str(target), "--restorer", "none", "--codec", codec]
    assert cli.main([*command, "--set", "encode.lossless=true"]) == 2
    assert capsys.readouterr().err == (
        "anchorface: encode: lossless needs a codec that keeps every sample (h264, h265, vp9, ffv1, or auto), "
        f"got {codec!r}\n"
    )
    assert left_over(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize("source_codec", ["libx264", "mpeg1video"])
def test_auto_takes_no_encoder_that_would_be_refused(tmp_path: Path, source_codec: str) -> None:
    path = write_clip(tmp_path / "in.mkv", codec=source_codec, options={}, frames=2)
    info, config = FileSource(path).info, EncodeConfig(lossless=True)
    for suffix in (".mp4", ".mov", ".mkv", ".webm", ".ts"):
        chosen = choose_encoding(tmp_path / f"out{suffix}", info, info.width, info.height, config).codec
        assert EncodeConfig(codec=chosen, lossless=True).codec == chosen
    for suffix in (".mpg", ".vob"):
        with pytest.raises(SinkError, match=r"video cannot keep every sample; use \.mkv"):
            choose_encoding(tmp_path / f"out{suffix}", info, info.width, info.height, config)


def test_odd_sizes_are_kept_by_a_codec_that_can(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", codec="ffv1", options={}, width=161, height=121, frames=3)
    source = FileSource(path)
    sink = write(source, tmp_path / "out.mp4")
    info = FileSource(tmp_path / "out.mp4").info
    assert (info.width, info.height) == (161, 121)
    assert sink.warnings == ["libx264 cannot hold 161x121 yuv420p: libvpx-vp9 is used"]
    with pytest.raises(SinkError, match="libx264 cannot encode frames of 161x121 yuv420p"):
        FileSink(tmp_path / "two.mp4", source, EncodeConfig(codec="h264"))


def test_formats_no_encoder_holds_are_changed_and_said_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.nut", codec="rawvideo", pixel_format="yuv411p", options={}, frames=2)
    sink = write(FileSource(path), tmp_path / "out.mp4")
    assert sink.warnings == ["libx264 cannot hold yuv411p: the video is written as yuv422p"]
    with pytest.raises(SinkError, match="without loss"):
        FileSink(tmp_path / "two.mp4", FileSource(path), EncodeConfig(lossless=True))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("out.webm", "libdav1d"), ("out.mpg", "mpeg2video"), ("out.ts", "h264"), ("out.mov", "h264")],
)
def test_container_decides_the_codec(tmp_path: Path, name: str, codec: str) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=4)
    write(FileSource(path), tmp_path / name)
    assert FileSource(tmp_path / name).info.codec == codec


def test_named_codecs_are_used(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=3)
    for name, codec in {"h265": "hevc", "vp9": "vp9", "ffv1": "ffv1"}.items():
        write(FileSource(path), tmp_path / f"{name}.mkv", EncodeConfig(codec=name, preset="ultrafast"))
        assert FileSource(tmp_path / f"{name}.mkv").info.codec == codec


@pytest.mark.parametrize("settings", [{"codec": "divx"}, {"crf": 60.0}, {"preset": "hasty"}])
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        EncodeConfig(**settings)


def test_lower_crf_keeps_more(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", width=320, height=240)
    sizes = []
    for crf in (10.0, 35.0):
        write(FileSource(path), tmp_path / f"{crf}.mp4", EncodeConfig(crf=crf, preset="ultrafast"))
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize("name", ["out.avi", "out.gif", "out", "out.xyz"])
def test_containers_without_frame_times_are_refused(tmp_path: Path, name: str) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4"))
    with pytest.raises(SinkError, match=r"use one of \.mp4"):
        FileSink(tmp_path / name, source)


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_input_is_never_overwritten(tmp_path: Path, link: str) -> None:
    path = write_clip(tmp_path / "in.mp4")
    target = path if link == "same" else tmp_path / "out.mp4"
    if link == "symbolic":
        target.symlink_to(path)
    elif link == "hard":
        os.link(path, target)
    content = path.read_bytes()
    with pytest.raises(SinkError, match="is the input"):
        FileSink(target, FileSource(path), overwrite=True)
    assert path.read_bytes() == content


def test_existing_file_needs_overwrite(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    target.write_text("precious")
    with pytest.raises(SinkError, match="exists already; use --overwrite"):
        FileSink(target, FileSource(path))
    assert target.read_text() == "precious"
    write(FileSource(path), target, overwrite=True)
    assert shown_times(target) == shown_times(path)


def test_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4"))
    target = tmp_path / "out.mp4"
    with pytest.raises(SinkError, match="exists already"), FileSink(target, source, QUICK) as sink:
        for frame in source:
            sink.write(frame.native, frame.pts)
        target.write_text("precious")
    assert target.read_text() == "precious"
    assert left_over(tmp_path) == ["in.mp4", "out.mp4"]


def test_folder_must_exist_and_be_writable(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4"))
    with pytest.raises(SinkError, match="does not exist"):
        FileSink(tmp_path / "gone" / "out.mp4", source)
    with pytest.raises(SinkError, match="is a folder"):
        FileSink(tmp_path, source)


def test_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4"))

    def refuse(self: Path, *arguments: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # root may write everywhere
    with (
        pytest.raises(SinkError, match=r"cannot be written \(permission denied"),
        FileSink(tmp_path / "o.mp4", source),
    ):
        pass


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_nothing_is_left_after_a_failure(tmp_path: Path, error: BaseException) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4", frames=30, sound=["aac"]))
    with pytest.raises(type(error)), FileSink(tmp_path / "out.mp4", source, QUICK) as sink:
        for frame in source:
            sink.write(frame.native, frame.pts)
            if frame.index == 20:
                raise error
    assert left_over(tmp_path) == ["in.mp4"]


def test_file_has_its_name_only_when_whole(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4"))
    with FileSink(tmp_path / "out.mp4", source, QUICK) as sink:
        for frame in source:
            sink.write(frame.native, frame.pts)
        [partial] = tmp_path.glob(".out.*.partial.mp4")
        assert left_over(tmp_path) == [partial.name, "in.mp4"]
    assert left_over(tmp_path) == ["in.mp4", "out.mp4"]


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", width=320, height=240, frames=20)
    source = FileSource(path)
    old_limits, old_signal = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limits[1]))
    try:
        with pytest.raises(SinkError, match="disk is full") as caught:
            write(source, tmp_path / "out.mkv", EncodeConfig(lossless=True, preset="ultrafast"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limits)
        signal.signal(signal.SIGXFSZ, old_signal)
    assert str(caught.value).startswith(str(tmp_path / "out.mkv"))
    assert left_over(tmp_path) == ["in.mp4"]


def test_files_named_like_an_unfinished_one_are_let_be(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "out.partial.mp4"))
    content = source.path.read_bytes()
    write(source, tmp_path / "out.mp4", overwrite=True)
    assert left_over(tmp_path) == ["out.mp4", "out.partial.mp4"]
    assert source.path.read_bytes() == content


def test_output_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    write(FileSource(write_clip(tmp_path / "in.mp4", frames=2)), tmp_path / "out.mp4")
    (tmp_path / "new").touch()
    assert (tmp_path / "out.mp4").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert stat.S_ISREG((tmp_path / "out.mp4").stat().st_mode)


def test_two_runs_to_one_name_do_not_meet(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4", frames=40))
    target = tmp_path / "out.mp4"
    with FileSink(target, source, QUICK, overwrite=True) as first:
        for frame in source:
            if frame.index == 30:
                write(source, target, overwrite=True)
            first.write(frame.native, frame.pts)
    assert shown_times(target) == shown_times(source.path)
    assert left_over(tmp_path) == ["in.mp4", "out.mp4"]


def test_names_that_are_too_long_are_one_sentence(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4", frames=2))
    with pytest.raises(SinkError, match=r"cannot be written \(file name too long\); give another name"):
        FileSink(tmp_path / f"{'a' * 300}.mp4", source)
    longest = tmp_path / f"{'ä' * 125}.mp4"  # 254 bytes
    write(source, longest)
    assert left_over(tmp_path) == ["in.mp4", longest.name]


def test_encoders_do_not_talk(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=3)
    program = (
        "import sys; from pathlib import Path; from pipeline.media.sink import FileSink; "
        "from pipeline.media.source import FileSource\n"
        "source = FileSource(Path(sys.argv[1]))\n"
        "with FileSink(Path(sys.argv[2]), source) as sink:\n"
        "    for frame in source: sink.write(frame.native, frame.pts)"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "out.webm")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == done.stdout == ""
    assert FileSource(tmp_path / "out.webm").info.codec == "libdav1d"


def test_comment_tells_what_was_done(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4", metadata={"comment": "holiday"}))
    write(source, tmp_path / "out.mp4", note="restored by a machine")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["comment"] == "holiday; restored by a machine"


def test_two_columns_make_a_wider_picture(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4", frames=2))
    with FileSink(tmp_path / "out.mp4", source, QUICK, columns=2) as sink:
        assert (sink.width, sink.height) == (320, 120)
        for frame in source:
            sink.write(native_frame(frame.index, 320, 120), frame.pts)
    assert FileSource(tmp_path / "out.mp4").info.width == 320


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="a matter of Linux alone")
def test_an_encoder_changes_no_priority(tmp_path: Path) -> None:
    """SVT-AV1 gives real-time priority to itself and to whoever opens it, where root does so."""
    source = FileSource(write_clip(tmp_path / "in.mkv"))
    before, seen = os.sched_getscheduler(0), set()
    with FileSink(tmp_path / "out.mkv", source, EncodeConfig(codec="av1", preset="ultrafast")) as sink:
        for frame in source:
            sink.write(frame.native, frame.pts)
            seen |= {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
    assert seen == {before}
