"""Inputs that are damaged, hostile or unusual: handled or refused with a sentence, never garbled."""

from __future__ import annotations

import gc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.media.coding import planes_of
from pipeline.media.layout import repack
from pipeline.media.source import FileSource
from support.clips import Tags, native_frame, picture, shown_times, truncate, write_clip, write_sound

FRONT = {"movflags": "+faststart"}


def frames_of(path: Path, **settings: Any) -> int:
    return sum(1 for _ in FileSource(path, **settings))


def test_truncated_matroska_gives_all_that_is_there(tmp_path: Path) -> None:
    path = truncate(write_clip(tmp_path / "in.mkv", frames=40), 0.6)
    source = FileSource(path)
    count = sum(1 for _ in source)
    assert count == len(shown_times(path))
    assert 10 < count < 40
    assert len(source.damage) == 1
    assert "ends before its time" in source.damage[0]
    with pytest.raises(SourceError, match="leave out --strict"):
        frames_of(path, strict=True)


def test_truncated_mp4_gives_all_that_is_there(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "qp": "12", "bf": "3", "b_strategy": "0"}
    path = write_clip(tmp_path / "in.mp4", frames=40, container_options=FRONT, options=options, sound=["aac"])
    truncate(path, 0.6)
    source = FileSource(path)
    count = sum(1 for _ in source)
    assert 15 < count < 40
    assert any("ends before its time" in sentence and "missing" in sentence for sentence in source.damage)
    with pytest.raises(SourceError):
        frames_of(path, strict=True)


def test_broken_packets_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=40, codec="mpeg4", options={"g": "5"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    start = places[20]
    assert start is not None
    data[start + 8 : start + 60] = bytes(52)
    path.write_bytes(bytes(data))
    source = FileSource(path)
    count = sum(1 for _ in source)
    assert 35 <= count <= 40
    assert source.damage
    with pytest.raises(SourceError, match=r"in\.mkv: .*leave out --strict"):
        frames_of(path, strict=True)


def test_damage_before_the_end_costs_no_frame_after_it(tmp_path: Path) -> None:
    # The last packet is broken: with frame threads the error comes while the decoder is drained.
    path = write_clip(
        tmp_path / "in.mkv", frames=30, options={"preset": "ultrafast", "qp": "12", "bf": "2", "g": "10"}
    )
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    start = places[-1]
    assert start is not None
    data[start + 4 :] = bytes(len(data) - start - 4)
    path.write_bytes(bytes(data))
    source = FileSource(path)
    assert sum(1 for _ in source) >= 28
    assert source.damage


def test_whole_file_has_no_damage(tmp_path: Path) -> None:
    for name in ("in.mkv", "in.mp4"):
        source = FileSource(write_clip(tmp_path / name, frames=20, sound=["aac"]), strict=True)
        assert sum(1 for _ in source) == 20
        assert source.damage == []


def test_file_without_its_index_is_refused(tmp_path: Path) -> None:
    path = truncate(write_clip(tmp_path / "in.mp4"), 0.9)
    with pytest.raises(SourceError, match=r"in\.mp4: no video that can be read .* not downloaded completely"):
        FileSource(path)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["concat", "hls", "dash", "sdp"],
)
@pytest.mark.parametrize("name", ["innocent.mp4", "list.m3u8", "list.ffconcat"])
def test_playlists_never_reach_another_file(tmp_path: Path, text: str, name: str) -> None:
    write_clip(tmp_path / "secret.mp4")
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SourceError, match=r"refused|no video that can be read"):
        FileSource(path)


def test_playlist_test_has_teeth(tmp_path: Path) -> None:
    write_clip(tmp_path / "secret.mp4")
    path = tmp_path / "innocent.mp4"
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open(str(path)) as container:
        assert container.format.name == "concat"


