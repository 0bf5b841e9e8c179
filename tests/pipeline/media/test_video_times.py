"""What goes in comes out: times, sound, subtitles, tags."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.media.coding import planes_of
from pipeline.media.encode import EncodeConfig
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from support.clips import Tags, packets, shown_times, write_clip

B_FRAMES = {"preset": "ultrafast", "qp": "12", "bf": "3", "b_strategy": "0"}
MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
HDR = f"log-level=error:master-display={MASTERING}:max-cll=1000,400"


def transcode(source: Path, target: Path, **settings: Any) -> FileSink:
    video = FileSource(source)
    with FileSink(target, video, EncodeConfig(preset="ultrafast", **settings)) as sink:
        for frame in video:
            sink.write(frame.native, frame.pts)
    return sink


@dataclass(frozen=True)
class Case:
    name: str
    settings: dict[str, Any]


CASES = [
    Case("cfr.mp4", {"sound": ["aac"], "subtitles": "mov_text"}),
    Case("cfr.mkv", {"sound": ["aac", "pcm_s16le"], "subtitles": "subrip"}),
    Case("bframes.mp4", {"options": B_FRAMES, "sound": ["aac"]}),
    Case("bframes.mkv", {"options": B_FRAMES, "sound": ["aac"]}),
    Case(
        "vfr.mp4",
        {
            "times": [0, 1001, 2002, 5005, 5500, 9000, 9400, 12000, 20000, 20100],
            "time_base": Fraction(1, 30000),
            "options": B_FRAMES,
            "sound": ["aac"],
        },
    ),
    Case(
        "vfr.mkv",
        {"times": [0, 7, 40, 41, 100, 333, 500, 777], "time_base": Fraction(1, 1000), "options": B_FRAMES},
    ),
    Case(
        "offset.mp4",
        {
            "times": [10007 + 1001 * index for index in range(10)],
            "time_base": Fraction(1, 30000),
            "options": B_FRAMES,
            "sound": ["aac"],
            "container_options": {"movie_timescale": "30000"},
        },
    ),
    Case("editlist.mp4", {"frames": 16, "hidden": 4, "options": B_FRAMES, "sound": ["aac"]}),
    Case("film.mov", {"rate": Fraction(24000, 1001), "sound": ["pcm_s16le"]}),
    Case("rotated.mp4", {"rotation": 90, "sound": ["aac"]}),
    Case("anamorphic.mp4", {"aspect": Fraction(16, 11)}),
    Case(
        "hdr.mp4",
        {
            "codec": "libx265",
            "pixel_format": "yuv420p10le",
            "options": {"preset": "ultrafast", "x265-params": HDR, "chroma_sample_location": "topleft"},
            "tags": Tags(1, 9, 16, 9),
        },
    ),
    Case("ten.mp4", {"pixel_format": "yuv420p10le", "tags": Tags(1, 1, 1, 1)}),
    Case("sd.mkv", {"tags": Tags(2, 5, 6, 5), "options": {**B_FRAMES, "chroma_sample_location": "center"}}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_times_sound_and_tags_come_out_as_they_went_in(case: Case, tmp_path: Path) -> None:
    path = write_clip(tmp_path / case.name, **case.settings)
    target = tmp_path / f"out{path.suffix}"

    sink = transcode(path, target)

    assert shown_times(target) == shown_times(path)
    assert packets(target) == packets(path)
    assert tags_of(target) == tags_of(path)
    assert sink.warnings == []


def tags_of(path: Path) -> dict[str, Any]:
    info = FileSource(path).info
    names = (
        "color_range color_primaries color_transfer color_matrix chroma_location sample_aspect_ratio "
        "rotation display_matrix mastering_display content_light pixel_format width height"
    )
    return {name: getattr(info, name) for name in names.split()}


def test_the_clips_of_this_file_have_what_they_are_named_for(tmp_path: Path) -> None:
    clips = {case.name: write_clip(tmp_path / case.name, **case.settings) for case in CASES}

    assert shown_times(clips["offset.mp4"])[0] == Fraction(10007, 30000)
    assert len(shown_times(clips["editlist.mp4"])) == 12
    assert (
        len({b - a for a, b in zip(*[shown_times(clips["vfr.mp4"])[i:] for i in (0, 1)], strict=False)}) > 3
    )
    assert tags_of(clips["rotated.mp4"])["rotation"] == 90
    assert tags_of(clips["hdr.mp4"])["mastering_display"] == MASTERING
    assert tags_of(clips["hdr.mp4"])["content_light"] == (1000, 400)
    assert tags_of(clips["hdr.mp4"])["chroma_location"] == "topleft"
    assert tags_of(clips["sd.mkv"])["color_range"] == 2
    with av.open(str(clips["bframes.mp4"])) as container:
        assert any(packet.pts != packet.dts for packet in container.demux(video=0) if packet.size)


def test_source_gives_the_times_that_plain_decoding_gives(tmp_path: Path) -> None:
    for case in CASES:
        path = write_clip(tmp_path / case.name, **case.settings)
        frames = [(frame.index, frame.pts * frame.time_base) for frame in FileSource(path)]
        assert frames == list(enumerate(shown_times(path))), case.name


def test_attachments_chapters_and_names_are_carried(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mkv",
        sound=["aac"],
        subtitles="subrip",
        attachment=b"font" * 99,
        chapters=True,
        metadata={"title": "Film", "COMMENT": "from tape"},
    )
    transcode(path, tmp_path / "out.mkv")

    with av.open(str(path)) as before, av.open(str(tmp_path / "out.mkv")) as after:
        assert after.chapters() == before.chapters()
        assert after.metadata["title"] == "Film"
        assert after.metadata["COMMENT"] == "from tape; faces restored by anchorface"
        for old, new in zip(before.streams, after.streams, strict=True):
            assert (new.type, new.disposition, new.language) == (old.type, old.disposition, old.language)
        assert after.streams.audio[0].metadata["title"] == "voice"
        assert after.streams.attachments[0].data == b"font" * 99


def test_cover_art_is_carried_and_not_taken_for_the_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", cover=True, sound=["aac"])
    transcode(path, tmp_path / "out.mp4")
    transcode(path, tmp_path / "out.mkv")

    before = packets(path, ["video"])
    assert packets(tmp_path / "out.mp4", ["video"])[1] == before[1]
    with av.open(str(tmp_path / "out.mkv")) as container:
        attached = av.stream.Disposition.attached_pic
        assert [bool(stream.disposition & attached) for stream in container.streams.video] == [False, True]


def test_second_video_is_carried_unrestored_and_said_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", second_video=True, options=B_FRAMES)
    source = FileSource(path)
    assert source.info.warnings == ("stream 1 is another video: its faces are not restored",)
    sink = transcode(path, tmp_path / "out.mkv")
    assert packets(tmp_path / "out.mkv", ["video"])[1] == packets(path, ["video"])[1]
    assert sink.warnings == []


def test_what_the_container_cannot_hold_is_named(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mkv", sound=["aac"], subtitles="subrip", attachment=b"x")
    sink = transcode(path, tmp_path / "out.mp4")
    assert sink.warnings == [
        "stream 2, subtitle (ger), is left out: MP4 cannot hold subrip; an .mkv output can hold it",
        "stream 3, attachment, is left out: MP4 cannot hold font.ttf; an .mkv output can hold it",
    ]
    assert packets(tmp_path / "out.mp4", ["audio"]) == packets(path, ["audio"])


def test_chapters_of_mp4_are_not_doubled(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", chapters=True, metadata={"title": "Film"})
    transcode(path, tmp_path / "out.mp4")
    sink = transcode(tmp_path / "out.mp4", tmp_path / "again.mp4")
    assert sink.warnings == []
    with av.open(str(path)) as before, av.open(str(tmp_path / "again.mp4")) as after:
        for old, new in zip(before.chapters(), after.chapters(), strict=True):
            assert new["metadata"] == old["metadata"]
            for end in ("start", "end"):
                assert new[end] * new["time_base"] == old[end] * old["time_base"]
        assert len(after.streams) == len(before.streams)
        assert after.metadata["title"] == "Film"
        assert after.metadata["comment"] == "faces restored by anchorface"


def test_tags_that_mp4_has_no_classic_name_for_are_kept(tmp_path: Path) -> None:
    options = {"movflags": "use_metadata_tags"}
    path = write_clip(tmp_path / "in.mp4", metadata={"camera": "old"}, container_options=options)
    transcode(path, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["camera"] == "old"


def test_trial_takes_a_stretch_and_counts_from_its_start(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mp4", frames=40, rate=Fraction(25), options={**B_FRAMES, "g": "10"}, sound=["aac"]
    )
    every = list(FileSource(path))
    source = FileSource(path, start_seconds=0.2, duration_seconds=0.4)
    with FileSink(tmp_path / "out.mp4", source) as sink:
        frames = list(source)
        for frame in frames:
            sink.write(frame.native, frame.pts)

    assert [frame.index for frame in frames] == list(range(10))
    assert shown_times(tmp_path / "out.mp4") == [Fraction(index, 25) for index in range(10)]
    for frame, same in zip(frames, every[5:15], strict=True):
        assert np.array_equal(planes_of(frame.native)[0], planes_of(same.native)[0])
    [sound] = packets(tmp_path / "out.mp4", ["audio"])
    [whole] = packets(path, ["audio"])
    kept = [(t - Fraction(1, 5), md5) for t, md5 in whole if t is not None and t > Fraction("0.18")]
    assert sound == kept


@pytest.mark.parametrize(
    ("start", "duration", "count"),
    [(0.0, None, 40), (0.2, 0.4, 10), (0.0, 0.4, 10), (1.2, None, 10), (1.2, 9.0, 10), (9.0, 1.0, 0)],
)
def test_trial_expects_the_frames_of_its_stretch(
    tmp_path: Path, start: float, duration: float | None, count: int
) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=40, rate=Fraction(25))
    source = FileSource(path, start_seconds=start, duration_seconds=duration)
    assert source.info.frame_count == count
    if count:
        assert sum(1 for _ in source) == count


def test_mpeg_program_stream_goes_into_every_container(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "in.mpg", codec="mpeg1video", rate=Fraction(25), options={}, sound=["mp2"], frames=20
    )
    times = [frame.pts * frame.time_base for frame in FileSource(path)]
    assert [b - a for a, b in pairwise(times)] == [Fraction(1, 25)] * 19
    for suffix in (".mp4", ".mkv", ".mpg"):
        target = tmp_path / f"out{suffix}"
        transcode(path, target)
        written = [frame.pts * frame.time_base for frame in FileSource(target)]
        tolerance = Fraction(1, 1000) if suffix != ".mp4" else Fraction(0)
        assert [round((b - a) * 1000) for a, b in pairwise(written)] == [40] * 19
        if suffix != ".mpg":
            assert all(abs(a - b) <= tolerance for a, b in zip(written, times, strict=True))
        assert [[md5 for _, md5 in stream] for stream in packets(target)] == [
            [md5 for _, md5 in stream] for stream in packets(path)
        ]


def test_frames_without_growing_times_get_one_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=6, rate=Fraction(25))
    import pipeline.media.hardware as module

    real = module.decode

    def stumbling(*arguments: Any) -> Any:
        for number, native in enumerate(real(*arguments)):
            native.pts = {2: None, 4: native.pts - 512}.get(number, native.pts)
            yield native

    monkeypatch.setattr(module, "decode", stumbling)
    source = FileSource(path)
    ticks = [frame.pts for frame in source]
    assert ticks == [0, 512, 1024, 1536, 1792, 2560]
    assert source.warnings == ["2 frames had a missing or non-increasing time; it was filled in"]


def test_last_frame_keeps_its_duration(tmp_path: Path) -> None:
    # Frames 0.2 s apart, the last one 0.04 s long.
    path = write_clip(
        tmp_path / "in.mp4", times=[0, 10, 20, 30, 40], time_base=Fraction(1, 50), rate=Fraction(25)
    )
    transcode(path, tmp_path / "out.mp4")
    assert FileSource(path).info.duration_seconds == pytest.approx(0.84)
    assert FileSource(tmp_path / "out.mp4").info.duration_seconds == pytest.approx(0.84)


def test_sound_that_starts_before_the_picture_moves_nothing(tmp_path: Path) -> None:
    # AAC in MP4 begins with a packet before 0 that players skip; Matroska has no times before 0.
    path = write_clip(tmp_path / "in.mp4", rate=Fraction(25), sound=["aac"])
    assert (packets(path)[0][0][0] or 0) < 0
    transcode(path, tmp_path / "out.mkv")
    assert shown_times(tmp_path / "out.mkv") == shown_times(path)


def test_interlaced_video_stays_marked(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", options={"preset": "ultrafast", "flags": "+ildct+ilme"})
    assert FileSource(path).info.interlaced
    transcode(path, tmp_path / "out.mp4")
    assert all(frame.native.interlaced_frame for frame in FileSource(tmp_path / "out.mp4"))
