"""Interlaced and telecined video is found whatever its file says, and whole frames are made of fields on request."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import configs
from configs import ConfigError
from pipeline import PipelineConfig, restore_video
from pipeline.cli import main
from pipeline.errors import SourceError
from pipeline.media.coding import planes_of
from pipeline.media.fields import look_at_fields
from pipeline.media.source import FileSource
from support.clips import NTSC, astronaut, packets, shown_times, write_clip
from support.films import shown

Picture = NDArray[np.uint8]
MARKED = {"preset": "ultrafast", "qp": "12", "flags": "+ildct+ilme"}
PLAIN = {"preset": "ultrafast", "qp": "12"}


def view(moment: float) -> Picture:
    """uint8 (120, 160, 3): a camera that moves on by 2.7 pixels across and one down in a frame's time."""
    matrix = np.array([[1, 0, -2.7 * moment - 10], [0, 1, -moment - 5]], np.float32)
    moved = cv2.warpAffine(astronaut(), matrix, (320, 240), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(moved, (160, 120), interpolation=cv2.INTER_AREA), np.uint8)


def woven(top: Picture, bottom: Picture) -> Picture:
    frame = top.copy()
    frame[1::2] = bottom[1::2]
    return frame


def interlaced(count: int, *, first: str = "top") -> list[Picture]:
    moments = [(view(n), view(n + 0.5)) for n in range(count)]
    return [woven(*pair) if first == "top" else woven(*pair[::-1]) for pair in moments]


def telecined(count: int) -> list[Picture]:
    fields = [view(1.25 * film) for film in range(count) for _ in range((2, 3)[film % 2])]
    return [woven(fields[2 * n], fields[2 * n + 1]) for n in range(count)]


def grainy(count: int) -> list[Picture]:
    random = np.random.default_rng(1)
    grain = [random.normal(0, 22, (120, 160, 1)) for _ in range(count)]
    return [np.clip(view(n) + grain[n], 0, 255).astype(np.uint8) for n in range(count)]


def write(
    path: Path, pictures: Sequence[Picture], options: dict[str, str], times: Sequence[int] | None = None
) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else 40 * number, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def luma_of(picture: Picture) -> NDArray[np.float32]:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    return planes_of(frame)[0].astype(np.float32)


def error(frame: av.VideoFrame, moment: float) -> float:
    """Mean distance of luma to what was to be seen at `moment`, away from the borders."""
    return float(np.abs(planes_of(frame)[0].astype(np.float32) - luma_of(view(moment)))[8:-8, 8:-8].mean())


def settings(*changes: str) -> PipelineConfig:
    return configs.load(PipelineConfig, None, ["restorer.kind=none", "encode.codec=ffv1", *changes])


@pytest.mark.parametrize("first", ["top", "bottom"])
@pytest.mark.parametrize("options", [PLAIN, MARKED], ids=["unmarked", "marked"])
def test_interlaced_video_is_found_by_its_pictures(
    first: str, options: dict[str, str], tmp_path: Path
) -> None:
    source = FileSource(write(tmp_path / "in.mp4", interlaced(20, first=first), options))
    assert source.fields.first == first
    assert not source.fields.telecined
    [warning] = source.warnings
    assert "two moments" in warning
    assert "--deinterlace" in warning
    assert ("does not say so" in warning) == (options is PLAIN)


def test_telecine_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "in.mp4", telecined(30), PLAIN)
    for mode in ("none", "frame"):
        [warning] = FileSource(path, deinterlace=mode).warnings
        assert "3:2 pulldown" in warning
        assert "inverse telecine" in warning


@pytest.mark.parametrize("kind", ["grain", "compression", "stillness", "few frames"])
def test_whole_frames_are_not_taken_for_woven_ones(kind: str, tmp_path: Path) -> None:
    pictures, options = {
        "grain": (grainy(30), PLAIN),
        "compression": ([view(n) for n in range(30)], {"preset": "ultrafast", "crf": "45"}),
        "stillness": ([view(0)] * 30, PLAIN),
        "few frames": (interlaced(2), PLAIN),
    }[kind]
    source = FileSource(write(tmp_path / "in.mp4", pictures, options))
    assert source.fields.first is None
    assert source.warnings == []


def test_a_mark_that_is_not_true_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "in.mp4", [view(n) for n in range(20)], MARKED)
    [warning] = FileSource(path).warnings
    assert "are progressive" in warning
    assert FileSource(path, deinterlace="frame").warnings == []


def test_deinterlacing_whole_frames_is_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path / "in.mp4", [view(n) for n in range(20)], PLAIN)
    [warning] = FileSource(path, deinterlace="frame").warnings
    assert "leave --deinterlace out" in warning