@pytest.mark.parametrize(
    "path", ["https://example.org/film.mp4", "rtsp://camera/1", "concat:a.mp4|b.mp4", "gone.mp4"]
)
def test_addresses_and_missing_files_are_refused(path: str) -> None:
    with pytest.raises(SourceError, match="no such file"):
        FileSource(Path(path))


def test_names_with_colons_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "10.mp4").rename(tmp_path / "http:10%d.mp4")
    monkeypatch.chdir(tmp_path)
    assert frames_of(Path("http:10%d.mp4")) == 12


def test_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a regular file"):
        FileSource(tmp_path)


def test_file_without_video_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "in.mka"
    write_sound(path)
    with pytest.raises(SourceError, match=r"in\.mka: no video stream \(found: audio\)"):
        FileSource(path)


def test_cover_art_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "in.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("mjpeg", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        frame = native_frame(0, 64, 64, "yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with pytest.raises(SourceError, match=r"no video stream \(found: cover art\)"):
        FileSource(path)


def test_video_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no video|not one frame"):
        FileSource(write_clip(tmp_path / "in.mkv", frames=0, times=[]))


def test_start_behind_the_end_is_refused(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4"), start_seconds=9)
    with pytest.raises(SourceError, match=r"the video of 0\.4 s is shorter"):
        list(source)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e20, -1.0])
@pytest.mark.parametrize("setting", ["start_seconds", "duration_seconds"])
def test_stretches_that_are_none_are_refused(tmp_path: Path, setting: str, seconds: float) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=2)
    with pytest.raises(SourceError, match=r"in\.mp4: the start must not be negative .*, got"):
        FileSource(path, **{setting: seconds})


def test_names_that_are_too_long_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        FileSource(tmp_path / f"{'a' * 300}.mp4")


@pytest.mark.parametrize(("degrees", "nearest"), [(45, 0), (50, 90), (-100, -90), (170, 180)])
def test_crooked_turns_are_told_and_taken_as_the_nearest_straight_one(
    tmp_path: Path, degrees: int, nearest: int
) -> None:
    info = FileSource(write_clip(tmp_path / "in.mp4", rotation=degrees, frames=1)).info
    assert info.rotation == nearest
    assert info.display_matrix is not None
    assert 0 not in info.display_matrix[:2], "the turn itself is kept"
    [warning] = info.warnings
    assert f"by {degrees} degrees, not a multiple of 90" in warning


@pytest.mark.parametrize(
    ("matrix", "rotation"), [((-1, 0, 0, 1), 0), ((1, 0, 0, -1), 180), ((0, 1, 1, 0), 90), ((1, 0, 0, 1), 0)]
)
def test_mirrored_pictures_are_turned_such_that_faces_are_upright(
    tmp_path: Path, matrix: tuple[int, ...], rotation: int
) -> None:
    a, b, c, d = (65536 * value for value in matrix)
    path = write_clip(tmp_path / "in.mp4", display_matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30), frames=1)
    assert abs(FileSource(path).info.rotation) == rotation


