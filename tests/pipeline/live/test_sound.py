"""Sound of live runs: written with its picture; a sink without sound loses nothing else."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import configs
from pipeline.config import PipelineConfig
from pipeline.live.addresses import sink_address, source_address
from pipeline.live.command import restore_live
from pipeline.live.report import LiveReport
from pipeline.live.sinks import open_sink
from pipeline.live.sound import Sound, SoundClock, SoundFormat, SoundQueue
from pipeline.media.encode import EncodeConfig
from support.clips import native_frame
from support.live import RATE
from support.rtsp import RtspServer, transport_stream

CONFIG = configs.load(PipelineConfig, configs.preset("live"), ["restorer.kind=none"])


def tone(samples: int, rate: int = 44100, layout: str = "stereo", pitch: float = 440) -> av.AudioFrame:
    wave = np.sin(2 * np.pi * pitch * np.arange(samples) / rate).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack([wave] * (2 if layout == "stereo" else 1)), "fltp", layout)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


def flash_and_beep(path: Path, seconds: int = 4) -> None:
    """Black and silent, but white and loud for the second quarter of each second."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio: Any = container.add_stream("aac", rate=48000, layout="mono")
        for index in range(25 * seconds):
            is_on = 6 <= index % 25 < 13
            picture = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 255 * is_on, np.uint8), "rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(video.encode(picture))
            wave = is_on * np.sin(2 * np.pi * 440 * np.arange(1920) / 48000)
            frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
            frame.pts, frame.sample_rate, frame.time_base = 1920 * index, 48000, Fraction(1, 48000)
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def onsets(path: Path) -> tuple[list[float], list[float]]:
    """Seconds at which the picture becomes white and the sound loud."""
    white, loud = [], []
    with av.open(str(path)) as container:
        for packet in container.demux():
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    white.append((frame.time, float(np.mean(frame.to_ndarray(format="gray"))) > 128))
                elif isinstance(frame, av.AudioFrame):
                    levels = np.abs(frame.to_ndarray()[0]).reshape(-1, 64).max(1)
                    step = 64 / frame.sample_rate
                    loud += [(frame.time + step * n, bool(level > 0.3)) for n, level in enumerate(levels)]

    def rises(states: list[tuple[float, bool]]) -> list[float]:
        found, last = [], -1.0
        for (_, before), (time, now) in itertools.pairwise(states):
            if now and not before and time - last > 0.5:
                found.append(time)
                last = time
        return found

    return rises(white), rises(loud)


def test_sound_and_picture_of_one_moment_stay_together(tmp_path: Path) -> None:
    clip, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    flash_and_beep(clip)
    report = restore_live(source_address(str(clip)), sink_address(str(output)), CONFIG)
    assert report.sound_seconds == pytest.approx(4, abs=0.3)
    white, loud = onsets(output)
    assert len(loud) == 4
    # Each frame has the moment it came; a loaded machine takes them late and drops some.
    for beep in loud:
        assert min(abs(beep - flash) for flash in white) < 0.15
    assert np.diff(loud) == pytest.approx([1, 1, 1], abs=0.02)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.ts", "out.mpg"])
def test_a_file_holds_sound_in_what_its_kind_takes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    address, sound = sink_address(str(path)), SoundFormat(44100, "stereo")
    with open_sink(address, native_frame(), RATE, EncodeConfig(), overwrite=False, sound=sound) as sink:
        for index in range(25):
            sink.write(native_frame(index), 40_000 * index)
            sink.write_sound(Sound(tone(1764), 40_000 * index))
    with av.open(str(path)) as container:
        (audio,) = container.streams.audio
        assert (audio.rate, audio.layout.name) == (48000, "stereo")
        heard = sum(frame.samples for frame in container.decode(audio=0))
    assert heard / 48000 == pytest.approx(1, abs=0.06)


def test_pieces_that_overlap_or_stand_apart_by_little_follow_on_and_a_gap_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    sound = SoundFormat(48000, "mono")
    times = [0, 39_000, 83_000, 120_000, 1_000_000, 1_040_000, 300_000]
    with open_sink(
        sink_address(str(path)), native_frame(), RATE, EncodeConfig(), overwrite=False, sound=sound
    ) as sink:
        for index, time in enumerate(times):
            sink.write(native_frame(index), 40_000 * index)
            # The fourth comes from a reopened source with another format.
            piece = tone(1764) if index == 3 else tone(1920, 48000, "mono")
            sink.write_sound(Sound(piece, time))
    with av.open(str(path)) as container:
        ends = [(f.time, f.time + f.samples / f.sample_rate) for f in container.decode(audio=0)]
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(ends)]
    assert sum(gap > 0.7 for gap in gaps) == 1
    assert all(gap < 0.002 or gap > 0.7 for gap in gaps)
    assert ends[-1][1] < 1.2


def test_an_rtsp_stream_with_sound_keeps_it(tmp_path: Path) -> None:
    server = RtspServer(transport_stream(10, sound=True), 10)
    server.start()
    output = tmp_path / "out.mkv"

    def see(report: LiveReport) -> None:
        if report.sound_seconds >= 3:
            raise KeyboardInterrupt

    try:
        restore_live(
            source_address(server.address), sink_address(str(output)), CONFIG, duration_seconds=30, watch=see
        )
    finally:
        server.kill()
    with av.open(str(output)) as container:
        # What comes at once is thrown away, of sound as of pictures: at the opening, and on a busy machine later.
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 24_000


def test_a_sink_without_a_place_for_sound_takes_the_pictures_alone(tmp_path: Path) -> None:
    clip = tmp_path / "in.mkv"
    flash_and_beep(clip, seconds=1)
    report = restore_live(source_address(str(clip)), sink_address("null:"), CONFIG)
    assert report.sound_seconds == 0
    assert report.written > 5


def test_waiting_sound_leaves_with_its_moment_and_never_grows_without_end() -> None:
    queue = SoundQueue()
    for index in range(4):
        queue.put(Sound(tone(4410), 100_000 * index))
    assert [sound.pts for sound in queue.until(150_000)] == [0, 100_000]
    assert [sound.pts for sound in queue.until(200_000)] == [200_000]
    for index in range(150):
        queue.put(Sound(tone(4410), 1_000_000 + 100_000 * index))
    left = queue.until(10**9)
    assert len(left) <= 101
    assert left[-1].pts == 1_000_000 + 14_900_000


def test_the_sources_clock_smooths_arrivals_and_restarts_after_a_jump() -> None:
    clock = SoundClock()
    assert clock.place(10.0, 3.0, 0.02) == pytest.approx(9.98)
    assert clock.place(10.09, 3.02, 0.02) == pytest.approx(10.0)  # came late, was heard in time
    assert clock.place(20.0, 0.0, 0.02) == pytest.approx(19.98)  # the source restarted
    assert clock.place(20.5, None, 0.02) == pytest.approx(20.48)