def test_all_of_a_long_video_is_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "in.mp4", [view(0)] * 80 + interlaced(80), {**PLAIN, "g": "20"})
    assert FileSource(path).fields.first == "top"
    assert FileSource(path, duration_seconds=3).fields.first is None


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_each_frame_becomes_whole_at_its_own_time(first: str, tmp_path: Path) -> None:
    times = [40 * n + 7 * (n % 3) for n in range(20)]
    path = write(tmp_path / "in.mp4", interlaced(20, first=first), PLAIN, times)
    woven_frames, source = list(FileSource(path)), FileSource(path, deinterlace="frame")
    frames = list(source)
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(time, 1000) for time in times]
    assert (
        look_at_fields([frame.native for frame in FileSource(path, deinterlace="frame")] for _ in "1").first
        is None
    )
    assert not source.info.interlaced
    for number in range(2, 18):
        assert error(frames[number].native, number) < 0.85 * error(woven_frames[number].native, number)


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_each_field_becomes_a_frame_of_its_own_moment(first: str, tmp_path: Path) -> None:
    times = [40 * n + 6 * (n % 3) for n in range(20)]
    path = write(tmp_path / "in.mp4", interlaced(20, first=first), PLAIN, times)
    source = FileSource(path, deinterlace="field")
    frames = list(source)
    assert (len(frames), source.info.frame_count) == (40, 40)
    assert source.info.average_rate == 2 * FileSource(path).info.average_rate
    shown_at = [frame.pts * frame.time_base for frame in frames]
    assert shown_at[::2] == [Fraction(time, 1000) for time in times]
    assert shown_at[1:-1:2] == [Fraction(a + b, 2000) for a, b in itertools.pairwise(times)]
    for number in range(4, 36):
        own, other = error(frames[number].native, number / 2), error(frames[number].native, number / 2 + 0.5)
        assert own < 0.6 * other


@pytest.mark.parametrize("mode", ["frame", "field"])
def test_a_stretch_shows_what_the_whole_video_shows_there(mode: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in.mp4", interlaced(40), {**PLAIN, "g": "10"})
    whole = list(FileSource(path, deinterlace=mode))
    part = list(FileSource(path, deinterlace=mode, start_seconds=0.8, duration_seconds=0.4))
    rate = len(whole) // 40
    assert len(part) == 10 * rate
    for here, there in zip(part, whole[20 * rate :], strict=False):
        assert here.pts * here.time_base + Fraction(4, 5) == there.pts * there.time_base
        assert np.array_equal(planes_of(here.native)[0], planes_of(there.native)[0])


def test_sound_is_copied_beside_twice_as_many_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", sound=["aac"], rate=NTSC, frames=12)
    changes = ["input.deinterlace=field", "encode.codec=h264", "encode.preset=ultrafast"]
    restore_video(path, tmp_path / "out.mp4", settings(*changes))
    assert packets(tmp_path / "out.mp4") == packets(path)
    times = shown_times(tmp_path / "out.mp4")
    assert len(times) == 24
    assert times[::2] == shown_times(path)


def test_chunks_of_a_deinterlaced_film_are_those_of_a_straight_run(tmp_path: Path) -> None:
    path = write(tmp_path / "in.mp4", interlaced(40), {**PLAIN, "g": "8"})
    changes = ["input.deinterlace=field", "chunks.seconds=0.3"]
    restore_video(path, tmp_path / "straight.mkv", settings(*changes))
    restore_video(path, tmp_path / "chunks.mkv", settings(*changes, "chunks.resume=true"))
    assert len(shown(tmp_path / "straight.mkv")) == 80
    assert shown(tmp_path / "chunks.mkv") == shown(tmp_path / "straight.mkv")


def test_the_command_tells_at_once_and_deinterlaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.mp4", interlaced(20), PLAIN)
    command = [str(path), "--restorer", "none", "--progress", "plain", "--preset", "ultrafast"]
    assert main([*command[:1], str(tmp_path / "a.mp4"), *command[1:]]) == 0
    assert "warning: the video is interlaced, though" in capsys.readouterr().err
    assert main([*command[:1], str(tmp_path / "b.mp4"), *command[1:], "--deinterlace"]) == 0
    assert "interlaced" not in capsys.readouterr().err
    assert FileSource(tmp_path / "b.mp4").fields.first is None


@pytest.mark.parametrize(("pixel_format", "size"), [("gray10le", (160, 120)), ("yuv420p", (64, 2))])
def test_frames_that_the_filter_does_not_take_are_refused_in_one_sentence(
    pixel_format: str, size: tuple[int, int], tmp_path: Path
) -> None:
    path = write_clip(
        tmp_path / "in.mkv",
        frames=3,
        width=size[0],
        height=size[1],
        codec="ffv1",
        pixel_format=pixel_format,
        options={},
    )
    assert len(list(FileSource(path))) == 3
    with pytest.raises(
        SourceError, match=f"frames of {size[0]}x{size[1]} {pixel_format} cannot be deinterlaced"
    ):
        list(FileSource(path, deinterlace="frame"))


def test_another_way_to_deinterlace_is_refused() -> None:
    with pytest.raises(ConfigError, match="deinterlace must be one of none, frame, field, got 'yes'"):
        settings("input.deinterlace=yes")