def test_change_of_size_midway_is_refused(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.ts", frames=8)
    second = write_clip(tmp_path / "b.ts", frames=8, width=192)
    path = tmp_path / "in.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(SourceError, match=r"frame \d+ is 192x120 .*cut the video there"):
        frames_of(path)


@pytest.mark.parametrize(
    ("codec", "packed", "planar"),
    [
        ("rawvideo", "nv12", "yuv420p"),
        ("rawvideo", "yuyv422", "yuv422p"),
        ("rawvideo", "uyvy422", "yuv422p"),
        ("ffv1", "bgr0", "gbrp"),
        ("png", "rgb24", "gbrp"),
        ("png", "rgb48be", "gbrp16le"),
        ("png", "gray", "gray"),
    ],
)
def test_packed_samples_are_spread_over_planes_unchanged(
    tmp_path: Path, codec: str, packed: str, planar: str
) -> None:
    path = write_clip(tmp_path / "in.nut", codec=codec, pixel_format=packed, options={}, frames=2)
    source = FileSource(path)
    assert source.info.pixel_format == planar
    [first, _] = source
    assert first.native.format.name == planar
    with av.open(str(path)) as container:
        original = next(container.decode(video=0))
    if planar.startswith("gbrp") or planar == "gray":
        back = original.to_ndarray(format="rgb48le" if planar.endswith("16le") else "rgb24")
        planes = planes_of(first.native)
        order = (2, 0, 1) if len(planes) == 3 else (0, 0, 0)
        assert np.array_equal(np.dstack([planes[index] for index in order]), back)
    else:
        raw = np.frombuffer(memoryview(original.planes[0]), np.uint8)
        luma = {"nv12": raw.reshape(120, -1)[:, :160], "yuyv422": raw.reshape(120, -1)[:, :320:2]}
        expected = luma.get(packed, raw.reshape(120, -1)[:, 1:320:2])
        assert np.array_equal(planes_of(first.native)[0], expected)


@pytest.mark.parametrize("target", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("tags", [Tags(1, 1, 1, 1), Tags(2, 9, 16, 9), Tags(2, 2, 2, 2), Tags(0, 6, 6, 6)])
def test_tagged_samples_are_spread_unchanged(tmp_path: Path, target: str, tags: Tags) -> None:
    path = write_clip(tmp_path / "in.nut", codec="rawvideo", pixel_format="nv12", options={}, frames=1)
    with av.open(str(path)) as container:
        original = next(container.decode(video=0))
    original.color_range, original.colorspace = tags.range, tags.matrix
    original.color_primaries, original.color_trc = tags.primaries, tags.transfer
    luma, chroma = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, :160].copy()
        for plane in original.planes
    )
    planar = repack(original, target)
    for frame in (planar, original):
        assert (frame.color_range, frame.colorspace) == (tags.range, tags.matrix)
        assert (frame.color_primaries, frame.color_trc) == (tags.primaries, tags.transfer)
    for ours, theirs in zip(planes_of(planar), (luma, chroma[:, ::2], chroma[:, 1::2]), strict=True):
        assert np.array_equal(ours, theirs)


def alpha_clip(path: Path, opacity: int) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("png", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        pixels = np.dstack([picture(0, 64, 48), np.full((48, 64), opacity, np.uint8)])
        frame = av.VideoFrame.from_ndarray(pixels, "rgba")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def test_opaque_alpha_is_dropped_and_transparent_frames_are_refused(tmp_path: Path) -> None:
    [frame] = FileSource(alpha_clip(tmp_path / "opaque.mov", 255))
    assert np.array_equal(planes_of(frame.native)[2], picture(0, 64, 48)[..., 0])
    with pytest.raises(SourceError, match="frame 0 is transparent"):
        frames_of(alpha_clip(tmp_path / "glass.mov", 128))


def test_unsupported_samples_are_refused_at_once(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.nut", codec="rawvideo", pixel_format="gbrpf32le", options={}, frames=1)
    with pytest.raises(SourceError, match=r"in\.nut: pixel format gbrpf32le is not supported"):
        FileSource(path)


def test_reading_again_gives_the_same_frames(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4"))
    first, second = ([planes_of(frame.native)[0].copy() for frame in source] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_abandoned_iteration_closes_the_file(tmp_path: Path) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4", frames=30))
    frames = iter(source)
    next(frames)
    assert hasattr(frames, "close")
    frames.close()
    gc.collect()
    assert [link for link in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(link.resolve())] == []


def test_frames_do_not_bind_the_encoder_and_know_where_chroma_lies(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "chroma_sample_location": "topleft"}
    for frame in FileSource(write_clip(tmp_path / "in.mp4", options=options)):
        assert frame.native.pict_type == 0
        assert frame.native.opaque == "topleft"
        assert (frame.native.pts, frame.native.time_base) == (frame.pts, frame.time_base)
